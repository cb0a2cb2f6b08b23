/*-------------------------------------------------------------------------
 *
 * relsize.c
 *	  Shared cache of the sizes of relation forks.
 *
 * Sizes are asked for all the time, and relations grow without WAL: the page
 * server learns of a block only from a record that touches it.  So this cache
 * is more than a cache.  Each entry counts the blocks that the WAL covers
 * (logged); as long as logged < nblocks, nobody else knows the size, and the
 * entry is pinned.  Once the last block is written out with an LSN of its
 * own, the page server can answer as well and the entry may go.
 *
 * The memory is fixed: set-associative, least recently used of a set.  When
 * all entries of a set are pinned, relsize_extended() says so, and the caller
 * logs the new last block as an image, after which no entry is needed.
 *
 * An entry changed by this server that is dropped leaves behind the current
 * insert position as the last-written LSN of the fork's size: whoever asks
 * the page server afterwards waits for all the WAL that made the size.
 *
 * Answers of the page server race with changes: a process asks, another one
 * extends the fork and its entry comes and goes, the answer arrives and is
 * old.  The epoch counts the changes that leave no entry behind; an answer is
 * stored only if the epoch has not moved since before the question.
 *
 * A created fork's entry is also pinned until the creating process calls in
 * again or ends its transaction: the WAL record of the creation follows the
 * callback, and an insert position taken before it would be too low.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "guc.h"
#include "lwlsn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "relsize.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#define WAYS			16
#define NPARTITIONS		64
#define TRANCHE_NAME	"OgelRelationSize"

typedef struct RelSizeEntry
{
	RelFork		key;
	RelSize		size;
	bool		used;
	bool		changed;		/* by this server, since the entry exists */
	bool		creating;		/* its creation may not be in the WAL yet */
	uint32		last_use;		/* tick of the set */
} RelSizeEntry;

typedef struct RelSizeSet
{
	pg_atomic_uint32 tick;
	RelSizeEntry entries[WAYS];
} RelSizeSet;

typedef struct RelSizeTable
{
	pg_atomic_uint64 epoch;
	LWLockPadded *locks;		/* NPARTITIONS, by set number */
	uint32		nsets;			/* power of two */
	RelSizeSet	sets[FLEXIBLE_ARRAY_MEMBER];
} RelSizeTable;

static RelSizeTable *table = NULL;

/* The fork whose creation record this process has yet to write */
static RelFork creating_key;
static bool creating = false;

static uint32
set_count(void)
{
	return pg_nextpower2_32(Max(ogel_relsize_cache_size / WAYS, 1));
}

Size
relsize_shmem_size(void)
{
	return add_size(offsetof(RelSizeTable, sets), mul_size(set_count(), sizeof(RelSizeSet)));
}

void
relsize_shmem_request(void)
{
	RequestNamedLWLockTranche(TRANCHE_NAME, NPARTITIONS);
}

void
relsize_shmem_init(void)
{
	bool		found;

	table = ShmemInitStruct("ogel relation sizes", relsize_shmem_size(), &found);
	if (found)
		return;
	memset(table, 0, relsize_shmem_size());
	pg_atomic_init_u64(&table->epoch, 1);
	table->locks = GetNamedLWLockTranche(TRANCHE_NAME);
	table->nsets = set_count();
	for (uint32 i = 0; i < table->nsets; i++)
		pg_atomic_init_u32(&table->sets[i].tick, 0);
}

static RelSizeSet *
set_of(const RelFork *key, LWLock **lock)
{
	uint32		hash = hash_bytes((const unsigned char *) key, sizeof(RelFork));
	uint32		number = hash & (table->nsets - 1);

	*lock = &table->locks[number % NPARTITIONS].lock;
	return &table->sets[number];
}

/* Caller holds the set's lock, at least shared. */
static RelSizeEntry *
find(RelSizeSet *set, const RelFork *key)
{
	for (int i = 0; i < WAYS; i++)
	{
		RelSizeEntry *entry = &set->entries[i];

		if (entry->used && memcmp(&entry->key, key, sizeof(RelFork)) == 0)
		{
			entry->last_use = pg_atomic_fetch_add_u32(&set->tick, 1);
			return entry;
		}
	}
	return NULL;
}

