/*-------------------------------------------------------------------------
 *
 * mask_page.c
 *	  Test-only: a page as a resource manager's rm_mask leaves it.
 *
 * CREATE FUNCTION mask_page(rmid int, page bytea, blkno int8) RETURNS bytea
 * AS 'mask_page' LANGUAGE C STRICT;
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "fmgr.h"
#include "storage/bufpage.h"
#include "varatt.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(mask_page);

Datum
mask_page(PG_FUNCTION_ARGS)
{
	int32		rmid = PG_GETARG_INT32(0);
	bytea	   *page = PG_GETARG_BYTEA_PP(1);
	int64		blkno = PG_GETARG_INT64(2);
	char	   *masked;
	bytea	   *result;

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
	masked = palloc(BLCKSZ);
	memcpy(masked, VARDATA_ANY(page), BLCKSZ);
	GetRmgr(rmid).rm_mask(masked, (BlockNumber) blkno);

	result = palloc(VARHDRSZ + BLCKSZ);
	SET_VARSIZE(result, VARHDRSZ + BLCKSZ);
	memcpy(VARDATA(result), masked, BLCKSZ);
	PG_RETURN_BYTEA_P(result);
}
