/*-------------------------------------------------------------------------
 *
 * smgr.c
 *	  The storage manager of permanent relations.
 *
 * Writing a page means remembering its LSN and dropping it: the page server
 * makes the same page from the WAL.  Reading means asking for a version that
 * is at least as new.  Sizes come from the shared cache (relsize.c), pages
 * that the WAL does not cover from the spill (local_pages.c).
 *
 * Temporary and unlogged relations stay in local files (md.c), init forks
 * included (init_fork.c): ResetUnloggedRelations() works on files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "access/xlogutils.h"
#include "backpressure.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_tablespace_d.h"
#include "file_cache.h"
#include "init_fork.h"
#include "interrupts.h"
#include "local_pages.h"
#include "lwlsn.h"
#include "miscadmin.h"
#include "ogel_smgr.h"
#include "page_client.h"
#include "page_protocol.h"
#include "readahead.h"
#include "relsize.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/smgr.h"
#include "utils/rel.h"

/* Blocks read at a time; the core asks for 32 at most */
#define READ_BLOCKS		32

StaticAssertDecl(READ_BLOCKS <= FILE_CACHE_MAX_BLOCKS && READ_BLOCKS <= MAX_PAGES_PER_REQUEST,
				 "each way to read a page takes them all");

static const PGIOAlignedBlock zero_page;

static RelFork
key_of(SMgrRelation reln, ForkNumber forknum)
{
	Assert(reln->smgr_rlocator.backend == INVALID_PROC_NUMBER);
	return relfork_make(reln->smgr_rlocator.locator, forknum);
}

/* Does the page carry the LSN of a WAL record? */
static bool
has_real_lsn(const void *page)
{
	return PageGetLSN((Page) page) > FirstNormalUnloggedLSN;
}

/*
 * Does the page change without WAL?  The WAL of a sequence runs ahead of its
 * page, so that not every nextval() is logged: the page from the WAL would
 * skip values.  A free space map has an LSN only because its images are
 * logged now and then (unlogged_state.c).
 */
static bool
is_ahead_of_wal(const RelFork *key, BlockNumber blocknum, const void *page)
{
	return key->fork == FSM_FORKNUM ||
		(key->fork == MAIN_FORKNUM && blocknum == 0 && page_is_sequence((Page) page));
}

/* The size of the fork, from the cache or the page server. */
static RelSize
size_of(const RelFork *key)
{
	RelSize		size;
	uint64		epoch;
	BlockNumber answer;

	do
	{
		epoch = relsize_epoch();
		if (relsize_lookup(key, &size))
			return size;
		if (!page_client_nblocks(key, lwlsn_for_size(key), &answer))
			answer = RELSIZE_ABSENT;
	} while (!relsize_store_answer(key, answer, epoch));

	size.nblocks = answer;
	size.logged = answer == RELSIZE_ABSENT ? 0 : answer;
	return size;
}

/*
 * A version of a page leaves memory.  Afterwards it can be had again, from
 * the page server or from the spill.
 */
static void
keep_page(const RelFork *key, BlockNumber blocknum, const void *page)
{
	if (PageIsNew((Page) page))
	{
		file_cache_drop(key, blocknum, blocknum + 1);
		local_pages_drop(key, blocknum, 1);
		return;
	}
	if (!has_real_lsn(page))
	{
		file_cache_drop(key, blocknum, blocknum + 1);
		local_pages_write(key, blocknum, page);
		return;
	}

	/* first the LSN: the page server must not be asked for less */
	lwlsn_set_page(key, blocknum, PageGetLSN((Page) page));
	relsize_page_logged(key, blocknum);
	file_cache_write(key, blocknum, page);
	if (is_ahead_of_wal(key, blocknum, page))
		local_pages_write(key, blocknum, page);
	else
		local_pages_drop(key, blocknum, 1);
}

/*
 * Blocks [blocknum, end) were added.  When nobody can keep the size, the last
 * block goes into the WAL as a page of zeros: nobody else can have written to
 * it yet, since the caller holds the extension lock or owns the relation.
 */
