/*-------------------------------------------------------------------------
 *
 * page_connection.h
 *	  This process's connection to the page server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_PAGE_CONNECTION_H
#define OGEL_PAGE_CONNECTION_H

#include "waits.h"

/*
 * Each returns false when the connection is lost; page_connection_failure()
 * then says why.  None throws, except for interrupts.
 */
extern bool page_connection_open(void);
extern bool page_connection_send(const char *message, int size, bool answer_awaited);

/* the caller frees the message with page_message_free() */
extern bool page_connection_receive(char **message, int *size, WaitKind kind);

extern void page_connection_close(const char *reason);
extern const char *page_connection_failure(void);

/* did the server say that this one may not ask? */
extern bool page_connection_refused(void);

/* the answer that was awaited has arrived */
extern void page_connection_answered(void);

/* can requests be sent right now?  Which connection is it, counted? */
extern bool page_connection_ready(void);
extern uint64 page_connection_number(void);

#endif							/* OGEL_PAGE_CONNECTION_H */
