/*-------------------------------------------------------------------------
 *
 * interrupts.c
 *	  Waiting inside storage manager callbacks without getting stuck.
 *
 * A read from a page server may last as long as an outage does.  Callers
 * often hold lightweight locks on other pages meanwhile (an index descent, a
 * heap page while its visibility map page is read), and every such lock holds
 * off CHECK_FOR_INTERRUPTS().  A cancel or a termination would then have to
 * wait for the end of the outage.
 *
 * Raising an error under lightweight locks is normal: a failed disk read does
 * it, and abort releases the locks.  So the cancel is raised here, provided
 * the locks are the only reason for the hold-off.  Any other hold-off stands
 * for work that must not fail, above all the end of a commit or an abort.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "interrupts.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

static void
count_lock(LWLock *lock, LWLockMode mode, void *context)
{
	(*(uint32 *) context)++;
}

/*
 * May an error be thrown at this point?  False in critical sections and while
 * interrupts are held off by something other than lightweight locks.
 */
bool
interrupts_may_raise(void)
{
	uint32		nlocks = 0;

	if (CritSectionCount > 0)
		return false;
	if (InterruptHoldoffCount == 0)
		return true;
	ForEachLWLockHeldByMe(count_lock, &nlocks);
	return InterruptHoldoffCount == nlocks;
}

/*
 * CHECK_FOR_INTERRUPTS() that also cancels and terminates under lightweight
 * locks.  Other interrupts keep waiting for the locks' release: their
 * handlers may need locks themselves.
 */
void
interrupts_check(void)
{
	uint32		holdoff = InterruptHoldoffCount;

	CHECK_FOR_INTERRUPTS();

	if (holdoff == 0 || !InterruptPending)
		return;
	if (!ProcDiePending && !(QueryCancelPending && QueryCancelHoldoffCount == 0))
		return;
	if (!interrupts_may_raise())
		return;

	InterruptHoldoffCount = 0;
	ProcessInterrupts();
	/* not raised after all, e.g. while reading a command */
	InterruptHoldoffCount = holdoff;
}

/* Sleeps until the timeout or the latch, then checks for interrupts. */
void
interrupts_sleep(long timeout_ms, uint32 wait_event)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, wait_event);
	ResetLatch(MyLatch);
	interrupts_check();
}
