/*-------------------------------------------------------------------------
 *
 * readahead.c
 *	  Pages asked for before they are needed.
 *
 * A round trip per page makes scans slow.  Two sources say what will be
 * needed: the core's prefetch calls (bitmap scans, ANALYZE), and this file's
 * own eye for sequences of reads, since sequential scans, VACUUM and index
 * builds do not call prefetch.  Requests go out without waiting; answers stay
 * in a ring of slots of this process until they are taken.
 *
 * Rule (hazard H11): an answer is used only if the page's last-written LSN at
 * the moment of use is not above the not_modified_since that was sent.
 * Between question and use, another process may have read the page, changed
 * it and written it out; its writing raised the last-written LSN.  The moment
 * of use is after the page has been copied to where its reader will look and
 * before that reader is told, so one look for all pages of a read will do, at
 * its end: a page that was written out before the look is seen by it.  From
 * the look until the reader has the pages they are locked for its read, and
 * nobody else can read, change and write them out.
 *
 * On a standby pages change without being written here, so there is none.
 *
 * An answer of an earlier connection never comes: a slot in flight counts
 * only as long as its connection exists.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "counters.h"
#include "file_cache.h"
#include "guc.h"
#include "lwlsn.h"
#include "page_client.h"
#include "page_connection.h"
#include "page_message.h"
#include "port/pg_bitutils.h"
#include "readahead.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/memutils.h"

#define NSLOTS			256
#define NBUCKETS		256
#define NSTREAMS		8
#define BATCH_SIZE		64
#define FIRST_WINDOW	16

/* Reads that skip up to so many blocks still count as sequential */
#define LARGEST_GAP		32

typedef enum SlotState
{
	SLOT_FREE,
	SLOT_IN_FLIGHT,
	SLOT_READY,
} SlotState;

/* As it came; kept until all of its pages are taken or given up */
typedef struct Answer
{
	char	   *message;
	const char *pages;
	int			users;			/* slots that point here; 0 = not in use */
} Answer;

typedef struct Slot
{
	SlotState	state;
	RelFork		key;
	BlockNumber blocknum;
	XLogRecPtr	not_modified_since;
	uint64		connection;
	uint64		request_id;
	int			position;		/* among the pages of the answer */
	Answer	   *answer;			/* once it has come */
	struct Slot *next;			/* of the same bucket */
} Slot;

/* A sequence of reads.  run <= next <= ahead */
typedef struct Stream
{
	RelFork		key;
	BlockNumber run;			/* where reads without a gap began */
	BlockNumber chunk;			/* length of such runs in a parallel scan, 0 = not known */
	BlockNumber next;			/* where the next read is expected */
	BlockNumber ahead;			/* asked for up to here */
	int			window;			/* blocks, 0 = not a sequence yet */
} Stream;

static Slot slots[NSLOTS];
static Slot *buckets[NBUCKETS]; /* slots not free, by block number */
static Answer answers[NSLOTS];
static int	next_slot = 0;
static int	nused = 0;			/* slots not free */

static Stream streams[NSTREAMS];
static int	next_stream = 0;

/* A table whose pages an index scan asks for by itself, and the transaction in which it does */
static RelFork scanned_by_index;
static LocalTransactionId scanned_in = InvalidLocalTransactionId;

/* Blocks wanted but not asked for yet */
static RelFork batch_key;
static BlockNumber batch[BATCH_SIZE];
static int	nbatch = 0;

/* Blocks of a sequence go to one bucket each. */
static Slot **
bucket_of(BlockNumber blocknum)
{
	return &buckets[blocknum % NBUCKETS];
}

static void
release(Slot *slot)
{
	Slot	  **link = bucket_of(slot->blocknum);

	if (slot->state == SLOT_FREE)
		return;
	while (*link != slot)
		link = &(*link)->next;
	*link = slot->next;
	nused--;
	if (slot->state == SLOT_READY && --slot->answer->users == 0)
		page_message_free(slot->answer->message);
	slot->state = SLOT_FREE;
}

/* The slot goes without having been of use. */
static void
waste(Slot *slot)
{
	if (slot->state == SLOT_IN_FLIGHT)
		counters_prefetch()->failed++;
	else if (slot->state == SLOT_READY)
		counters_prefetch()->unused++;
	release(slot);
}

static void
waste_all(int code, Datum arg)
{
	for (int i = 0; i < NSLOTS; i++)
		waste(&slots[i]);
}

static const char *
page_of(const Slot *slot)
{
	return slot->answer->pages + (size_t) slot->position * BLCKSZ;
}

static Slot *
find_slot(const RelFork *key, BlockNumber blocknum)
{
	for (Slot *slot = *bucket_of(blocknum), *next; slot != NULL; slot = next)
	{
		next = slot->next;
		if (slot->blocknum != blocknum || memcmp(&slot->key, key, sizeof(RelFork)) != 0)
			continue;
		if (slot->state == SLOT_IN_FLIGHT && slot->connection != page_connection_number())
			waste(slot);
		else
			return slot;
	}
	return NULL;
}

