/*-------------------------------------------------------------------------
 *
 * interrupts.h
 *	  Waiting inside storage manager callbacks without getting stuck.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_INTERRUPTS_H
#define OGEL_INTERRUPTS_H

extern bool interrupts_may_raise(void);
extern void interrupts_check(void);
extern void interrupts_sleep(long timeout_ms, uint32 wait_event);

#endif							/* OGEL_INTERRUPTS_H */
