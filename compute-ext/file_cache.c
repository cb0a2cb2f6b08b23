/*-------------------------------------------------------------------------
 *
 * file_cache.c
 *	  Pages of permanent relations on the local disk.
 *
 * A page that leaves the buffer pool, or comes from the page server, is also
 * kept in a local file, so that reading it again needs no round trip.  The
 * file is worth nothing after the server's life: it is emptied at start.
 *
 * Why no stale page is served.  An entry, once readable, holds what the page
 * server would answer now (or the same version with more hint bits):
 *
 * 1. A version that leaves the buffer pool replaces or removes the entry,
 *	  whether or not writing the file succeeds, before the buffer can be used
 *	  for another page.  So a page that was changed is not read from here
 *	  until its newest version is.  In between, readers find the buffer.
 * 2. An answer of the page server is kept only if the page's last-written LSN
 *	  is not above the not_modified_since of the question, checked under the
 *	  lock of the entry's set.  A writer first raises the last-written LSN and
 *	  then comes here: either the check sees it, or the writer finds the entry
 *	  of the answer and removes it.  This covers reads that bypass the
 *	  buffers (pg_prewarm) and readahead.
 * 3. Blocks that are truncated, newly added, unlinked or go with their
 *	  database are dropped when that happens (hazard H13).
 * 4. On a standby pages change without being written here: there is none.
 *
 * The memory is fixed at start: set-associative, way w of set s lies at block
 * w * nsets + s of the file.  Fewer ways are used when ogel.file_cache_size
 * shrinks, and the end of the file is cut off, so that resizing needs no
 * restart.  Each set evicts by a clock of its own; an entry starts without a
 * use, so that one large scan does not displace what is read again and again.
 * A sequential scan of a relation larger than the cache takes free places only:
 * it would push out its own pages before it comes again, and write all the
 * time.
 *
 * The file is read and written without a lock: readers pin an entry, a writer
 * makes it unreadable meanwhile.  A checksum over key and page guards against
 * a disk that returns something else; a page that fails is fetched anew.
 *
 * Blocks that came one after the other mostly have the same way of
 * consecutive sets, so that they lie one behind the other in the file: such
 * runs are read and written in one call.  The rules above hold for each page
 * by itself: each is looked up, pinned or reserved under its own set's lock,
 * one lock at a time, and nothing throws until all are given back.  (A lock
 * that was free to be had for the first page cannot be one too many for the
 * next.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog.h"
#include "common/hashfn.h"
#include "counters.h"
#include "crc_lanes.h"
#include "file_cache.h"
#include "guc.h"
#include "lwlsn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "port/pg_iovec.h"
#include "relsize.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#define CACHE_FILE		"ogel_file_cache"
#define WAYS			16
#define NPARTITIONS		128
#define TRANCHE_NAME	"OgelFileCache"
#define LARGEST_USAGE	5
#define BLOCKS_PER_MB	(1024 * 1024 / BLCKSZ)

typedef enum EntryState
{
	ENTRY_FREE,
	ENTRY_WRITING,				/* one process writes it; not readable */
	ENTRY_DOOMED,				/* the same, but the page is not wanted any more */
	ENTRY_VALID,
} EntryState;

typedef struct CacheEntry
{
	RelFork		key;
	BlockNumber blocknum;
	pg_crc32c	checksum;
	pg_atomic_uint32 pins;		/* readers of the file; raised under the set's lock */
	uint8		state;			/* EntryState */
	uint8		usage;
} CacheEntry;

typedef struct CacheSet
{
	uint32		hand;
	CacheEntry	entries[WAYS];
} CacheSet;

typedef struct CacheTable
{
	LWLockPadded *locks;		/* NPARTITIONS by set number, and one for resizing */
	uint32		nsets;
	pg_atomic_uint32 nways;		/* in use; read under a set's lock */
	pg_atomic_uint64 used;		/* entries that are not free */
	pg_atomic_uint64 hits;
	pg_atomic_uint64 misses;
	pg_atomic_uint64 writes;
	pg_atomic_uint64 evictions;
	pg_atomic_uint64 bad_checksums;
	pg_atomic_uint64 io_errors;
	CacheSet	sets[FLEXIBLE_ARRAY_MEMBER];
} CacheTable;

