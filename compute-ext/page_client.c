/*-------------------------------------------------------------------------
 *
 * page_client.c
 *	  Questions to the page server.
 *
 * The page server is restarted, moved and upgraded while clients work.  A lost
 * connection or a server that shuts down therefore is no error here: the
 * question is asked again, with growing pauses, until there is an answer, the
 * statement is canceled or ogel.page_server_timeout has passed.
 *
 * "Fenced" is final: another server owns the branch, and whatever this one
 * would still read or write is wrong.  It stops at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "common/pg_prng.h"
#include "guc.h"
#include "interrupts.h"
#include "miscadmin.h"
#include "page_client.h"
#include "page_connection.h"
#include "page_message.h"
#include "page_protocol.h"
#include "readahead.h"
#include "utils/timestamp.h"
#include "waits.h"

#define FIRST_PAUSE_MS	10
#define LONGEST_PAUSE_MS	1000
#define LOG_INTERVAL_MS	60000

/* The difficulties of one question */
typedef struct Outage
{
	TimestampTz since;			/* 0 = none so far */
	TimestampTz logged;			/* 0 = not yet */
	int			pause_ms;
} Outage;

static uint64 last_request_id = 0;

/* A primary wants the newest version, a standby that of its replay. */
static XLogRecPtr
newest_lsn(XLogRecPtr not_modified_since)
{
	if (RecoveryInProgress())
		return Max(GetXLogReplayRecPtr(NULL), not_modified_since);
	return PAGE_NEWEST_LSN;
}

/* Logs the trouble now and then, and gives up when that is asked for. */
static void
note_trouble(Outage *outage, const char *reason)
{
	TimestampTz now = GetCurrentTimestamp();

	if (outage->since == 0)
	{
		outage->since = now;
		outage->pause_ms = FIRST_PAUSE_MS;
	}
	/* the first failure after a restart of the server is routine */
	if (outage->pause_ms > FIRST_PAUSE_MS &&
		(outage->logged == 0 || TimestampDifferenceExceeds(outage->logged, now, LOG_INTERVAL_MS)))
	{
		outage->logged = now;
		ereport(LOG,
				(errmsg("page server \"%s\" does not answer: %s", ogel_page_server, reason),
				 errdetail("Reads of pages that are not in memory wait and are tried again."),
				 errhint("Check that the page server runs and is reachable.")));
	}
	if (ogel_page_server_timeout > 0 && interrupts_may_raise() &&
		TimestampDifferenceExceeds(outage->since, now, ogel_page_server_timeout))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("page server \"%s\" does not answer: %s", ogel_page_server, reason),
				 errdetail("The wait ended after \"%s\".", "ogel.page_server_timeout"),
				 errhint("Check that the page server runs and is reachable.")));
}

static void
pause_before_retry(Outage *outage)
{
	int			jitter = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, outage->pause_ms / 2);
	instr_time	begin;

	INSTR_TIME_SET_CURRENT(begin);
	interrupts_sleep(outage->pause_ms + jitter, wait_event_of(WAIT_RETRY));
	counters_wait(WAIT_RETRY, microseconds_since(begin));
	interrupts_check();
	outage->pause_ms = Min(outage->pause_ms * 2, LONGEST_PAUSE_MS);
}

static void
note_recovery(const Outage *outage)
{
	if (outage->logged != 0)
		ereport(LOG,
				(errmsg("page server \"%s\" answers again after %ld ms", ogel_page_server,
						TimestampDifferenceMilliseconds(outage->since, GetCurrentTimestamp()))));
}

static void pg_attribute_noreturn()
stop_fenced(const char *text)
{
	/* immediate shutdown: nothing of this server may be written any more */
	(void) kill(PostmasterPid, SIGQUIT);
	ereport(FATAL,
			(errcode(ERRCODE_CANNOT_CONNECT_NOW),
			 errmsg("this server was replaced by a newer one: %s", text),
			 errdetail("Term %s is over.  The server stops at once.", ogel_term),
			 errhint("Connect to the server that owns the branch now.")));
	pg_unreachable();
}

