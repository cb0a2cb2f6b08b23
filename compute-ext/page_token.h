/*-------------------------------------------------------------------------
 *
 * page_token.h
 *	  The token that is shown to the page server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_PAGE_TOKEN_H
#define OGEL_PAGE_TOKEN_H

extern void page_token_receive(void);
extern const char *page_token(void);

#endif							/* OGEL_PAGE_TOKEN_H */
