/*-------------------------------------------------------------------------
 *
 * backpressure.h
 *	  Slows writers down when the page server falls behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_BACKPRESSURE_H
#define OGEL_BACKPRESSURE_H

extern Size backpressure_shmem_size(void);
extern void backpressure_shmem_init(void);
extern void backpressure_wait(void);

#endif							/* OGEL_BACKPRESSURE_H */
