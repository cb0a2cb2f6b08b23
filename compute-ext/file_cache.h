/*-------------------------------------------------------------------------
 *
 * file_cache.h
 *	  Pages of permanent relations on the local disk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_FILE_CACHE_H
#define OGEL_FILE_CACHE_H

#include "access/xlogdefs.h"
#include "ogel.h"

extern void file_cache_shmem_request(void);
extern void file_cache_shmem_init(void);

/* Blocks of one call: each has a bit */
#define FILE_CACHE_MAX_BLOCKS	32

extern uint64 file_cache_readv(const RelFork *key, BlockNumber first, void *const *buffers,
							   uint64 wanted);
extern bool file_cache_contains(const RelFork *key, BlockNumber blocknum);

/* a version that leaves the buffer pool: the newest there is */
extern void file_cache_write(const RelFork *key, BlockNumber blocknum, const void *page);

/*
 * What the page server answered when it was asked for not_modified_since, one
 * for each block, as buffers are; those whose bits are set in answered.
 * Passing: they take nobody's place.
 */
extern void file_cache_write_answers(const RelFork *key, BlockNumber first, void *const *buffers,
									 uint64 answered, const XLogRecPtr *not_modified_since,
									 bool passing);

/* Blocks that fit */
extern uint64 file_cache_capacity(void);

/* none of these throws or touches the disk */
extern void file_cache_drop(const RelFork *key, BlockNumber begin, BlockNumber end);
extern void file_cache_drop_fork(const RelFork *key);
extern void file_cache_drop_database(Oid dbOid);

/* Since the start of the server; pages where nothing else is said */
typedef struct FileCacheStats
{
	uint64		size_bytes;		/* in force now */
	uint64		used_bytes;
	uint64		hits;
	uint64		misses;
	uint64		writes;
	uint64		evictions;
	uint64		bad_checksums;
	uint64		io_errors;
} FileCacheStats;

extern FileCacheStats file_cache_stats(void);

#endif							/* OGEL_FILE_CACHE_H */
