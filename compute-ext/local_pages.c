/*-------------------------------------------------------------------------
 *
 * local_pages.c
 *	  The spill: pages whose only copy is on this server's disk.
 *
 * Some pages are changed without WAL and cannot come back from the page
 * server: the free space map, and indexes under construction whose builders
 * log everything at the end (GIN, GiST, SP-GiST).  When such a page leaves
 * the buffer pool it is kept here until a version with a real LSN is written.
 * Its loss with the server loses nothing: an unfinished build belongs to a
 * transaction that cannot commit, and free space maps are hints.
 *
 * Each fork with such pages has a sparse file, block n at its natural offset:
 *
 *		ogel_spill/<database>/<tablespace>.<relation>.<fork>
 *
 * A hole (all zeros) means "not here", since only initialized pages come
 * here.  So there is no index to keep in memory and no bound on the number of
 * pages but the disk.  All a process needs before a read is whether the fork
 * may have a file: the shared counters say how many files hash to a slot, and
 * zero, the usual answer, spares the system call.
 *
 * The buffer manager excludes a read and a write of one page at a time, and
 * drops buffers before it truncates or unlinks, so there are no locks here.
 * Files are opened for each access: they are few and rarely touched, and no
 * process can be left with a descriptor of a removed file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "common/file_utils.h"
#include "common/hashfn.h"
#include "local_pages.h"
#include "port/atomics.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#define SPILL_DIR		"ogel_spill"
#define NCOUNTERS		16384	/* power of two */

/* Enough for four numbers of 10 digits */
#define SPILL_PATH_LEN	96

typedef struct SpillCounters
{
	pg_atomic_uint32 files[NCOUNTERS];
} SpillCounters;

static SpillCounters *counters = NULL;

Size
local_pages_shmem_size(void)
{
	return sizeof(SpillCounters);
}

/*
 * The folder is emptied: what an earlier server left belongs to a state of
 * the branch that may be gone.  Runs in the postmaster, in the data folder.
 */
void
local_pages_shmem_init(void)
{
	bool		found;

	counters = ShmemInitStruct("ogel spill", sizeof(SpillCounters), &found);
	if (found)
		return;
	for (int i = 0; i < NCOUNTERS; i++)
		pg_atomic_init_u32(&counters->files[i], 0);

	if (access(SPILL_DIR, F_OK) == 0 && !rmtree(SPILL_DIR, true))
		ereport(FATAL,
				(errmsg("could not empty directory \"%s\"", SPILL_DIR),
				 errdetail("Pages of an earlier server would be taken for current ones."),
				 errhint("Remove the directory.")));
	if (MakePGDirectory(SPILL_DIR) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", SPILL_DIR)));
}

static pg_atomic_uint32 *
counter_of(const RelFork *key)
{
	uint32		hash = hash_bytes((const unsigned char *) key, sizeof(RelFork));

	return &counters->files[hash & (NCOUNTERS - 1)];
}

static bool
may_exist(const RelFork *key)
{
	return pg_atomic_read_u32(counter_of(key)) > 0;
}

static void
spill_path(const RelFork *key, char *path)
{
	snprintf(path, SPILL_PATH_LEN, SPILL_DIR "/%u/%u.%u.%d",
			 key->dbOid, key->spcOid, key->relNumber, key->fork);
}

static off_t
offset_of(BlockNumber blocknum)
{
	return (off_t) blocknum * BLCKSZ;
}

/* Opens the fork's file; -1 when there is none. */
static int
open_existing(const RelFork *key)
{
	char		path[SPILL_PATH_LEN];
	int			fd;

	spill_path(key, path);
	fd = BasicOpenFile(path, O_RDWR | PG_BINARY);
	if (fd < 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

static int
open_or_create(const RelFork *key)
{
	char		path[SPILL_PATH_LEN];
	char		dir[SPILL_PATH_LEN];
	int			fd = open_existing(key);

	if (fd >= 0)
		return fd;

	snprintf(dir, sizeof(dir), SPILL_DIR "/%u", key->dbOid);
	if (MakePGDirectory(dir) != 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", dir)));

	spill_path(key, path);
	fd = BasicOpenFile(path, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);
	if (fd >= 0)
	{
		/* nobody needs to see the file before its first page is written */
		pg_atomic_fetch_add_u32(counter_of(key), 1);
		return fd;
	}
	if (errno == EEXIST)
		fd = open_existing(key);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	return fd;
}

/* Closes fd and reports a failed access to the fork's file. */
static void pg_attribute_noreturn()
report_failure(int fd, const RelFork *key, const char *what, BlockNumber blocknum)
{
	char		path[SPILL_PATH_LEN];
	int			save_errno = errno;

	close(fd);
	errno = save_errno;
	spill_path(key, path);
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s block %u in file \"%s\": %m", what, blocknum, path),
			 save_errno == ENOSPC ? errhint("Check free disk space.") : 0));
	pg_unreachable();
}

void
local_pages_write(const RelFork *key, BlockNumber blocknum, const void *page)
{
	int			fd = open_or_create(key);
	ssize_t		written;

	errno = 0;
	written = pg_pwrite(fd, page, BLCKSZ, offset_of(blocknum));
	if (written != BLCKSZ)
	{
		if (errno == 0)
			errno = ENOSPC;
		report_failure(fd, key, "write", blocknum);
	}
	close(fd);
}

/* False, with the page untouched or zeroed, when it is not here. */
bool
local_pages_read(const RelFork *key, BlockNumber blocknum, void *page)
{
	int			fd;
	ssize_t		nread;

	if (!may_exist(key) || (fd = open_existing(key)) < 0)
		return false;
	nread = pg_pread(fd, page, BLCKSZ, offset_of(blocknum));
	if (nread < 0)
		report_failure(fd, key, "read", blocknum);
	close(fd);
	return nread == BLCKSZ && !PageIsNew((Page) page);
}

/* Turns the blocks into a hole: newer versions of them are elsewhere. */
void
local_pages_drop(const RelFork *key, BlockNumber blocknum, BlockNumber nblocks)
{
	struct stat st;
	off_t		begin = offset_of(blocknum);
	off_t		end = begin + (off_t) nblocks * BLCKSZ;
	int			fd;

	if (!may_exist(key) || (fd = open_existing(key)) < 0)
		return;
	if (fstat(fd, &st) != 0)
		report_failure(fd, key, "find", blocknum);
	end = Min(end, st.st_size);
	if (begin < end)
	{
		bool		punched = false;

#ifdef FALLOC_FL_PUNCH_HOLE
		punched = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
							begin, end - begin) == 0;
#endif
		if (!punched && pg_pwrite_zeros(fd, end - begin, begin) != end - begin)
			report_failure(fd, key, "clear", blocknum);
	}
	close(fd);
}