/* An entry that this process reads (pinned) or writes (reserved) */
typedef struct Held
{
	CacheEntry *entry;
	LWLock	   *lock;			/* of its set */
	off_t		offset;			/* in the file */
	pg_crc32c	checksum;
	int			position;		/* of its page among the caller's buffers */
} Held;

static CacheTable *table = NULL;
static int	file = -1;			/* this process's descriptor */
static int	size_applied = -1;	/* MB, the setting this process acted on last */
static uint32 wait_read = 0;
static uint32 wait_write = 0;

static uint32
set_count(void)
{
	return Max((uint32) ogel_file_cache_max_size * BLOCKS_PER_MB / WAYS, 1);
}

static Size
shmem_size(void)
{
	if (ogel_file_cache_max_size == 0)
		return 0;
	return add_size(offsetof(CacheTable, sets), mul_size(set_count(), sizeof(CacheSet)));
}

void
file_cache_shmem_request(void)
{
	if (ogel_file_cache_max_size < 0)
	{
		char		text[16];

		snprintf(text, sizeof(text), "%d", Min(Max(2 * ogel_file_cache_size, 1024), LARGEST_FILE_CACHE_MB));
		SetConfigOption("ogel.file_cache_max_size", text, PGC_POSTMASTER, PGC_S_DYNAMIC_DEFAULT);
	}
	RequestAddinShmemSpace(shmem_size());
	if (ogel_file_cache_max_size > 0)
		RequestNamedLWLockTranche(TRANCHE_NAME, NPARTITIONS + 1);
}

static uint32
ways_for(int size_mb)
{
	if (size_mb >= ogel_file_cache_max_size)
		return WAYS;
	return (uint32) ((uint64) size_mb * WAYS / ogel_file_cache_max_size);
}

/* Runs in the postmaster, in the data folder. */
void
file_cache_shmem_init(void)
{
	bool		found;
	Size		size = shmem_size();

	if (size == 0)
		return;
	table = ShmemInitStruct("ogel file cache", size, &found);
	if (found)
		return;
	if (unlink(CACHE_FILE) != 0 && errno != ENOENT)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", CACHE_FILE),
				 errdetail("It holds pages of an earlier server.")));

	/*
	 * All other counts and entries start at zero, as fresh shared memory does:
	 * touching them would cost a start milliseconds per gigabyte of cache.
	 */
	table->locks = GetNamedLWLockTranche(TRANCHE_NAME);
	table->nsets = set_count();
	pg_atomic_init_u32(&table->nways, ways_for(ogel_file_cache_size));
}

/*
 * Blocks of a fork lie in one set after the other, so that all sets get the
 * same number of them.  Scattered by a hash, a tenth of a table that fits just
 * so would find its set full, and in such sets a scan finds nothing again.
 */
static uint32
number_of(const RelFork *key, BlockNumber blocknum)
{
	uint32		start = hash_bytes((const unsigned char *) key, sizeof(RelFork));

	return ((uint64) start + blocknum) % table->nsets;
}

static CacheSet *
set_at(uint32 number, LWLock **lock)
{
	*lock = &table->locks[number % NPARTITIONS].lock;
	return &table->sets[number];
}

static CacheSet *
set_of(const RelFork *key, BlockNumber blocknum, LWLock **lock)
{
	return set_at(number_of(key, blocknum), lock);
}

static void
hold(Held *held, const CacheSet *set, CacheEntry *entry, LWLock *lock, int position)
{
	off_t		way = entry - set->entries;

	held->entry = entry;
	held->lock = lock;
	held->offset = (way * table->nsets + (set - table->sets)) * (off_t) BLCKSZ;
	held->checksum = entry->checksum;
	held->position = position;
}

/* How many of them, from the first on, lie one behind the other in the file? */
static int
run_length(const Held *held, int nheld)
{
	int			length = 1;

	while (length < nheld && held[length].offset == held[0].offset + length * (off_t) BLCKSZ)
		length++;
	return length;
}

static void
fill_iovec(struct iovec *iov, const Held *held, int nheld, void *const *buffers)
{
	for (int i = 0; i < nheld; i++)
	{
		iov[i].iov_base = buffers[held[i].position];
		iov[i].iov_len = BLCKSZ;
	}
}