static bool
pinned(const RelSizeEntry *entry)
{
	return entry->creating ||
		(entry->size.nblocks != RELSIZE_ABSENT && entry->size.logged < entry->size.nblocks);
}

/*
 * Makes the page server the only one who knows.  Caller holds the set's lock
 * exclusively.
 */
static void
give_up(const RelFork *key)
{
	lwlsn_set_size(key, lsn_insert_position());
	pg_atomic_fetch_add_u64(&table->epoch, 1);
}

/*
 * An empty entry for key, or NULL when all of the set are pinned.  Caller
 * holds the set's lock exclusively.
 */
static RelSizeEntry *
allocate(RelSizeSet *set, const RelFork *key)
{
	uint32		now = pg_atomic_read_u32(&set->tick);
	RelSizeEntry *victim = NULL;

	for (int i = 0; i < WAYS; i++)
	{
		RelSizeEntry *entry = &set->entries[i];

		if (!entry->used)
		{
			victim = entry;
			break;
		}
		if (!pinned(entry) &&
			(victim == NULL || now - entry->last_use > now - victim->last_use))
			victim = entry;
	}
	if (victim == NULL)
		return NULL;
	if (victim->used && victim->changed)
		give_up(&victim->key);

	memset(victim, 0, sizeof(*victim));
	victim->key = *key;
	victim->used = true;
	victim->last_use = pg_atomic_fetch_add_u32(&set->tick, 1);
	return victim;
}

/* The creation record of the fork created last has been written by now. */
static void
settle_creation(void)
{
	LWLock	   *lock;
	RelSizeSet *set;
	RelSizeEntry *entry;

	if (likely(!creating))
		return;
	creating = false;

	set = set_of(&creating_key, &lock);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find(set, &creating_key);
	if (entry)
		entry->creating = false;
	LWLockRelease(lock);
}

static void
settle_at_xact_end(XactEvent event, void *arg)
{
	settle_creation();
}

static void
settle_at_subxact_end(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		settle_creation();
}

static void
settle_at_exit(int code, Datum arg)
{
	settle_creation();
}

void
relsize_process_init(void)
{
	RegisterXactCallback(settle_at_xact_end, NULL);
	RegisterSubXactCallback(settle_at_subxact_end, NULL);
	before_shmem_exit(settle_at_exit, (Datum) 0);
}

bool
relsize_lookup(const RelFork *key, RelSize *size)
{
	LWLock	   *lock;
	RelSizeSet *set = set_of(key, &lock);
	RelSizeEntry *entry;

	settle_creation();
	LWLockAcquire(lock, LW_SHARED);
	entry = find(set, key);
	if (entry)
		*size = entry->size;
	LWLockRelease(lock);
	return entry != NULL;
}

uint64
relsize_epoch(void)
{
	return pg_atomic_read_u64(&table->epoch);
}

bool
relsize_store_answer(const RelFork *key, BlockNumber nblocks, uint64 epoch)
{
	LWLock	   *lock;
	RelSizeSet *set = set_of(key, &lock);
	RelSizeEntry *entry;
	bool		valid;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	valid = find(set, key) == NULL && relsize_epoch() == epoch;
	/* no room is no harm: the next one asks again */
	if (valid && (entry = allocate(set, key)) != NULL)
	{
		entry->size.nblocks = nblocks;
		entry->size.logged = nblocks == RELSIZE_ABSENT ? 0 : nblocks;
	}
	LWLockRelease(lock);
	return valid;
}

