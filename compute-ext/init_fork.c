/*-------------------------------------------------------------------------
 *
 * init_fork.c
 *	  Init forks of unlogged relations are in the WAL, whoever wrote them.
 *
 * After a start an unlogged relation is a copy of its init fork, which comes
 * from the WAL.  Access methods that make it by generic WAL records, as bloom
 * does, log nothing for an unlogged relation: the init fork is then only in
 * its file, which is enough for a server that keeps its disk.
 *
 * So whoever extends an init fork has its pages looked at before the
 * transaction commits, and those without an LSN are logged as images.
 *
 * Apart from that, unlogged relations are left to md.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/pg_class.h"
#include "init_fork.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"

static f_smgr unlogged_smgr;

/* Extended in this transaction; in TopTransactionContext */
static List *extended = NIL;

static void
note(SMgrRelation reln)
{
	MemoryContext outer = MemoryContextSwitchTo(TopTransactionContext);
	RelFileLocator *rlocator;
	ListCell   *cell;

	foreach(cell, extended)
		if (RelFileLocatorEquals(*(RelFileLocator *) lfirst(cell), reln->smgr_rlocator.locator))
			break;
	if (cell == NULL)
	{
		rlocator = palloc(sizeof(RelFileLocator));
		*rlocator = reln->smgr_rlocator.locator;
		extended = lappend(extended, rlocator);
	}
	MemoryContextSwitchTo(outer);
}

static void
extend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
	   const void *buffer, bool skipFsync)
{
	if (forknum == INIT_FORKNUM && IsTransactionState())
		note(reln);
	smgr_md.smgr_extend(reln, forknum, blocknum, buffer, skipFsync);
}

static void
zeroextend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
		   int nblocks, bool skipFsync)
{
	if (forknum == INIT_FORKNUM && IsTransactionState())
		note(reln);
	smgr_md.smgr_zeroextend(reln, forknum, blocknum, nblocks, skipFsync);
}

static void
log_page(RelFileLocator rlocator, BlockNumber block)
{
	Buffer		buffer = ReadBufferWithoutRelcache(rlocator, INIT_FORKNUM, block, RBM_NORMAL,
												   NULL, true);
	Page		page = BufferGetPage(buffer);

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	if (!PageIsNew(page) && PageGetLSN(page) <= FirstNormalUnloggedLSN)
	{
		START_CRIT_SECTION();
		MarkBufferDirty(buffer);
		log_newpage_buffer(buffer, true);
		END_CRIT_SECTION();
	}
	UnlockReleaseBuffer(buffer);
}

static void
log_extended(void)
{
	ListCell   *cell;

	foreach(cell, extended)
	{
		RelFileLocator *rlocator = lfirst(cell);
		SMgrRelation reln = smgropen_ext(*rlocator, INVALID_PROC_NUMBER, RELPERSISTENCE_UNLOGGED);
		BlockNumber nblocks;

		/* what a subtransaction made that was rolled back is gone */
		if (!smgrexists(reln, INIT_FORKNUM))
			continue;
		nblocks = smgrnblocks(reln, INIT_FORKNUM);
		for (BlockNumber block = 0; block < nblocks; block++)
			log_page(*rlocator, block);
	}
}

static void
at_xact_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			log_extended();
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
			break;
		default:
			extended = NIL;
			break;
	}
}

void
init_fork_process_init(void)
{
	RegisterXactCallback(at_xact_event, NULL);
}

const f_smgr *
init_fork_smgr(void)
{
	if (unlogged_smgr.smgr_extend == NULL)
	{
		unlogged_smgr = smgr_md;
		unlogged_smgr.smgr_extend = extend;
		unlogged_smgr.smgr_zeroextend = zeroextend;
	}
	return &unlogged_smgr;
}
