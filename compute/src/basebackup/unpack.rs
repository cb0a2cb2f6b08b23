//! Unpacks a basebackup. Its bytes come from the network: no name may lead out of the folder, nothing but plain files and
//! folders is made, nothing is overwritten, and there is an end to it.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use tar::{Archive, Entry, EntryType};

use super::Manifest;
use crate::postgres::run_user::RunUser;

const MANIFEST_NAME: &str = "ogel_basebackup.json";
const CONTROL_NAME: &str = "global/pg_control";
const MAX_MANIFEST_BYTES: u64 = 64 << 10;
const CONTROL_BYTES: u64 = 8192;
/// The status of 2³² transactions is 1 GiB, members of multixacts reach 16 GiB; the rest is small.
const MAX_TOTAL_BYTES: u64 = 64 << 30;
const MAX_ENTRIES: u64 = 4_000_000;

/// Why a basebackup is not used. The folder then holds a part of it.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream or the disk failed; fetching again may help.
    #[error("unpacking the basebackup: {0}")]
    Io(#[from] io::Error),
    /// The pageserver sent something that it must not send.
    #[error("the basebackup has an entry {name:?} that {what}: it is not used; report this and look at the pageserver")]
    BadEntry {
        /// Which.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The manifest says nothing that we understand.
    #[error("the basebackup's manifest cannot be used: {0}")]
    BadManifest(String),
    /// The last entry is missing.
    #[error("the basebackup ends before {CONTROL_NAME}: it was cut; fetching again may help")]
    Truncated,
    /// Larger than a data directory without relations can be.
    #[error("the basebackup exceeds {MAX_ENTRIES} entries or {} GiB: it is not used", MAX_TOTAL_BYTES >> 30)]
    TooLarge,
}

/// Unpacks into `folder`, which exists and is empty, and returns the manifest.
pub fn unpack(stream: impl Read, folder: &Path, owner: RunUser) -> Result<Manifest, UnpackError> {
    let mut archive = Archive::new(stream);
    let mut unpacker =
        Unpacker { folder, owner, made: HashSet::new(), bytes: 0, entries: 0, manifest: None, finished: false };
    for entry in archive.entries()? {
        unpacker.take(entry?)?;
    }
    match unpacker.manifest {
        Some(manifest) if unpacker.finished => Ok(manifest),
        _ => Err(UnpackError::Truncated),
    }
}

struct Unpacker<'a> {
    folder: &'a Path,
    owner: RunUser,
    /// Folders that exist already, relative.
    made: HashSet<PathBuf>,
    bytes: u64,
    entries: u64,
    manifest: Option<Manifest>,
    finished: bool,
}

impl Unpacker<'_> {
    fn take(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let name = entry.path()?.into_owned();
        let bad = |what| UnpackError::BadEntry { name: name.to_string_lossy().chars().take(200).collect(), what };
        let path = safe_path(&name).ok_or_else(|| bad("leads out of the data directory"))?;
        let size = entry.size();
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MAX_TOTAL_BYTES || self.entries > MAX_ENTRIES {
            return Err(UnpackError::TooLarge);
        }
        if self.finished {
            return Err(bad("follows the control file, which must be the last"));
        }
        if path == Path::new(MANIFEST_NAME) && self.manifest.is_none() {
            if size > MAX_MANIFEST_BYTES {
                return Err(bad("is too long"));
            }
            let mut json = Vec::new();
            entry.read_to_end(&mut json)?;
            self.manifest = Some(Manifest::parse(&json).map_err(UnpackError::BadManifest)?);
            return Ok(());
        }
        if self.manifest.is_none() {
            return Err(bad("comes before the manifest"));
        }
        match entry.header().entry_type() {
            EntryType::Directory => Ok(self.make_folder(&path)?),
            EntryType::Regular => {
                self.finished = path == Path::new(CONTROL_NAME);
                if self.finished && size != CONTROL_BYTES {
                    return Err(bad("has not the size of a control file"));
                }
                Ok(self.write_file(&path, &mut entry, size)?)
            }
            _ => Err(bad("is neither a file nor a folder")),
        }
    }

    fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || self.made.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_folder(parent)?;
        }
        self.owner.create_dir(&self.folder.join(path))?;
        self.made.insert(path.to_owned());
        Ok(())
    }

    fn write_file(&mut self, path: &Path, content: &mut impl Read, size: u64) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.make_folder(parent)?;
        }
        let mut file: fs::File = self.owner.create_file(&self.folder.join(path))?;
        let copied = io::copy(content, &mut file)?;
        if copied != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "an entry is shorter than announced"));
        }
        Ok(())
    }
}

