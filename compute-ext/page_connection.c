/*-------------------------------------------------------------------------
 *
 * page_connection.c
 *	  This process's connection to the page server.
 *
 * A libpq connection in COPY BOTH mode, opened at the first use and kept
 * until the process ends.  Once it is open, its socket is read and written by
 * page_stream.c: the connection is asked for without encryption, so that what
 * is on the socket is the protocol itself.  No call blocks; the waiting is
 * done here, on the latch and the socket, so that a cancel gets through (see
 * interrupts.c) and the process ends with its postmaster.
 *
 * An error raised while waiting leaves an answer under way.  Answers come in
 * order, and the one nobody wants may be slow, so the next use starts with a
 * new connection.  Requests of the readahead are not waited for: their
 * answers are picked up when they come.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "interrupts.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "page_connection.h"
#include "page_protocol.h"
#include "page_stream.h"
#include "page_token.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "waits.h"

#define CONNECT_TIMEOUT_MS	10000

static PGconn *conn = NULL;
static WaitEventSet *wait_set = NULL;	/* latch, postmaster, socket */
static int	socket_position;

static bool streaming = false;	/* the page service accepts requests */
static bool answer_pending = false; /* somebody waits, or waited, for one */
static uint64 connection_number = 1;
static uint32 address_generation;
static char failure[512];
static char sqlstate[6];		/* with which the server ended it, or empty */

bool
page_connection_refused(void)
{
	return strncmp(sqlstate, "28", 2) == 0 || strcmp(sqlstate, "42501") == 0;
}

const char *
page_connection_failure(void)
{
	return failure;
}

/*
 * Keeps the first line of the reason; libpq adds lines of advice.  A SQLSTATE
 * in it ("FATAL:  28P01: text", as PQERRORS_VERBOSE writes) is put aside.
 */
static void
set_failure(const char *reason)
{
	char	   *code;

	strlcpy(failure, reason, sizeof(failure));
	failure[strcspn(failure, "\n")] = '\0';
	sqlstate[0] = '\0';
	if ((code = strstr(failure, ":  ")) != NULL &&
		strspn(code + 3, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && code[8] == ':')
	{
		strlcpy(sqlstate, code + 3, sizeof(sqlstate));
		memmove(code + 3, code + 10, strlen(code + 10) + 1);
	}
	if (failure[0] == '\0')
		strlcpy(failure, "connection lost", sizeof(failure));
}

/* reason NULL keeps what set_failure() said. */
void
page_connection_close(const char *reason)
{
	if (reason)
		set_failure(reason);
	streaming = false;
	answer_pending = false;
	connection_number++;
	page_stream_end();
	if (wait_set)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
	if (conn)
	{
		PQfinish(conn);
		ReleaseExternalFD();
	}
	conn = NULL;
}

static bool
fail(void)
{
	page_connection_close(PQerrorMessage(conn));
	return false;
}

static void
close_at_exit(int code, Datum arg)
{
	page_connection_close("process exits");
}

/*
 * Waits for the socket, or for the deadline: then false.  Interrupts are
 * handled on the way.
 */
static bool
wait_for_socket(uint32 events, TimestampTz deadline, WaitKind kind)
{
	uint32		wait_event = wait_event_of(kind);

	for (;;)
	{
		long		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		WaitEvent	occurred;

		if (timeout <= 0)
			return false;
		if (wait_set)
		{
			ModifyWaitEvent(wait_set, socket_position, events, NULL);
			if (WaitEventSetWait(wait_set, timeout, &occurred, 1, wait_event) == 0)
				continue;
		}
		else
			occurred.events = WaitLatchOrSocket(MyLatch,
												events | WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
												PQsocket(conn), timeout, wait_event);
		if (occurred.events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			interrupts_check();
		}
		if (occurred.events & WL_SOCKET_MASK)
			return true;
	}
}

static TimestampTz
deadline_in(int timeout_ms)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
}

static bool
establish(TimestampTz deadline)
{
	char		host[256];
	char		port[8];
	const char *const keywords[] = {"host", "port", "user", "dbname",
		"application_name", "client_encoding", "sslmode", "gssencmode",
		"keepalives_idle", "keepalives_interval", "keepalives_count",
	"tcp_user_timeout", "password", NULL};
	const char *const values[] = {host, port, "ogel", "ogel",
		"ogel compute", "UTF8", "disable", "disable",
	"10", "5", "3", "30000", page_token(), NULL};

	address_generation = ogel_page_server_generation;
	if (!page_server_address(host, sizeof(host), port, sizeof(port)))
	{
		set_failure("ogel.page_server is not set");
		return false;
	}

	ReserveExternalFD();
	conn = PQconnectStartParams(keywords, values, false);
	if (conn == NULL)
	{
		ReleaseExternalFD();
		set_failure("out of memory");
		return false;
	}
	if (PQstatus(conn) == CONNECTION_BAD)
		return fail();
	(void) PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);

	for (PostgresPollingStatusType status = PGRES_POLLING_WRITING;
		 status != PGRES_POLLING_OK; status = PQconnectPoll(conn))
	{
		if (status == PGRES_POLLING_FAILED)
			return fail();
		if (!wait_for_socket(status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE,
							 deadline, WAIT_CONNECT))
		{
			page_connection_close("timeout while connecting");
			return false;
		}
	}
	if (PQsetnonblocking(conn, 1) != 0)
		return fail();
	return true;
}