static uint32
next_number(uint32 number)
{
	return number + 1 == table->nsets ? 0 : number + 1;
}

static void
set_free(CacheEntry *entry)
{
	entry->state = ENTRY_FREE;
	pg_atomic_fetch_sub_u64(&table->used, 1);
}

/* The page is not wanted any more.  Caller holds the set's lock exclusively. */
static void
discard(CacheEntry *entry)
{
	if (entry->state == ENTRY_VALID)
		set_free(entry);
	else if (entry->state == ENTRY_WRITING)
		entry->state = ENTRY_DOOMED;
}

/* Caller holds the set's lock. */
static CacheEntry *
find(CacheSet *set, const RelFork *key, BlockNumber blocknum)
{
	for (int way = 0; way < WAYS; way++)
	{
		CacheEntry *entry = &set->entries[way];

		if (entry->blocknum == blocknum && entry->state != ENTRY_FREE &&
			memcmp(&entry->key, key, sizeof(RelFork)) == 0)
			return entry;
	}
	return NULL;
}

/*
 * An entry to be overwritten, or NULL when all are busy, or taken and there is
 * to be no victim.  Caller holds the set's lock exclusively.
 */
static CacheEntry *
find_place(CacheSet *set, bool passing)
{
	uint32		nways = pg_atomic_read_u32(&table->nways);

	for (uint32 way = 0; way < nways; way++)
	{
		CacheEntry *entry = &set->entries[way];

		if (entry->state == ENTRY_FREE && pg_atomic_read_u32(&entry->pins) == 0)
			return entry;
	}
	for (uint32 step = 0; !passing && step < nways * (LARGEST_USAGE + 1); step++)
	{
		CacheEntry *entry = &set->entries[set->hand % nways];

		set->hand = (set->hand + 1) % nways;
		if (entry->state != ENTRY_VALID || pg_atomic_read_u32(&entry->pins) != 0)
			continue;
		if (entry->usage == 0)
		{
			pg_atomic_fetch_add_u64(&table->evictions, 1);
			set_free(entry);
			return entry;
		}
		entry->usage--;
	}
	return NULL;
}

static bool
file_is_open(void)
{
	if (file < 0)
	{
		file = BasicOpenFile(CACHE_FILE, O_RDWR | O_CREAT | PG_BINARY);
		if (file >= 0)
			ReserveExternalFD();
	}
	return file >= 0;
}

/* Takes the ways from nways on out of use. */
static void
empty_ways(uint32 nways)
{
	for (uint32 number = 0; number < table->nsets; number++)
	{
		LWLock	   *lock = &table->locks[number % NPARTITIONS].lock;

		LWLockAcquire(lock, LW_EXCLUSIVE);
		for (uint32 way = nways; way < WAYS; way++)
			discard(&table->sets[number].entries[way]);
		LWLockRelease(lock);
	}
}

/*
 * Acts on a changed setting.  Every process does when it has read the new
 * value, so that the last value wins whatever the order.
 */
static void
apply_size(void)
{
	LWLock	   *lock = &table->locks[NPARTITIONS].lock;
	uint32		nways = ways_for(ogel_file_cache_size);
	uint32		before;

	size_applied = ogel_file_cache_size;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	before = pg_atomic_read_u32(&table->nways);
	if (nways != before)
	{
		pg_atomic_write_u32(&table->nways, nways);
		if (nways < before)
		{
			empty_ways(nways);
			/* if that fails, only space is wasted */
			if (file_is_open() &&
				ftruncate(file, (off_t) nways * table->nsets * BLCKSZ) != 0)
				pg_atomic_fetch_add_u64(&table->io_errors, 1);
		}
	}
	LWLockRelease(lock);
}

/* Is there a cache to be used by this process now? */
static bool
usable(void)
{
	if (table == NULL || !IsUnderPostmaster || RecoveryInProgress())
		return false;
	/* what may throw or take long is done where that is allowed */
	if (CritSectionCount == 0)
	{
		if (size_applied != ogel_file_cache_size)
			apply_size();
		if (wait_read == 0)
		{
			wait_write = WaitEventExtensionNew("OgelFileCacheWrite");
			wait_read = WaitEventExtensionNew("OgelFileCacheRead");
		}
	}
	return pg_atomic_read_u32(&table->nways) > 0;
}

