/*-------------------------------------------------------------------------
 *
 * index_prefetch.c
 *	  Heap pages that an index scan is about to visit.
 *
 * A B-tree scan reads a leaf page, remembers all its matching items and then
 * returns one after the other; the executor fetches the heap page of each.
 * When the order of the index is not that of the heap, that is a round trip
 * per row.  The items say which pages come next, so they are asked for ahead.
 *
 * The core has no place for this.  It needs no patch, though: a relation's
 * cache entry holds its own copy of the access method's functions, and
 * btgettuple() is exported.  When the executor starts, the indexes in the plan
 * get a function that calls btgettuple() and then looks at the items that
 * follow.  An entry that is built anew has the original function again; then
 * only the prefetch is lost until the next statement.
 *
 * Looking ahead is a hint: it reads no page and changes nothing of the scan.
 *
 * A scan that returns a few rows asks for nothing ahead.  The distance doubles
 * with the rows, and a scan whose pages are all in memory looks only now and
 * then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/visibilitymap.h"
#include "executor/executor.h"
#include "guc.h"
#include "index_prefetch.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "readahead.h"
#include "storage/bufmgr.h"

#define NSCANS				8
/* Rows before the first look ahead */
#define FIRST_ROWS			2
#define FIRST_DISTANCE		4
/* Rows until the next look, when everything was in memory */
#define REST				64

/* A scan seen lately.  What is said of another scan at the same address does no harm. */
typedef struct SeenScan
{
	IndexScanDesc scan;
	BlockNumber page;			/* the leaf whose items are being returned */
	BlockNumber next_page;		/* the leaf expected after it */
	int			rows;			/* returned in a row, up to FIRST_ROWS */
	int			distance;		/* items to look ahead */
	int			ahead;			/* items[] looked at up to here */
	int			rest;			/* rows until the next look */
	BlockNumber heap_block;		/* looked at last */
} SeenScan;

static SeenScan seen_scans[NSCANS];
static int	next_seen = 0;
static ExecutorStart_hook_type next_executor_start = NULL;

static SeenScan *
seen_scan(IndexScanDesc scan)
{
	SeenScan   *seen;

	for (int i = 0; i < NSCANS; i++)
		if (seen_scans[i].scan == scan)
			return &seen_scans[i];
	seen = &seen_scans[next_seen];
	next_seen = (next_seen + 1) % NSCANS;
	memset(seen, 0, sizeof(*seen));
	seen->scan = scan;
	seen->page = seen->next_page = InvalidBlockNumber;
	seen->heap_block = InvalidBlockNumber;
	return seen;
}

/* The scan has come to a leaf page: the next one, or anywhere in the index. */
static void
enter_page(SeenScan *seen, const BTScanPosData *pos)
{
	if (pos->currPage != seen->next_page)
	{
		seen->rows = 0;
		seen->distance = 0;
		seen->rest = 0;
	}
	seen->page = pos->currPage;
	seen->next_page = pos->moreRight ? pos->nextPage : InvalidBlockNumber;
	seen->ahead = pos->itemIndex;
}

/* Asks for the heap pages of items (from, to].  False when all are in memory. */
static bool
want_heap_pages(IndexScanDesc scan, SeenScan *seen, const BTScanPosData *pos, int from, int to)
{
	Buffer		map = InvalidBuffer;
	bool		wanted = false;

	for (int i = from + 1; i <= to; i++)
	{
		BlockNumber block = ItemPointerGetBlockNumber(&pos->items[i].heapTid);

		if (block == seen->heap_block)
			continue;
		seen->heap_block = block;
		/* an index-only scan does not visit it */
		if (scan->xs_want_itup && VM_ALL_VISIBLE(scan->heapRelation, block, &map))
			continue;
		if (!BufferIsValid(PrefetchBuffer(scan->heapRelation, MAIN_FORKNUM, block).recent_buffer))
			wanted = true;
	}
	if (BufferIsValid(map))
		ReleaseBuffer(map);
	return wanted;
}

static void
look_ahead(IndexScanDesc scan, SeenScan *seen)
{
	const BTScanPosData *pos = &((BTScanOpaque) scan->opaque)->currPos;
	int			target;
	bool		wanted;

	if (pos->currPage != seen->page)
		enter_page(seen, pos);
	if (seen->rows < FIRST_ROWS)
	{
		seen->rows++;
		return;
	}
	if (seen->rest > 0)
	{
		seen->rest--;
		return;
	}
	/* nothing to do until half of what was asked for is used up */
	seen->ahead = Max(seen->ahead, pos->itemIndex);
	if (seen->ahead - pos->itemIndex > seen->distance / 2 || seen->ahead >= pos->lastItem)
		return;
	seen->distance = Min(Max(seen->distance * 2, FIRST_DISTANCE), ogel_readahead);
	target = Min(pos->itemIndex + seen->distance, pos->lastItem);
	wanted = want_heap_pages(scan, seen, pos, seen->ahead, target);
	seen->ahead = target;
	if (target == pos->lastItem && seen->next_page != InvalidBlockNumber)
		(void) PrefetchBuffer(scan->indexRelation, MAIN_FORKNUM, seen->next_page);
	if (wanted)
		readahead_send();
	else
		seen->rest = REST;
}

static bool
gettuple(IndexScanDesc scan, ScanDirection dir)
{
	bool		found = btgettuple(scan, dir);

	if (found && ogel_readahead > 0 && ScanDirectionIsForward(dir) && scan->heapRelation != NULL &&
		!RelationUsesLocalBuffers(scan->heapRelation))
		look_ahead(scan, seen_scan(scan));
	return found;
}

static void
prepare(Relation index)
{
	if (index != NULL && index->rd_indam != NULL && index->rd_indam->amgettuple == btgettuple)
		index->rd_indam->amgettuple = gettuple;
}

static bool
prepare_indexes(PlanState *state, void *context)
{
	if (state == NULL)
		return false;
	if (IsA(state, IndexScanState))
		prepare(((IndexScanState *) state)->iss_RelationDesc);
	else if (IsA(state, IndexOnlyScanState))
		prepare(((IndexOnlyScanState *) state)->ioss_RelationDesc);
	return planstate_tree_walker(state, prepare_indexes, context);
}

static void
executor_start(QueryDesc *queryDesc, int eflags)
{
	if (next_executor_start)
		next_executor_start(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);
	if (ogel_readahead > 0 && (eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
		(void) prepare_indexes(queryDesc->planstate, NULL);
}

void
index_prefetch_install(void)
{
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
}