/* Trying again would not help: somebody has to change the token. */
static void
report_no_access(void)
{
	if (interrupts_may_raise())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("page server \"%s\" refuses this server: %s",
						ogel_page_server, page_connection_failure()),
				 errdetail("Pages that are not in memory cannot be read."),
				 errhint("Start the compute with a token that is valid for its tenant and branch.")));
}

static void pg_attribute_noreturn()
report_refusal(const PageRequest *request, const PageAnswer *answer, const char *text)
{
	int			sqlstate = ERRCODE_INTERNAL_ERROR;

	if (answer->error_code == PAGE_ERROR_DAMAGED)
		sqlstate = ERRCODE_DATA_CORRUPTED;
	else if (answer->error_code == PAGE_ERROR_TOO_OLD)
		sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	else if (answer->error_code == PAGE_ERROR_NO_FORK)
		sqlstate = ERRCODE_UNDEFINED_FILE;
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("page server could not read relation %u/%u/%u: %s",
					request->fork.spcOid, request->fork.dbOid, request->fork.relNumber, text),
			 errdetail("Error code %u, fork %d, asked for a version not older than %X/%X.",
					   answer->error_code, request->fork.fork,
					   LSN_FORMAT_ARGS(request->not_modified_since)),
			 answer->error_code == PAGE_ERROR_DAMAGED ?
			 errhint("Other pages stay readable. Restore the branch to an earlier moment.") : 0));
	pg_unreachable();
}

/* Receives and decodes one answer.  False when the connection broke. */
static bool
receive(PageAnswer *answer, char **message, WaitKind kind)
{
	int			size;

	if (!page_connection_receive(message, &size, kind))
		return false;
	if (page_answer_decode(*message, size, answer))
		return true;
	page_message_free(*message);
	page_connection_close("the answer is damaged, or not one of the page service protocol, version 2");
	return false;
}

/* Is it the kind of answer that was asked for? */
static bool
answers(const PageAnswer *answer, const PageRequest *request)
{
	if (answer->tag == PAGE_TAG_ERROR)
		return true;
	return answer->tag == PAGE_ANSWER_TAG(request->tag) &&
		(request->tag != PAGE_TAG_GET_PAGES || answer->nblocks == request->nblocks);
}

/*
 * An answer that nobody waits for.  False when it answers no question: then
 * whatever follows on this connection is not to be trusted either.
 */
static bool
take_prefetched(const PageAnswer *answer, char *message)
{
	bool		asked = readahead_answer(answer, message);

	if (!asked)
		page_connection_close("the answer belongs to no request");
	return asked;
}

/*
 * One attempt.  False when the connection broke.  The answer points into
 * *message.  Answers to earlier requests of the readahead come first.
 */
static bool
attempt(const PageRequest *request, PageAnswer *answer, char **message)
{
	char		buffer[PAGE_REQUEST_MAX_SIZE];
	int			size = page_request_encode(request, buffer);
	WaitKind	wait = request->tag == PAGE_TAG_GET_PAGES ? WAIT_PAGE_READ : WAIT_SIZE;

	if (!page_connection_open() || !page_connection_send(buffer, size, true))
		return false;
	for (;;)
	{
		if (!receive(answer, message, wait))
			return false;
		if (answer->id == request->id)
			break;
		if (!take_prefetched(answer, *message))
			return false;
	}
	page_connection_answered();
	if (answers(answer, request))
		return true;
	page_message_free(*message);
	page_connection_close("the answer does not belong to the request");
	return false;
}

bool
page_client_prefetch(const RelFork *key, const BlockNumber *blocks, int nblocks,
					 XLogRecPtr not_modified_since, uint64 *request_id)
{
	PageRequest request = {.tag = PAGE_TAG_GET_PAGES, .fork = *key};
	char		buffer[PAGE_REQUEST_MAX_SIZE];

	if (!page_connection_ready())
		return false;
	request.id = *request_id = ++last_request_id;
	request.request_lsn = newest_lsn(not_modified_since);
	request.not_modified_since = not_modified_since;
	request.blocks = blocks;
	request.nblocks = nblocks;
	if (!page_connection_send(buffer, page_request_encode(&request, buffer), false))
		return false;
	counters_sent(REQUEST_PREFETCH, nblocks);
	return true;
}

