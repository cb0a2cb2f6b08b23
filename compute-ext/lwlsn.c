/*-------------------------------------------------------------------------
 *
 * lwlsn.c
 *	  Last-written LSNs: how new a page or a size must be when it is read.
 *
 * A page that left the buffer pool comes back from the page server, which
 * lags behind.  Without a lower bound it could answer with a version that
 * misses our own last change.  The bound is kept here: for each range of
 * pages, the highest LSN of a page of the range that was written out.
 *
 * Rule: the answer is at least the LSN of the last change of that page that
 * this server made.  Any doubt rounds up, which costs waiting, never data.
 *
 * The table has a fixed size and is set-associative: an entry's hash names
 * its set, and a set that overflows gives up its lowest LSN to the global
 * floor, under which every answer lies no more.  Nothing is allocated, so
 * truncation may call in from a critical section.  The floor starts at
 * ogel.start_lsn: what earlier servers of the branch wrote lies below it.
 *
 * Besides page ranges there are two kinds of entry per fork: one for its size
 * and existence, and one that holds for all its pages (truncation, removal).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogrecovery.h"
#include "common/hashfn.h"
#include "guc.h"
#include "lwlsn.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "storage/spin.h"

/* One entry covers 32 blocks (256 kB), about one read of a scan */
#define PAGES_PER_RANGE		32

/* Not ranges of pages: the highest real one is MaxBlockNumber / 32 */
#define RANGE_SIZE			((uint32) 0xFFFFFFFF)
#define RANGE_ALL_PAGES		((uint32) 0xFFFFFFFE)

#define WAYS				8

typedef struct LwlsnEntry
{
	RelFork		key;
	uint32		range;
	XLogRecPtr	lsn;			/* invalid = free */
} LwlsnEntry;

typedef struct LwlsnSet
{
	slock_t		mutex;
	LwlsnEntry	entries[WAYS];
} LwlsnSet;

typedef struct LwlsnTable
{
	pg_atomic_uint64 floor;
	uint32		nsets;			/* power of two */
	LwlsnSet	sets[FLEXIBLE_ARRAY_MEMBER];
} LwlsnTable;

static LwlsnTable *table = NULL;

static uint32
set_count(void)
{
	return pg_nextpower2_32(Max(ogel_lwlsn_cache_size / WAYS, 1));
}

Size
lwlsn_shmem_size(void)
{
	return add_size(offsetof(LwlsnTable, sets), mul_size(set_count(), sizeof(LwlsnSet)));
}

void
lwlsn_shmem_init(void)
{
	bool		found;

	table = ShmemInitStruct("ogel last-written LSNs", lwlsn_shmem_size(), &found);
	if (found)
		return;
	memset(table, 0, lwlsn_shmem_size());
	pg_atomic_init_u64(&table->floor, lsn_record_end(ogel_start_lsn));
	table->nsets = set_count();
	for (uint32 i = 0; i < table->nsets; i++)
		SpinLockInit(&table->sets[i].mutex);
}

/*
 * The end of the record that ends at lsn.  The position behind a page header
 * names no record end: nothing would ever arrive exactly there, and a flush
 * up to it would be refused.
 */
XLogRecPtr
lsn_record_end(XLogRecPtr lsn)
{
	uint32		page_offset = lsn % XLOG_BLCKSZ;
	uint32		segment_offset = XLogSegmentOffset(lsn, wal_segment_size);

	if (segment_offset == SizeOfXLogLongPHD ||
		(page_offset == SizeOfXLogShortPHD && segment_offset != page_offset))
		return lsn - page_offset;
	return lsn;
}

/* Upper bound of the LSN of every record inserted so far. */
XLogRecPtr
lsn_insert_position(void)
{
	if (RecoveryInProgress())
		return lsn_record_end(GetXLogReplayRecPtr(NULL));
	return lsn_record_end(GetXLogInsertRecPtr());
}

static LwlsnSet *
set_of(const RelFork *key, uint32 range)
{
	uint32		hash;

	hash = hash_combine(hash_bytes((const unsigned char *) key, sizeof(RelFork)),
						murmurhash32(range));
	return &table->sets[hash & (table->nsets - 1)];
}