/* Sends what libpq has buffered, reading meanwhile so that neither blocks. */
static bool
flush_output(TimestampTz deadline)
{
	int			rest;

	while ((rest = PQflush(conn)) > 0)
	{
		if (!wait_for_socket(WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE, deadline, WAIT_CONNECT))
		{
			page_connection_close("timeout while sending");
			return false;
		}
		if (!PQconsumeInput(conn))
			return fail();
	}
	return rest == 0 ? true : fail();
}

/*
 * The server says nothing before it is asked, so libpq has read nothing beyond
 * the start of the stream.  If it has, it may have read a part of what comes.
 */
static bool
take_over_socket(void)
{
	char	   *early = NULL;
	int			size = PQgetCopyData(conn, &early, 1);

	PQfreemem(early);
	if (size == 0)
	{
		page_stream_begin(PQsocket(conn));
		return true;
	}
	if (size > 0)
		page_connection_close("an answer came before a request");
	else
	{
		PGresult   *result = PQgetResult(conn);

		set_failure(result ? PQresultErrorMessage(result) : PQerrorMessage(conn));
		PQclear(result);
		page_connection_close(NULL);
	}
	return false;
}

static bool
start_stream(TimestampTz deadline)
{
	char		command[256];
	PGresult   *result;
	bool		accepted;

	snprintf(command, sizeof(command), "pagestream %d %s %s %s",
			 PAGE_PROTOCOL_VERSION, ogel_tenant, ogel_timeline, ogel_term);
	if (!PQsendQuery(conn, command))
		return fail();
	if (!flush_output(deadline))
		return false;
	while (PQisBusy(conn))
	{
		if (!wait_for_socket(WL_SOCKET_READABLE, deadline, WAIT_CONNECT))
		{
			page_connection_close("timeout while starting the page stream");
			return false;
		}
		if (!PQconsumeInput(conn))
			return fail();
	}
	result = PQgetResult(conn);
	accepted = PQresultStatus(result) == PGRES_COPY_BOTH;
	if (!accepted)
		set_failure(PQresultErrorMessage(result));
	PQclear(result);
	if (!accepted)
		page_connection_close(NULL);
	return accepted && take_over_socket();
}

bool
page_connection_ready(void)
{
	return streaming && !answer_pending && address_generation == ogel_page_server_generation;
}

uint64
page_connection_number(void)
{
	return connection_number;
}

void
page_connection_answered(void)
{
	answer_pending = false;
}

bool
page_connection_open(void)
{
	static bool registered = false;
	TimestampTz deadline;
	instr_time	begin;
	bool		connected;

	if (page_connection_ready())
		return true;
	page_connection_close("closed");

	if (!registered)
	{
		on_proc_exit(close_at_exit, (Datum) 0);
		registered = true;
	}
	INSTR_TIME_SET_CURRENT(begin);
	deadline = deadline_in(CONNECT_TIMEOUT_MS);
	connected = establish(deadline) && start_stream(deadline);
	counters_wait(WAIT_CONNECT, microseconds_since(begin));
	if (!connected)
		return false;

	wait_set = CreateWaitEventSet(NULL, 3);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	socket_position = AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, PQsocket(conn), NULL, NULL);
	streaming = true;
	return true;
}

/* Sends one request, or puts it behind others that wait for the socket. */
bool
page_connection_send(const char *message, int size, bool answer_awaited)
{
	answer_pending = answer_awaited;
	if (page_stream_send(message, size) != STREAM_ENDED)
		return true;
	page_connection_close(page_stream_failure());
	return false;
}

/* Sends what waits for the socket and receives what has come. */
static StreamResult
exchange(char **message, int *size)
{
	if (page_stream_output_waits() && page_stream_flush() == STREAM_ENDED)
		return STREAM_ENDED;
	return page_stream_receive(message, size);
}

bool
page_connection_receive(char **message, int *size, WaitKind kind)
{
	TimestampTz deadline = 0;
	instr_time	begin;
	StreamResult result;

	while ((result = exchange(message, size)) == STREAM_WAIT)
	{
		if (deadline == 0)
		{
			deadline = deadline_in(ogel_request_timeout);
			INSTR_TIME_SET_CURRENT(begin);
		}
		if (!wait_for_socket(WL_SOCKET_READABLE |
							 (page_stream_output_waits() ? WL_SOCKET_WRITEABLE : 0), deadline, kind))
		{
			page_connection_close("no answer within ogel.request_timeout");
			return false;
		}
	}
	if (deadline != 0)
		counters_wait(kind, microseconds_since(begin));
	if (result == STREAM_DONE)
		return true;
	page_connection_close(page_stream_failure());
	return false;
}
