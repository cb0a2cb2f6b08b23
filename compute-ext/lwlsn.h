/*-------------------------------------------------------------------------
 *
 * lwlsn.h
 *	  Last-written LSNs: how new a page or a size must be when it is read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_LWLSN_H
#define OGEL_LWLSN_H

#include "access/xlogdefs.h"
#include "ogel.h"

extern Size lwlsn_shmem_size(void);
extern void lwlsn_shmem_init(void);

extern XLogRecPtr lsn_record_end(XLogRecPtr lsn);
extern XLogRecPtr lsn_insert_position(void);

/* what this server wrote */
extern void lwlsn_set_page(const RelFork *key, BlockNumber blocknum, XLogRecPtr lsn);
extern void lwlsn_set_size(const RelFork *key, XLogRecPtr lsn);
extern void lwlsn_set_all_pages(const RelFork *key, XLogRecPtr lsn);

/* the same for one page, without the flush: is an answer at hand new enough? */
extern XLogRecPtr lwlsn_of_page(const RelFork *key, BlockNumber blocknum);

/* the highest of blocks first to last */
extern XLogRecPtr lwlsn_of_pages(const RelFork *key, BlockNumber first, BlockNumber last);

/* what a request must send as not_modified_since; flushed on return */
extern XLogRecPtr lwlsn_for_pages(const RelFork *key, const BlockNumber *blocks, int nblocks);
extern XLogRecPtr lwlsn_for_size(const RelFork *key);
extern XLogRecPtr lwlsn_for_everything(void);

#endif							/* OGEL_LWLSN_H */
