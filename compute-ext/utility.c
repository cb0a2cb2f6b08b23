/*-------------------------------------------------------------------------
 *
 * utility.c
 *	  Commands that work on files, which remote relations do not have.
 *
 * Tablespaces are folders and are refused.  CREATE DATABASE copies through
 * the buffer pool only with the strategy WAL_LOG, which therefore replaces
 * FILE_COPY.  DROP DATABASE also forgets what is cached here.  CHECKPOINT
 * is done when the quorum has what it logged: nobody can read WAL before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "file_cache.h"
#include "local_pages.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "relsize.h"
#include "replication/syncrep.h"
#include "tcop/utility.h"
#include "utility.h"

static ProcessUtility_hook_type next_hook = NULL;

static void
refuse_tablespace(const char *command)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is not supported", command),
			 errdetail("Relations are stored by the page server, not in folders of this machine."),
			 errhint("Leave tablespaces out: all relations go to \"pg_default\".")));
}

static DefElem *
find_option(List *options, const char *name)
{
	foreach_node(DefElem, option, options)
	{
		if (strcmp(option->defname, name) == 0)
			return option;
	}
	return NULL;
}

/* Returns the statement to run instead, or the same one. */
static PlannedStmt *
without_file_copy(PlannedStmt *pstmt)
{
	DefElem    *strategy;

	strategy = find_option(castNode(CreatedbStmt, pstmt->utilityStmt)->options, "strategy");
	if (strategy == NULL || pg_strcasecmp(defGetString(strategy), "file_copy") != 0)
		return pstmt;

	ereport(NOTICE,
			(errmsg("strategy FILE_COPY is replaced by WAL_LOG"),
			 errdetail("Relations are stored by the page server and have no files to copy.")));
	pstmt = copyObject(pstmt);
	strategy = find_option(castNode(CreatedbStmt, pstmt->utilityStmt)->options, "strategy");
	strategy->arg = (Node *) makeString(pstrdup("wal_log"));
	return pstmt;
}

static void
process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	Oid			dropped = InvalidOid;
	bool		checkpoint = IsA(pstmt->utilityStmt, CheckPointStmt);

	switch (nodeTag(pstmt->utilityStmt))
	{
		case T_CreateTableSpaceStmt:
			refuse_tablespace("CREATE TABLESPACE");
			break;
		case T_AlterDatabaseStmt:
			if (find_option(castNode(AlterDatabaseStmt, pstmt->utilityStmt)->options, "tablespace"))
				refuse_tablespace("ALTER DATABASE SET TABLESPACE");
			break;
		case T_CreatedbStmt:
			pstmt = without_file_copy(pstmt);
			break;
		case T_DropdbStmt:
			dropped = get_database_oid(castNode(DropdbStmt, pstmt->utilityStmt)->dbname, true);
			break;
		default:
			break;
	}

	if (next_hook)
		next_hook(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context, params,
								query_env, dest, qc);

	/* its files and buffers are gone, whether or not the transaction commits */
	if (OidIsValid(dropped))
	{
		relsize_forget_database(dropped);
		file_cache_drop_database(dropped);
		local_pages_drop_database(dropped);
	}
	if (checkpoint && !RecoveryInProgress())
	{
		HOLD_INTERRUPTS();
		SyncRepWaitForLSN(GetXLogWriteRecPtr(), false);
		RESUME_INTERRUPTS();
	}
}

void
utility_install(void)
{
	next_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
