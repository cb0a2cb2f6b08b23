/*-------------------------------------------------------------------------
 *
 * index_prefetch.c
 *	  Heap pages that an index scan is about to visit.
 *
 * An index scan reads a page of its index, remembers all matching items and
 * then returns one after the other; the executor fetches the heap page of
 * each.  When the order of the index is not that of the heap, that is a round
 * trip per row.  The items say which pages come next, so they are asked for
 * ahead, and so is the page of the index that follows.
 *
 * The core has no place for this.  It needs no patch, though: a relation's
 * cache entry holds its own copy of the access method's functions, and the
 * methods' gettuple functions are exported.  When the executor starts, the
 * indexes in the plan get a function that calls the method's own and then
 * looks at what follows.  An entry that is built anew has the original
 * function again; then only the prefetch is lost until the next statement.
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

#include "access/relscan.h"
#include "access/visibilitymap.h"
#include "executor/executor.h"
#include "guc.h"
#include "index_position.h"
#include "index_prefetch.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "readahead.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

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
	BlockNumber page;			/* whose items are being returned, if known */
	BlockNumber next_page;		/* expected after it, if known */
	int			left;			/* items that follow the one returned last */
	int			ahead;			/* of these, how many were looked at */
	bool		beyond;			/* what follows the page was looked at as well */
	int			rows;			/* returned in a row, up to FIRST_ROWS */
	int			distance;		/* items to look ahead */
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

static void
forget_scan(IndexScanDesc scan)
{
	for (int i = 0; i < NSCANS; i++)
		if (seen_scans[i].scan == scan)
			seen_scans[i].scan = NULL;
}

/* One item was returned: the next of its page, the first of the page that was expected, or any. */
static void
follow(SeenScan *seen, const IndexMethod *method, IndexScanDesc scan, ScanDirection dir)
{
	BlockNumber page;
	int			left = method->left(scan, dir, &page);
	bool		same_page = page == seen->page && left == seen->left - 1;
	bool		goes_on = method->queue ? seen->left == 0 : page == seen->next_page;

	seen->left = left;
	if (same_page || (goes_on && scan->numberOfOrderBys > 0))
		seen->ahead = Max(seen->ahead - 1, 0);
	else
		seen->ahead = 0;
	if (same_page)
		return;
	if (!goes_on)
		seen->rows = seen->distance = seen->rest = 0;
	seen->page = page;
	seen->next_page = method->next_page ? method->next_page(scan, dir) : InvalidBlockNumber;
	seen->beyond = false;
}

/* Asks for a heap page.  False when it is in memory. */
static bool
want_heap_page(IndexScanDesc scan, SeenScan *seen, BlockNumber block, Buffer *map)
{
	if (block == seen->heap_block)
		return false;
	seen->heap_block = block;
	/* an index-only scan does not visit it */
	if (scan->xs_want_itup && VM_ALL_VISIBLE(scan->heapRelation, block, map))
		return false;
	return !BufferIsValid(PrefetchBuffer(scan->heapRelation, MAIN_FORKNUM, block).recent_buffer);
}

/* Asks for what is to be visited after the items at hand.  False when it is in memory. */
static bool
want_queued(const IndexMethod *method, IndexScanDesc scan, SeenScan *seen, Buffer *map)
{
	bool		ordered = scan->numberOfOrderBys > 0;
	const pairingheap_node *front[MAX_READAHEAD];
	/* without an order it holds pages of the index only, and each brings many rows */
	int			count = index_queue_front(method->queue(scan), front, ordered ? seen->distance : 1);
	bool		wanted = false;

	for (int i = 0; i < count; i++)
	{
		bool		heap;
		BlockNumber block = method->entry(front[i], &heap);

		if (heap)
			wanted |= want_heap_page(scan, seen, block, map);
		else
			wanted |= !BufferIsValid(PrefetchBuffer(scan->indexRelation, MAIN_FORKNUM, block).recent_buffer);
	}
	if (ordered)
		seen->ahead = count;
	return wanted;
}

static void
look_ahead(IndexScanDesc scan, ScanDirection dir, const IndexMethod *method, SeenScan *seen)
{
	Buffer		map = InvalidBuffer;
	bool		wanted = false;
	int			target;

	follow(seen, method, scan, dir);
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
	if (seen->ahead > seen->distance / 2 || seen->beyond)
		return;
	seen->distance = Min(Max(seen->distance * 2, FIRST_DISTANCE), ogel_readahead);
	target = Min(seen->distance, seen->left);
	for (int n = seen->ahead + 1; n <= target; n++)
		wanted |= want_heap_page(scan, seen, ItemPointerGetBlockNumber(method->item(scan, dir, n)), &map);
	seen->ahead = Max(seen->ahead, target);
	if (target == seen->left)
	{
		if (seen->next_page != InvalidBlockNumber)
			wanted |= !BufferIsValid(PrefetchBuffer(scan->indexRelation, MAIN_FORKNUM, seen->next_page).recent_buffer);
		if (method->queue)
			wanted |= want_queued(method, scan, seen, &map);
		seen->beyond = true;
	}
	if (BufferIsValid(map))
		ReleaseBuffer(map);
	if (wanted)
		readahead_send();
	else
		seen->rest = REST;
}

static bool
gettuple(IndexScanDesc scan, ScanDirection dir, const IndexMethod *method)
{
	bool		found = method->gettuple(scan, dir);

	if (!found)
		forget_scan(scan);
	else if (ogel_readahead > 0 && scan->heapRelation != NULL && !RelationUsesLocalBuffers(scan->heapRelation))
	{
		RelFork		heap = relfork_make(scan->heapRelation->rd_locator, MAIN_FORKNUM);

		look_ahead(scan, dir, method, seen_scan(scan));
		readahead_by_index(&heap);
	}
	return found;
}

static bool
btree_gettuple(IndexScanDesc scan, ScanDirection dir)
{
	return gettuple(scan, dir, &btree_method);
}

static bool
hash_gettuple(IndexScanDesc scan, ScanDirection dir)
{
	return gettuple(scan, dir, &hash_method);
}

static bool
gist_gettuple(IndexScanDesc scan, ScanDirection dir)
{
	return gettuple(scan, dir, &gist_method);
}

static bool
spgist_gettuple(IndexScanDesc scan, ScanDirection dir)
{
	return gettuple(scan, dir, &spgist_method);
}

static void
prepare(Relation index)
{
	static const struct
	{
		const IndexMethod *method;
		amgettuple_function looks_ahead;
	}			methods[] = {
		{&btree_method, btree_gettuple},
		{&hash_method, hash_gettuple},
		{&gist_method, gist_gettuple},
		{&spgist_method, spgist_gettuple},
	};

	if (index == NULL || index->rd_indam == NULL)
		return;
	for (int i = 0; i < lengthof(methods); i++)
		if (index->rd_indam->amgettuple == methods[i].method->gettuple)
			index->rd_indam->amgettuple = methods[i].looks_ahead;
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
