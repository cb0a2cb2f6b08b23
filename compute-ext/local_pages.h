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

extern Size local_pages_shmem_size(void);
extern void local_pages_shmem_init(void);

extern void local_pages_write(const RelFork *key, BlockNumber blocknum, const void *page);
extern bool local_pages_read(const RelFork *key, BlockNumber blocknum, void *page);
extern void local_pages_drop(const RelFork *key, BlockNumber blocknum, BlockNumber nblocks);
extern void local_pages_truncate(const RelFork *key, BlockNumber nblocks);
extern void local_pages_unlink(const RelFork *key);
extern void local_pages_drop_database(Oid dbOid);

#endif							/* OGEL_LOCAL_PAGES_H */
