/*-------------------------------------------------------------------------
 *
 * slot_state.c
 *	  Replication slots outlive the server.
 *
 * Whenever PostgreSQL writes the state file of a persistent slot, the same
 * bytes go into the WAL.  What stock promises of a slot after a crash holds
 * here too: a row of the catalogs that the stored state still needs is only
 * removed by a later record, because a new catalog_xmin takes effect after
 * the state was saved.
 *
 * A logical slot that starts over from restart_lsn needs the snapshot that
 * was serialized there: without it, decoding would wait for a moment without
 * running transactions and skip what commits until then.  It travels in the
 * same record.  The WAL itself comes from the safekeepers.
 *
 * A slot that is lost when the server starts (see compute/src/slot_limit.rs)
 * is saved as such first of all.
 *
 * A client that makes or drops a slot has its answer when the quorum has the
 * record, and so has one that moves it; background processes do not wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "aux_file.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "replication/slot.h"
#include "replication/syncrep.h"
#include "slot_state.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

static void
put_snapshot(StringInfo record, const ReplicationSlotPersistentData *slot, const char *path)
{
	StringInfoData content;
	char		name[MAXPGPATH];

	snprintf(name, sizeof(name), "pg_logical/snapshots/%X-%X.snap",
			 LSN_FORMAT_ARGS(slot->restart_lsn));
	if (slot->database == InvalidOid || !aux_files_read(name, &content))
	{
		aux_files_remove(record, path);
		return;
	}
	aux_files_put(record, path, content.data, content.len);
	pfree(content.data);
}

static void
slot_state_changed(const ReplicationSlotPersistentData *slot, const void *state, size_t size)
{
	StringInfoData record;
	char		state_path[MAXPGPATH];
	char		snapshot_path[MAXPGPATH];
	XLogRecPtr	lsn;

	if (strcmp(NameStr(slot->name), quorum_slot_name) == 0 || RecoveryInProgress())
		return;

	/*
	 * No WAL within the shutdown checkpoint.  The state keeper has had all
	 * slots saved before it; what a walsender has confirmed since then is
	 * only sent again.
	 */
	if (AmCheckpointerProcess() && ShutdownRequestPending)
		return;

	snprintf(state_path, sizeof(state_path), "pg_replslot/%s/state", NameStr(slot->name));
	snprintf(snapshot_path, sizeof(snapshot_path), "pg_replslot/%s/snapshot", NameStr(slot->name));
	aux_files_begin(&record);
	if (state != NULL)
	{
		aux_files_put(&record, state_path, state, size);
		put_snapshot(&record, slot, snapshot_path);
	}
	else
	{
		aux_files_remove(&record, state_path);
		aux_files_remove(&record, snapshot_path);
	}
	lsn = aux_files_log(&record);

	if (MyBackendType == B_BACKEND || MyBackendType == B_WAL_SENDER)
	{
		XLogFlush(lsn);
		SyncRepWaitForLSN(lsn, false);
	}
}

/*
 * A slot that was too far behind was marked as lost in its file, before this
 * server started.  Nothing holds back what it needed any more, so it must not
 * come back with the next server.
 */
void
slot_state_keep_lost(void)
{
	bool		lost = false;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		SpinLockAcquire(&slot->mutex);
		if (slot->in_use && slot->data.invalidated == RS_INVAL_WAL_REMOVED)
			lost = slot->just_dirtied = slot->dirty = true;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(ReplicationSlotControlLock);
	if (lost)
		CheckPointReplicationSlots(false);
}

void
slot_state_install(void)
{
	slot_state_hook = slot_state_changed;
}