/* The fork exists now and is empty. */
void
relsize_created(const RelFork *key)
{
	LWLock	   *lock;
	RelSizeSet *set = set_of(key, &lock);
	RelSizeEntry *entry;

	settle_creation();
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find(set, key);
	if (entry == NULL)
		entry = allocate(set, key);
	if (entry)
	{
		entry->size.nblocks = 0;
		entry->size.logged = 0;
		entry->changed = true;
		entry->creating = true;
		creating_key = *key;
		creating = true;
	}
	LWLockRelease(lock);

	if (entry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no room for the size of another relation"),
				 errdetail("All entries of a part of the cache hold sizes that only this server knows."),
				 errhint("Increase \"%s\".", "ogel.relsize_cache_size")));
}

/*
 * Blocks from blocknum up to nblocks (not included) were added; logged says
 * whether the WAL covers them.  False when the size cannot be kept: the
 * caller must log the last block, after which the page server knows the size.
 */
bool
relsize_extended(const RelFork *key, BlockNumber blocknum, BlockNumber nblocks, bool logged)
{
	LWLock	   *lock;
	RelSizeSet *set = set_of(key, &lock);
	RelSizeEntry *entry;

	settle_creation();
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find(set, key);
	if (entry == NULL)
	{
		entry = allocate(set, key);
		/* without an entry, the page server knew the size so far */
		if (entry)
			entry->size.nblocks = entry->size.logged = blocknum;
	}
	else if (entry->size.nblocks == RELSIZE_ABSENT)
		entry->size.nblocks = entry->size.logged = 0;

	if (entry)
	{
		entry->changed = true;
		entry->size.nblocks = Max(entry->size.nblocks, nblocks);
		if (logged)
			entry->size.logged = Max(entry->size.logged, nblocks);
	}
	else
		give_up(key);
	LWLockRelease(lock);
	return entry != NULL || logged;
}

/* A WAL record of block blocknum exists. */
void
relsize_page_logged(const RelFork *key, BlockNumber blocknum)
{
	LWLock	   *lock;
	RelSizeSet *set = set_of(key, &lock);
	RelSizeEntry *entry;
	bool		news;

	settle_creation();
	LWLockAcquire(lock, LW_SHARED);
	entry = find(set, key);
	news = entry != NULL && blocknum >= entry->size.logged;
	LWLockRelease(lock);
	if (!news)
		return;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find(set, key);
	if (entry && entry->size.nblocks != RELSIZE_ABSENT)
	{
		entry->changed = true;
		entry->size.nblocks = Max(entry->size.nblocks, blocknum + 1);
		entry->size.logged = Max(entry->size.logged, blocknum + 1);
	}
	LWLockRelease(lock);
}

/*
 * The fork was cut to nblocks, and the record of that is in the WAL.  Called
 * in critical sections: must not fail.
 */
void
relsize_truncated(const RelFork *key, BlockNumber nblocks)
{
	LWLock	   *lock;
	RelSizeSet *set = set_of(key, &lock);
	RelSizeEntry *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find(set, key);
	if (entry == NULL)
		entry = allocate(set, key);
	if (entry)
	{
		entry->changed = true;
		entry->size.nblocks = nblocks;
		entry->size.logged = nblocks;
	}
	else
		give_up(key);
	LWLockRelease(lock);
}

/* The fork was removed.  Must not fail. */
void
relsize_forget(const RelFork *key)
{
	LWLock	   *lock;
	RelSizeSet *set = set_of(key, &lock);
	RelSizeEntry *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find(set, key);
	if (entry)
		entry->used = false;
	give_up(key);
	LWLockRelease(lock);
}

/* The database was dropped: its oid will not be used again for long. */
void
relsize_forget_database(Oid dbOid)
{
	for (uint32 number = 0; number < table->nsets; number++)
	{
		LWLock	   *lock = &table->locks[number % NPARTITIONS].lock;

		LWLockAcquire(lock, LW_EXCLUSIVE);
		for (int i = 0; i < WAYS; i++)
		{
			RelSizeEntry *entry = &table->sets[number].entries[i];

			if (entry->used && entry->key.dbOid == dbOid)
			{
				entry->used = false;
				give_up(&entry->key);
			}
		}
		LWLockRelease(lock);
	}
}
