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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <nmmintrin.h>
#define HAVE_CRC_INSTRUCTION
#endif

#include "access/xlog.h"
#include "common/hashfn.h"
#include "counters.h"
#include "file_cache.h"
#include "guc.h"
#include "lwlsn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "port/pg_crc32c.h"
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
static CacheSet *
set_of(const RelFork *key, BlockNumber blocknum, LWLock **lock)
{
	uint32		start = hash_bytes((const unsigned char *) key, sizeof(RelFork));
	uint32		number = ((uint64) start + blocknum) % table->nsets;

	*lock = &table->locks[number % NPARTITIONS].lock;
	return &table->sets[number];
}

static off_t
offset_of(const CacheSet *set, const CacheEntry *entry)
{
	off_t		way = entry - set->entries;

	return (way * table->nsets + (set - table->sets)) * (off_t) BLCKSZ;
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

/*
 * The checksums of the page's quarters, which a processor that has an
 * instruction for them makes side by side: one after the other, each step
 * waits for the one before.
 */
#define NLANES	4
#define LANE_SIZE	(BLCKSZ / NLANES)

#ifdef HAVE_CRC_INSTRUCTION
static uint64
word_at(const char *at)
{
	uint64		word;

	memcpy(&word, at, sizeof(word));
	return word;
}

__attribute__((target("sse4.2")))
static void
checksum_lanes_together(const char *page, pg_crc32c *lanes)
{
	/* not an array: that would be kept in memory */
	uint64		sum0 = lanes[0];
	uint64		sum1 = lanes[1];
	uint64		sum2 = lanes[2];
	uint64		sum3 = lanes[3];

	StaticAssertStmt(NLANES == 4, "one sum for each lane");
	for (const char *at = page; at < page + LANE_SIZE; at += sizeof(uint64))
	{
		sum0 = _mm_crc32_u64(sum0, word_at(at));
		sum1 = _mm_crc32_u64(sum1, word_at(at + LANE_SIZE));
		sum2 = _mm_crc32_u64(sum2, word_at(at + 2 * LANE_SIZE));
		sum3 = _mm_crc32_u64(sum3, word_at(at + 3 * LANE_SIZE));
	}
	lanes[0] = (pg_crc32c) sum0;
	lanes[1] = (pg_crc32c) sum1;
	lanes[2] = (pg_crc32c) sum2;
	lanes[3] = (pg_crc32c) sum3;
}
#endif

static void
checksum_lanes(const char *page, pg_crc32c *lanes)
{
	for (int lane = 0; lane < NLANES; lane++)
		INIT_CRC32C(lanes[lane]);
#ifdef HAVE_CRC_INSTRUCTION
	if (__builtin_cpu_supports("sse4.2"))
	{
		checksum_lanes_together(page, lanes);
		return;
	}
#endif
	for (int lane = 0; lane < NLANES; lane++)
		COMP_CRC32C(lanes[lane], page + lane * LANE_SIZE, LANE_SIZE);
}

/* The file is of this server's life only, so that the way to check it is free. */
static pg_crc32c
checksum_of(const RelFork *key, BlockNumber blocknum, const void *page)
{
	pg_crc32c	lanes[NLANES];
	pg_crc32c	checksum;

	checksum_lanes(page, lanes);
	INIT_CRC32C(checksum);
	COMP_CRC32C(checksum, key, sizeof(RelFork));
	COMP_CRC32C(checksum, &blocknum, sizeof(blocknum));
	COMP_CRC32C(checksum, lanes, sizeof(lanes));
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

/* Reads the page if it is here. */
bool
file_cache_read(const RelFork *key, BlockNumber blocknum, void *page)
{
	LWLock	   *lock;
	CacheSet   *set;
	CacheEntry *entry;
	pg_crc32c	checksum;
	ssize_t		nread = -1;
	bool		good;

	if (!usable())
		return false;
	set = set_of(key, blocknum, &lock);
	LWLockAcquire(lock, LW_SHARED);
	entry = find(set, key, blocknum);
	if (entry == NULL || entry->state != ENTRY_VALID)
	{
		LWLockRelease(lock);
		pg_atomic_fetch_add_u64(&table->misses, 1);
		return false;
	}
	pg_atomic_fetch_add_u32(&entry->pins, 1);
	checksum = entry->checksum;
	/* a lost increment among readers does no harm */
	if (entry->usage < LARGEST_USAGE)
		entry->usage++;
	LWLockRelease(lock);

	/* nothing in here throws: the pin is always given back */
	if (file_is_open())
	{
		pgstat_report_wait_start(wait_read);
		nread = pg_pread(file, page, BLCKSZ, offset_of(set, entry));
		pgstat_report_wait_end();
	}
	good = nread == BLCKSZ && EQ_CRC32C(checksum, checksum_of(key, blocknum, page));
	pg_atomic_fetch_sub_u32(&entry->pins, 1);
	if (good)
	{
		pg_atomic_fetch_add_u64(&table->hits, 1);
		counters_file_cache_hit();
		return true;
	}
	pg_atomic_fetch_add_u64(&table->misses, 1);
	pg_atomic_fetch_add_u64(nread == BLCKSZ ? &table->bad_checksums : &table->io_errors, 1);
	drop_damaged(entry, lock, key, blocknum);
	return false;
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

/* Writes the page into its reserved place and makes it readable. */
static void
fill(CacheSet *set, CacheEntry *entry, LWLock *lock, const void *page)
{
	pg_crc32c	checksum = checksum_of(&entry->key, entry->blocknum, page);
	ssize_t		nwritten = -1;

	if (file_is_open())
	{
		pgstat_report_wait_start(wait_write);
		nwritten = pg_pwrite(file, page, BLCKSZ, offset_of(set, entry));
		pgstat_report_wait_end();
	}
	pg_atomic_fetch_add_u64(nwritten == BLCKSZ ? &table->writes : &table->io_errors, 1);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (nwritten == BLCKSZ && entry->state == ENTRY_WRITING)
	{
		entry->checksum = checksum;
		entry->state = ENTRY_VALID;
	}
	else
		set_free(entry);
	LWLockRelease(lock);
}

void
file_cache_write(const RelFork *key, BlockNumber blocknum, const void *page)
{
	LWLock	   *lock;
	CacheSet   *set;
	CacheEntry *entry;

	if (!usable())
		return;
	set = set_of(key, blocknum, &lock);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = reserve(set, key, blocknum, false);
	LWLockRelease(lock);
	if (entry != NULL)
		fill(set, entry, lock, page);
}

uint64
file_cache_capacity(void)
{
	return table == NULL ? 0 : (uint64) pg_atomic_read_u32(&table->nways) * table->nsets;
}

void
file_cache_write_answer(const RelFork *key, BlockNumber blocknum, const void *page,
						XLogRecPtr not_modified_since, bool passing)
{
	LWLock	   *lock;
	CacheSet   *set;
	CacheEntry *entry;

	if (!usable() || (passing && pg_atomic_read_u64(&table->used) >= file_cache_capacity()))
		return;
	set = set_of(key, blocknum, &lock);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	/* a version kept by a writer is at least as new */
	entry = find(set, key, blocknum);
	if (entry == NULL && lwlsn_of_page(key, blocknum) <= not_modified_since)
		entry = reserve(set, key, blocknum, passing);
	else
		entry = NULL;
	LWLockRelease(lock);
	if (entry != NULL)
		fill(set, entry, lock, page);
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
