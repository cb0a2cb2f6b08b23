/*-------------------------------------------------------------------------
 *
 * page_protocol.c
 *	  Encoding and decoding of page service messages.
 *
 * Numbers are big-endian.  Request:
 *
 *		tag u8 | id u64 | request_lsn u64 | not_modified_since u64 | fields | CRC-32C u32
 *
 * Answer:
 *
 *		tag u8 | id u64 | lsn u64 | fields | CRC-32C u32
 *
 * The checksum covers all that comes before it.  Without it a bit that flips
 * on the way could make the page of another block, or of no block at all, out
 * of an answer: TCP's own sum misses one such packet in some thousands.
 *
 * Answers are not trusted: every size is checked before it is used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "crc_lanes.h"
#include "page_protocol.h"
#include "port/pg_bswap.h"

static char *
put_u32(char *at, uint32 value)
{
	value = pg_hton32(value);
	memcpy(at, &value, sizeof(value));
	return at + sizeof(value);
}

static char *
put_u64(char *at, uint64 value)
{
	value = pg_hton64(value);
	memcpy(at, &value, sizeof(value));
	return at + sizeof(value);
}

static pg_crc32c
checksum_of(const char *data, size_t size)
{
	pg_crc32c	checksum;

	INIT_CRC32C(checksum);
	checksum = crc_lanes(checksum, data, size);
	FIN_CRC32C(checksum);
	return checksum;
}

/* Writes what comes before the checksum; returns its size. */
static int
encode_fields(const PageRequest *request, char *buffer)
{
	char	   *at = buffer;

	*at++ = (char) request->tag;
	at = put_u64(at, request->id);
	at = put_u64(at, request->request_lsn);
	at = put_u64(at, request->not_modified_since);
	at = put_u32(at, request->fork.spcOid);
	at = put_u32(at, request->fork.dbOid);
	if (request->tag == PAGE_TAG_DATABASE_SIZE)
		return at - buffer;

	at = put_u32(at, request->fork.relNumber);
	*at++ = (char) request->fork.fork;
	if (request->tag == PAGE_TAG_GET_PAGES)
	{
		Assert(request->nblocks >= 1 && request->nblocks <= MAX_PAGES_PER_REQUEST);
		*at++ = (char) (request->nblocks >> 8);
		*at++ = (char) (request->nblocks & 0xFF);
		for (int i = 0; i < request->nblocks; i++)
			at = put_u32(at, request->blocks[i]);
	}
	return at - buffer;
}

/* Returns the number of bytes written, at most PAGE_REQUEST_MAX_SIZE. */
int
page_request_encode(const PageRequest *request, char *buffer)
{
	int			size = encode_fields(request, buffer);

	put_u32(buffer + size, checksum_of(buffer, size));
	return size + sizeof(uint32);
}

/* What is left of an answer while it is read */
typedef struct Reader
{
	const char *at;
	size_t		left;
	bool		short_of_data;
} Reader;

static uint64
take(Reader *reader, int bytes)
{
	uint64		value = 0;

	if (reader->left < bytes)
	{
		reader->short_of_data = true;
		return 0;
	}
	for (int i = 0; i < bytes; i++)
		value = (value << 8) | (uint8) reader->at[i];
	reader->at += bytes;
	reader->left -= bytes;
	return value;
}

/*
 * False when the bytes are not an answer of this protocol.  The payload of
 * the result points into data.
 */
bool
page_answer_decode(const char *data, size_t size, PageAnswer *answer)
{
	Reader		reader = {data, size, false};
	uint32		checksum;

	memset(answer, 0, sizeof(*answer));
	if (size < sizeof(checksum))
		return false;
	reader.left -= sizeof(checksum);
	memcpy(&checksum, data + reader.left, sizeof(checksum));
	if (pg_ntoh32(checksum) != checksum_of(data, reader.left))
		return false;
	answer->tag = take(&reader, 1);
	answer->id = take(&reader, 8);
	answer->lsn = take(&reader, 8);

	switch (answer->tag)
	{
		case PAGE_ANSWER_TAG(PAGE_TAG_NBLOCKS):
			answer->nblocks = take(&reader, 4);
			break;
		case PAGE_ANSWER_TAG(PAGE_TAG_GET_PAGES):
			answer->nblocks = take(&reader, 2);
			if (reader.left != (size_t) answer->nblocks * BLCKSZ)
				return false;
			break;
		case PAGE_ANSWER_TAG(PAGE_TAG_DATABASE_SIZE):
			answer->size_bytes = take(&reader, 8);
			break;
		case PAGE_TAG_ERROR:
			answer->error_code = take(&reader, 1);
			break;
		default:
			return false;
	}
	if (reader.short_of_data)
		return false;

	answer->payload = reader.at;
	answer->payload_size = reader.left;
	return answer->tag == PAGE_ANSWER_TAG(PAGE_TAG_GET_PAGES) ||
		answer->tag == PAGE_TAG_ERROR || reader.left == 0;
}