/// The path without `.` parts; `None` when it is absolute, climbs, or is empty.
fn safe_path(name: &Path) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!path.as_os_str().is_empty() || name == Path::new("./") || name == Path::new(".")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Vec<u8> {
        let id = "ab".repeat(16);
        format!(
            r#"{{"version":1,"tenant":"{id}","timeline":"{id}","lsn":"0/2000100","prev_record_lsn":"0/2000028",
            "clean_shutdown":false,"system_identifier":"7","wal_segment_size":16777216,"pg_version_num":170011}}"#
        )
        .into_bytes()
    }

    /// Builds the archive by hand, because the `tar` crate refuses to write what a hostile peer would.
    fn archive(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(EntryType::new(*kind));
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(content);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    fn run(entries: &[(&str, u8, &[u8])]) -> (tempfile::TempDir, Result<Manifest, UnpackError>) {
        let outer = tempfile::tempdir().expect("a folder");
        let folder = outer.path().join("pgdata");
        fs::create_dir(&folder).expect("a folder");
        let result = unpack(&archive(entries)[..], &folder, RunUser::Same);
        (outer, result)
    }

    #[test]
    fn a_good_backup_is_unpacked() {
        let (outer, result) = run(&[
            (MANIFEST_NAME, b'0', &manifest()),
            ("base/", b'5', b""),
            ("./base/1/PG_VERSION", b'0', b"17\n"),
            (CONTROL_NAME, b'0', &[7; 8192]),
        ]);
        assert_eq!(result.expect("good").lsn, ogel_ids::Lsn(0x0200_0100));
        assert_eq!(fs::read(outer.path().join("pgdata/base/1/PG_VERSION")).expect("there"), b"17\n");
    }

    #[test]
    fn hostile_entries_are_refused_and_write_nothing_outside() {
        let control: (&str, u8, &[u8]) = (CONTROL_NAME, b'0', &[7; 8192]);
        for entry in [
            ("../evil", b'0', &b"x"[..]),
            ("base/../../evil", b'0', b"x"),
            ("/tmp/ogel-evil", b'0', b"x"),
            ("link", b'2', b""),
            ("hard", b'1', b""),
            ("fifo", b'6', b""),
            ("device", b'3', b""),
        ] {
            let (outer, result) = run(&[(MANIFEST_NAME, b'0', &manifest()), entry, control]);
            assert!(matches!(result, Err(UnpackError::BadEntry { .. })), "{entry:?}: {result:?}");
            assert_eq!(fs::read_dir(outer.path()).expect("readable").count(), 1, "{entry:?}");
        }
    }

    #[test]
    fn order_and_size_are_checked() {
        let good = manifest();
        assert!(matches!(run(&[("PG_VERSION", b'0', b"17\n")]).1, Err(UnpackError::BadEntry { .. })), "no manifest");
        assert!(matches!(run(&[(MANIFEST_NAME, b'0', &good)]).1, Err(UnpackError::Truncated)));
        assert!(matches!(
            run(&[(MANIFEST_NAME, b'0', &good), (CONTROL_NAME, b'0', &[0; 100])]).1,
            Err(UnpackError::BadEntry { .. })
        ));
        let twice = [(MANIFEST_NAME, b'0', &good[..]), ("a", b'0', b"1"), ("a", b'0', b"2")];
        assert!(matches!(run(&twice).1, Err(UnpackError::Io(_))), "nothing is overwritten");
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let whole =
            archive(&[(MANIFEST_NAME, b'0', &manifest()), ("a", b'0', &[1; 2000]), (CONTROL_NAME, b'0', &[7; 8192])]);
        for length in (0..whole.len() - 1024).step_by(256) {
            let folder = tempfile::tempdir().expect("a folder");
            assert!(unpack(&whole[..length], folder.path(), RunUser::Same).is_err(), "cut at {length}");
        }
    }
}
