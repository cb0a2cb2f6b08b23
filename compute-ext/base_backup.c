/*-------------------------------------------------------------------------
 *
 * base_backup.c
 *	  A copy of the data folder is no backup, and nobody shall take it for
 *	  one.
 *
 * The folder holds no relations, so that pg_basebackup would succeed quickly
 * and leave a cluster without a single table, which is found out on the day
 * when it is needed.
 *
 * Low-level backups begin with pg_backup_start(), whose execution is refused.
 * The replication command BASE_BACKUP passes no hook.  It reads every file of
 * the folder, though, and fails for good at one that it may not open: the
 * server puts such a file there, whose name is the explanation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base_backup.h"
#include "catalog/objectaccess.h"
#include "storage/fd.h"
#include "utils/fmgroids.h"

/* The error that a client sees is: could not open file "./NAME": Permission denied */
#define REFUSAL_FILE	"this_folder_holds_no_tables_use_pg_dump"

static object_access_hook_type next_hook = NULL;

static void
refuse_backup(ObjectAccessType access, Oid classId, Oid objectId, int subId, void *arg)
{
	if (next_hook)
		next_hook(access, classId, objectId, subId, arg);
	if (access == OAT_FUNCTION_EXECUTE && objectId == F_PG_BACKUP_START)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("base backups are not supported"),
				 errdetail("The data folder holds no relations: they are stored by the page server."),
				 errhint("Make a branch, or use pg_dump.")));
}

void
base_backup_install(void)
{
	next_hook = object_access_hook;
	object_access_hook = refuse_backup;
}

/* Runs in the postmaster, in the data folder. */
void
base_backup_refuse(void)
{
	int			fd = open(REFUSAL_FILE, O_CREAT | O_RDONLY, 0);

	/* a file that is there may not be opened: that is what it is for */
	if (fd < 0 && errno != EACCES)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", REFUSAL_FILE)));
	if (fd >= 0)
		close(fd);
}
