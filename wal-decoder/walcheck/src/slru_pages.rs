//! Pages of the transaction logs, for which there are no images: they are compared with the files of the stopped cluster.

use anyhow::{Context, Result};
use std::{collections::HashMap, fs, path::Path};
use wal_decoder::{
    effect::{Effect, Version},
    key::{PAGE_SIZE, Page, SlruKind},
    redo::{self, RedoError},
    slru::{segment_precedes, segments_between},
};

/// A page's kind and number.
pub(crate) type SlruPage = (SlruKind, u32);

/// Pages by kind and number.
#[derive(Default)]
pub(crate) struct SlruPages {
    pages: HashMap<SlruPage, Box<Page>>,
}

impl SlruPages {
    /// The logs of a stopped cluster: what this WAL goes on from, or what it must lead to.
    pub(crate) fn read(data: &Path) -> Result<SlruPages> {
        let mut pages = HashMap::new();
        for kind in SlruKind::ALL {
            let folder = data.join(kind.directory());
            let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
            for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let Ok(segment) = u32::from_str_radix(name, 16) else { continue };
                let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let first = segment.saturating_mul(SlruKind::PAGES_PER_SEGMENT);
                for (number, page) in (first..).zip(content.chunks_exact(PAGE_SIZE)) {
                    pages.insert((kind, number), Box::new(page.try_into().expect("a page")));
                }
            }
        }
        Ok(SlruPages { pages })
    }

    /// Applies an effect; others than those on these logs change nothing.
    pub(crate) fn effect(&mut self, effect: &Effect<'_>) -> Result<(), RedoError> {
        match *effect {
            Effect::Slru { kind, page, version } => {
                let slot = self.pages.entry((kind, page)).or_insert_with(|| Box::new([0; PAGE_SIZE]));
                match version {
                    Version::Image(image) => slot.copy_from_slice(image),
                    Version::Delta { bytes, .. } => redo::apply_slru(kind, slot, bytes)?,
                }
            }
            Effect::SlruTruncate { kind, cutoff_page } => {
                self.drop_where(kind, |segment| segment_precedes(kind, segment, cutoff_page))
            }
            Effect::SlruDropSegments { kind, first, end } => {
                segments_between(kind, first, end).for_each(|gone| self.drop_where(kind, |segment| segment == gone))
            }
            _ => {}
        }
        Ok(())
    }

    fn drop_where(&mut self, of: SlruKind, gone: impl Fn(u32) -> bool) {
        self.pages.retain(|&(kind, page), _| kind != of || !gone(page / SlruKind::PAGES_PER_SEGMENT));
    }

    /// Each page of `theirs` with ours, which is zeros when no WAL made it; and ours that hold something and have no file.
    pub(crate) fn pairs<'a>(&'a self, theirs: &'a SlruPages) -> impl Iterator<Item = (SlruPage, &'a Page, &'a Page)> {
        const ZEROS: &Page = &[0; PAGE_SIZE];
        let ours = |at: &SlruPage| self.pages.get(at).map_or(ZEROS, |page| page);
        let without_file = self.pages.iter().filter(|(at, page)| !theirs.pages.contains_key(at) && ***page != *ZEROS);
        let with_file = theirs.pages.iter().map(move |(at, page)| (*at, ours(at), &**page));
        with_file.chain(without_file.map(|(at, page)| (*at, &**page, ZEROS)))
    }
}
