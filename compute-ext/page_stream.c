/*-------------------------------------------------------------------------
 *
 * page_stream.c
 *	  Messages to and from the page server on an established stream.
 *
 * libpq makes the connection, checks who may ask and starts the COPY.  After
 * that it would copy each page twice more, from its buffer to a message and
 * before that within the buffer.  So the frames of the stream are read from the
 * socket right into the messages that their users keep:
 *
 *		type u8 | length u32, itself included | length - 4 bytes
 *
 * Type 'd' carries an answer, 'E' says why the server ends the stream, 'N' and
 * 'S' (notice, parameter) mean nothing here, any other ends it.  A length is
 * believed only up to that of the largest answer.
 *
 * Nothing here waits or throws.  What was received or sent in part goes on
 * with the next call, whatever happened in between: an error raised while
 * waiting does not leave the stream in the middle of a frame.
 *
 * Sending never waits for room in the socket, since the server may wait just
 * then for its answers to be read.  What does not go out at once is sent when
 * answers are waited for.  It is little: each request ahead has a slot of the
 * readahead, so that there are at most 256 of about 50 bytes, and one other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include "page_message.h"
#include "page_protocol.h"
#include "page_stream.h"
#include "port/pg_bswap.h"

#define HEAD_SIZE		5
#define OUTPUT_SIZE		32768

static pgsocket sock = PGINVALID_SOCKET;
static char failure[512];

/* Being received: a body as soon as its head was whole, and else a head */
static char head[HEAD_SIZE];
static int	head_got;
static char *body = NULL;
static char body_type;
static int	body_size;
static int	body_got;

/* Sent up to output_begin, put up to output_end */
static char output[OUTPUT_SIZE];
static int	output_begin;
static int	output_end;

const char *
page_stream_failure(void)
{
	return failure;
}

void
page_stream_end(void)
{
	if (body != NULL)
		page_message_free(body);
	body = NULL;
	head_got = 0;
	output_begin = output_end = 0;
	sock = PGINVALID_SOCKET;
}

void
page_stream_begin(pgsocket connected)
{
	page_stream_end();
	sock = connected;
}

static StreamResult
ended(const char *reason)
{
	strlcpy(failure, reason, sizeof(failure));
	return STREAM_ENDED;
}

/* A call on the socket failed: for now, or for good? */
static StreamResult
wait_or_end(const char *what)
{
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
		return STREAM_WAIT;
	snprintf(failure, sizeof(failure), "could not %s server: %s", what, strerror(errno));
	return STREAM_ENDED;
}

bool
page_stream_output_waits(void)
{
	return output_begin < output_end;
}

StreamResult
page_stream_flush(void)
{
	while (output_begin < output_end)
	{
		ssize_t		sent = send(sock, output + output_begin, output_end - output_begin, MSG_NOSIGNAL);

		if (sent < 0)
			return wait_or_end("send data to");
		output_begin += sent;
	}
	output_begin = output_end = 0;
	return STREAM_DONE;
}

StreamResult
page_stream_send(const char *message, int size)
{
	uint32		length = pg_hton32(size + 4);

	if (output_begin > 0)
	{
		memmove(output, output + output_begin, output_end - output_begin);
		output_end -= output_begin;
		output_begin = 0;
	}
	if (size > OUTPUT_SIZE - output_end - HEAD_SIZE)
		return ended("the server does not take requests");
	output[output_end] = 'd';
	memcpy(output + output_end + 1, &length, sizeof(length));
	memcpy(output + output_end + HEAD_SIZE, message, size);
	output_end += HEAD_SIZE + size;
	return page_stream_flush();
}

/* The value of a field of an error message that came whole, or "". */
static const char *
error_field(char code)
{
	const char *end = body + body_size;

	for (const char *at = body; at < end && *at != '\0';)
	{
		const char *value = at + 1;
		const char *value_end = memchr(value, '\0', end - value);

		if (value_end == NULL)
			break;
		if (*at == code)
			return value;
		at = value_end + 1;
	}
	return "";
}

static StreamResult
ended_by_server(char type)
{
	if (type != 'E')
		return ended("the server ended the stream");
	snprintf(failure, sizeof(failure), "%s:  %s: %s",
			 error_field('S'), error_field('C'), error_field('M'));
	return STREAM_ENDED;
}

/* The head is whole: makes room for what belongs to it. */
static StreamResult
begin_body(void)
{
	uint32		length;

	memcpy(&length, head + 1, sizeof(length));
	length = pg_ntoh32(length);
	if (head[0] == '\0' || strchr("dENS", head[0]) == NULL)
		return ended_by_server(head[0]);
	if (length < 4 || length - 4 > PAGE_ANSWER_MAX_SIZE)
		return ended("the answer has a length that no answer can have");
	body = page_message_alloc(length - 4);
	if (body == NULL)
		return ended("out of memory");
	body_type = head[0];
	body_size = length - 4;
	body_got = 0;
	head_got = 0;
	return STREAM_DONE;
}

/* Takes what has come: of the body if there is one, and of the head after it. */
static StreamResult
receive_some(void)
{
	struct iovec iov[2];
	struct msghdr message = {.msg_iov = iov};
	int			body_left = body == NULL ? 0 : body_size - body_got;
	ssize_t		got;

	if (body != NULL)
		iov[message.msg_iovlen++] = (struct iovec) {body + body_got, body_left};
	iov[message.msg_iovlen++] = (struct iovec) {head + head_got, HEAD_SIZE - head_got};
	got = recvmsg(sock, &message, 0);
	if (got < 0)
		return wait_or_end("receive data from");
	if (got == 0)
		return ended("server closed the connection unexpectedly");
	body_got += Min(got, body_left);
	head_got += got - Min(got, body_left);
	return STREAM_DONE;
}

StreamResult
page_stream_receive(char **message, int *size)
{
	StreamResult result = STREAM_DONE;

	while (result == STREAM_DONE)
	{
		if (body == NULL)
			result = head_got < HEAD_SIZE ? receive_some() : begin_body();
		else if (body_got < body_size)
			result = receive_some();
		else if (body_type == 'E')
			result = ended_by_server('E');
		else
		{
			char	   *whole = body;

			body = NULL;
			if (body_type == 'd')
			{
				*message = whole;
				*size = body_size;
				return STREAM_DONE;
			}
			page_message_free(whole);
		}
	}
	return result;
}