static void
keep_size(const RelFork *key, BlockNumber blocknum, BlockNumber end, bool logged)
{
	RelFileLocator rlocator = {key->spcOid, key->dbOid, key->relNumber};
	XLogRecPtr	lsn;

	if (relsize_extended(key, blocknum, end, logged) || RecoveryInProgress())
		return;
	lsn = log_newpage(&rlocator, key->fork, end - 1, (Page) zero_page.data, false);
	lwlsn_set_page(key, end - 1, lsn);
	lwlsn_set_size(key, lsn);
}

static void
ogel_open(SMgrRelation reln)
{
}

static void
ogel_close(SMgrRelation reln, ForkNumber forknum)
{
}

static void
ogel_create(SMgrRelation reln, ForkNumber forknum, bool isRedo)
{
	RelFork		key = key_of(reln, forknum);
	RelSize		size;

	if (relsize_lookup(&key, &size) && size.nblocks != RELSIZE_ABSENT)
	{
		if (isRedo)
			return;
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_FILE),
				 errmsg("could not create relation %s: it exists",
						relpath(reln->smgr_rlocator, forknum))));
	}
	relsize_created(&key);
}

static bool
ogel_exists(SMgrRelation reln, ForkNumber forknum)
{
	RelFork		key = key_of(reln, forknum);
	RelSize		size;

	if (relsize_lookup(&key, &size))
		return size.nblocks != RELSIZE_ABSENT;

	/*
	 * At the end of a transaction, where relations are dropped, nothing may
	 * fail, so nobody is asked.  "Yes" only means a full scan of the buffers.
	 */
	if (!interrupts_may_raise())
		return true;
	return size_of(&key).nblocks != RELSIZE_ABSENT;
}

/* Must not fail. */
static void
ogel_unlink(RelFileLocatorBackend rlocator, ForkNumber forknum, bool isRedo)
{
	int			first = forknum == InvalidForkNumber ? 0 : forknum;
	int			last = forknum == InvalidForkNumber ? MAX_FORKNUM : forknum;

	for (int fork = first; fork <= last; fork++)
	{
		RelFork		key = relfork_make(rlocator.locator, fork);

		lwlsn_set_all_pages(&key, lsn_insert_position());
		file_cache_drop_fork(&key);
		relsize_forget(&key);
		local_pages_unlink(&key);
	}
}

static void
ogel_extend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
			const void *buffer, bool skipFsync)
{
	RelFork		key = key_of(reln, forknum);

	backpressure_wait();
	keep_size(&key, blocknum, blocknum + 1, has_real_lsn(buffer));
	keep_page(&key, blocknum, buffer);
}

static void
ogel_zeroextend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
				int nblocks, bool skipFsync)
{
	RelFork		key = key_of(reln, forknum);

	backpressure_wait();
	file_cache_drop(&key, blocknum, blocknum + nblocks);
	local_pages_drop(&key, blocknum, nblocks);
	keep_size(&key, blocknum, blocknum + nblocks, false);
}

static bool
ogel_prefetch(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, int nblocks)
{
	RelFork		key = key_of(reln, forknum);

	for (int i = 0; i < nblocks; i++)
		readahead_want(&key, blocknum + i);
	return true;
}

static void
refuse_beyond_end(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, BlockNumber nblocks)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("could not read block %u of relation %s: it has %u blocks",
					blocknum, relpath(reln->smgr_rlocator, forknum), nblocks)));
}

/*
 * Fetches the blocks from the first on whose bits are set in wanted from the
 * page server; versions tells of each what it was asked for.
 */
static void
fetch(const RelFork *key, BlockNumber first, void **buffers, uint64 wanted, XLogRecPtr *versions)
{
	BlockNumber blocks[READ_BLOCKS];
	void	   *places[READ_BLOCKS];
	int			nblocks = 0;
	XLogRecPtr	not_modified_since;

	if (wanted == 0)
		return;
	for (int i = 0; i < READ_BLOCKS; i++)
		if (wanted >> i & 1)
		{
			blocks[nblocks] = first + i;
			places[nblocks++] = buffers[i];
		}
	not_modified_since = lwlsn_for_pages(key, blocks, nblocks);
	page_client_get_pages(key, blocks, places, nblocks, not_modified_since);
	for (int i = 0; i < nblocks; i++)
		versions[blocks[i] - first] = not_modified_since;
}

