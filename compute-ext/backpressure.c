/*-------------------------------------------------------------------------
 *
 * backpressure.c
 *	  Slows writers down when the page server falls behind.
 *
 * Reads wait until the page server has ingested the WAL they depend on, so
 * its lag becomes everybody's latency; and WAL that the quorum has not taken
 * stays on this server's disk.  Writers therefore wait in the callbacks that
 * extend relations and write pages while the distance between the insert
 * position and the position the page server has applied exceeds
 * ogel.max_apply_lag.
 *
 * The applied position is what the supervisor reports as "apply" through its
 * walsender.  While none is attached, WAL goes nowhere: the last report
 * counts.
 *
 * Callers mostly hold locks on pages.  If the supervisor has to attach anew,
 * its walsender might need such a page to authenticate; so a wait under locks
 * ends after a second, which is slow enough.
 *
 * Processes whose work drains the lag or ends the server do not wait: the
 * checkpointer, the background writer, walsenders.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "backpressure.h"
#include "guc.h"
#include "interrupts.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define POLL_INTERVAL_MS	10
#define LOG_AFTER_MS		10000
#define LONGEST_WAIT_UNDER_LOCK_MS	1000

typedef struct Backpressure
{
	pg_atomic_uint64 applied;	/* never goes back */
} Backpressure;

static Backpressure *shared = NULL;

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

static bool
too_far_ahead(void)
{
	uint64		limit = (uint64) ogel_max_apply_lag * 1024 * 1024;
	XLogRecPtr	inserted = GetXLogInsertRecPtr();

	if (inserted <= pg_atomic_read_u64(&shared->applied) + limit)
		return false;
	return inserted > refresh_applied() + limit;
}

static bool
must_not_wait(void)
{
	return ogel_max_apply_lag == 0 || CritSectionCount > 0 || am_walsender ||
		(MyBackendType != B_BACKEND && MyBackendType != B_BG_WORKER &&
		 MyBackendType != B_AUTOVAC_WORKER) ||
		RecoveryInProgress() || !interrupts_may_raise();
}

void
backpressure_wait(void)
{
	static uint32 wait_event = 0;
	TimestampTz since;
	bool		logged = false;

	if (must_not_wait() || !too_far_ahead())
		return;

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("OgelBackpressure");
	since = GetCurrentTimestamp();
	do
	{
		interrupts_sleep(POLL_INTERVAL_MS, wait_event);
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
	} while (too_far_ahead());
}
