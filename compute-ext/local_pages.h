/*-------------------------------------------------------------------------
 *
 * local_pages.h
 *	  The spill: pages whose only copy is on this server's disk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_LOCAL_PAGES_H
#define OGEL_LOCAL_PAGES_H

#include "ogel.h"
#include "storage/bufpage.h"

extern Size local_pages_shmem_size(void);
extern void local_pages_shmem_init(void);

extern void local_pages_write(const RelFork *key, BlockNumber blocknum, const void *page);
extern bool local_pages_read(const RelFork *key, BlockNumber blocknum, void *page);
extern void local_pages_drop(const RelFork *key, BlockNumber blocknum, BlockNumber nblocks);
extern void local_pages_truncate(const RelFork *key, BlockNumber nblocks);
extern void local_pages_unlink(const RelFork *key);
extern void local_pages_drop_database(Oid dbOid);

/* all forks with a file; nblocks is where the file ends */
typedef void (*local_pages_visitor) (const RelFork *key, BlockNumber nblocks);
extern void local_pages_visit(local_pages_visitor visitor);

/* From commands/sequence.c, which does not export it */
#define SEQ_MAGIC	0x1717

/* Is it the only page of a sequence? */
static inline bool
page_is_sequence(Page page)
{
	return PageGetSpecialSize(page) == MAXALIGN(sizeof(uint32)) &&
		*(uint32 *) PageGetSpecialPointer(page) == SEQ_MAGIC;
}

#endif							/* OGEL_LOCAL_PAGES_H */
