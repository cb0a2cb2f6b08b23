/*-------------------------------------------------------------------------
 *
 * explain.c
 *	  What a statement took from storage, in EXPLAIN (ANALYZE, BUFFERS).
 *
 * The core's own lines count every page that was not in the buffer pool as
 * read, wherever it came from, with its time under track_io_timing.  One line
 * more says where: the page server or the local file.  Only the text format
 * has it, and only when there was something: the structured formats have a
 * fixed set of keys, which programs know from stock PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/explain.h"
#include "counters.h"
#include "explain.h"

static ExplainOneQuery_hook_type next_hook = NULL;

static void
show(ExplainState *es, const Effort *before)
{
	Effort		now = counters_effort();
	uint64		pages = now.pages - before->pages;
	uint64		hits = now.file_cache_hits - before->file_cache_hits;

	if (pages + hits == 0)
		return;
	appendStringInfo(es->str, "Storage Buffers: remote=" UINT64_FORMAT, pages);
	appendStringInfo(es->str, " prefetched=" UINT64_FORMAT, now.prefetched - before->prefetched);
	appendStringInfo(es->str, " requests=" UINT64_FORMAT, now.requests - before->requests);
	appendStringInfo(es->str, " file cache=" UINT64_FORMAT, hits);
	appendStringInfo(es->str, " wait=%.3f ms\n", (now.wait_us - before->wait_us) / 1000.0);
}

static void
explain_one_query(Query *query, int cursorOptions, IntoClause *into, ExplainState *es,
				  const char *queryString, ParamListInfo params, QueryEnvironment *queryEnv)
{
	Effort		before = counters_effort();

	if (next_hook)
		next_hook(query, cursorOptions, into, es, queryString, params, queryEnv);
	else
		standard_ExplainOneQuery(query, cursorOptions, into, es, queryString, params, queryEnv);

	if (es->analyze && es->buffers && es->format == EXPLAIN_FORMAT_TEXT)
		show(es, &before);
}

void
explain_install(void)
{
	next_hook = ExplainOneQuery_hook;
	ExplainOneQuery_hook = explain_one_query;
}
