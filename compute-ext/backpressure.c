/*-------------------------------------------------------------------------
 *
 * backpressure.c
 *	  Slows writers down when the page server falls behind.
 *
 * Reads wait until the page server has ingested the WAL they depend on, so
 * its lag becomes everybody's latency; and WAL that the quorum has not taken
 * stays on this server's disk.  The lag is the distance between the insert
 * position and the position the page server has applied.
 *
 * From half of ogel.max_apply_lag on, a process pauses in proportion to the WAL
 * it has written itself, the longer per byte the greater the lag: the lag
 * settles where WAL is written as fast as it is applied, and a small transaction
 * beside a bulk load pays for its own bytes only.  At ogel.max_apply_lag
 * everybody who writes waits.  Below half nobody does: a burst is ingested when
 * it is over, and whoever reads a page waits only if the burst has changed it.
 *
 * The places: the callbacks that extend relations and write pages, and the
 * start of each statement that writes, since changes of pages that stay in
 * memory pass by those callbacks.
 *
 * The applied position is what the supervisor reports as "apply" through its
 * walsender.  While none is attached, WAL goes nowhere: the last report
 * counts.
 *
 * Callers mostly hold locks on pages.  If the supervisor has to attach anew,
 * its walsender might need such a page to authenticate; so a wait under locks
 * ends after a second, which is slow enough.
 *
 * At the same places the WAL of bulk work is sent on its way while it is made:
 * its lag begins where it is written, not where it is committed.
 *
 * Processes whose work drains the lag or ends the server do not wait: the
 * checkpointer, the background writer, walsenders.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "backpressure.h"
#include "executor/executor.h"
#include "executor/instrument.h"
#include "guc.h"
#include "interrupts.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "waits.h"

#define POLL_INTERVAL_MS	10
#define LOG_AFTER_MS		10000
#define LONGEST_WAIT_UNDER_LOCK_MS	1000

/* Pauses begin at this part of the largest lag */
#define PAUSES_BEGIN_AT		0.5
/* Just below the largest lag a process may write 1 MB of WAL per second */
#define LONGEST_PAUSE_US_PER_BYTE	1.0
#define SHORTEST_PAUSE_US	1000
#define LONGEST_PAUSE_US	100000
/* A process that only reads writes so much now and then, when it prunes pages */
#define UNNOTICED_BYTES		(64 * 1024)

/* WAL of a process of which the WAL writer hears at once, bytes */
#define ANNOUNCED_BYTES	(256 * 1024)

typedef struct Backpressure
{
	pg_atomic_uint64 applied;	/* never goes back */
} Backpressure;

static Backpressure *shared = NULL;
static ExecutorStart_hook_type next_executor_start = NULL;

Size
backpressure_shmem_size(void)
{
	return sizeof(Backpressure);
}

void
backpressure_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("ogel backpressure", sizeof(Backpressure), &found);
	if (!found)
		pg_atomic_init_u64(&shared->applied, ogel_start_lsn);
}

/* Looks up what the synchronous walsender has heard. */
static XLogRecPtr
refresh_applied(void)
{
	XLogRecPtr	applied = InvalidXLogRecPtr;
	uint64		known = pg_atomic_read_u64(&shared->applied);

	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *walsnd = &WalSndCtl->walsnds[i];

		SpinLockAcquire(&walsnd->mutex);
		if (walsnd->pid != 0 && walsnd->sync_standby_priority > 0)
			applied = Max(applied, walsnd->apply);
		SpinLockRelease(&walsnd->mutex);
	}
	while (known < applied &&
		   !pg_atomic_compare_exchange_u64(&shared->applied, &known, applied))
		;
	return Max(known, applied);
}

XLogRecPtr
backpressure_applied(void)
{
	return refresh_applied();
}

uint64
backpressure_limit(void)
{
	return (uint64) ogel_max_apply_lag * 1024 * 1024;
}

/*
 * The lag as a part of the largest one.  What was heard last is looked up
 * only when it would matter.
 */