/* The oldest slot that no answer is awaited for, or NULL. */
static Slot *
recycle_slot(void)
{
	Slot	   *slot = &slots[next_slot];

	if (slot->state == SLOT_IN_FLIGHT && slot->connection == page_connection_number())
		return NULL;
	next_slot = (next_slot + 1) % NSLOTS;
	waste(slot);
	return slot;
}

/* Asks for the blocks of the batch. */
static void
send_batch(void)
{
	static bool registered = false;
	Slot	   *taken[BATCH_SIZE];
	int			count = 0;
	uint64		request_id;
	XLogRecPtr	not_modified_since;

	if (nbatch == 0 || !page_connection_ready())
	{
		nbatch = 0;
		return;
	}
	if (!registered)
	{
		on_shmem_exit(waste_all, (Datum) 0);
		registered = true;
	}
	while (count < nbatch && (taken[count] = recycle_slot()) != NULL)
		count++;
	nbatch = 0;
	if (count == 0)
		return;

	not_modified_since = lwlsn_for_pages(&batch_key, batch, count);
	if (!page_client_prefetch(&batch_key, batch, count, not_modified_since, &request_id))
		return;
	for (int i = 0; i < count; i++)
	{
		Slot	  **bucket = bucket_of(batch[i]);

		taken[i]->state = SLOT_IN_FLIGHT;
		taken[i]->key = batch_key;
		taken[i]->blocknum = batch[i];
		taken[i]->next = *bucket;
		*bucket = taken[i];
		taken[i]->not_modified_since = not_modified_since;
		taken[i]->connection = page_connection_number();
		taken[i]->request_id = request_id;
		taken[i]->position = i;
	}
	nused += count;
	counters_prefetch()->issued += count;
}

void
readahead_send(void)
{
	send_batch();
}

/* The block will be needed soon. */
void
readahead_want(const RelFork *key, BlockNumber blocknum)
{
	if (ogel_readahead == 0 || RecoveryInProgress() || find_slot(key, blocknum) != NULL ||
		file_cache_contains(key, blocknum))
		return;
	if (nbatch > 0 && memcmp(&batch_key, key, sizeof(RelFork)) != 0)
		send_batch();
	for (int i = 0; i < nbatch; i++)
		if (batch[i] == blocknum)
			return;
	batch_key = *key;
	batch[nbatch++] = blocknum;
	if (nbatch == BATCH_SIZE)
		send_batch();
}

/* There is one: each in use has a slot, and the caller one that has none yet. */
static Answer *
unused_answer(void)
{
	Answer	   *answer = answers;

	while (answer->users > 0)
		answer++;
	Assert(answer < answers + NSLOTS);
	return answer;
}

/*
 * Called for every answer that nobody waits for; takes over the message that
 * it points into.  False when it was not asked for on this connection.
 */
bool
readahead_answer(const PageAnswer *answer, char *message)
{
	bool		asked = false;
	Answer	   *kept = NULL;

	for (int i = 0; i < NSLOTS; i++)
	{
		Slot	   *slot = &slots[i];

		if (slot->state != SLOT_IN_FLIGHT || slot->request_id != answer->id)
			continue;
		asked = true;
		if (answer->tag != PAGE_ANSWER_TAG(PAGE_TAG_GET_PAGES) ||
			slot->position >= answer->nblocks)
		{
			waste(slot);		/* the read itself will meet the error */
			continue;
		}
		if (kept == NULL)
		{
			kept = unused_answer();
			kept->message = message;
			kept->pages = answer->payload;
		}
		kept->users++;
		slot->answer = kept;
		slot->state = SLOT_READY;
	}
	if (kept == NULL)
		page_message_free(message);
	return asked;
}

/*
 * Takes a page that was asked for, waiting for it if it is on its way, however
 * old it is.  False when it was not asked for.
 */
static bool
take(const RelFork *key, BlockNumber blocknum, void *page, XLogRecPtr *not_modified_since)
{
	Slot	   *slot = find_slot(key, blocknum);

	/*
	 * While pages are at hand, what is wanted may wait for company, up to as
	 * much as is held: then one half is used while the other is on its way.
	 */
	if (slot == NULL || slot->state == SLOT_IN_FLIGHT || nbatch >= Min(nused, BATCH_SIZE / 2))
	{
		send_batch();
		slot = find_slot(key, blocknum);
	}
	while (slot != NULL && slot->state == SLOT_IN_FLIGHT)
	{
		if (!page_client_receive_prefetched())
			return false;
		slot = find_slot(key, blocknum);
	}
	if (slot == NULL)
		return false;
	memcpy(page, page_of(slot), BLCKSZ);
	*not_modified_since = slot->not_modified_since;
	release(slot);
	counters_prefetch_used();
	return true;
}

/*
 * Takes pages that were asked for of the blocks from the first on whose bits
 * are set in wanted.  Says which could be had, and of each what it was asked
 * for; the others were not asked for, or were changed since.
 */