/*
 * May run in a critical section, where a failure stops the server: pages of
 * the time before the truncation must not come back.
 */
void
local_pages_truncate(const RelFork *key, BlockNumber nblocks)
{
	struct stat st;
	int			fd;

	if (!may_exist(key) || (fd = open_existing(key)) < 0)
		return;
	if (fstat(fd, &st) != 0 ||
		(st.st_size > offset_of(nblocks) && ftruncate(fd, offset_of(nblocks)) != 0))
		report_failure(fd, key, "truncate at", nblocks);
	close(fd);
}

void
local_pages_unlink(const RelFork *key)
{
	char		path[SPILL_PATH_LEN];

	if (!may_exist(key))
		return;
	spill_path(key, path);
	if (unlink(path) == 0)
		pg_atomic_fetch_sub_u32(counter_of(key), 1);
	else if (errno != ENOENT)
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/* Counters stay: too high a count only costs a system call. */
void
local_pages_drop_database(Oid dbOid)
{
	char		dir[SPILL_PATH_LEN];

	snprintf(dir, sizeof(dir), SPILL_DIR "/%u", dbOid);
	if (access(dir, F_OK) == 0 && !rmtree(dir, true))
		ereport(WARNING,
				(errmsg("some useless files may be left behind in directory \"%s\"", dir)));
}

static void
visit_database(const char *name, local_pages_visitor visitor)
{
	char		path[MAXPGPATH];
	DIR		   *dir;
	struct dirent *entry;

	snprintf(path, sizeof(path), SPILL_DIR "/%s", name);
	dir = AllocateDir(path);
	while ((entry = ReadDirExtended(dir, path, DEBUG1)) != NULL)
	{
		RelFork		key;
		struct stat st;
		char		file[MAXPGPATH * 2];

		if (sscanf(entry->d_name, "%u.%u.%d", &key.spcOid, &key.relNumber, &key.fork) != 3)
			continue;
		key.dbOid = (Oid) strtoul(name, NULL, 10);
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		if (stat(file, &st) == 0)
			visitor(&key, st.st_size / BLCKSZ);
	}
	FreeDir(dir);
}

/* Files that come or go meanwhile may or may not be visited. */
void
local_pages_visit(local_pages_visitor visitor)
{
	DIR		   *dir = AllocateDir(SPILL_DIR);
	struct dirent *entry;

	while ((entry = ReadDirExtended(dir, SPILL_DIR, LOG)) != NULL)
		if (entry->d_name[0] != '.')
			visit_database(entry->d_name, visitor);
	FreeDir(dir);
}
