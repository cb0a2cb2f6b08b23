/*-------------------------------------------------------------------------
 *
 * views.c
 *	  What the extension counts, for SQL.
 *
 * The functions belong to no schema; whoever wants one declares it:
 *
 *		CREATE FUNCTION ogel_file_cache(OUT size_bytes int8, OUT used_bytes int8,
 *			OUT hits int8, OUT misses int8, OUT writes int8, OUT evictions int8,
 *			OUT bad_checksums int8, OUT io_errors int8)
 *			AS 'ogel', 'ogel_file_cache' LANGUAGE C STRICT;
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type_d.h"
#include "file_cache.h"
#include "fmgr.h"
#include "funcapi.h"

PG_FUNCTION_INFO_V1(ogel_file_cache);

Datum
ogel_file_cache(PG_FUNCTION_ARGS)
{
	FileCacheStats stats = file_cache_stats();
	const uint64 counts[] = {
		stats.size_bytes, stats.used_bytes, stats.hits, stats.misses,
		stats.writes, stats.evictions, stats.bad_checksums, stats.io_errors,
	};
	Datum		values[lengthof(counts)];
	bool		nulls[lengthof(counts)] = {0};
	TupleDesc	tupdesc;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE ||
		tupdesc->natts != lengthof(counts))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("\"%s\" is declared with the wrong columns", "ogel_file_cache"),
				 errhint("It returns %d columns of type bigint.", (int) lengthof(counts))));
	for (int i = 0; i < lengthof(counts); i++)
	{
		if (TupleDescAttr(tupdesc, i)->atttypid != INT8OID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("\"%s\" is declared with the wrong columns", "ogel_file_cache"),
					 errhint("It returns %d columns of type bigint.", (int) lengthof(counts))));
		values[i] = Int64GetDatum((int64) counts[i]);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
