/*-------------------------------------------------------------------------
 *
 * views.c
 *	  What the extension knows and counts, for SQL.
 *
 * The functions behind the views of ogel--1.0.sql.  A database keeps the
 * declarations of the version that created them, so a function checks that it
 * is declared with the columns it returns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/htup_details.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "backpressure.h"
#include "catalog/pg_type_d.h"
#include "counters.h"
#include "file_cache.h"
#include "fmgr.h"
#include "funcapi.h"
#include "ogel.h"
#include "storage/fd.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/regproc.h"
#include "waits.h"

/* Written by the supervisor, see docs/formats.md */
#define STATUS_FILE			"ogel_status.json"
#define MAX_STATUS_SIZE		(64 * 1024)

PG_FUNCTION_INFO_V1(ogel_file_cache);
PG_FUNCTION_INFO_V1(ogel_request_counts);
PG_FUNCTION_INFO_V1(ogel_prefetch_counts);
PG_FUNCTION_INFO_V1(ogel_wait_counts);
PG_FUNCTION_INFO_V1(ogel_process_counts);
PG_FUNCTION_INFO_V1(ogel_lsn_positions);
PG_FUNCTION_INFO_V1(ogel_supervisor_status);

static const char *const request_names[NREQUEST_KINDS] = {
	[REQUEST_PAGES] = "page read",
	[REQUEST_PREFETCH] = "prefetch",
	[REQUEST_SIZE] = "relation size",
	[REQUEST_DATABASE_SIZE] = "database size",
};

static void
check_columns(FunctionCallInfo fcinfo, TupleDesc tupdesc, int ncolumns)
{
	if (tupdesc == NULL || tupdesc->natts != ncolumns)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s is declared with the wrong columns",
						format_procedure(fcinfo->flinfo->fn_oid)),
				 errdetail("It returns %d columns.", ncolumns),
				 errhint("Run ALTER EXTENSION ogel UPDATE, or drop and create the extension.")));
	if (!ogel_remote)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server does not use a page server"),
				 errhint("Set \"%s\" at its start.", "ogel.page_server")));
}

/* One row of bigints, or of types as wide */
static Datum
row_of(FunctionCallInfo fcinfo, const uint64 *fields, const bool *nulls, int ncolumns)
{
	TupleDesc	tupdesc;
	Datum		values[16];

	Assert(ncolumns <= lengthof(values));
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		tupdesc = NULL;
	check_columns(fcinfo, tupdesc, ncolumns);
	for (int i = 0; i < ncolumns; i++)
		values[i] = Int64GetDatum((int64) fields[i]);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, (bool *) nulls));
}

/* A set of rows begins. */
static ReturnSetInfo *
begin_rows(FunctionCallInfo fcinfo, int ncolumns)
{
	ReturnSetInfo *rows = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	check_columns(fcinfo, rows->setDesc, ncolumns);
	return rows;
}

static void
put_row(ReturnSetInfo *rows, Datum *values)
{
	bool		nulls[16] = {0};

	Assert(rows->setDesc->natts <= lengthof(nulls));
	tuplestore_putvalues(rows->setResult, rows->setDesc, values, nulls);
}

Datum
ogel_file_cache(PG_FUNCTION_ARGS)
{
	FileCacheStats stats = file_cache_stats();
	const uint64 fields[] = {
		stats.size_bytes, stats.used_bytes, stats.hits, stats.misses,
		stats.writes, stats.evictions, stats.bad_checksums, stats.io_errors,
	};
	const bool	nulls[lengthof(fields)] = {0};

	PG_RETURN_DATUM(row_of(fcinfo, fields, nulls, lengthof(fields)));
}

/* kind, requests, pages, retries, total_us, longest_us, latency[] */
Datum
ogel_request_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rows = begin_rows(fcinfo, 7);
	Counts		counts;
	Longest		longest;

	counters_sum(&counts, &longest);
	for (int kind = 0; kind < NREQUEST_KINDS; kind++)
	{
		const RequestCounts *request = &counts.requests[kind];
		Datum		latency[LATENCY_BUCKETS];

		for (int i = 0; i < LATENCY_BUCKETS; i++)
			latency[i] = Int64GetDatum((int64) request->latency[i]);
		put_row(rows, (Datum[]) {
			CStringGetTextDatum(request_names[kind]),
			Int64GetDatum((int64) request->requests),
			Int64GetDatum((int64) request->pages),
			Int64GetDatum((int64) request->retries),
			Int64GetDatum((int64) request->total_us),
			Int64GetDatum((int64) longest.request_us[kind]),
			PointerGetDatum(construct_array_builtin(latency, LATENCY_BUCKETS, INT8OID)),
		});
	}
	return (Datum) 0;
}

