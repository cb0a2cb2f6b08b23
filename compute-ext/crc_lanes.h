/*-------------------------------------------------------------------------
 *
 * crc_lanes.h
 *	  CRC-32C of pages, several pieces at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_CRC_LANES_H
#define OGEL_CRC_LANES_H

#include "port/pg_crc32c.h"

/* Once, in the postmaster.  Without it crc_lanes() is COMP_CRC32C(). */
extern void crc_lanes_init(void);

/* The same as COMP_CRC32C(crc, data, size). */
extern pg_crc32c crc_lanes(pg_crc32c crc, const void *data, size_t size);

#endif							/* OGEL_CRC_LANES_H */
