/*-------------------------------------------------------------------------
 *
 * waits.h
 *	  The wait events of the extension, and how long they last.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_WAITS_H
#define OGEL_WAITS_H

#include "counters.h"
#include "portability/instr_time.h"

extern uint32 wait_event_of(WaitKind kind);
extern const char *wait_name(WaitKind kind);

/* microseconds since the moment */
extern uint64 microseconds_since(instr_time begin);

#endif							/* OGEL_WAITS_H */
