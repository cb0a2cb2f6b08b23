/*-------------------------------------------------------------------------
 *
 * aux_file.h
 *	  Files of the data folder that travel in the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_AUX_FILE_H
#define OGEL_AUX_FILE_H

#include "access/xlogdefs.h"
#include "lib/stringinfo.h"

/* a record under construction: all its files change together */
extern void aux_files_begin(StringInfo record);
extern void aux_files_put(StringInfo record, const char *path, const char *content, size_t size);
extern void aux_files_remove(StringInfo record, const char *path);
extern XLogRecPtr aux_files_log(StringInfo record);

/* false when there is no such file, or one that is too large */
extern bool aux_files_read(const char *name, StringInfo content);

#endif							/* OGEL_AUX_FILE_H */
