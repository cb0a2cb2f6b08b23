/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  Settings of the extension.
 *
 * What names the branch (tenant, timeline, term, start LSN) is fixed for the
 * life of the server and given on its command line, where ALTER SYSTEM cannot
 * reach it.  The address of the page server may change while running, so that
 * a tenant can move.  There are no secrets here: every superuser can read
 * settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "guc.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"

char		ogel_page_server[MAX_ADDRESS_SIZE] = "";
static char *page_server_setting = NULL;
char	   *ogel_tenant = NULL;
char	   *ogel_timeline = NULL;
char	   *ogel_term = NULL;
XLogRecPtr	ogel_start_lsn = InvalidXLogRecPtr;
int			ogel_page_server_timeout = 0;
int			ogel_request_timeout = 30000;
int			ogel_relsize_cache_size = 65536;
int			ogel_lwlsn_cache_size = 131072;
int			ogel_file_cache_max_size = -1;
int			ogel_file_cache_size = 512;
int			ogel_readahead = 64;
int			ogel_max_apply_lag = 512;
int			ogel_state_save_interval = 300;

uint32		ogel_page_server_generation = 0;

static char *start_lsn_text = NULL;

/*
 * Splits "host:port"; an IPv6 address stands in brackets.  False when the
 * text is not of that form or a part does not fit.
 */
static bool
split_address(const char *address, char *host, size_t hostsize,
			  char *port, size_t portsize)
{
	const char *colon = strrchr(address, ':');
	const char *begin = address;
	size_t		len;
	char	   *end;
	long		number;

	if (colon == NULL)
		return false;
	len = colon - address;
	if (address[0] == '[')
	{
		if (len < 3 || address[len - 1] != ']')
			return false;
		begin++;
		len -= 2;
	}
	if (len == 0 || len >= hostsize)
		return false;
	number = strtol(colon + 1, &end, 10);
	if (end == colon + 1 || *end != '\0' || number < 1 || number > 65535)
		return false;

	memcpy(host, begin, len);
	host[len] = '\0';
	return snprintf(port, portsize, "%ld", number) < (int) portsize;
}

bool
page_server_address(char *host, size_t hostsize, char *port, size_t portsize)
{
	return split_address(ogel_page_server, host, hostsize, port, portsize);
}

static bool
check_page_server(char **newval, void **extra, GucSource source)
{
	char		host[256];
	char		port[8];

	if (**newval == '\0')
		return true;
	if (strlen(*newval) >= MAX_ADDRESS_SIZE ||
		!split_address(*newval, host, sizeof(host), port, sizeof(port)))
	{
		GUC_check_errdetail("The address must have the form \"host:port\".");
		GUC_check_errhint("Write an IPv6 address in brackets: \"[::1]:6400\".");
		return false;
	}
	return true;
}

/*
 * A parallel worker sets every variable to its default before it takes over
 * its leader's values, and check hooks of variables that come first read
 * catalogs.  So an empty value never replaces an address: the server either
 * has one from its start on or never gets one.
 */
static void
assign_page_server(const char *newval, void *extra)
{
	if (*newval == '\0' || strcmp(newval, ogel_page_server) == 0)
		return;
	strlcpy(ogel_page_server, newval, sizeof(ogel_page_server));
	ogel_page_server_generation++;
}

static bool
check_id(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0')
		return true;
	if (strlen(*newval) != 32 ||
		strspn(*newval, "0123456789abcdefABCDEF") != 32)
	{
		GUC_check_errdetail("An id consists of 32 hexadecimal digits.");
		return false;
	}
	return true;
}

static bool
check_term(char **newval, void **extra, GucSource source)
{
	size_t		len = strlen(*newval);

	if (len > 19 || strspn(*newval, "0123456789") != len)
	{
		GUC_check_errdetail("A term is a decimal number of at most 19 digits.");
		return false;
	}
	return true;
}