bool
page_client_receive_prefetched(void)
{
	PageAnswer	answer;
	char	   *message;

	if (!page_connection_ready() || !receive(&answer, &message, WAIT_PREFETCH))
		return false;
	return take_prefetched(&answer, message);
}

/*
 * What an error answer means.  Returns when the question is to be asked
 * again, or, for a fork that does not exist, never fails.  True = final.
 */
static bool
handle_error(const PageRequest *request, const PageAnswer *answer, char *message, Outage *outage)
{
	char		text[512];
	size_t		len = Min(answer->payload_size, sizeof(text) - 1);

	if (answer->error_code == PAGE_ERROR_NO_FORK && request->tag == PAGE_TAG_NBLOCKS)
		return true;

	memcpy(text, answer->payload, len);
	text[len] = '\0';
	switch (answer->error_code)
	{
		case PAGE_ERROR_FENCED:
			page_message_free(message);
			stop_fenced(text);
		case PAGE_ERROR_WAL_MISSING:
			note_trouble(outage, text);
			return false;
		case PAGE_ERROR_SHUTDOWN:
			page_connection_close(text);
			note_trouble(outage, text);
			return false;
		default:
			page_message_free(message);
			report_refusal(request, answer, text);
	}
}

/*
 * Asks until there is an answer.  The caller frees the message with
 * page_message_free() and must not throw before.
 */
static char *
ask(PageRequest *request, PageAnswer *answer)
{
	RequestKind kind = request->tag == PAGE_TAG_GET_PAGES ? REQUEST_PAGES :
		request->tag == PAGE_TAG_NBLOCKS ? REQUEST_SIZE : REQUEST_DATABASE_SIZE;
	Outage		outage = {0};
	char	   *message;
	instr_time	begin;

	INSTR_TIME_SET_CURRENT(begin);
	counters_sent(kind, request->nblocks);
	request->request_lsn = newest_lsn(request->not_modified_since);

	for (;;)
	{
		request->id = ++last_request_id;
		if (attempt(request, answer, &message))
		{
			if (answer->tag != PAGE_TAG_ERROR || handle_error(request, answer, message, &outage))
				break;
			page_message_free(message);
		}
		else
		{
			if (page_connection_refused())
				report_no_access();
			note_trouble(&outage, page_connection_failure());
		}
		counters_retry(kind);
		pause_before_retry(&outage);
	}
	counters_answered(kind, request->nblocks, microseconds_since(begin));
	note_recovery(&outage);
	return message;
}

/* Reads up to MAX_PAGES_PER_REQUEST blocks of one fork. */
void
page_client_get_pages(const RelFork *key, const BlockNumber *blocks, void **buffers, int nblocks,
					  XLogRecPtr not_modified_since)
{
	PageRequest request = {.tag = PAGE_TAG_GET_PAGES, .fork = *key};
	PageAnswer	answer;
	char	   *message;

	request.not_modified_since = not_modified_since;
	request.blocks = blocks;
	request.nblocks = nblocks;
	message = ask(&request, &answer);
	for (int i = 0; i < nblocks; i++)
		memcpy(buffers[i], answer.payload + (size_t) i * BLCKSZ, BLCKSZ);
	page_message_free(message);
}

/* False when the fork does not exist. */
bool
page_client_nblocks(const RelFork *key, XLogRecPtr not_modified_since, BlockNumber *nblocks)
{
	PageRequest request = {.tag = PAGE_TAG_NBLOCKS, .fork = *key};
	PageAnswer	answer;
	bool		exists;

	request.not_modified_since = not_modified_since;
	page_message_free(ask(&request, &answer));
	exists = answer.tag != PAGE_TAG_ERROR;
	if (exists)
		*nblocks = answer.nblocks;
	return exists;
}

uint64
page_client_database_size(Oid spcOid, Oid dbOid, XLogRecPtr not_modified_since)
{
	PageRequest request = {.tag = PAGE_TAG_DATABASE_SIZE};
	PageAnswer	answer;

	request.fork.spcOid = spcOid;
	request.fork.dbOid = dbOid;
	request.not_modified_since = not_modified_since;
	page_message_free(ask(&request, &answer));
	return answer.size_bytes;
}
