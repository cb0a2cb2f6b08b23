/*-------------------------------------------------------------------------
 *
 * waits.c
 *	  The wait events of the extension, as pg_stat_activity shows them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/wait_event.h"
#include "waits.h"

static const char *const names[NWAIT_KINDS] = {
	[WAIT_PAGE_READ] = "OgelPageRead",
	[WAIT_PREFETCH] = "OgelPrefetchedRead",
	[WAIT_SIZE] = "OgelSizeRequest",
	[WAIT_CONNECT] = "OgelPageServerConnect",
	[WAIT_RETRY] = "OgelPageServerRetry",
	[WAIT_BACKPRESSURE] = "OgelBackpressure",
};

static uint32 events[NWAIT_KINDS];

const char *
wait_name(WaitKind kind)
{
	return names[kind];
}

/* Takes a lock at the first call for each kind: not for critical sections. */
uint32
wait_event_of(WaitKind kind)
{
	if (events[kind] == 0)
		events[kind] = WaitEventExtensionNew(names[kind]);
	return events[kind];
}

uint64
microseconds_since(instr_time begin)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, begin);
	return INSTR_TIME_GET_MICROSEC(now);
}