static pg_crc32c
checksum_of(const RelFork *key, BlockNumber blocknum, const void *page)
{
	pg_crc32c	checksum;

	INIT_CRC32C(checksum);
	COMP_CRC32C(checksum, key, sizeof(RelFork));
	COMP_CRC32C(checksum, &blocknum, sizeof(blocknum));
	checksum = crc_lanes(checksum, page, BLCKSZ);
	FIN_CRC32C(checksum);
	return checksum;
}

bool
file_cache_contains(const RelFork *key, BlockNumber blocknum)
{
	LWLock	   *lock;
	CacheSet   *set;
	CacheEntry *entry;
	bool		found;

	if (!usable())
		return false;
	set = set_of(key, blocknum, &lock);
	LWLockAcquire(lock, LW_SHARED);
	entry = find(set, key, blocknum);
	found = entry != NULL && entry->state == ENTRY_VALID;
	LWLockRelease(lock);
	return found;
}

/* The bytes at the entry's place did not match: nobody shall try them again. */
static void
drop_damaged(CacheEntry *entry, LWLock *lock, const RelFork *key, BlockNumber blocknum)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (entry->state == ENTRY_VALID && entry->blocknum == blocknum &&
		memcmp(&entry->key, key, sizeof(RelFork)) == 0)
		set_free(entry);
	LWLockRelease(lock);
}

/* Finds the page and pins its place.  False when it is not here. */
static bool
pin(Held *held, uint32 set_number, const RelFork *key, BlockNumber blocknum, int position)
{
	LWLock	   *lock;
	CacheSet   *set = set_at(set_number, &lock);
	CacheEntry *entry;
	bool		found;

	LWLockAcquire(lock, LW_SHARED);
	entry = find(set, key, blocknum);
	found = entry != NULL && entry->state == ENTRY_VALID;
	if (found)
	{
		pg_atomic_fetch_add_u32(&entry->pins, 1);
		hold(held, set, entry, lock, position);
		/* a lost increment among readers does no harm */
		if (entry->usage < LARGEST_USAGE)
			entry->usage++;
	}
	LWLockRelease(lock);
	return found;
}

/* Reads the pages of pinned entries that form a run, and unpins them. */
static uint64
read_run(const RelFork *key, BlockNumber first, void *const *buffers, const Held *held, int nheld)
{
	struct iovec iov[FILE_CACHE_MAX_BLOCKS];
	ssize_t		nread = -1;
	uint64		found = 0;

	fill_iovec(iov, held, nheld, buffers);
	if (file_is_open())
	{
		pgstat_report_wait_start(wait_read);
		nread = pg_preadv(file, iov, nheld, held->offset);
		pgstat_report_wait_end();
	}
	for (int i = 0; i < nheld; i++, nread -= BLCKSZ)
	{
		int			position = held[i].position;
		bool		good = nread >= BLCKSZ &&
			EQ_CRC32C(held[i].checksum, checksum_of(key, first + position, buffers[position]));

		pg_atomic_fetch_sub_u32(&held[i].entry->pins, 1);
		if (good)
			found |= UINT64CONST(1) << position;
		else
		{
			pg_atomic_fetch_add_u64(nread >= BLCKSZ ? &table->bad_checksums : &table->io_errors, 1);
			drop_damaged(held[i].entry, held[i].lock, key, first + position);
		}
	}
	return found;
}

/*
 * Reads what is here of the blocks from the first on whose bits are set in
 * wanted, and says which were.
 */
uint64
file_cache_readv(const RelFork *key, BlockNumber first, void *const *buffers, uint64 wanted)
{
	Held		held[FILE_CACHE_MAX_BLOCKS];
	int			nheld = 0;
	int			length;
	uint32		number;
	uint64		found = 0;

	if (wanted == 0 || !usable())
		return 0;
	number = number_of(key, first);
	for (int i = 0; i < FILE_CACHE_MAX_BLOCKS && wanted >> i != 0; i++, number = next_number(number))
		if ((wanted >> i & 1) != 0 && pin(&held[nheld], number, key, first + i, i))
			nheld++;
	for (int i = 0; i < nheld; i += length)
	{
		length = run_length(held + i, nheld - i);
		found |= read_run(key, first, buffers, held + i, length);
	}
	if (found != wanted)
		pg_atomic_fetch_add_u64(&table->misses, pg_popcount64(wanted & ~found));
	if (found != 0)
	{
		pg_atomic_fetch_add_u64(&table->hits, pg_popcount64(found));
		counters_file_cache_hits(pg_popcount64(found));
	}
	return found;
}

