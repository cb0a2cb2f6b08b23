/*-------------------------------------------------------------------------
 *
 * ogel.h
 *	  What the files of the extension share: the name of a relation fork and
 *	  the check of the server's version.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_H
#define OGEL_H

#include "common/relpath.h"
#include "storage/block.h"
#include "storage/relfilelocator.h"

#if PG_VERSION_NUM < 170000 || PG_VERSION_NUM >= 180000
#error "compute-ext supports PostgreSQL 17 only"
#endif

/* One fork of one permanent relation.  No padding: compared with memcmp. */
typedef struct RelFork
{
	Oid			spcOid;
	Oid			dbOid;
	RelFileNumber relNumber;
	int32		fork;
} RelFork;

static inline RelFork
relfork_make(RelFileLocator rlocator, ForkNumber forknum)
{
	RelFork		key = {rlocator.spcOid, rlocator.dbOid, rlocator.relNumber, forknum};

	return key;
}

/*
 * True in a server whose permanent relations live in the page server.
 * Decided once, when the library is preloaded.
 */
extern bool ogel_remote;

#endif							/* OGEL_H */