/* issued, used, stale, unused, failed */
Datum
ogel_prefetch_counts(PG_FUNCTION_ARGS)
{
	Counts		counts;
	Longest		longest;
	const bool	nulls[5] = {0};

	counters_sum(&counts, &longest);
	PG_RETURN_DATUM(row_of(fcinfo, (const uint64[]) {
		counts.prefetch.issued, counts.prefetch.used, counts.prefetch.stale,
		counts.prefetch.unused, counts.prefetch.failed,
	}, nulls, lengthof(nulls)));
}

/* wait_event, waits, total_us, longest_us */
Datum
ogel_wait_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rows = begin_rows(fcinfo, 4);
	Counts		counts;
	Longest		longest;

	counters_sum(&counts, &longest);
	for (int kind = 0; kind < NWAIT_KINDS; kind++)
		put_row(rows, (Datum[]) {
			CStringGetTextDatum(wait_name(kind)),
			Int64GetDatum((int64) counts.waits[kind].waits),
			Int64GetDatum((int64) counts.waits[kind].total_us),
			Int64GetDatum((int64) longest.wait_us[kind]),
		});
	return (Datum) 0;
}

/* pid, page_requests, pages, prefetched, wasted, file_cache_hits, storage_wait_us, backpressure_wait_us */
Datum
ogel_process_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rows = begin_rows(fcinfo, 8);

	for (int place = 0; place < counters_places(); place++)
	{
		Counts		counts;
		uint64		requests = 0;
		uint64		wait_us = 0;
		int			pid;

		if (!counters_process(place, &pid, &counts))
			continue;
		for (int kind = 0; kind < NREQUEST_KINDS; kind++)
			requests += counts.requests[kind].requests;
		for (int kind = 0; kind < WAIT_BACKPRESSURE; kind++)
			wait_us += counts.waits[kind].total_us;
		put_row(rows, (Datum[]) {
			Int32GetDatum(pid),
			Int64GetDatum((int64) requests),
			Int64GetDatum((int64) (counts.requests[REQUEST_PAGES].pages + counts.prefetch.used)),
			Int64GetDatum((int64) counts.prefetch.used),
			Int64GetDatum((int64) (counts.prefetch.stale + counts.prefetch.unused + counts.prefetch.failed)),
			Int64GetDatum((int64) counts.file_cache_hits),
			Int64GetDatum((int64) wait_us),
			Int64GetDatum((int64) counts.waits[WAIT_BACKPRESSURE].total_us),
		});
	}
	return (Datum) 0;
}

/* insert, write, quorum, pageserver last record, most bytes the pageserver may be behind (NULL: no limit) */
Datum
ogel_lsn_positions(PG_FUNCTION_ARGS)
{
	bool		standby = RecoveryInProgress();
	XLogRecPtr	quorum = standby ? InvalidXLogRecPtr : GetFlushRecPtr(NULL);
	XLogRecPtr	applied = standby ? InvalidXLogRecPtr : backpressure_applied();
	uint64		limit = backpressure_limit();
	/* the insert position last: the others are not beyond it */
	XLogRecPtr	written = standby ? GetXLogReplayRecPtr(NULL) : GetXLogWriteRecPtr();
	XLogRecPtr	inserted = standby ? written : GetXLogInsertRecPtr();
	const bool	nulls[] = {
		false, false, quorum == InvalidXLogRecPtr, applied == InvalidXLogRecPtr, limit == 0,
	};

	PG_RETURN_DATUM(row_of(fcinfo, (const uint64[]) {
		inserted, written, quorum, applied, limit,
	}, nulls, lengthof(nulls)));
}

/* What the supervisor wrote down last, or NULL. */
Datum
ogel_supervisor_status(PG_FUNCTION_ARGS)
{
	int			fd = OpenTransientFile(STATUS_FILE, O_RDONLY | PG_BINARY);
	char	   *text;
	ssize_t		size;

	if (fd < 0)
	{
		if (errno == ENOENT)
			PG_RETURN_NULL();
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", STATUS_FILE)));
	}
	text = palloc(MAX_STATUS_SIZE);
	size = read(fd, text, MAX_STATUS_SIZE);
	if (size < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", STATUS_FILE)));
	CloseTransientFile(fd);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(text, size));
}
