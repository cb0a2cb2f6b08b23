/*-------------------------------------------------------------------------
 *
 * quorum_switch.c
 *	  Test-only: turns on quorum_commit without the rest of a compute.
 *
 * With it in shared_preload_libraries, the walsender that holds the slot
 * quorum_switch.slot plays the quorum; pg_receivewal --synchronous is enough.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("quorum_switch must be in shared_preload_libraries")));

	DefineCustomStringVariable("quorum_switch.slot",
							   "Name of the slot whose walsender is the quorum.",
							   NULL, &quorum_slot_name, "quorum",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("quorum_switch");
	quorum_commit = true;
}
