/*-------------------------------------------------------------------------
 *
 * crc_lanes.c
 *	  CRC-32C of pages, several pieces at a time.
 *
 * The processor's instruction takes one cycle's work and three cycles' time:
 * in one chain each step waits for the one before.  So the bytes are cut into
 * lanes of equal length whose sums are made side by side, each but the first
 * from zero, and then put together.
 *
 * How.  A checksum is linear: sum(s, data) = shift(s) ^ sum(0, data), where
 * shift(s) is the sum over as many zero bytes, begun with s.  So the sum over
 * two lanes is shift(first) ^ second.  The shift over the length of a lane is
 * linear too: made of the shifts of the 32 single bits, which are computed at
 * start and spread over four tables, one for each byte of the sum.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#define HAVE_CRC_INSTRUCTION
#endif

#include "crc_lanes.h"

#define NLANES		4
#define LANE_SIZE	(BLCKSZ / NLANES)

#ifdef HAVE_CRC_INSTRUCTION
static bool enabled = false;
static uint32 shifted[4][256];	/* by the length of a lane */

static inline uint64
shift(uint64 sum)
{
	return shifted[0][sum & 0xFF] ^ shifted[1][(sum >> 8) & 0xFF] ^
		shifted[2][(sum >> 16) & 0xFF] ^ shifted[3][(sum >> 24) & 0xFF];
}

static void
make_tables(void)
{
	static const char zeros[LANE_SIZE];

	for (int bit = 0; bit < 32; bit++)
	{
		pg_crc32c	sum = (pg_crc32c) 1 << bit;
		uint32	   *of_byte = shifted[bit / 8];

		COMP_CRC32C(sum, zeros, LANE_SIZE);
		for (int value = 1 << (bit % 8); value < 2 << (bit % 8); value++)
			of_byte[value] = sum ^ of_byte[value - (1 << (bit % 8))];
	}
}

static inline uint64
word_at(const char *at)
{
	uint64		word;

	memcpy(&word, at, sizeof(word));
	return word;
}

/* The sum over NLANES lanes. */
__attribute__((target("sse4.2")))
static uint64
sum_lanes(uint64 sum0, const char *data)
{
	/* not an array: that would be kept in memory */
	uint64		sum1 = 0;
	uint64		sum2 = 0;
	uint64		sum3 = 0;

	StaticAssertStmt(NLANES == 4, "one sum for each lane");
	for (const char *at = data; at < data + LANE_SIZE; at += sizeof(uint64))
	{
		sum0 = _mm_crc32_u64(sum0, word_at(at));
		sum1 = _mm_crc32_u64(sum1, word_at(at + LANE_SIZE));
		sum2 = _mm_crc32_u64(sum2, word_at(at + 2 * LANE_SIZE));
		sum3 = _mm_crc32_u64(sum3, word_at(at + 3 * LANE_SIZE));
	}
	return shift(shift(shift(sum0) ^ sum1) ^ sum2) ^ sum3;
}

/* Does it agree with the plain way, on as many bytes, begun with that sum? */
static bool
agrees(pg_crc32c crc, const char *data, size_t size)
{
	pg_crc32c	plain = crc;

	COMP_CRC32C(plain, data, size);
	return EQ_CRC32C(plain, crc_lanes(crc, data, size));
}
#endif

void
crc_lanes_init(void)
{
#ifdef HAVE_CRC_INSTRUCTION
	char	   *data;
	uint32		state = 1;

	if (!__builtin_cpu_supports("sse4.2"))
		return;
	make_tables();
	enabled = true;

	/* a wrong sum would make every answer look damaged: rather slow than that */
	data = palloc(2 * BLCKSZ + 64);
	for (int i = 0; i < 2 * BLCKSZ + 64; i++)
		data[i] = (char) ((state = state * 1103515245 + 12345) >> 16);
	for (int i = 0; enabled && i < 16; i++)
		enabled = agrees(state >> i, data + i, (i % 3) * BLCKSZ + i * 3);
	pfree(data);
	if (!enabled)
		elog(LOG, "checksums are computed the slow way: the fast one does not agree with it");
#endif
}

pg_crc32c
crc_lanes(pg_crc32c crc, const void *data, size_t size)
{
	const char *at = data;

#ifdef HAVE_CRC_INSTRUCTION
	for (; enabled && size >= NLANES * LANE_SIZE; size -= NLANES * LANE_SIZE)
	{
		crc = (pg_crc32c) sum_lanes(crc, at);
		at += NLANES * LANE_SIZE;
	}
#endif
	COMP_CRC32C(crc, at, size);
	return crc;
}
