/*-------------------------------------------------------------------------
 *
 * explain.h
 *	  What a statement took from storage, in EXPLAIN.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_EXPLAIN_H
#define OGEL_EXPLAIN_H

extern void explain_install(void);

#endif							/* OGEL_EXPLAIN_H */
