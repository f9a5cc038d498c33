//! A data directory that no server has: to be looked at, checked and repaired, not to be served. Nothing
//! is made or changed by opening it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    LOCK_FILE, Lock, MARK, MARK_FILE, OpenError, SEGMENTS, UNFINISHED,
    files::{Directory, Files},
    recovery::{Cut, RecoveryError, first_position, valid_follows},
    segment_name,
};
use crate::core::log::{
    packing,
    verify::{Damage, Fault, Verifier},
};

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error("{0} is no data directory of annals")]
    NotOurs(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A data directory, ours alone for as long as this lives.
pub struct Offline {
    path: PathBuf,
    files: Directory,
    /// `None`: nobody ever had it, and it cannot be written to.
    _lock: Option<Lock>,
}

impl Offline {
    /// Takes the directory at `path`.
    pub fn open(path: &Path) -> Result<Self, OfflineError> {
        let mark = path.join(MARK_FILE);
        match fs::read(&mark) {
            Ok(text) if text == MARK.as_bytes() => {}
            Ok(text) => {
                let found = String::from_utf8_lossy(&text);
                let found = found.lines().next().unwrap_or_default().chars().take(80).collect();
                return Err(OpenError::Newer { path: mark, found }.into());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OfflineError::NotOurs(path.to_owned()));
            }
            Err(source) => return Err(OpenError::Io { path: mark, source }.into()),
        }
        let lock = lock(path)?;
        Ok(Self { path: path.to_owned(), files: Directory::new(&path.join(SEGMENTS)), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes its segments take, room among them; for a progress bar.
    pub fn size(&self) -> u64 {
        let entries = fs::read_dir(self.path.join(SEGMENTS)).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    }

    /// The files of its segments.
    pub fn files(&self) -> &Directory {
        &self.files
    }
}

/// Locks the directory at `path`; `None` where there is nothing to lock and nothing can be made.
fn lock(path: &Path) -> Result<Option<Lock>, OpenError> {
    let lock_path = path.join(LOCK_FILE);
    // A lock needs no right to write, so a copy on a medium that cannot be written to can be checked.
    let opened = fs::File::open(&lock_path).or_else(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            fs::File::create(&lock_path)
        } else {
            Err(error)
        }
    });
    let lock = match opened {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(None),
        Err(source) => return Err(OpenError::Io { path: lock_path, source }),
    };
    Lock::take(lock, lock_path, path).map(Some)
}

/// The names of the segments of `files`, in the order of the log, and of what is none.
pub fn list(files: &dyn Files) -> Result<(Vec<String>, Vec<String>), RecoveryError> {
    let failed = |source| RecoveryError::Io { file: SEGMENTS.to_owned(), source };
    let mut names = files.list().map_err(failed)?;
    names.sort();
    names.retain(|name| !name.ends_with(UNFINISHED));
    Ok(names.into_iter().partition(|name| first_position(name).is_some()))
}

/// Feeds all segments of `files` to `verifier`; `progress` is told after each commit how far it is. What is
/// torn at the very end, and would be cut off by a start, is no damage and is given back.
pub fn verify(
    files: &dyn Files,
    verifier: &mut Verifier,
    mut progress: impl FnMut(&Verifier),
) -> Result<Option<Cut>, RecoveryError> {
    let (names, strangers) = list(files)?;
    if let Some(stranger) = strangers.into_iter().next() {
        return Err(RecoveryError::Stranger(stranger));
    }
    for (index, name) in names.iter().enumerate() {
        let first = first_position(name).expect("it is a segment's");
        let expected = verifier.position().next();
        if first != expected {
            return Err(RecoveryError::Missing {
                file: segment_name(expected),
                before: names[index.saturating_sub(1)].clone(),
                after: name.clone(),
            });
        }
        let bytes =
            files.read(name).map_err(|source| RecoveryError::Io { file: name.clone(), source })?;
        let bytes = packing::unpack(&bytes.into()).map_err(|(offset, error)| {
            RecoveryError::Corrupt { file: name.clone(), offset, reason: error.into() }
        })?;
        let mut check = || {
            let header = verifier.begin(&bytes, first)?;
            if header.chain.is_none() {
                return Err(Damage { segment: first, offset: 0, fault: Fault::Header });
            }
            while verifier.commit(&bytes)?.is_some() {
                progress(verifier);
            }
            Ok(())
        };
        if let Err(Damage { offset, fault, .. }) = check() {
            let torn =
                index + 1 == names.len() && is_torn(&fault) && !valid_follows(&bytes, offset);
            let file = name.clone();
            if !torn {
                return Err(RecoveryError::Corrupt { file, offset, reason: fault });
            }
            return Ok(Some(Cut { file, offset, reason: fault }));
        }
    }
    Ok(None)
}

/// Whether the end of the process can have left it at the end of the newest segment.
pub(super) fn is_torn(fault: &Fault) -> bool {
    matches!(fault, Fault::Header | Fault::Format(_))
}
