/*-------------------------------------------------------------------------
 *
 * ogel_smgr.h
 *	  The storage manager of permanent relations.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_SMGR_H
#define OGEL_SMGR_H

extern void ogel_smgr_install(void);

#endif							/* OGEL_SMGR_H */
