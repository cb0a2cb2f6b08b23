/*-------------------------------------------------------------------------
 *
 * index_position.h
 *	  Where an index scan stands, whatever its access method.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_INDEX_POSITION_H
#define OGEL_INDEX_POSITION_H

#include "access/amapi.h"
#include "access/relscan.h"
#include "lib/pairingheap.h"

/*
 * An access method that reads a page of its index and returns the matching
 * items one after the other.  All functions are for a scan that has just
 * returned an item.
 */
typedef struct IndexMethod
{
	amgettuple_function gettuple;

	/* The page of that item, if the scan knows it, and how many items of what was read follow */
	int			(*left) (IndexScanDesc scan, ScanDirection dir, BlockNumber *page);
	/* The nth of those, from 1 on */
	ItemPointer (*item) (IndexScanDesc scan, ScanDirection dir, int n);
	/* The page after this one; NULL when a queue says it */
	BlockNumber (*next_page) (IndexScanDesc scan, ScanDirection dir);
	/* What comes after those items, nearest first, and the page of such an entry: of the heap or of the index */
	pairingheap *(*queue) (IndexScanDesc scan);
	BlockNumber (*entry) (const pairingheap_node *node, bool *heap);
} IndexMethod;

extern const IndexMethod btree_method;
extern const IndexMethod hash_method;
extern const IndexMethod gist_method;
extern const IndexMethod spgist_method;

extern int	index_queue_front(pairingheap *queue, const pairingheap_node **front, int max);

#endif							/* OGEL_INDEX_POSITION_H */
