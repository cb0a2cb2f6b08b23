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
 * by itself: each is looked up, pinned or reserved under its own set's lock.
 * Consecutive sets share locks, of which a process holds one at a time, and
 * nothing throws until all are given back.  (If one lock more could be had for
 * the first page, so it can for the others.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "cache_file.h"
#include "common/hashfn.h"
#include "counters.h"
#include "file_cache.h"
#include "guc.h"
#include "lwlsn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "relsize.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#define WAYS			16
#define NPARTITIONS		128
#define SETS_PER_LOCK	16		/* about one read of a scan */
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
	LWLockPadded *locks;		/* NPARTITIONS for sets, and one for resizing */
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

StaticAssertDecl(FILE_CACHE_MAX_BLOCKS <= PG_IOV_MAX, "a run is read in one call");

static CacheTable *table = NULL;
static uint32 last_way = 0;		/* where this process found a free place last */
static int	size_applied = -1;	/* MB, the setting this process acted on last */

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
	cache_file_remove();

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
	*lock = &table->locks[number / SETS_PER_LOCK % NPARTITIONS].lock;
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
fill_iovec(struct iovec *pages, const Held *held, int nheld, void *const *buffers)
{
	for (int i = 0; i < nheld; i++)
	{
		pages[i].iov_base = buffers[held[i].position];
		pages[i].iov_len = BLCKSZ;
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

	/* first the way that makes a run with the block before */
	for (uint32 i = 0; i < nways; i++)
	{
		uint32		way = (last_way + i) % nways;
		CacheEntry *entry = &set->entries[way];

		if (entry->state == ENTRY_FREE && pg_atomic_read_u32(&entry->pins) == 0)
		{
			last_way = way;
			return entry;
		}
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

/* Takes the ways from nways on out of use. */
static void
empty_ways(uint32 nways)
{
	for (uint32 number = 0; number < table->nsets; number++)
	{
		LWLock	   *lock;
		CacheSet   *set = set_at(number, &lock);

		LWLockAcquire(lock, LW_EXCLUSIVE);
		for (uint32 way = nways; way < WAYS; way++)
			discard(&set->entries[way]);
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
			if (!cache_file_cut((off_t) nways * table->nsets * BLCKSZ))
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
		cache_file_prepare();
	}
	return pg_atomic_read_u32(&table->nways) > 0;
}

/*
 * Is the page here?  Asked ahead of time, when the answer may change anyway
 * before it is of use: so it is given without a lock.
 */
bool
file_cache_contains(const RelFork *key, BlockNumber blocknum)
{
	LWLock	   *lock;
	CacheEntry *entry;

	if (!usable())
		return false;
	entry = find(set_of(key, blocknum, &lock), key, blocknum);
	return entry != NULL && entry->state == ENTRY_VALID;
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

/* Changes to another lock, or none, unless that one is held. */
static void
change_lock(LWLock **locked, LWLock *lock, LWLockMode mode)
{
	if (*locked == lock)
		return;
	if (*locked != NULL)
		LWLockRelease(*locked);
	*locked = lock;
	if (lock != NULL)
		LWLockAcquire(lock, mode);
}

/* Finds the blocks whose bits are set in wanted and pins their places; returns how many. */
static int
pin(Held *held, const RelFork *key, BlockNumber first, uint64 wanted)
{
	uint32		number = number_of(key, first);
	LWLock	   *locked = NULL;
	int			nheld = 0;

	for (int i = 0; i < FILE_CACHE_MAX_BLOCKS && wanted >> i != 0; i++, number = next_number(number))
	{
		LWLock	   *lock;
		CacheSet   *set = set_at(number, &lock);
		CacheEntry *entry;

		if ((wanted >> i & 1) == 0)
			continue;
		change_lock(&locked, lock, LW_SHARED);
		entry = find(set, key, first + i);
		if (entry == NULL || entry->state != ENTRY_VALID)
			continue;
		pg_atomic_fetch_add_u32(&entry->pins, 1);
		/* a lost increment among readers does no harm */
		if (entry->usage < LARGEST_USAGE)
			entry->usage++;
		hold(&held[nheld++], set, entry, lock, i);
	}
	change_lock(&locked, NULL, LW_SHARED);
	return nheld;
}

/* Reads the pages of pinned entries that form a run, and unpins them. */
static uint64
read_run(const RelFork *key, BlockNumber first, void *const *buffers, const Held *held, int nheld)
{
	struct iovec pages[FILE_CACHE_MAX_BLOCKS];
	int			nread;
	uint64		found = 0;

	fill_iovec(pages, held, nheld, buffers);
	nread = cache_file_read(held->offset, pages, nheld);
	for (int i = 0; i < nheld; i++)
	{
		BlockNumber blocknum = first + held[i].position;
		bool		good = i < nread &&
			EQ_CRC32C(held[i].checksum, cache_file_checksum(key, blocknum, pages[i].iov_base));

		pg_atomic_fetch_sub_u32(&held[i].entry->pins, 1);
		if (good)
			found |= UINT64CONST(1) << held[i].position;
		else
		{
			pg_atomic_fetch_add_u64(i < nread ? &table->bad_checksums : &table->io_errors, 1);
			drop_damaged(held[i].entry, held[i].lock, key, blocknum);
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
	int			nheld;
	int			length;
	uint64		found = 0;

	if (wanted == 0 || !usable())
		return 0;
	nheld = pin(held, key, first, wanted);
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

/*
 * Makes reserved places readable, as many from the first on as were written,
 * and gives up the others.
 */
static void
publish(const Held *held, int nheld, int nwritten)
{
	LWLock	   *locked = NULL;

	for (int i = 0; i < nheld; i++)
	{
		CacheEntry *entry = held[i].entry;

		change_lock(&locked, held[i].lock, LW_EXCLUSIVE);
		if (i < nwritten && entry->state == ENTRY_WRITING)
		{
			entry->checksum = held[i].checksum;
			entry->state = ENTRY_VALID;
		}
		else
			set_free(entry);
	}
	change_lock(&locked, NULL, LW_EXCLUSIVE);
	pg_atomic_fetch_add_u64(&table->writes, nwritten);
	if (nwritten < nheld)
		pg_atomic_fetch_add_u64(&table->io_errors, nheld - nwritten);
}

/* Writes pages into reserved places that form a run. */
static void
write_run(void *const *buffers, Held *held, int nheld)
{
	struct iovec pages[FILE_CACHE_MAX_BLOCKS];

	fill_iovec(pages, held, nheld, buffers);
	for (int i = 0; i < nheld; i++)
		held[i].checksum = cache_file_checksum(&held[i].entry->key, held[i].entry->blocknum,
											   pages[i].iov_base);
	publish(held, nheld, cache_file_write(held->offset, pages, nheld));
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

/*
 * Reserves places for the answers that are to be kept (rule 2); returns how
 * many.  A look at the last-written LSNs serves all blocks whose sets have the
 * same lock: writers of any of them raise them before and need that lock after.
 */
static int
reserve_for_answers(Held *held, const RelFork *key, BlockNumber first, uint64 answered,
					const XLogRecPtr *not_modified_since, bool passing)
{
	uint32		number = number_of(key, first);
	BlockNumber last = first + pg_leftmost_one_pos64(answered);
	LWLock	   *locked = NULL;
	XLogRecPtr	last_written = InvalidXLogRecPtr;
	int			nheld = 0;

	for (int i = 0; i < FILE_CACHE_MAX_BLOCKS && answered >> i != 0; i++, number = next_number(number))
	{
		LWLock	   *lock;
		CacheSet   *set = set_at(number, &lock);
		CacheEntry *entry;

		if ((answered >> i & 1) == 0)
			continue;
		if (lock != locked)
		{
			change_lock(&locked, lock, LW_EXCLUSIVE);
			last_written = lwlsn_of_pages(key, first + i, last);
		}
		/* a version kept by a writer is at least as new */
		if (find(set, key, first + i) != NULL ||
			(last_written > not_modified_since[i] &&
			 lwlsn_of_page(key, first + i) > not_modified_since[i]))
			continue;
		entry = reserve(set, key, first + i, passing);
		if (entry != NULL)
			hold(&held[nheld++], set, entry, lock, i);
	}
	change_lock(&locked, NULL, LW_EXCLUSIVE);
	return nheld;
}

void
file_cache_write_answers(const RelFork *key, BlockNumber first, void *const *buffers,
						 uint64 answered, const XLogRecPtr *not_modified_since, bool passing)
{
	Held		held[FILE_CACHE_MAX_BLOCKS];
	int			nheld;
	int			length;

	if (answered == 0 || !usable() ||
		(passing && pg_atomic_read_u64(&table->used) >= file_cache_capacity()))
		return;
	nheld = reserve_for_answers(held, key, first, answered, not_modified_since, passing);
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
		LWLock	   *lock;
		CacheSet   *set = set_at(number, &lock);

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