/*
 * Reads blocks that the page server knows, from the nearest place that has
 * them.  What comes from the page server is kept on the local disk; pages of a
 * passing scan only if there is room to spare.
 */
static void
read_logged(const RelFork *key, BlockNumber first, void **buffers, uint64 wanted, bool passing)
{
	XLogRecPtr	versions[READ_BLOCKS];
	uint64		remote = wanted & ~file_cache_readv(key, first, buffers, wanted);

	if (remote == 0)
		return;
	fetch(key, first, buffers,
		  remote & ~readahead_takev(key, first, buffers, remote, versions), versions);
	for (int i = 0; i < READ_BLOCKS; i++)
		if ((remote >> i & 1) && PageIsNew((Page) buffers[i]))
			remote &= ~(UINT64CONST(1) << i);
	file_cache_write_answers(key, first, buffers, remote, versions, passing);
}

/* What is read of the block without the page server?  False when nothing. */
static bool
read_unlogged(SMgrRelation reln, ForkNumber forknum, BlockNumber block, void *buffer,
			  const RelSize *size)
{
	RelFork		key = key_of(reln, forknum);

	if (local_pages_read(&key, block, buffer))
		return true;
	if (size == NULL || block < size->logged)
		return false;

	/* never logged: the page server has nothing but zeros for it */
	if ((size->nblocks == RELSIZE_ABSENT || block >= size->nblocks) &&
		!zero_damaged_pages && !InRecovery)
		refuse_beyond_end(reln, forknum, block,
						  size->nblocks == RELSIZE_ABSENT ? 0 : size->nblocks);
	memset(buffer, 0, BLCKSZ);
	return true;
}

static void
ogel_readv(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
		   void **buffers, BlockNumber nblocks)
{
	RelFork		key = key_of(reln, forknum);
	RelSize		size;
	bool		size_known = relsize_lookup(&key, &size);
	bool		passing = false;

	/*
	 * A scan of more than the file cache holds would push out everything and
	 * find nothing of it when it comes again.
	 */
	if (size_known && size.nblocks != RELSIZE_ABSENT)
		passing = readahead_advance(reln, forknum, blocknum, blocknum + nblocks, size.logged) &&
			size.nblocks > file_cache_capacity();

	for (BlockNumber done = 0; done < nblocks; done += READ_BLOCKS)
	{
		uint64		logged = 0;

		for (BlockNumber i = 0; i < READ_BLOCKS && done + i < nblocks; i++)
			if (!read_unlogged(reln, forknum, blocknum + done + i, buffers[done + i],
							   size_known ? &size : NULL))
				logged |= UINT64CONST(1) << i;
		read_logged(&key, blocknum + done, buffers + done, logged, passing);
	}

	/* pages from the WAL have none */
	for (BlockNumber i = 0; DataChecksumsEnabled() && i < nblocks; i++)
		PageSetChecksumInplace(buffers[i], blocknum + i);
}

static void
ogel_writev(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
			const void **buffers, BlockNumber nblocks, bool skipFsync)
{
	RelFork		key = key_of(reln, forknum);

	backpressure_wait();
	for (BlockNumber i = 0; i < nblocks; i++)
		keep_page(&key, blocknum + i, buffers[i]);
}

static void
ogel_writeback(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, BlockNumber nblocks)
{
}

static BlockNumber
ogel_nblocks(SMgrRelation reln, ForkNumber forknum)
{
	RelFork		key = key_of(reln, forknum);
	RelSize		size = size_of(&key);

	if (size.nblocks == RELSIZE_ABSENT)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("relation %s does not exist in the page server",
						relpath(reln->smgr_rlocator, forknum))));
	return size.nblocks;
}

/*
 * Runs in a critical section, after the record of the truncation was flushed:
 * touches memory only, and the spill where there is one.
 */
