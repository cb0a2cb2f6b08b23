/*-------------------------------------------------------------------------
 *
 * cache_file.h
 *	  The file of the file cache.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_CACHE_FILE_H
#define OGEL_CACHE_FILE_H

#include "ogel.h"
#include "port/pg_crc32c.h"
#include "port/pg_iovec.h"

/* Makes what may throw.  Call it in every process before what follows. */
extern void cache_file_prepare(void);

/* Removes that of an earlier server, in the postmaster. */
extern void cache_file_remove(void);

/*
 * Reads or writes pages that lie one behind the other.  Returns how many, from
 * the first on; does not throw.
 */
extern int	cache_file_read(off_t offset, struct iovec *pages, int npages);
extern int	cache_file_write(off_t offset, struct iovec *pages, int npages);

/* Cuts off what lies behind; if that fails, only space is wasted. */
extern bool cache_file_cut(off_t size);

extern pg_crc32c cache_file_checksum(const RelFork *key, BlockNumber blocknum, const void *page);

#endif							/* OGEL_CACHE_FILE_H */
