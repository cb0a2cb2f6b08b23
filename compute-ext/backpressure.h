/*-------------------------------------------------------------------------
 *
 * backpressure.h
 *	  Slows writers down when the page server falls behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_BACKPRESSURE_H
#define OGEL_BACKPRESSURE_H

#include "access/xlogdefs.h"

extern Size backpressure_shmem_size(void);
extern void backpressure_shmem_init(void);
extern void backpressure_install(void);
extern void backpressure_wait(void);

/* how far the page server has applied the WAL, as far as heard */
extern XLogRecPtr backpressure_applied(void);

/* bytes that it may be behind, 0 = no limit */
extern uint64 backpressure_limit(void);

#endif							/* OGEL_BACKPRESSURE_H */
