/*-------------------------------------------------------------------------
 *
 * slot_state.h
 *	  Replication slots outlive the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_SLOT_STATE_H
#define OGEL_SLOT_STATE_H

extern void slot_state_install(void);
extern void slot_state_keep_lost(void);

#endif							/* OGEL_SLOT_STATE_H */
