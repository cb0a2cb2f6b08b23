/*-------------------------------------------------------------------------
 *
 * page_stream.h
 *	  Messages to and from the page server on an established stream.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_PAGE_STREAM_H
#define OGEL_PAGE_STREAM_H

typedef enum StreamResult
{
	STREAM_DONE,
	STREAM_WAIT,				/* for the socket; then try again */
	STREAM_ENDED,				/* page_stream_failure() says why */
} StreamResult;

/* From here on the socket, which does not block, is this file's. */
extern void page_stream_begin(pgsocket connected);

/* What was begun is forgotten. */
extern void page_stream_end(void);

/* Sends the message and what is left of others; what does not go out waits. */
extern StreamResult page_stream_send(const char *message, int size);

/* Sends what waits.  Is there any? */
extern StreamResult page_stream_flush(void);
extern bool page_stream_output_waits(void);

/* Receives one message; the caller frees it with page_message_free(). */
extern StreamResult page_stream_receive(char **message, int *size);

/* As libpq would put it: "SEVERITY:  SQLSTATE: text" if the server said it */
extern const char *page_stream_failure(void);

#endif							/* OGEL_PAGE_STREAM_H */
