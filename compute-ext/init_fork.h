/*-------------------------------------------------------------------------
 *
 * init_fork.h
 *	  Init forks of unlogged relations are in the WAL, whoever wrote them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_INIT_FORK_H
#define OGEL_INIT_FORK_H

#include "storage/smgr.h"

extern void init_fork_process_init(void);

/* the storage manager of unlogged relations */
extern const f_smgr *init_fork_smgr(void);

#endif							/* OGEL_INIT_FORK_H */
