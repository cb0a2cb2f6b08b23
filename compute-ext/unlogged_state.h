/*-------------------------------------------------------------------------
 *
 * unlogged_state.h
 *	  Pages that are ahead of their WAL: free space maps and sequences.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_UNLOGGED_STATE_H
#define OGEL_UNLOGGED_STATE_H

extern void free_space_log(void);
extern void sequences_log(void);

#endif							/* OGEL_UNLOGGED_STATE_H */
