/*-------------------------------------------------------------------------
 *
 * index_prefetch.h
 *	  Heap pages that an index scan is about to visit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_INDEX_PREFETCH_H
#define OGEL_INDEX_PREFETCH_H

extern void index_prefetch_install(void);

#endif							/* OGEL_INDEX_PREFETCH_H */
