/*-------------------------------------------------------------------------
 *
 * cache_file.c
 *	  The file of the file cache.
 *
 * Where which page lies is file_cache.c's business.  The file is of this
 * server's life only and never synced; each process has it open for itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "cache_file.h"
#include "crc_lanes.h"
#include "storage/fd.h"
#include "utils/wait_event.h"

#define CACHE_FILE		"ogel_file_cache"

static int	file = -1;			/* this process's descriptor */
static uint32 wait_read = 0;
static uint32 wait_write = 0;

void
cache_file_prepare(void)
{
	if (wait_read == 0)
	{
		wait_write = WaitEventExtensionNew("OgelFileCacheWrite");
		wait_read = WaitEventExtensionNew("OgelFileCacheRead");
	}
}

void
cache_file_remove(void)
{
	if (unlink(CACHE_FILE) != 0 && errno != ENOENT)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", CACHE_FILE),
				 errdetail("It holds pages of an earlier server.")));
}

static bool
is_open(void)
{
	if (file < 0)
	{
		file = BasicOpenFile(CACHE_FILE, O_RDWR | O_CREAT | PG_BINARY);
		if (file >= 0)
			ReserveExternalFD();
	}
	return file >= 0;
}

int
cache_file_read(off_t offset, struct iovec *pages, int npages)
{
	ssize_t		nread;

	if (!is_open())
		return 0;
	pgstat_report_wait_start(wait_read);
	nread = pg_preadv(file, pages, npages, offset);
	pgstat_report_wait_end();
	return nread < 0 ? 0 : nread / BLCKSZ;
}

int
cache_file_write(off_t offset, struct iovec *pages, int npages)
{
	ssize_t		nwritten;

	if (!is_open())
		return 0;
	pgstat_report_wait_start(wait_write);
	nwritten = pg_pwritev(file, pages, npages, offset);
	pgstat_report_wait_end();
	return nwritten < 0 ? 0 : nwritten / BLCKSZ;
}

bool
cache_file_cut(off_t size)
{
	return is_open() && ftruncate(file, size) == 0;
}

pg_crc32c
cache_file_checksum(const RelFork *key, BlockNumber blocknum, const void *page)
{
	pg_crc32c	checksum;

	INIT_CRC32C(checksum);
	COMP_CRC32C(checksum, key, sizeof(RelFork));
	COMP_CRC32C(checksum, &blocknum, sizeof(blocknum));
	checksum = crc_lanes(checksum, page, BLCKSZ);
	FIN_CRC32C(checksum);
	return checksum;
}
