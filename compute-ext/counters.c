/*-------------------------------------------------------------------------
 *
 * counters.c
 *	  What the processes of this server have asked, waited for and saved.
 *
 * Every process counts in a place of its own in shared memory, chosen by its
 * number, so that counting takes neither a lock nor an atomic operation.  A
 * reader sees each number as it was before or after a change.
 *
 * A place is used by one process after another and its numbers only grow: a
 * new process notes where it began.  So the sum over all places is the sum
 * since the start of the server, and the difference is the process's own.
 *
 * A parallel worker also adds to the effort of its leader, for EXPLAIN.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "counters.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/proc.h"
#include "storage/procnumber.h"
#include "storage/shmem.h"

#define EFFORT_FIELDS	(sizeof(Effort) / sizeof(uint64))
#define COUNT_FIELDS	(sizeof(Counts) / sizeof(uint64))

typedef struct Place
{
	pg_atomic_uint32 pid;		/* 0 = not used yet, or being taken over */
	Counts		counts;
	Counts		begun;			/* counts when the process took the place */
	Longest		longest;
	pg_atomic_uint64 workers[EFFORT_FIELDS];	/* Effort of parallel workers */
} Place;

static char *places = NULL;
static Place *own = NULL;

/* of processes that have no number (yet) */
static Place homeless;

static int
place_count(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

static Size
place_size(void)
{
	return TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(Place));
}

static Place *
place_at(int number)
{
	return (Place *) (places + place_size() * number);
}

Size
counters_shmem_size(void)
{
	return add_size(mul_size(place_count(), place_size()), PG_CACHE_LINE_SIZE);
}

void
counters_shmem_init(void)
{
	bool		found;
	char	   *memory = ShmemInitStruct("ogel counters", counters_shmem_size(), &found);

	places = (char *) TYPEALIGN(PG_CACHE_LINE_SIZE, memory);
	if (found)
		return;
	memset(memory, 0, counters_shmem_size());
	for (int i = 0; i < place_count(); i++)
	{
		pg_atomic_init_u32(&place_at(i)->pid, 0);
		for (int field = 0; field < EFFORT_FIELDS; field++)
			pg_atomic_init_u64(&place_at(i)->workers[field], 0);
	}
}

static Place *
own_place(void)
{
	if (likely(own != NULL))
		return own;
	if (places == NULL || MyProcNumber < 0 || MyProcNumber >= place_count())
		return &homeless;
	own = place_at(MyProcNumber);
	pg_atomic_write_u32(&own->pid, 0);
	pg_write_barrier();
	own->begun = own->counts;
	pg_write_barrier();
	pg_atomic_write_u32(&own->pid, MyProcPid);
	return own;
}

/* Tells the leader of a parallel worker. */
static void
tell_leader(size_t field, uint64 amount)
{
	if (likely(ParallelLeaderProcNumber == INVALID_PROC_NUMBER) || places == NULL ||
		ParallelLeaderProcNumber >= place_count())
		return;
	pg_atomic_fetch_add_u64(&place_at(ParallelLeaderProcNumber)->workers[field / sizeof(uint64)],
							amount);
}

/* A request goes out. */
void
counters_sent(RequestKind kind, int npages)
{
	RequestCounts *counts = &own_place()->counts.requests[kind];

	counts->requests++;
	counts->pages += npages;
	tell_leader(offsetof(Effort, requests), 1);
}

/* The answer has come. */
void
counters_answered(RequestKind kind, int npages, uint64 us)
{
	Place	   *place = own_place();
	RequestCounts *counts = &place->counts.requests[kind];
	int			bucket = us == 0 ? 0 : Min(pg_leftmost_one_pos64(us) + 1, LATENCY_BUCKETS - 1);

	counts->total_us += us;
	counts->latency[bucket]++;
	place->longest.request_us[kind] = Max(place->longest.request_us[kind], us);
	if (kind == REQUEST_PAGES)
		tell_leader(offsetof(Effort, pages), npages);
}

void
counters_retry(RequestKind kind)
{
	own_place()->counts.requests[kind].retries++;
}

void
counters_wait(WaitKind kind, uint64 us)
{
	Place	   *place = own_place();

	place->counts.waits[kind].waits++;
	place->counts.waits[kind].total_us += us;
	place->longest.wait_us[kind] = Max(place->longest.wait_us[kind], us);
	if (kind != WAIT_BACKPRESSURE)
		tell_leader(offsetof(Effort, wait_us), us);
}

void
counters_file_cache_hits(int npages)
{
	own_place()->counts.file_cache_hits += npages;
	tell_leader(offsetof(Effort, file_cache_hits), npages);
}

PrefetchCounts *
counters_prefetch(void)
{
	return &own_place()->counts.prefetch;
}

void
counters_prefetch_used(void)
{
	own_place()->counts.prefetch.used++;
	tell_leader(offsetof(Effort, pages), 1);
	tell_leader(offsetof(Effort, prefetched), 1);
}

void
counters_prefetch_stale(void)
{
	own_place()->counts.prefetch.used--;
	own_place()->counts.prefetch.stale++;
	tell_leader(offsetof(Effort, pages), (uint64) -1);
	tell_leader(offsetof(Effort, prefetched), (uint64) -1);
}

Effort
counters_effort(void)
{
	Place	   *place = own_place();
	const Counts *counts = &place->counts;
	Effort		effort = {0};
	uint64	   *fields = (uint64 *) &effort;

	for (int kind = 0; kind < NREQUEST_KINDS; kind++)
		effort.requests += counts->requests[kind].requests;
	effort.prefetched = counts->prefetch.used;
	effort.pages = counts->requests[REQUEST_PAGES].pages + effort.prefetched;
	effort.file_cache_hits = counts->file_cache_hits;
	for (int kind = 0; kind < WAIT_BACKPRESSURE; kind++)
		effort.wait_us += counts->waits[kind].total_us;
	for (int i = 0; i < EFFORT_FIELDS; i++)
		fields[i] += pg_atomic_read_u64(&place->workers[i]);
	return effort;
}

int
counters_places(void)
{
	return places == NULL ? 0 : place_count();
}

bool
counters_process(int number, int *pid, Counts *counts)
{
	Place	   *place = place_at(number);
	uint64	   *result = (uint64 *) counts;
	const uint64 *begun = (const uint64 *) &place->begun;

	*pid = (int) pg_atomic_read_u32(&place->pid);
	if (*pid == 0)
		return false;
	pg_read_barrier();
	*counts = place->counts;
	for (int i = 0; i < COUNT_FIELDS; i++)
		result[i] -= begun[i];
	pg_read_barrier();
	return *pid == (int) pg_atomic_read_u32(&place->pid);
}

void
counters_sum(Counts *counts, Longest *longest)
{
	uint64	   *sum = (uint64 *) counts;

	memset(counts, 0, sizeof(*counts));
	memset(longest, 0, sizeof(*longest));
	for (int number = 0; number < counters_places(); number++)
	{
		const Place *place = place_at(number);
		const uint64 *part = (const uint64 *) &place->counts;

		for (int i = 0; i < COUNT_FIELDS; i++)
			sum[i] += part[i];
		for (int i = 0; i < NREQUEST_KINDS; i++)
			longest->request_us[i] = Max(longest->request_us[i], place->longest.request_us[i]);
		for (int i = 0; i < NWAIT_KINDS; i++)
			longest->wait_us[i] = Max(longest->wait_us[i], place->longest.wait_us[i]);
	}
}
