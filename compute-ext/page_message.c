/*-------------------------------------------------------------------------
 *
 * page_message.c
 *	  Memory for the answers of the page server.
 *
 * An answer of many pages is half a megabyte, and a scan gets one after the
 * other: given back to the system each time, such memory would be mapped and
 * filled with zeros again for each of them.  So a few large blocks are kept.
 *
 * The pages of an answer begin aligned, since they are copied from here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "page_message.h"
#include "page_protocol.h"

/* Smaller ones are left to malloc() */
#define SMALLEST_KEPT	(64 * 1024)
#define LARGEST_KEPT	((size_t) 2 * 1024 * 1024)	/* all together */

#define DATA_OFFSET		(64 - PAGE_ANSWER_HEAD_SIZE)

/* The message lies DATA_OFFSET behind its beginning */
typedef struct Block
{
	struct Block *next;			/* while it is kept */
	size_t		size;			/* for the message */
} Block;

StaticAssertDecl(sizeof(Block) <= DATA_OFFSET, "the message lies behind the block's head");

static Block *kept = NULL;
static size_t kept_size = 0;

/* A block of the size or more, but not so much that another could use it better. */
static Block *
take_kept(size_t size)
{
	for (Block **link = &kept; *link != NULL; link = &(*link)->next)
	{
		Block	   *block = *link;

		if (block->size < size || block->size / 4 > size)
			continue;
		*link = block->next;
		kept_size -= block->size;
		return block;
	}
	return NULL;
}

char *
page_message_alloc(size_t size)
{
	Block	   *block = NULL;

	if (size >= SMALLEST_KEPT)
	{
		size = TYPEALIGN(SMALLEST_KEPT, size);
		block = take_kept(size);
	}
	if (block == NULL)
	{
		block = malloc(DATA_OFFSET + size);
		if (block == NULL)
			return NULL;
		block->size = size;
	}
	return (char *) block + DATA_OFFSET;
}

void
page_message_free(char *message)
{
	Block	   *block = (Block *) (message - DATA_OFFSET);

	if (block->size < SMALLEST_KEPT || kept_size + block->size > LARGEST_KEPT)
	{
		free(block);
		return;
	}
	block->next = kept;
	kept = block;
	kept_size += block->size;
}