/*
 * Makes room for the page and an unreadable entry for it; NULL when it is not
 * kept.  An earlier entry of the same page is gone in any case.  Caller holds
 * the set's lock exclusively.
 */
static CacheEntry *
reserve(CacheSet *set, const RelFork *key, BlockNumber blocknum, bool passing)
{
	CacheEntry *entry = find(set, key, blocknum);

	if (entry != NULL)
	{
		uint8		usage = entry->usage;

		discard(entry);
		/* somebody is at work at its place, which therefore has to be left */
		if (entry->state != ENTRY_FREE || pg_atomic_read_u32(&entry->pins) != 0 ||
			entry - set->entries >= pg_atomic_read_u32(&table->nways))
			return NULL;
		entry->usage = usage;
	}
	else
	{
		if (pg_atomic_read_u32(&table->nways) == 0 || (entry = find_place(set, passing)) == NULL)
			return NULL;
		entry->usage = 0;
	}
	entry->key = *key;
	entry->blocknum = blocknum;
	entry->state = ENTRY_WRITING;
	pg_atomic_fetch_add_u64(&table->used, 1);
	return entry;
}

/* Makes a reserved place readable once its page is written, or gives it up. */
static void
publish(const Held *held, bool written)
{
	CacheEntry *entry = held->entry;

	pg_atomic_fetch_add_u64(written ? &table->writes : &table->io_errors, 1);
	LWLockAcquire(held->lock, LW_EXCLUSIVE);
	if (written && entry->state == ENTRY_WRITING)
	{
		entry->checksum = held->checksum;
		entry->state = ENTRY_VALID;
	}
	else
		set_free(entry);
	LWLockRelease(held->lock);
}

/* Writes pages into reserved places that form a run. */
static void
write_run(void *const *buffers, Held *held, int nheld)
{
	struct iovec iov[FILE_CACHE_MAX_BLOCKS];
	ssize_t		nwritten = -1;

	for (int i = 0; i < nheld; i++)
		held[i].checksum = checksum_of(&held[i].entry->key, held[i].entry->blocknum,
									   buffers[held[i].position]);
	fill_iovec(iov, held, nheld, buffers);
	if (file_is_open())
	{
		pgstat_report_wait_start(wait_write);
		nwritten = pg_pwritev(file, iov, nheld, held->offset);
		pgstat_report_wait_end();
	}
	for (int i = 0; i < nheld; i++, nwritten -= BLCKSZ)
		publish(&held[i], nwritten >= BLCKSZ);
}

void
file_cache_write(const RelFork *key, BlockNumber blocknum, const void *page)
{
	LWLock	   *lock;
	CacheSet   *set;
	CacheEntry *entry;
	Held		held;
	void	   *buffer = unconstify(void *, page);

	if (!usable())
		return;
	set = set_of(key, blocknum, &lock);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = reserve(set, key, blocknum, false);
	LWLockRelease(lock);
	if (entry == NULL)
		return;
	hold(&held, set, entry, lock, 0);
	write_run(&buffer, &held, 1);
}

uint64
file_cache_capacity(void)
{
	return table == NULL ? 0 : (uint64) pg_atomic_read_u32(&table->nways) * table->nsets;
}

/* Reserves a place for an answer, if it is to be kept (rule 2). */
static bool
reserve_for_answer(Held *held, uint32 set_number, const RelFork *key, BlockNumber blocknum,
				   XLogRecPtr not_modified_since, bool passing, int position)
{
	LWLock	   *lock;
	CacheSet   *set = set_at(set_number, &lock);
	CacheEntry *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	/* a version kept by a writer is at least as new */
	entry = find(set, key, blocknum);
	if (entry == NULL && lwlsn_of_page(key, blocknum) <= not_modified_since)
		entry = reserve(set, key, blocknum, passing);
	else
		entry = NULL;
	LWLockRelease(lock);
	if (entry != NULL)
		hold(held, set, entry, lock, position);
	return entry != NULL;
}