static double
relative_lag(void)
{
	double		limit = (double) backpressure_limit();
	XLogRecPtr	inserted = GetXLogInsertRecPtr();
	XLogRecPtr	applied = pg_atomic_read_u64(&shared->applied);

	if (inserted > applied && (inserted - applied) / limit > PAUSES_BEGIN_AT)
		applied = refresh_applied();
	return inserted > applied ? (inserted - applied) / limit : 0;
}

static bool
must_not_wait(void)
{
	return ogel_max_apply_lag == 0 || CritSectionCount > 0 || am_walsender ||
		(MyBackendType != B_BACKEND && MyBackendType != B_BG_WORKER &&
		 MyBackendType != B_AUTOVAC_WORKER) ||
		RecoveryInProgress() || !interrupts_may_raise();
}

/* Waits until the lag is below the largest one. */
static void
wait_for_page_server(void)
{
	TimestampTz since = GetCurrentTimestamp();
	bool		logged = false;

	do
	{
		interrupts_sleep(POLL_INTERVAL_MS, wait_event_of(WAIT_BACKPRESSURE));
		if (InterruptHoldoffCount > 0 &&
			TimestampDifferenceExceeds(since, GetCurrentTimestamp(), LONGEST_WAIT_UNDER_LOCK_MS))
			break;
		if (!logged && TimestampDifferenceExceeds(since, GetCurrentTimestamp(), LOG_AFTER_MS))
		{
			logged = true;
			ereport(LOG,
					(errmsg("writers wait: the page server is more than %d MB of WAL behind",
							ogel_max_apply_lag),
					 errdetail("Applied up to %X/%X, written up to %X/%X.",
							   LSN_FORMAT_ARGS(pg_atomic_read_u64(&shared->applied)),
							   LSN_FORMAT_ARGS(GetXLogInsertRecPtr())),
					 errhint("Check the safekeepers and the page server.")));
		}
	} while (relative_lag() >= 1);
}

/*
 * WAL leaves this server when it is flushed here.  The WAL writer sees to that
 * every wal_writer_delay; a bulk load or an index build fills the WAL buffers
 * in less, and its commit would wait until all of that has travelled.  So the
 * WAL writer is told of it piece by piece, as asynchronous commits do: it wakes
 * when there is wal_writer_flush_after to be flushed.
 */
static void
announce_wal(void)
{
	static XLogRecPtr announced = InvalidXLogRecPtr;

	if (XactLastRecEnd < announced + ANNOUNCED_BYTES)
		return;
	announced = XactLastRecEnd;
	XLogSetAsyncXactLSN(XactLastRecEnd);
}

/* Called where this process is about to write WAL, or has done so. */
void
backpressure_wait(void)
{
	static uint64 accounted = 0;	/* of this process's WAL, bytes */
	static double owed_us = 0;
	uint64		written = pgWalUsage.wal_bytes - accounted;
	double		lag;
	instr_time	begin;

	if (must_not_wait())
		return;
	announce_wal();
	accounted = pgWalUsage.wal_bytes;
	lag = relative_lag();
	if (lag <= PAUSES_BEGIN_AT)
	{
		owed_us = 0;
		return;
	}

	INSTR_TIME_SET_CURRENT(begin);
	if (lag >= 1)
		wait_for_page_server();
	else
	{
		double		excess = (lag - PAUSES_BEGIN_AT) / (1 - PAUSES_BEGIN_AT);

		owed_us += LONGEST_PAUSE_US_PER_BYTE * excess * excess * excess * written;
		if (owed_us < SHORTEST_PAUSE_US)
			return;
		interrupts_sleep(Min(owed_us, LONGEST_PAUSE_US) / 1000, wait_event_of(WAIT_BACKPRESSURE));
	}
	owed_us = 0;
	counters_wait(WAIT_BACKPRESSURE, microseconds_since(begin));
}

/* Before a statement that writes, or that follows others which did. */
static void
executor_start(QueryDesc *queryDesc, int eflags)
{
	static uint64 seen = 0;

	if (queryDesc->operation != CMD_SELECT || pgWalUsage.wal_bytes - seen > UNNOTICED_BYTES)
	{
		seen = pgWalUsage.wal_bytes;
		backpressure_wait();
	}
	if (next_executor_start)
		next_executor_start(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);
}

void
backpressure_install(void)
{
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
}
