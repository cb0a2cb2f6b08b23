//! The supervisor's folder, and in it a fresh folder for each life of a postmaster.
//!
//! ```text
//! DATA_DIR/
//!   lock                 taken by the kernel while a supervisor works here
//!   ogel-compute         marker: "1\n", the version of this layout
//!   postgres.log[.1]     what Postgres says, across lives
//!   lives/N/pgdata/      data directory of the Nth postmaster; belongs to the run-user
//!   lives/N/wal/         WAL that the start needs, until the data directory is there
//!   lives/N/socket/      its unix socket
//! ```
//!
//! Nothing here survives its supervisor on purpose: what a commit needs is with the quorum, pages are with the pageserver.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use ogel_service::{DataFolder, shared_memory};

use crate::postgres::{processes, run_user::RunUser};

const MARKER: &str = "ogel-compute";
const LAYOUT_VERSION: &str = "1";
/// Postgres' log is put aside when it is longer than this.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// Longest name of a unix socket, its final zero left out (`sun_path`).
const MAX_SOCKET_NAME_BYTES: usize = 107;

/// The folder, held by this process.
#[derive(Debug)]
pub struct DataDir {
    /// Without symbolic links, as the kernel names it.
    path: PathBuf,
    run_user: RunUser,
    lives: u64,
    _held: DataFolder,
}

/// Folders of one postmaster's life.
#[derive(Debug)]
pub struct Life {
    root: PathBuf,
    /// Its data directory.
    pub pgdata: PathBuf,
    /// Where its unix socket lies.
    pub socket_dir: PathBuf,
    /// Where WAL is gathered before the data directory is there; not made yet.
    pub wal_dir: PathBuf,
}

impl DataDir {
    /// Takes the folder, ends what an earlier supervisor has left running in it, and removes earlier lives.
    pub async fn take(path: &Path, run_user: RunUser) -> anyhow::Result<Self> {
        refuse_foreign(path)?;
        let held = DataFolder::take(path)?;
        let path = path.canonicalize().with_context(|| format!("the data folder {}", path.display()))?;
        fs::write(path.join(MARKER), format!("{LAYOUT_VERSION}\n")).context("writing the folder's marker")?;
        check_can_enter(&path, run_user)?;
        let mut dir = Self { path, run_user, lives: 0, _held: held };
        dir.remove_old_lives().await?;
        Ok(dir)
    }

    async fn remove_old_lives(&mut self) -> anyhow::Result<()> {
        let lives = self.path.join("lives");
        let entries = match fs::read_dir(&lives) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(fs::create_dir(&lives)?),
            Err(error) => return Err(error).with_context(|| format!("reading {}", lives.display())),
        };
        for entry in entries {
            let entry = entry?;
            if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                self.lives = self.lives.max(number);
            }
            Life::at(entry.path()).remove().await?;
        }
        Ok(())
    }

    /// Makes the folder of a new life; everything of the one before must have been removed. `port` names the socket.
    pub fn new_life(&mut self, port: u16) -> anyhow::Result<Life> {
        self.lives += 1;
        let life = Life::at(self.path.join("lives").join(self.lives.to_string()));
        for folder in [&life.root, &life.pgdata, &life.socket_dir] {
            self.run_user.create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let name_bytes = life.socket_path(port).as_os_str().len();
        ensure!(
            name_bytes <= MAX_SOCKET_NAME_BYTES,
            "the data folder's name is too long: the unix socket in it would have {name_bytes} bytes and {MAX_SOCKET_NAME_BYTES} are possible; \
             choose a shorter --data-dir"
        );
        Ok(life)
    }

    /// Where Postgres' messages are kept.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    /// Opens the log for one more life; a long one is put aside first.
    pub fn open_log(&self) -> anyhow::Result<File> {
        let path = self.log_path();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            fs::rename(&path, self.path.join("postgres.log.1")).context("putting Postgres' log aside")?;
        }
        let log = File::options().create(true).append(true).open(&path);
        log.with_context(|| format!("opening Postgres' log {}", path.display()))
    }

    /// Puts the log aside while Postgres writes to it, when it has grown too long. A few lines may be lost.
    pub fn rotate_log(&self) -> io::Result<()> {
        let path = self.log_path();
        if fs::metadata(&path)?.len() > MAX_LOG_BYTES {
            fs::copy(&path, self.path.join("postgres.log.1"))?;
            File::options().write(true).open(&path)?.set_len(0)?;
        }
        Ok(())
    }

    /// Last lines of the log from the byte `since` on, for an error message.
    pub fn log_tail(&self, since: u64) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(since as usize..).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }
}

