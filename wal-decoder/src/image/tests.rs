use super::*;
use proptest::prelude::*;

fn page() -> Page {
    let mut page = [0; PAGE_SIZE];
    for (at, byte) in page.iter_mut().enumerate() {
        *byte = if (1000..7000).contains(&at) { 0 } else { (at / 7 % 251) as u8 };
    }
    page
}

fn without_hole(page: &Page) -> Vec<u8> {
    [&page[..1000], &page[7000..]].concat()
}

fn restored(data: &[u8], info: u8, hole: bool) -> Result<Page, ImageError> {
    let mut out = [0xff; PAGE_SIZE];
    let (hole_offset, hole_length) = if hole { (1000, 6000) } else { (0, 0) };
    restore(data, ImageInfo { info, hole_offset, hole_length }, &mut out)?;
    Ok(out)
}

#[test]
fn every_storage_form_gives_the_page_back() {
    let page = page();
    let short = without_hole(&page);
    assert_eq!(restored(&page, APPLY, false), Ok(page));
    assert_eq!(restored(&short, HAS_HOLE, true), Ok(page));
    assert_eq!(restored(&lz4_flex::block::compress(&page), COMPRESS_LZ4, false), Ok(page));
    assert_eq!(restored(&lz4_flex::block::compress(&short), COMPRESS_LZ4 | HAS_HOLE, true), Ok(page));
    let zstd = zstd::bulk::compress(&short, 3).expect("compress");
    assert_eq!(restored(&zstd, COMPRESS_ZSTD | HAS_HOLE, true), Ok(page));
}

#[test]
fn pglz_literals_matches_and_overlaps() {
    let mut out = [0; 40];
    // "ab", then 2 back for 3 + 15 + 20 bytes
    assert_eq!(pglz::decompress(&[0b100, b'a', b'b', 0x0f, 2, 20], &mut out), Some(40));
    assert_eq!(&out, "ab".repeat(20).as_bytes());
    // before the start, distance 0, too long, cut short
    assert_eq!(pglz::decompress(&[0b10, b'a', 0x00, 2], &mut out), None);
    assert_eq!(pglz::decompress(&[0b10, b'a', 0x00, 0], &mut out), None);
    assert_eq!(pglz::decompress(&[0b10, b'a', 0x0f, 1, 200], &mut out), None);
    assert_eq!(pglz::decompress(&[0b10, b'a', 0x0f, 1], &mut out), None);
}

#[test]
fn wrong_sizes_are_named() {
    let page = page();
    assert_eq!(restored(&page[1..], 0, false), Err(ImageError::Length { expected: 8192, got: 8191 }));
    assert_eq!(
        restored(&lz4_flex::block::compress(&page[..100]), COMPRESS_LZ4, false),
        Err(ImageError::Length { expected: 8192, got: 100 })
    );
    let mut out = page;
    let hole = ImageInfo { info: HAS_HOLE, hole_offset: 8000, hole_length: 193 };
    assert_eq!(restore(&page, hole, &mut out), Err(ImageError::Hole { offset: 8000, length: 193 }));
}

proptest! {
    #[test]
    fn hostile_images_are_errors(data in prop::collection::vec(any::<u8>(), 0..3000), info in any::<u8>(), hole_offset in any::<u16>(), hole_length in any::<u16>()) {
        let mut out = [0; PAGE_SIZE];
        let _ = restore(&data, ImageInfo { info, hole_offset, hole_length }, &mut out);
    }
}
