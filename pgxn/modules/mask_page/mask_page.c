/*-------------------------------------------------------------------------
 *
 * mask_page.c
 *	  Test-only: what a resource manager's rm_mask leaves of a page.
 *
 * CREATE FUNCTION mask_page(rmid int, page bytea, blkno int8) RETURNS bytea
 * AS 'mask_page' LANGUAGE C STRICT;
 *
 * The page as rm_mask leaves it.
 *
 * CREATE FUNCTION found_flips(rmid int, page bytea, blkno int8) RETURNS bytea
 * AS 'mask_page' LANGUAGE C STRICT;
 *
 * Which wrong bits of the page wal_consistency_checking finds: for each byte
 * a little-endian uint16, in which bit n is set when the flipped bit n of the
 * byte is found, and bit 8 when the byte with all its bits flipped is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "varatt.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(mask_page);
PG_FUNCTION_INFO_V1(found_flips);

/*
 * Masks trust the fields of a page.  On a damaged one, 16 bits of offset and
 * 16 bits of length lead no further than this.
 */
#define ROOM	(4 * 65536)

/* The page argument, checked, at the start of ROOM bytes. */
static char *
page_argument(FunctionCallInfo fcinfo)
{
	int32		rmid = PG_GETARG_INT32(0);
	bytea	   *page = PG_GETARG_BYTEA_PP(1);
	char	   *copy;

	if (rmid < 0 || rmid > RM_MAX_ID || !RmgrIdExists(rmid) ||
		GetRmgr(rmid).rm_mask == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("resource manager %d has no mask", rmid)));
	if (VARSIZE_ANY_EXHDR(page) != BLCKSZ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a page has %d bytes, not %zu",
						BLCKSZ, (size_t) VARSIZE_ANY_EXHDR(page))));

	/* Masks look at the page's fields, so it must be aligned. */
	copy = palloc0(ROOM);
	memcpy(copy, VARDATA_ANY(page), BLCKSZ);
	return copy;
}

static bytea *
bytea_of(const void *bytes, Size size)
{
	bytea	   *result = palloc(VARHDRSZ + size);

	SET_VARSIZE(result, VARHDRSZ + size);
	memcpy(VARDATA(result), bytes, size);
	return result;
}

Datum
mask_page(PG_FUNCTION_ARGS)
{
	char	   *page = page_argument(fcinfo);

	GetRmgr(PG_GETARG_INT32(0)).rm_mask(page, (BlockNumber) PG_GETARG_INT64(2));
	PG_RETURN_BYTEA_P(bytea_of(page, BLCKSZ));
}

/*
 * Does a page, already copied to the room, differ from a masked one?  A page
 * that cannot be masked does: replay ends with that error.
 */
static bool
differs(RmgrData *rmgr, char *room, BlockNumber blkno, const char *masked)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool failed = false;

	PG_TRY();
	{
		rmgr->rm_mask(room, blkno);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		failed = true;
	}
	PG_END_TRY();
	return failed || memcmp(room, masked, BLCKSZ) != 0;
}

Datum
found_flips(PG_FUNCTION_ARGS)
{
	RmgrData	rmgr;
	BlockNumber blkno = (BlockNumber) PG_GETARG_INT64(2);
	char	   *page = page_argument(fcinfo);
	char	   *masked = palloc0(ROOM);
	char	   *room = palloc0(ROOM);
	uint8	   *found = palloc0(2 * BLCKSZ);

	rmgr = GetRmgr(PG_GETARG_INT32(0));
	memcpy(masked, page, BLCKSZ);
	rmgr.rm_mask(masked, blkno);

	for (int at = 0; at < BLCKSZ; at++)
	{
		CHECK_FOR_INTERRUPTS();
		for (int bit = 0; bit <= 8; bit++)
		{
			memcpy(room, page, BLCKSZ);
			room[at] ^= bit < 8 ? 1 << bit : 0xff;
			if (differs(&rmgr, room, blkno, masked))
				found[2 * at + bit / 8] |= 1 << bit % 8;
		}
	}
	PG_RETURN_BYTEA_P(bytea_of(found, 2 * BLCKSZ));
}
