/*-------------------------------------------------------------------------
 *
 * aux_file.c
 *	  Files of the data folder that travel in the WAL.
 *
 * The data folder is disposable, so what PostgreSQL keeps in files of its own
 * (replication slots, statistics) goes into the WAL as well, as logical
 * messages; the page server keeps the files and puts them into the next
 * server's data folder.  The bytes are described in docs/formats.md.
 *
 * The messages belong to no database: neither can SQL make such a message,
 * nor does logical decoding show it to anybody.  Replay of stock PostgreSQL
 * does nothing with them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xloginsert.h"
#include "aux_file.h"
#include "common/pg_lzcompress.h"
#include "replication/message.h"
#include "storage/fd.h"

#define MESSAGE_VERSION		1
#define ENTRY_REMOVE		0
#define ENTRY_PUT			1
#define CONTENT_RAW			0
#define CONTENT_PGLZ		1

/* What the page server unpacks at most */
#define MAX_CONTENT_SIZE	(64 * 1024 * 1024)

static char message_prefix[] = "ogel-file:";

static void
append_number(StringInfo record, uint32 number, int nbytes)
{
	for (int i = 0; i < nbytes; i++)
		appendStringInfoCharMacro(record, (char) ((number >> (8 * i)) & 0xFF));
}

static void
append_entry(StringInfo record, int kind, const char *path)
{
	append_number(record, kind, 1);
	append_number(record, strlen(path), 2);
	appendStringInfoString(record, path);
}

void
aux_files_begin(StringInfo record)
{
	initStringInfo(record);
	append_number(record, MESSAGE_VERSION, 1);
}

void
aux_files_put(StringInfo record, const char *path, const char *content, size_t size)
{
	char	   *packed = palloc(PGLZ_MAX_OUTPUT(size));
	int32		packed_size = pglz_compress(content, size, packed, PGLZ_strategy_default);

	append_entry(record, ENTRY_PUT, path);
	append_number(record, 5 + (packed_size < 0 ? size : packed_size), 4);
	append_number(record, packed_size < 0 ? CONTENT_RAW : CONTENT_PGLZ, 1);
	append_number(record, size, 4);
	if (packed_size < 0)
		appendBinaryStringInfo(record, content, size);
	else
		appendBinaryStringInfo(record, packed, packed_size);
	pfree(packed);
}

void
aux_files_remove(StringInfo record, const char *path)
{
	append_entry(record, ENTRY_REMOVE, path);
}

/* Frees the record. */
XLogRecPtr
aux_files_log(StringInfo record)
{
	xl_logical_message header;
	XLogRecPtr	lsn;

	memset(&header, 0, sizeof(header));
	header.dbId = InvalidOid;
	header.transactional = false;
	header.prefix_size = sizeof(message_prefix);
	header.message_size = record->len;

	XLogBeginInsert();
	XLogRegisterData((char *) &header, SizeOfLogicalMessage);
	XLogRegisterData(message_prefix, sizeof(message_prefix));
	XLogRegisterData(record->data, record->len);
	lsn = XLogInsert(RM_LOGICALMSG_ID, XLOG_LOGICAL_MESSAGE);
	pfree(record->data);
	return lsn;
}

bool
aux_files_read(const char *name, StringInfo content)
{
	struct stat st;
	FILE	   *file = AllocateFile(name, PG_BINARY_R);

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not open file \"%s\": %m", name)));
		return false;
	}
	if (fstat(fileno(file), &st) != 0 || st.st_size > MAX_CONTENT_SIZE)
	{
		ereport(LOG,
				(errmsg("file \"%s\" is too large to be kept for the next server", name)));
		FreeFile(file);
		return false;
	}
	initStringInfo(content);
	enlargeStringInfo(content, st.st_size);
	content->len = fread(content->data, 1, st.st_size, file);
	if (content->len != st.st_size)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", name)));
		pfree(content->data);
		FreeFile(file);
		return false;
	}
	FreeFile(file);
	return true;
}
