/*-------------------------------------------------------------------------
 *
 * readahead.h
 *	  Pages asked for before they are needed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_READAHEAD_H
#define OGEL_READAHEAD_H

#include "ogel.h"
#include "page_protocol.h"
#include "storage/smgr.h"

extern void readahead_want(const RelFork *key, BlockNumber blocknum);

/* sends what is wanted so far, which a take would do too */
extern void readahead_send(void);
extern void readahead_by_index(const RelFork *key);

extern uint64 readahead_takev(const RelFork *key, BlockNumber first, void *const *buffers,
							  uint64 wanted, XLogRecPtr *not_modified_since);
extern bool readahead_advance(SMgrRelation reln, ForkNumber forknum,
							  BlockNumber begin, BlockNumber end, BlockNumber limit);
extern bool readahead_answer(const PageAnswer *answer, char *message);

#endif							/* OGEL_READAHEAD_H */
