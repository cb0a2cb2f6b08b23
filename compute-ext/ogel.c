/*-------------------------------------------------------------------------
 *
 * ogel.c
 *	  Start of the extension: settings, shared memory, hooks, and the checks
 *	  without which a server must not run.
 *
 * Loaded with shared_preload_libraries = 'ogel'.  With an empty
 * ogel.page_server nothing is installed and the server works on local files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "backpressure.h"
#include "base_backup.h"
#include "counters.h"
#include "crc_lanes.h"
#include "explain.h"
#include "file_cache.h"
#include "fmgr.h"
#include "guc.h"
#include "index_prefetch.h"
#include "local_pages.h"
#include "lwlsn.h"
#include "miscadmin.h"
#include "ogel.h"
#include "ogel_smgr.h"
#include "page_token.h"
#include "postmaster/postmaster.h"
#include "relsize.h"
#include "replication/syncrep.h"
#include "slot_state.h"
#include "state_keeper.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utility.h"

PG_MODULE_MAGIC;

/* The slot of the supervisor's walsender */
#define QUORUM_SLOT_NAME	"ogel"

bool		ogel_remote = false;

static shmem_request_hook_type next_shmem_request_hook = NULL;
static shmem_startup_hook_type next_shmem_startup_hook = NULL;

void		_PG_init(void);

static void
require_setting(const char *name, bool is_set)
{
	if (!is_set)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not set", name),
				 errdetail("With \"%s\" set, the server must know its branch and where its own WAL begins.",
						   "ogel.page_server"),
				 errhint("Start the server through its supervisor, or leave \"%s\" empty.",
						 "ogel.page_server")));
}

/*
 * Settings under which data would be lost.  All libraries have been loaded
 * and all settings read.
 */
static void
check_server(void)
{
	require_setting("ogel.tenant", *ogel_tenant != '\0');
	require_setting("ogel.timeline", *ogel_timeline != '\0');
	require_setting("ogel.term", *ogel_term != '\0');
	require_setting("ogel.start_lsn", ogel_start_lsn != InvalidXLogRecPtr);

	if (wal_level < WAL_LEVEL_REPLICA)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"wal_level\" must be \"replica\" or \"logical\""),
				 errdetail("With \"minimal\", changes are missing in the WAL from which pages are made.")));

	for (int id = RM_MIN_CUSTOM_ID; id <= RM_MAX_CUSTOM_ID; id++)
	{
		if (RmgrIdExists(id))
			ereport(FATAL,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("custom WAL resource manager \"%s\" is not supported", GetRmgr(id).rm_name),
					 errdetail("The page server cannot replay its records, so its pages would be lost."),
					 errhint("Remove the library that registers it from \"%s\".",
							 "shared_preload_libraries")));
	}
}

/*
 * After a crash of a backend the postmaster would start over in place, with
 * these caches empty, and the page server could answer with stale pages.
 */
static void
refuse_restart_in_place(void)
{
	static bool started = false;

	if (restart_after_crash)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"restart_after_crash\" must be off"),
				 errdetail("A data folder serves one life of the server: what it knows about unfinished writes dies with it.")));
	if (started)
		ereport(FATAL,
				(errmsg("the server cannot be restarted in this data folder"),
				 errhint("Start a new server with a new data folder.")));
	started = true;
}

static void
shmem_request(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();
	RequestAddinShmemSpace(lwlsn_shmem_size());
	RequestAddinShmemSpace(relsize_shmem_size());
	RequestAddinShmemSpace(local_pages_shmem_size());
	RequestAddinShmemSpace(backpressure_shmem_size());
	RequestAddinShmemSpace(counters_shmem_size());
	relsize_shmem_request();
	file_cache_shmem_request();
}

static void
shmem_startup(void)
{
	if (next_shmem_startup_hook)
		next_shmem_startup_hook();
	if (!IsUnderPostmaster)
	{
		check_server();
		refuse_restart_in_place();
		base_backup_refuse();
	}
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	lwlsn_shmem_init();
	relsize_shmem_init();
	local_pages_shmem_init();
	backpressure_shmem_init();
	file_cache_shmem_init();
	counters_shmem_init();
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" must be loaded via \"%s\"", "ogel", "shared_preload_libraries")));

	guc_define();
	page_token_receive();
	ogel_remote = *ogel_page_server != '\0';
	if (!ogel_remote)
		return;

	quorum_commit = true;
	quorum_slot_name = QUORUM_SLOT_NAME;

	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	crc_lanes_init();
	ogel_smgr_install();
	utility_install();
	backpressure_install();
	base_backup_install();
	explain_install();
	index_prefetch_install();
	slot_state_install();
	state_keeper_register();
}
