/*-------------------------------------------------------------------------
 *
 * unlogged_state.c
 *	  Pages that are ahead of their WAL: free space maps and sequences.
 *
 * The free space map is not in the WAL, and a sequence's page is behind its
 * WAL, which claims values in advance.  So that the next server neither makes
 * tables grow nor skips values, their pages are logged as images: free space
 * now and then, sequences once, when the server stops.
 *
 * Changed pages are where changed pages are: dirty in the buffer pool, or in
 * the spill, to which both kinds always go when they leave it.  Nothing is
 * asked of the page server here, so that a stop cannot wait for it.
 *
 * Free space is logged without a lock on the relation, which may be dropped
 * at the same time; the page server ignores maps of relations that are gone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xloginsert.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "local_pages.h"
#include "lwlsn.h"
#include "miscadmin.h"
#include "relsize.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/fsm_internals.h"
#include "unlogged_state.h"
#include "utils/hsearch.h"

/* Images remembered; beyond it everything is forgotten and logged again */
#define MAX_LOGGED_PAGES	(1024 * 1024)

typedef struct PageKey
{
	RelFork		fork;
	BlockNumber block;
} PageKey;

typedef struct LoggedPage
{
	PageKey		key;
	uint64		content;		/* hash of what was logged last */
} LoggedPage;

static HTAB *logged_pages = NULL;

static RelFileLocator
locator_of(const RelFork *key)
{
	RelFileLocator rlocator = {key->spcOid, key->dbOid, key->relNumber};

	return rlocator;
}

/*
 * Is it worth logging?  The slot at which the next search begins moves with
 * every search and does not count.
 */
static bool
free_space_is_news(const PageKey *key, const char *page)
{
	LoggedPage *entry;
	bool		found;
	size_t		begin = MAXALIGN(SizeOfPageHeaderData) + offsetof(FSMPageData, fp_nodes);
	uint64		content = hash_bytes_extended((const unsigned char *) page + begin,
											  BLCKSZ - begin, 0);

	if (logged_pages != NULL && hash_get_num_entries(logged_pages) >= MAX_LOGGED_PAGES)
	{
		hash_destroy(logged_pages);
		logged_pages = NULL;
	}
	if (logged_pages == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(PageKey),.entrysize = sizeof(LoggedPage)};

		logged_pages = hash_create("ogel logged pages", 1024, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(logged_pages, key, HASH_ENTER, &found);
	if (found && entry->content == content)
		return false;
	entry->content = content;
	return true;
}

/* The page is a copy. */
static void
log_free_space_page(const RelFork *fork, BlockNumber block, char *page)
{
	PageKey		key = {*fork, block};
	RelFileLocator rlocator = locator_of(fork);
	XLogRecPtr	lsn;

	if (PageIsNew((Page) page) || !free_space_is_news(&key, page))
		return;
	lsn = log_newpage(&rlocator, FSM_FORKNUM, block, page, false);
	lwlsn_set_page(fork, block, lsn);
	lwlsn_set_size(fork, lsn);
	relsize_page_logged(fork, block);
}

static void
log_sequence(const RelFork *fork)
{
	Buffer		buffer = ReadBufferWithoutRelcache(locator_of(fork), MAIN_FORKNUM, 0,
												   RBM_NORMAL, NULL, true);
	Page		page = BufferGetPage(buffer);

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	if (page_is_sequence(page) && PageGetMaxOffsetNumber(page) == FirstOffsetNumber)
	{
		HeapTupleHeader tuple = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
		Form_pg_sequence_data sequence = (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);

		if (sequence->log_cnt != 0)
		{
			/*
			 * The image must not leave values that are free to be given out
			 * without WAL: a server that lives on after it would give them
			 * out, and the next one again.
			 */
			START_CRIT_SECTION();
			sequence->log_cnt = 0;
			MarkBufferDirty(buffer);
			log_newpage_buffer(buffer, true);
			END_CRIT_SECTION();
		}
	}
	UnlockReleaseBuffer(buffer);
}

typedef enum BufferVisit
{
	VISIT_FREE_SPACE,
	VISIT_SEQUENCES,
} BufferVisit;

static bool
is_wanted(const BufferTag *tag, BufferVisit visit)
{
	if (visit == VISIT_FREE_SPACE)
		return BufTagGetForkNum(tag) == FSM_FORKNUM;
	return BufTagGetForkNum(tag) == MAIN_FORKNUM && tag->blockNum == 0;
}

static void
visit_buffer(Buffer buffer, const BufferTag *tag, BufferVisit visit)
{
	RelFileLocator rlocator = BufTagGetRelFileLocator(tag);
	RelFork		fork = relfork_make(rlocator, BufTagGetForkNum(tag));
	PGAlignedBlock copy;
	bool		sequence;

	/* it may have been evicted meanwhile: then it is in the spill */
	if (!ReadRecentBuffer(rlocator, BufTagGetForkNum(tag), tag->blockNum, buffer))
		return;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(copy.data, BufferGetPage(buffer), BLCKSZ);
	UnlockReleaseBuffer(buffer);
	sequence = visit == VISIT_SEQUENCES && page_is_sequence((Page) copy.data);

	if (visit == VISIT_FREE_SPACE)
		log_free_space_page(&fork, tag->blockNum, copy.data);
	else if (sequence)
		log_sequence(&fork);
}

/* Dirty pages of permanent relations in the buffer pool. */
static void
visit_buffers(BufferVisit visit)
{
	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *desc = GetBufferDescriptor(i);
		uint32		wanted = BM_VALID | BM_PERMANENT | BM_DIRTY;
		uint32		state;
		BufferTag	tag;

		/* without the lock first: nearly all are something else */
		if (!is_wanted(&desc->tag, visit))
			continue;
		state = LockBufHdr(desc);
		tag = desc->tag;
		UnlockBufHdr(desc, state);
		if ((state & wanted) == wanted && is_wanted(&tag, visit))
			visit_buffer(i + 1, &tag, visit);
	}
}

static void
visit_spilled_free_space(const RelFork *fork, BlockNumber nblocks)
{
	PGAlignedBlock page;

	if (fork->fork != FSM_FORKNUM)
		return;
	for (BlockNumber block = 0; block < nblocks; block++)
		if (local_pages_read(fork, block, page.data))
			log_free_space_page(fork, block, page.data);
}

static void
visit_spilled_sequence(const RelFork *fork, BlockNumber nblocks)
{
	PGAlignedBlock page;

	if (fork->fork == MAIN_FORKNUM && local_pages_read(fork, 0, page.data) &&
		page_is_sequence((Page) page.data))
		log_sequence(fork);
}

/* The spill first: what is in the buffer pool is newer. */
void
free_space_log(void)
{
	local_pages_visit(visit_spilled_free_space);
	visit_buffers(VISIT_FREE_SPACE);
}

/* Only when no session is left that could use one. */
void
sequences_log(void)
{
	local_pages_visit(visit_spilled_sequence);
	visit_buffers(VISIT_SEQUENCES);
}
