/*-------------------------------------------------------------------------
 *
 * relsize.h
 *	  Shared cache of the sizes of relation forks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_RELSIZE_H
#define OGEL_RELSIZE_H

#include "ogel.h"

/* As a size: the fork does not exist */
#define RELSIZE_ABSENT	InvalidBlockNumber

typedef struct RelSize
{
	BlockNumber nblocks;		/* or RELSIZE_ABSENT */
	BlockNumber logged;			/* blocks from here on were never in the WAL;
								 * logged <= nblocks */
} RelSize;

extern Size relsize_shmem_size(void);
extern void relsize_shmem_request(void);
extern void relsize_shmem_init(void);
extern void relsize_process_init(void);

extern bool relsize_lookup(const RelFork *key, RelSize *size);

/* an answer of the page server; false = overtaken by a change, ask again */
extern uint64 relsize_epoch(void);
extern bool relsize_store_answer(const RelFork *key, BlockNumber nblocks, uint64 epoch);

/* changes made by this server */
extern void relsize_created(const RelFork *key);
extern bool relsize_extended(const RelFork *key, BlockNumber blocknum,
							 BlockNumber nblocks, bool logged);
extern void relsize_page_logged(const RelFork *key, BlockNumber blocknum);
extern void relsize_truncated(const RelFork *key, BlockNumber nblocks);
extern void relsize_forget(const RelFork *key);
extern void relsize_forget_database(Oid dbOid);

#endif							/* OGEL_RELSIZE_H */