uint64
readahead_takev(const RelFork *key, BlockNumber first, void *const *buffers,
				uint64 wanted, XLogRecPtr *not_modified_since)
{
	uint64		taken = 0;
	XLogRecPtr	last_written;

	for (int i = 0; i < 64 && wanted >> i != 0; i++)
		if ((wanted >> i & 1) && take(key, first + i, buffers[i], &not_modified_since[i]))
			taken |= UINT64CONST(1) << i;
	if (taken == 0)
		return 0;

	/* not above that of any of them: then no page was written after its question */
	last_written = lwlsn_of_pages(key, first, first + pg_leftmost_one_pos64(taken));
	for (int i = 0; i < 64 && taken >> i != 0; i++)
		if ((taken >> i & 1) && last_written > not_modified_since[i] &&
			lwlsn_of_page(key, first + i) > not_modified_since[i])
		{
			taken &= ~(UINT64CONST(1) << i);
			counters_prefetch_stale();
		}
	return taken;
}

/*
 * In this transaction, an index scan says which pages of the table come next.
 * Reads that skip some are its choice then, and no sequence: what lies between
 * them is not wanted.
 */
void
readahead_by_index(const RelFork *key)
{
	scanned_by_index = *key;
	scanned_in = MyProc->vxid.lxid;
}

static BlockNumber
largest_gap(const RelFork *key)
{
	if (scanned_in == MyProc->vxid.lxid && memcmp(key, &scanned_by_index, sizeof(RelFork)) == 0)
		return 0;
	return LARGEST_GAP;
}

static Stream *
find_stream(const RelFork *key)
{
	Stream	   *stream;

	for (int i = 0; i < NSTREAMS; i++)
		if (memcmp(&streams[i].key, key, sizeof(RelFork)) == 0)
			return &streams[i];

	stream = &streams[next_stream];
	next_stream = (next_stream + 1) % NSTREAMS;
	memset(stream, 0, sizeof(*stream));
	stream->key = *key;
	stream->next = InvalidBlockNumber;
	return stream;
}

/*
 * The processes of a parallel scan take chunks of the table in turn.  What
 * lies behind the end of a chunk is another's, and asking for it would be in
 * vain, so the length of the chunks is learned: the shortest run seen since
 * the scan began.  Two chunks in a row look like a longer one.  Runs shorter
 * than the first window teach nothing: small tables go in chunks of a few
 * blocks, and there pages asked for twice are better than round trips.
 *
 * Is the length known?  Then all of the chunk may be asked for.
 */
static bool
enter_chunk(Stream *stream, BlockNumber begin)
{
	BlockNumber length;

	if (stream->next == begin && begin != stream->run)
	{
		if (stream->chunk == 0)
			return false;
		if (begin >= stream->run + stream->chunk)
			stream->run = begin;	/* the next chunk came to this process too */
		return true;
	}
	length = stream->next - stream->run;
	if (stream->next == InvalidBlockNumber || begin < stream->run)
		stream->chunk = 0;		/* another scan */
	else if (length >= FIRST_WINDOW)
		stream->chunk = stream->chunk == 0 ? length : Min(stream->chunk, length);
	stream->run = begin;
	if (stream->chunk > 0)
		stream->ahead = begin;
	return stream->chunk > 0;
}

/*
 * Blocks [begin, end) are about to be read.  If they continue a sequence,
 * asks for what follows, up to block limit (not included).  Blocks in the
 * buffer pool are left out.  Do they?
 */
bool
readahead_advance(SMgrRelation reln, ForkNumber forknum,
				  BlockNumber begin, BlockNumber end, BlockNumber limit)
{
	RelFork		key = relfork_make(reln->smgr_rlocator.locator, forknum);
	Stream	   *stream;
	BlockNumber target;
	bool		chunked = false;

	if (ogel_readahead == 0 || RecoveryInProgress() || forknum != MAIN_FORKNUM)
		return false;

	stream = find_stream(&key);
	if (IsParallelWorker() || IsInParallelMode())
		chunked = enter_chunk(stream, begin);
	else
		stream->run = end;
	if (chunked)
		limit = Min(limit, stream->run + stream->chunk);
	if (!chunked &&
		(stream->next == InvalidBlockNumber || begin < stream->next ||
		 begin - stream->next > largest_gap(&key)))
	{
		stream->next = stream->ahead = end;
		stream->window = 0;
		return false;
	}
	if (chunked && stream->run == begin)
	{
		/* of the first pages of a chunk and its others, those that are waited for come first */
		for (BlockNumber block = begin; block < end; block++)
			readahead_want(&key, block);
		send_batch();
	}
	stream->next = end;
	stream->window = chunked ? ogel_readahead : Min(Max(stream->window * 2, FIRST_WINDOW), ogel_readahead);
	stream->ahead = Max(stream->ahead, end);

	target = limit > end ? Min(limit - end, stream->window) + end : end;
	if (target <= stream->ahead ||
		(target < limit && target - stream->ahead < stream->window / 2))
		return true;
	/* what is on the local disk need not be looked for in the buffers */
	for (BlockNumber block = stream->ahead; block < target; block++)
		if (!file_cache_contains(&key, block))
			(void) PrefetchSharedBuffer(reln, forknum, block);
	stream->ahead = target;
	send_batch();
	return true;
}