impl Life {
    fn at(root: PathBuf) -> Self {
        Self { pgdata: root.join("pgdata"), socket_dir: root.join("socket"), wal_dir: root.join("wal"), root }
    }

    /// The socket's file.
    pub fn socket_path(&self, port: u16) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{port}"))
    }

    /// Makes the data directory anew.
    pub fn empty_pgdata(&self, owner: RunUser) -> io::Result<()> {
        fs::remove_dir_all(&self.pgdata)?;
        owner.create_dir(&self.pgdata)
    }

    /// Ends what still works in the folder and removes it.
    pub async fn remove(self) -> anyhow::Result<()> {
        if !processes::kill_all_in(&self.pgdata).await {
            bail!(
                "processes in {} cannot be killed: a second Postgres must not run beside them; end them by hand",
                self.pgdata.display()
            );
        }
        shared_memory::remove_of(&self.pgdata);
        let root = self.root;
        let removed = tokio::task::spawn_blocking(move || (fs::remove_dir_all(&root), root)).await?;
        match removed {
            (Err(error), root) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}, the folder of an earlier life", root.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Old lives are removed: a folder with anything else in it must not be taken for one of ours.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    let version = match fs::read_to_string(path.join(MARKER)) {
        Ok(version) => version,
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("reading the marker in {}", path.display()));
        }
        Err(_) => {
            let holds_anything =
                fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|e| e.file_name() != "lock"));
            ensure!(
                !holds_anything,
                "{} holds files that are not a compute's: give OGEL_DATA_DIR (--data-dir) a folder of its own",
                path.display()
            );
            return Ok(());
        }
    };
    ensure!(
        version.trim() == LAYOUT_VERSION,
        "{} was written by another version of this program (layout {:?}, this one knows {LAYOUT_VERSION}): remove it, it holds nothing that would be lost",
        path.display(),
        version.trim().chars().take(20).collect::<String>()
    );
    Ok(())
}

/// Says early, and by name, which folder keeps Postgres out.
fn check_can_enter(path: &Path, run_user: RunUser) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let RunUser::Other { uid, gid } = run_user else { return Ok(()) };
    for folder in path.ancestors() {
        let metadata = fs::metadata(folder).with_context(|| format!("looking at {}", folder.display()))?;
        let bit = if metadata.uid() == uid {
            0o100
        } else if metadata.gid() == gid {
            0o010
        } else {
            0o001
        };
        ensure!(
            metadata.permissions().mode() & bit != 0,
            "the user that Postgres runs as cannot enter {}: allow it (chmod o+x {}) or choose another OGEL_DATA_DIR (--data-dir)",
            folder.display(),
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_life_starts_empty_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("compute");
        let mut dir = DataDir::take(&path, RunUser::Same).await.expect("a new folder");
        let life = dir.new_life(5432).expect("a life");
        fs::write(life.pgdata.join("stale"), "page").expect("a file");
        drop(dir);
        let mut again = DataDir::take(&path, RunUser::Same).await.expect("our own folder");
        let life = again.new_life(5432).expect("a life");
        assert_eq!(fs::read_dir(&life.pgdata).expect("readable").count(), 0);
        assert_eq!(fs::read_dir(path.join("lives")).expect("readable").count(), 1);
    }

    #[tokio::test]
    async fn a_foreign_folder_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("thesis.tex"), "years of work").expect("a file");
        assert!(DataDir::take(folder.path(), RunUser::Same).await.is_err());
        fs::remove_file(folder.path().join("thesis.tex")).expect("there");
        fs::write(folder.path().join(MARKER), "2\n").expect("a file");
        assert!(
            DataDir::take(folder.path(), RunUser::Same)
                .await
                .expect_err("newer")
                .to_string()
                .contains("another version")
        );
    }

    #[tokio::test]
    async fn two_supervisors_cannot_share_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = DataDir::take(folder.path(), RunUser::Same).await.expect("free");
        assert!(DataDir::take(folder.path(), RunUser::Same).await.is_err());
    }
}
