/*-------------------------------------------------------------------------
 *
 * page_message.h
 *	  Memory for the answers of the page server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_PAGE_MESSAGE_H
#define OGEL_PAGE_MESSAGE_H

/* neither throws; NULL when there is no memory */
extern char *page_message_alloc(size_t size);
extern void page_message_free(char *message);

#endif							/* OGEL_PAGE_MESSAGE_H */
