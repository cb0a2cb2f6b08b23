/*-------------------------------------------------------------------------
 *
 * state_keeper.h
 *	  The process that saves what pages and WAL do not hold.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_STATE_KEEPER_H
#define OGEL_STATE_KEEPER_H

extern void state_keeper_register(void);

#endif							/* OGEL_STATE_KEEPER_H */
