/*-------------------------------------------------------------------------
 *
 * index_position.c
 *	  Where an index scan stands, whatever its access method.
 *
 * B-tree and hash scans hold the matching items of one page and know its
 * neighbour.  GiST and SP-GiST scans hold those of one page or chain, and
 * a queue of what is to be visited then: pages of the index, and rows when
 * they are to be returned in the order of a distance.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/gist_private.h"
#include "access/hash.h"
#include "access/nbtree.h"
#include "access/spgist_private.h"
#include "index_position.h"
#include "lib/binaryheap.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

/* Entries of a queue that are compared to find its front */
#define MAX_COMPARED	1024

#define STEP(dir)		(ScanDirectionIsForward(dir) ? 1 : -1)

static const BTScanPosData *
bt_position(IndexScanDesc scan)
{
	return &((BTScanOpaque) scan->opaque)->currPos;
}

static int
bt_left(IndexScanDesc scan, ScanDirection dir, BlockNumber *page)
{
	const BTScanPosData *pos = bt_position(scan);

	*page = pos->currPage;
	return ScanDirectionIsForward(dir) ? pos->lastItem - pos->itemIndex : pos->itemIndex - pos->firstItem;
}

static ItemPointer
bt_item(IndexScanDesc scan, ScanDirection dir, int n)
{
	const BTScanPosData *pos = bt_position(scan);

	return (ItemPointer) &pos->items[pos->itemIndex + n * STEP(dir)].heapTid;
}

/*
 * The scan does not remember its left neighbour: it will read the page again
 * for that.  So the page says it now, if it is still in memory.
 */
static BlockNumber
bt_left_sibling(Relation index, BlockNumber page)
{
	Buffer		buffer = PrefetchBuffer(index, MAIN_FORKNUM, page).recent_buffer;
	BlockNumber left;

	if (!BufferIsValid(buffer) || !ReadRecentBuffer(index->rd_locator, MAIN_FORKNUM, page, buffer))
		return InvalidBlockNumber;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	left = BTPageGetOpaque(BufferGetPage(buffer))->btpo_prev;
	UnlockReleaseBuffer(buffer);
	return left == P_NONE ? InvalidBlockNumber : left;
}

static BlockNumber
bt_next_page(IndexScanDesc scan, ScanDirection dir)
{
	const BTScanPosData *pos = bt_position(scan);

	if (ScanDirectionIsForward(dir))
		return pos->moreRight ? pos->nextPage : InvalidBlockNumber;
	return pos->moreLeft ? bt_left_sibling(scan->indexRelation, pos->currPage) : InvalidBlockNumber;
}

static const HashScanPosData *
hash_position(IndexScanDesc scan)
{
	return &((HashScanOpaque) scan->opaque)->currPos;
}

static int
hash_left(IndexScanDesc scan, ScanDirection dir, BlockNumber *page)
{
	const HashScanPosData *pos = hash_position(scan);

	*page = pos->currPage;
	return ScanDirectionIsForward(dir) ? pos->lastItem - pos->itemIndex : pos->itemIndex - pos->firstItem;
}

static ItemPointer
hash_item(IndexScanDesc scan, ScanDirection dir, int n)
{
	const HashScanPosData *pos = hash_position(scan);

	return (ItemPointer) &pos->items[pos->itemIndex + n * STEP(dir)].heapTid;
}

static BlockNumber
hash_next_page(IndexScanDesc scan, ScanDirection dir)
{
	const HashScanPosData *pos = hash_position(scan);

	return ScanDirectionIsForward(dir) ? pos->nextPage : pos->prevPage;
}

/* curPageData and iPtr already point behind the item that was returned. */
static int
gist_left(IndexScanDesc scan, ScanDirection dir, BlockNumber *page)
{
	GISTScanOpaque so = (GISTScanOpaque) scan->opaque;

	*page = InvalidBlockNumber;
	return so->nPageData - so->curPageData;
}

static ItemPointer
gist_item(IndexScanDesc scan, ScanDirection dir, int n)
{
	GISTScanOpaque so = (GISTScanOpaque) scan->opaque;

	return &so->pageData[so->curPageData - 1 + n].heapPtr;
}

static pairingheap *
gist_queue(IndexScanDesc scan)
{
	return ((GISTScanOpaque) scan->opaque)->queue;
}

static BlockNumber
gist_entry(const pairingheap_node *node, bool *heap)
{
	const GISTSearchItem *item = pairingheap_const_container(GISTSearchItem, phNode, node);

	*heap = GISTSearchItemIsHeap(*item);
	return *heap ? ItemPointerGetBlockNumber(&item->data.heap.heapPtr) : item->blkno;
}

static int
spgist_left(IndexScanDesc scan, ScanDirection dir, BlockNumber *page)
{
	SpGistScanOpaque so = (SpGistScanOpaque) scan->opaque;

	*page = InvalidBlockNumber;
	return so->nPtrs - so->iPtr;
}

static ItemPointer
spgist_item(IndexScanDesc scan, ScanDirection dir, int n)
{
	SpGistScanOpaque so = (SpGistScanOpaque) scan->opaque;

	return &so->heapPtrs[so->iPtr - 1 + n];
}

static pairingheap *
spgist_queue(IndexScanDesc scan)
{
	return ((SpGistScanOpaque) scan->opaque)->scanQueue;
}

static BlockNumber
spgist_entry(const pairingheap_node *node, bool *heap)
{
	const SpGistSearchItem *item = pairingheap_const_container(SpGistSearchItem, phNode, node);

	*heap = item->isLeaf;
	return ItemPointerGetBlockNumber(&item->heapPtr);
}

const IndexMethod btree_method = {
	.gettuple = btgettuple,
	.left = bt_left,
	.item = bt_item,
	.next_page = bt_next_page,
};

const IndexMethod hash_method = {
	.gettuple = hashgettuple,
	.left = hash_left,
	.item = hash_item,
	.next_page = hash_next_page,
};

const IndexMethod gist_method = {
	.gettuple = gistgettuple,
	.left = gist_left,
	.item = gist_item,
	.queue = gist_queue,
	.entry = gist_entry,
};

const IndexMethod spgist_method = {
	.gettuple = spggettuple,
	.left = spgist_left,
	.item = spgist_item,
	.queue = spgist_queue,
	.entry = spgist_entry,
};

static int
compare_entries(Datum a, Datum b, void *arg)
{
	pairingheap *queue = arg;

	return queue->ph_compare((pairingheap_node *) DatumGetPointer(a),
							 (pairingheap_node *) DatumGetPointer(b), queue->ph_arg);
}

/*
 * The first entries of a queue, which stays as it is: each is the nearest of
 * those whose parents in the heap have been taken.  Returns how many.
 */
int
index_queue_front(pairingheap *queue, const pairingheap_node **front, int max)
{
	binaryheap *candidates;
	int			compared = 1;
	int			count = 0;

	if (pairingheap_is_empty(queue))
		return 0;
	candidates = binaryheap_allocate(MAX_COMPARED, compare_entries, queue);
	binaryheap_add(candidates, PointerGetDatum(pairingheap_first(queue)));
	while (count < max && !binaryheap_empty(candidates))
	{
		pairingheap_node *node = (pairingheap_node *) DatumGetPointer(binaryheap_remove_first(candidates));

		front[count++] = node;
		for (pairingheap_node *child = node->first_child;
			 child != NULL && compared < MAX_COMPARED; child = child->next_sibling, compared++)
			binaryheap_add(candidates, PointerGetDatum(child));
	}
	binaryheap_free(candidates);
	return count;
}