static bool
check_start_lsn(char **newval, void **extra, GucSource source)
{
	XLogRecPtr *lsn;
	bool		failed = false;

	lsn = guc_malloc(LOG, sizeof(XLogRecPtr));
	if (lsn == NULL)
		return false;
	*lsn = InvalidXLogRecPtr;
	if (**newval != '\0')
		*lsn = pg_lsn_in_internal(*newval, &failed);
	if (failed)
	{
		guc_free(lsn);
		GUC_check_errdetail("An LSN has the form \"0/16B3740\".");
		return false;
	}
	*extra = lsn;
	return true;
}

static void
assign_start_lsn(const char *newval, void *extra)
{
	ogel_start_lsn = *(XLogRecPtr *) extra;
}

static void
define_identity(void)
{
	DefineCustomStringVariable("ogel.page_server",
							   "Address of the page server, \"host:port\".",
							   "Empty at server start: all relations are local files.",
							   &page_server_setting, "", PGC_SIGHUP, 0,
							   check_page_server, assign_page_server, NULL);
	DefineCustomStringVariable("ogel.tenant",
							   "Id of the tenant.", NULL,
							   &ogel_tenant, "", PGC_POSTMASTER, 0,
							   check_id, NULL, NULL);
	DefineCustomStringVariable("ogel.timeline",
							   "Id of the timeline (branch).", NULL,
							   &ogel_timeline, "", PGC_POSTMASTER, 0,
							   check_id, NULL, NULL);
	DefineCustomStringVariable("ogel.term",
							   "Term in which this server was elected.", NULL,
							   &ogel_term, "", PGC_POSTMASTER, 0,
							   check_term, NULL, NULL);
	DefineCustomStringVariable("ogel.start_lsn",
							   "Position at which this server's own WAL begins.",
							   "Every page read waits until the page server has WAL up to here.",
							   &start_lsn_text, "", PGC_POSTMASTER, 0,
							   check_start_lsn, assign_start_lsn, NULL);
}

static void
define_limits(void)
{
	DefineCustomIntVariable("ogel.page_server_timeout",
							"Longest wait for a page server that does not answer.",
							"0 waits until it answers or the statement is canceled.",
							&ogel_page_server_timeout, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("ogel.request_timeout",
							"Silence of the page server after which a request is sent again on a new connection.",
							NULL,
							&ogel_request_timeout, 30000, 100, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("ogel.relsize_cache_size",
							"Relation forks whose size is kept in shared memory.",
							NULL,
							&ogel_relsize_cache_size, 65536, 1024, 64 * 1024 * 1024,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("ogel.lwlsn_cache_size",
							"Page ranges whose last-written LSN is kept in shared memory.",
							NULL,
							&ogel_lwlsn_cache_size, 131072, 1024, 64 * 1024 * 1024,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("ogel.file_cache_max_size",
							"Largest size to which the local file cache can be set while the server runs.",
							"0 means that there is no file cache; -1 twice its size at start, or 1GB if that is more.  Takes 0.4 percent of it in shared memory.",
							&ogel_file_cache_max_size, -1, -1, LARGEST_FILE_CACHE_MB,
							PGC_POSTMASTER, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("ogel.file_cache_size",
							"Size of the local file cache, in steps of a sixteenth of \"ogel.file_cache_max_size\".",
							"0 turns it off.",
							&ogel_file_cache_size, 512, 0, LARGEST_FILE_CACHE_MB,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("ogel.readahead",
							"Blocks asked for ahead of a sequential scan or an index scan.",
							"0 turns readahead off.",
							&ogel_readahead, 64, 0, MAX_READAHEAD,
							PGC_USERSET, GUC_UNIT_BLOCKS, NULL, NULL, NULL);
	DefineCustomIntVariable("ogel.max_apply_lag",
							"WAL that may be written ahead of the page server before writers are slowed down.",
							"0 means no limit.",
							&ogel_max_apply_lag, 512, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("ogel.state_save_interval",
							"Time between saves of statistics and free space for the case that the server is killed.",
							"They are saved whenever it is stopped.",
							&ogel_state_save_interval, 300, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

void
guc_define(void)
{
	define_identity();
	define_limits();
	MarkGUCPrefixReserved("ogel");
}
