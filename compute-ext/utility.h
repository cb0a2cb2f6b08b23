/*-------------------------------------------------------------------------
 *
 * utility.h
 *	  Commands that work on files, which remote relations do not have.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_UTILITY_H
#define OGEL_UTILITY_H

extern void utility_install(void);

#endif							/* OGEL_UTILITY_H */