static void
raise_floor(XLogRecPtr lsn)
{
	uint64		floor = pg_atomic_read_u64(&table->floor);

	while (floor < lsn &&
		   !pg_atomic_compare_exchange_u64(&table->floor, &floor, lsn))
		;
}

static void
remember(const RelFork *key, uint32 range, XLogRecPtr lsn)
{
	LwlsnSet   *set = set_of(key, range);
	LwlsnEntry *victim = NULL;

	lsn = lsn_record_end(lsn);
	if (lsn <= pg_atomic_read_u64(&table->floor))
		return;

	SpinLockAcquire(&set->mutex);
	for (int i = 0; i < WAYS; i++)
	{
		LwlsnEntry *entry = &set->entries[i];

		if (entry->range == range && entry->lsn != InvalidXLogRecPtr &&
			memcmp(&entry->key, key, sizeof(RelFork)) == 0)
		{
			entry->lsn = Max(entry->lsn, lsn);
			SpinLockRelease(&set->mutex);
			return;
		}
		if (victim == NULL || entry->lsn < victim->lsn)
			victim = entry;
	}
	/* before the entry goes: a reader looks at the set first */
	raise_floor(victim->lsn);
	victim->key = *key;
	victim->range = range;
	victim->lsn = lsn;
	SpinLockRelease(&set->mutex);
}

static XLogRecPtr
lookup(const RelFork *key, uint32 range)
{
	LwlsnSet   *set = set_of(key, range);
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	SpinLockAcquire(&set->mutex);
	for (int i = 0; i < WAYS; i++)
	{
		LwlsnEntry *entry = &set->entries[i];

		if (entry->range == range && entry->lsn != InvalidXLogRecPtr &&
			memcmp(&entry->key, key, sizeof(RelFork)) == 0)
		{
			lsn = entry->lsn;
			break;
		}
	}
	SpinLockRelease(&set->mutex);
	return Max(lsn, pg_atomic_read_u64(&table->floor));
}

void
lwlsn_set_page(const RelFork *key, BlockNumber blocknum, XLogRecPtr lsn)
{
	remember(key, blocknum / PAGES_PER_RANGE, lsn);
}

void
lwlsn_set_size(const RelFork *key, XLogRecPtr lsn)
{
	remember(key, RANGE_SIZE, lsn);
}

void
lwlsn_set_all_pages(const RelFork *key, XLogRecPtr lsn)
{
	remember(key, RANGE_ALL_PAGES, lsn);
}

/*
 * The page server never sees WAL that is not flushed here: asking for it
 * would wait for ever.
 */
static XLogRecPtr
flushed(XLogRecPtr lsn)
{
	if (!RecoveryInProgress() && XLogNeedsFlush(lsn))
		XLogFlush(lsn);
	return lsn;
}

XLogRecPtr
lwlsn_for_pages(const RelFork *key, const BlockNumber *blocks, int nblocks)
{
	XLogRecPtr	lsn = lookup(key, RANGE_ALL_PAGES);
	uint32		last_range = RANGE_ALL_PAGES;

	for (int i = 0; i < nblocks; i++)
	{
		uint32		range = blocks[i] / PAGES_PER_RANGE;

		if (range != last_range)
			lsn = Max(lsn, lookup(key, range));
		last_range = range;
	}
	return flushed(lsn);
}

XLogRecPtr
lwlsn_of_page(const RelFork *key, BlockNumber blocknum)
{
	return Max(lookup(key, RANGE_ALL_PAGES), lookup(key, blocknum / PAGES_PER_RANGE));
}

XLogRecPtr
lwlsn_of_pages(const RelFork *key, BlockNumber first, BlockNumber last)
{
	XLogRecPtr	lsn = lookup(key, RANGE_ALL_PAGES);

	for (uint32 range = first / PAGES_PER_RANGE; range <= last / PAGES_PER_RANGE; range++)
		lsn = Max(lsn, lookup(key, range));
	return lsn;
}

XLogRecPtr
lwlsn_for_size(const RelFork *key)
{
	return flushed(lookup(key, RANGE_SIZE));
}

/* For questions about more than one relation: all that was written so far. */
XLogRecPtr
lwlsn_for_everything(void)
{
	return flushed(lsn_insert_position());
}