static void
ogel_truncate(SMgrRelation reln, ForkNumber forknum, BlockNumber old_blocks, BlockNumber nblocks)
{
	RelFork		key = key_of(reln, forknum);
	XLogRecPtr	lsn;

	if (nblocks >= old_blocks)
		return;
	lsn = lsn_insert_position();
	lwlsn_set_all_pages(&key, lsn);
	lwlsn_set_size(&key, lsn);
	file_cache_drop(&key, nblocks, old_blocks);
	relsize_truncated(&key, nblocks);
	local_pages_truncate(&key, nblocks);
}

static void
ogel_sync(SMgrRelation reln, ForkNumber forknum)
{
	/* the WAL is what makes changes durable */
}

static const f_smgr ogel_smgr = {
	.smgr_open = ogel_open,
	.smgr_close = ogel_close,
	.smgr_create = ogel_create,
	.smgr_exists = ogel_exists,
	.smgr_unlink = ogel_unlink,
	.smgr_extend = ogel_extend,
	.smgr_zeroextend = ogel_zeroextend,
	.smgr_prefetch = ogel_prefetch,
	.smgr_readv = ogel_readv,
	.smgr_writev = ogel_writev,
	.smgr_writeback = ogel_writeback,
	.smgr_nblocks = ogel_nblocks,
	.smgr_truncate = ogel_truncate,
	.smgr_immedsync = ogel_sync,
	.smgr_registersync = ogel_sync,
};

/*
 * Has the relation a main fork in a local file?  Main forks are created with
 * their persistence known, before any other access, so that this tells local
 * relations from remote ones.  No allocation: must not throw.
 */
static bool
is_local(RelFileLocator rlocator)
{
	char		path[MAXPGPATH];

	if (rlocator.spcOid == GLOBALTABLESPACE_OID)
		snprintf(path, sizeof(path), "global/%u", rlocator.relNumber);
	else if (rlocator.spcOid == DEFAULTTABLESPACE_OID)
		snprintf(path, sizeof(path), "base/%u/%u", rlocator.dbOid, rlocator.relNumber);
	else
		snprintf(path, sizeof(path), "pg_tblspc/%u/%s/%u/%u", rlocator.spcOid,
				 TABLESPACE_VERSION_DIRECTORY, rlocator.dbOid, rlocator.relNumber);
	return access(path, F_OK) == 0;
}

static const f_smgr *
select_smgr(RelFileLocatorBackend rlocator, char relpersistence)
{
	if (!IsUnderPostmaster || RelFileLocatorBackendIsTemp(rlocator))
		return NULL;
	switch (relpersistence)
	{
		case RELPERSISTENCE_PERMANENT:
			return &ogel_smgr;
		case RELPERSISTENCE_TEMP:
			return NULL;
		case RELPERSISTENCE_UNLOGGED:
			return init_fork_smgr();
		default:
			return is_local(rlocator.locator) ? init_fork_smgr() : &ogel_smgr;
	}
}

/* The page server sums up one database; a tablespace has many. */
static int64
remote_tablespace_size(Oid tblspcOid)
{
	XLogRecPtr	lsn = lwlsn_for_everything();
	Relation	databases;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		size = 0;

	if (tblspcOid == GLOBALTABLESPACE_OID)
		return page_client_database_size(tblspcOid, InvalidOid, lsn);

	databases = table_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(databases, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		size += page_client_database_size(tblspcOid,
										  ((Form_pg_database) GETSTRUCT(tuple))->oid, lsn);
	systable_endscan(scan);
	table_close(databases, AccessShareLock);
	return size;
}

static int64
remote_database_size(Oid dbOid, Oid tblspcOid)
{
	if (!OidIsValid(dbOid))
		return remote_tablespace_size(tblspcOid);
	return page_client_database_size(tblspcOid, dbOid, lwlsn_for_everything());
}

static void
process_init(void)
{
	relsize_process_init();
	init_fork_process_init();
}

void
ogel_smgr_install(void)
{
	smgr_select_hook = select_smgr;
	smgr_init_hook = process_init;
	database_size_hook = remote_database_size;
}