void
file_cache_write_answers(const RelFork *key, BlockNumber first, void *const *buffers,
						 uint64 answered, const XLogRecPtr *not_modified_since, bool passing)
{
	Held		held[FILE_CACHE_MAX_BLOCKS];
	int			nheld = 0;
	int			length;
	uint32		number;

	if (answered == 0 || !usable() ||
		(passing && pg_atomic_read_u64(&table->used) >= file_cache_capacity()))
		return;
	number = number_of(key, first);
	for (int i = 0; i < FILE_CACHE_MAX_BLOCKS && answered >> i != 0; i++, number = next_number(number))
		if ((answered >> i & 1) != 0 &&
			reserve_for_answer(&held[nheld], number, key, first + i, not_modified_since[i], passing, i))
			nheld++;
	for (int i = 0; i < nheld; i += length)
	{
		length = run_length(held + i, nheld - i);
		write_run(buffers, held + i, length);
	}
}

/* Drops every entry that the filter wants dropped. */
static void
drop_matching(Oid dbOid, const RelFork *key, BlockNumber begin)
{
	for (uint32 number = 0; number < table->nsets; number++)
	{
		LWLock	   *lock = &table->locks[number % NPARTITIONS].lock;
		CacheSet   *set = &table->sets[number];

		LWLockAcquire(lock, LW_EXCLUSIVE);
		for (int way = 0; way < WAYS; way++)
		{
			CacheEntry *entry = &set->entries[way];

			if (entry->state == ENTRY_FREE)
				continue;
			if (key != NULL ?
				memcmp(&entry->key, key, sizeof(RelFork)) == 0 && entry->blocknum >= begin :
				entry->key.dbOid == dbOid)
				discard(entry);
		}
		LWLockRelease(lock);
	}
}

/* Drops blocks [begin, end) of a fork. */
void
file_cache_drop(const RelFork *key, BlockNumber begin, BlockNumber end)
{
	if (table == NULL || pg_atomic_read_u64(&table->used) == 0 || begin >= end)
		return;
	if (end - begin > table->nsets)
	{
		drop_matching(InvalidOid, key, begin);
		return;
	}
	for (BlockNumber blocknum = begin; blocknum < end; blocknum++)
	{
		LWLock	   *lock;
		CacheSet   *set = set_of(key, blocknum, &lock);
		CacheEntry *entry;

		LWLockAcquire(lock, LW_EXCLUSIVE);
		entry = find(set, key, blocknum);
		if (entry != NULL)
			discard(entry);
		LWLockRelease(lock);
	}
}

/* Drops a fork.  Call it while the size is still known. */
void
file_cache_drop_fork(const RelFork *key)
{
	RelSize		size;

	if (table == NULL)
		return;
	if (relsize_lookup(key, &size))
		file_cache_drop(key, 0, size.nblocks == RELSIZE_ABSENT ? 0 : size.nblocks);
	else if (pg_atomic_read_u64(&table->used) > 0)
		drop_matching(InvalidOid, key, 0);
}

void
file_cache_drop_database(Oid dbOid)
{
	if (table != NULL)
		drop_matching(dbOid, NULL, 0);
}

FileCacheStats
file_cache_stats(void)
{
	FileCacheStats stats = {0};

	if (table == NULL)
		return stats;
	stats.size_bytes = (uint64) pg_atomic_read_u32(&table->nways) * table->nsets * BLCKSZ;
	stats.used_bytes = pg_atomic_read_u64(&table->used) * BLCKSZ;
	stats.hits = pg_atomic_read_u64(&table->hits);
	stats.misses = pg_atomic_read_u64(&table->misses);
	stats.writes = pg_atomic_read_u64(&table->writes);
	stats.evictions = pg_atomic_read_u64(&table->evictions);
	stats.bad_checksums = pg_atomic_read_u64(&table->bad_checksums);
	stats.io_errors = pg_atomic_read_u64(&table->io_errors);
	return stats;
}
