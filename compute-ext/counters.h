/*-------------------------------------------------------------------------
 *
 * counters.h
 *	  What the processes of this server have asked, waited for and saved.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_COUNTERS_H
#define OGEL_COUNTERS_H

typedef enum RequestKind
{
	REQUEST_PAGES,				/* somebody waits for them */
	REQUEST_PREFETCH,			/* sent ahead */
	REQUEST_SIZE,
	REQUEST_DATABASE_SIZE,
} RequestKind;

#define NREQUEST_KINDS	(REQUEST_DATABASE_SIZE + 1)

/* Bucket i counts answers that took less than 2^i microseconds, the last all others */
#define LATENCY_BUCKETS	25

/* All times are in microseconds. */
typedef struct RequestCounts
{
	uint64		requests;
	uint64		pages;
	uint64		retries;
	uint64		total_us;		/* until the answer, retries included */
	uint64		latency[LATENCY_BUCKETS];	/* sums up to what was answered */
} RequestCounts;

/* Why this server's processes wait.  The names of the wait events are in waits.c. */
typedef enum WaitKind
{
	WAIT_PAGE_READ,
	WAIT_PREFETCH,				/* for a page that was asked for earlier */
	WAIT_SIZE,
	WAIT_CONNECT,
	WAIT_RETRY,
	WAIT_BACKPRESSURE,
} WaitKind;

#define NWAIT_KINDS		(WAIT_BACKPRESSURE + 1)

typedef struct WaitCounts
{
	uint64		waits;
	uint64		total_us;
} WaitCounts;

/*
 * Pages asked for ahead.  issued = used + stale + unused + failed + those that
 * a process still holds or waits for.
 */
typedef struct PrefetchCounts
{
	uint64		issued;
	uint64		used;
	uint64		stale;			/* changed before they were used (H11) */
	uint64		unused;			/* nobody came for them */
	uint64		failed;			/* refused, or lost with the connection */
} PrefetchCounts;

typedef struct Counts
{
	RequestCounts requests[NREQUEST_KINDS];
	WaitCounts	waits[NWAIT_KINDS];
	PrefetchCounts prefetch;
	uint64		file_cache_hits;
} Counts;

/* The longest since the start of the server */
typedef struct Longest
{
	uint64		request_us[NREQUEST_KINDS];
	uint64		wait_us[NWAIT_KINDS];
} Longest;

/* What one process has done so far, its parallel workers included */
typedef struct Effort
{
	uint64		requests;
	uint64		pages;			/* from the page server, used */
	uint64		prefetched;		/* of these, asked for ahead */
	uint64		file_cache_hits;
	uint64		wait_us;
} Effort;

extern Size counters_shmem_size(void);
extern void counters_shmem_init(void);

extern void counters_sent(RequestKind kind, int npages);
extern void counters_answered(RequestKind kind, int npages, uint64 us);
extern void counters_retry(RequestKind kind);
extern void counters_wait(WaitKind kind, uint64 us);
extern void counters_file_cache_hits(int npages);

/* changes the process's own counts; add with care for the equation above */
extern PrefetchCounts *counters_prefetch(void);
extern void counters_prefetch_used(void);

/* it counted as used, but was too old */
extern void counters_prefetch_stale(void);

extern Effort counters_effort(void);
extern void counters_sum(Counts *counts, Longest *longest);

/* the counts of the process in that place; false when there is none */
extern int	counters_places(void);
extern bool counters_process(int place, int *pid, Counts *counts);

#endif							/* OGEL_COUNTERS_H */
