/*-------------------------------------------------------------------------
 *
 * page_client.h
 *	  Questions to the page server.  Every call waits for the answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_PAGE_CLIENT_H
#define OGEL_PAGE_CLIENT_H

#include "access/xlogdefs.h"
#include "ogel.h"

extern void page_client_get_pages(const RelFork *key, const BlockNumber *blocks,
								  void **buffers, int nblocks,
								  XLogRecPtr not_modified_since);
extern bool page_client_nblocks(const RelFork *key, XLogRecPtr not_modified_since,
								BlockNumber *nblocks);
extern uint64 page_client_database_size(Oid spcOid, Oid dbOid,
										XLogRecPtr not_modified_since);

/*
 * For the readahead: a request without waiting, and the wait for any one
 * answer, which goes to readahead_answer().  False when the connection is not
 * usable or breaks.
 */
extern bool page_client_prefetch(const RelFork *key, const BlockNumber *blocks, int nblocks,
								 XLogRecPtr not_modified_since, uint64 *request_id);
extern bool page_client_receive_prefetched(void);

#endif							/* OGEL_PAGE_CLIENT_H */
