/*-------------------------------------------------------------------------
 *
 * page_protocol.h
 *	  Messages of the page service, version 2 (docs/protocols.md, section 4).
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_PAGE_PROTOCOL_H
#define OGEL_PAGE_PROTOCOL_H

#include "access/xlogdefs.h"
#include "ogel.h"

#define PAGE_PROTOCOL_VERSION	2
#define MAX_PAGES_PER_REQUEST	128

typedef enum PageTag
{
	PAGE_TAG_NBLOCKS = 2,
	PAGE_TAG_GET_PAGES = 3,
	PAGE_TAG_DATABASE_SIZE = 4,
	PAGE_TAG_ERROR = 199,
} PageTag;

/* the answer to request tag t has tag t + 100 */
#define PAGE_ANSWER_TAG(tag)	((tag) + 100)

typedef enum PageErrorCode
{
	PAGE_ERROR_NO_FORK = 1,
	PAGE_ERROR_FENCED = 2,
	PAGE_ERROR_TOO_OLD = 3,
	PAGE_ERROR_DAMAGED = 4,
	PAGE_ERROR_NOT_UNDERSTOOD = 5,
	PAGE_ERROR_WAL_MISSING = 6,
	PAGE_ERROR_SHUTDOWN = 7,
} PageErrorCode;

/* request_lsn of a server that wants the newest version */
#define PAGE_NEWEST_LSN		PG_UINT64_MAX

typedef struct PageRequest
{
	uint8		tag;
	uint64		id;
	XLogRecPtr	request_lsn;
	XLogRecPtr	not_modified_since;
	RelFork		fork;			/* database size: spcOid and dbOid only */
	int			nblocks;		/* get pages */
	const BlockNumber *blocks;
} PageRequest;

#define PAGE_REQUEST_MAX_SIZE	(25 + 13 + 2 + 4 * MAX_PAGES_PER_REQUEST + 4)

/* An answer of pages is the largest */
#define PAGE_ANSWER_HEAD_SIZE	(17 + 2)
#define PAGE_ANSWER_MAX_SIZE	(PAGE_ANSWER_HEAD_SIZE + MAX_PAGES_PER_REQUEST * BLCKSZ + 4)

typedef struct PageAnswer
{
	uint8		tag;
	uint64		id;
	XLogRecPtr	lsn;
	uint8		error_code;		/* errors */
	uint32		nblocks;		/* number of blocks, of a fork or in pages */
	uint64		size_bytes;		/* database size */
	const char *payload;		/* pages, or the text of an error */
	size_t		payload_size;
} PageAnswer;

extern int	page_request_encode(const PageRequest *request, char *buffer);
extern bool page_answer_decode(const char *data, size_t size, PageAnswer *answer);

#endif							/* OGEL_PAGE_PROTOCOL_H */
