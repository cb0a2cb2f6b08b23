/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  Settings of the extension, all under the prefix "ogel.".
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_GUC_H
#define OGEL_GUC_H

#include "access/xlogdefs.h"

/* Room for "host:port" */
#define MAX_ADDRESS_SIZE	272

/* Of the settings for the file cache */
#define LARGEST_FILE_CACHE_MB	(16 * 1024 * 1024)
/* Blocks */
#define MAX_READAHEAD		128

extern char ogel_page_server[MAX_ADDRESS_SIZE];
extern char *ogel_tenant;
extern char *ogel_timeline;
extern char *ogel_term;
extern XLogRecPtr ogel_start_lsn;
extern int	ogel_page_server_timeout;	/* ms, 0 = wait for ever */
extern int	ogel_request_timeout;	/* ms */
extern int	ogel_relsize_cache_size;	/* entries */
extern int	ogel_lwlsn_cache_size;	/* entries */
extern int	ogel_file_cache_max_size;	/* MB, 0 = no cache; settled when shared memory is requested */
extern int	ogel_file_cache_size;	/* MB */
extern int	ogel_readahead;		/* blocks, 0 = off */
extern int	ogel_max_apply_lag;		/* MB, 0 = no limit */
extern int	ogel_state_save_interval;	/* s */

/* Grows whenever the address of the page server changed */
extern uint32 ogel_page_server_generation;

extern void guc_define(void);
extern bool page_server_address(char *host, size_t hostsize,
								char *port, size_t portsize);

#endif							/* OGEL_GUC_H */
