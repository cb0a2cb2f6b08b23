/*-------------------------------------------------------------------------
 *
 * state_keeper.c
 *	  The process that saves what pages and WAL do not hold.
 *
 * PostgreSQL writes statistics, free space, sequences and the positions of
 * slots to files at or after its shutdown checkpoint, where no WAL may follow
 * (hazard H20).  Here all of it goes into the WAL before: this background
 * worker is told to end together with the sessions, waits until they are
 * gone, saves, and ends; the postmaster waits for it before it orders the
 * shutdown checkpoint.  It works the same whoever stops the server.
 *
 * Statistics and free space are also saved now and then, for a server that
 * is not stopped but killed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "aux_file.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/slot.h"
#include "slot_state.h"
#include "state_keeper.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "unlogged_state.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pgstat_internal.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define STATEMENTS_FILE		PGSTAT_STAT_PERMANENT_DIRECTORY "/pg_stat_statements.stat"

#define POLL_INTERVAL_MS	10

/* Other workers than sessions may wait for something else */
#define WORKERS_PATIENCE_MS	5000

PGDLLEXPORT void state_keeper_main(Datum arg);

/* Where our own last record ended */
static XLogRecPtr saved_up_to = InvalidXLogRecPtr;

static void
save_file(const char *path)
{
	StringInfoData content;
	StringInfoData record;

	if (!aux_files_read(path, &content))
		return;
	aux_files_begin(&record);
	aux_files_put(&record, path, content.data, content.len);
	aux_files_log(&record);
	pfree(content.data);
}

/* The checkpointer writes the file again when the server stops. */
static void
save_statistics(void)
{
	pgstat_before_server_shutdown(0, (Datum) 0);
	pgStatLocal.shmem->is_shutdown = false;
	save_file(PGSTAT_STAT_PERMANENT_FILENAME);
}

static void
save_statements(void)
{
	void	  **dump = find_rendezvous_variable("pg_stat_statements_dump");

	if (*dump == NULL)
		return;
	((void (*) (int, Datum)) *dump) (0, (Datum) 0);
	save_file(STATEMENTS_FILE);
}

/* A server in which nothing has happened writes nothing. */
static void
save_now_and_then(void)
{
	if (GetXLogInsertRecPtr() == saved_up_to)
		return;
	save_statistics();
	free_space_log();
	saved_up_to = GetXLogInsertRecPtr();
}

static void
count_others(int *sessions, int *workers)
{
	int			count;

	*sessions = *workers = 0;
	pgstat_clear_backend_activity_snapshot();
	count = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= count; i++)
	{
		PgBackendStatus *status = &pgstat_get_local_beentry_by_index(i)->backendStatus;

		if (status->st_procpid == 0 || status->st_procpid == MyProcPid)
			continue;
		if (status->st_backendType == B_BACKEND || status->st_backendType == B_AUTOVAC_WORKER)
			(*sessions)++;
		else if (status->st_backendType == B_BG_WORKER)
			(*workers)++;
	}
}

/* False when some worker stays that may change things. */
static bool
wait_until_alone(uint32 wait_event)
{
	TimestampTz since = GetCurrentTimestamp();
	int			sessions;
	int			workers;

	for (;;)
	{
		count_others(&sessions, &workers);
		if (sessions == 0 && workers == 0)
			return true;
		if (sessions == 0 &&
			TimestampDifferenceExceeds(since, GetCurrentTimestamp(), WORKERS_PATIENCE_MS))
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_INTERVAL_MS, wait_event);
		ResetLatch(MyLatch);
	}
}

static void
save_before_stop(uint32 wait_event)
{
	bool		alone = wait_until_alone(wait_event);

	CheckPointReplicationSlots(true);
	free_space_log();
	if (alone)
	{
		sequences_log();
		save_statements();
	}
	save_statistics();
}

void
state_keeper_main(Datum arg)
{
	uint32		wait_event = WaitEventExtensionNew("OgelStateKeeper");
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "ogel state keeper",
												  ALLOCSET_DEFAULT_SIZES);

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	CurrentResourceOwner = ResourceOwnerCreate(NULL, "ogel state keeper");
	MemoryContextSwitchTo(context);
	slot_state_keep_lost();
	saved_up_to = GetXLogInsertRecPtr();

	while (!ShutdownRequestPending)
	{
		int			events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
									   ogel_state_save_interval * 1000L, wait_event);

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		/* images of free space are mostly zeros */
		wal_compression = WAL_COMPRESSION_PGLZ;
		if ((events & WL_TIMEOUT) && !ShutdownRequestPending)
			save_now_and_then();
		MemoryContextReset(context);
	}
	wal_compression = WAL_COMPRESSION_PGLZ;
	save_before_stop(wait_event);
	proc_exit(0);
}

void
state_keeper_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "ogel", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "state_keeper_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "ogel state keeper", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "ogel state keeper", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}
