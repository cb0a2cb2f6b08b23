//! PostgreSQL's own LZ format (`pg_lzcompress.c`), decompression only.
//!
//! A control byte announces eight items, lowest bit first. A 0 bit is one literal byte. A 1 bit is a match of two bytes, or three:
//!
//! ```text
//! byte 0: OOOO LLLL   O = bits 8..11 of the distance back, L = length - 3
//! byte 1: OOOO OOOO   bits 0..7 of the distance
//! byte 2: only if L = 15: added to the length of 18
//! ```

/// Fills `out` from `data` and returns how many bytes came out; `None` when `data` is not valid or makes more than `out` holds.
pub fn decompress(data: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut input = data.iter().copied();
    let mut filled = 0;
    while let Some(control) = input.next() {
        for bit in 0..8 {
            let Some(first) = input.next() else { return Some(filled) };
            if control & (1 << bit) == 0 {
                *out.get_mut(filled)? = first;
                filled += 1;
                continue;
            }
            let distance = usize::from(first & 0xf0) << 4 | usize::from(input.next()?);
            let mut length = usize::from(first & 0x0f) + 3;
            if length == 18 {
                length += usize::from(input.next()?);
            }
            if distance == 0 || distance > filled || filled + length > out.len() {
                return None;
            }
            if distance >= length {
                out.copy_within(filled - distance..filled - distance + length, filled);
            } else {
                // The match overlaps what it produces: each byte must see those just written.
                for at in filled..filled + length {
                    out[at] = out[at - distance];
                }
            }
            filled += length;
        }
    }
    Some(filled)
}
