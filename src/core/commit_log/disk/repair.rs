//! Makes a damaged data directory start again: everything before the first fault stays, what is behind it
//! goes aside, nothing is removed.
//!
//! ```text
//! DIR/segments/  1 good   2 cut behind its last good commit   (3, 4 gone)
//! DIR/damaged-20260102T030405Z/            2 as it was         3  4
//! ```
//!
//! The order is such that a crash leaves a directory that either is as it was, or has a gap and does not
//! start, or is done: the damaged segment is replaced first, by a rename, then the later ones go, the oldest
//! first. A second repair finishes it. A fault of the hash chain alone is told and left: all of it can be
//! read, and what was changed cannot be known here.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    INDEX, SEGMENTS, UNFINISHED,
    files::Files,
    offline::{self, Offline},
    recovery::{RecoveryError, first_position, valid_follows},
    segment_name,
};
use crate::core::{
    log::{
        format::{self, Header},
        packing,
        verify::{Damage, Fault, Verifier, check_header},
    },
    position::Position,
};

/// What a folder's name begins with in which damaged files are put aside.
pub const DAMAGED: &str = "damaged-";

/// Something that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    #[error("{file} is damaged at byte {offset}: {fault}; what is behind cannot follow")]
    Damaged { file: String, offset: usize, fault: Fault },
    #[error("{file} is torn at byte {offset}: {fault}; nothing of it was acknowledged")]
    Torn { file: String, offset: usize, fault: Fault },
    #[error(
        "{file} has a damaged header, which follows from what is before it and is written anew"
    )]
    Header { file: String },
    #[error("{file}: {fault}; a repair cannot bring it back: restore a backup")]
    Chain { file: String, fault: Fault },
    #[error("{file} is missing; what is behind cannot follow")]
    Missing { file: String },
    #[error("{file} cannot be read: {source}; look at the disk and its rights first")]
    Unreadable { file: String, source: io::Error },
    #[error("{0} does not belong here")]
    Stranger(String),
}

/// Why a directory cannot be repaired. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("{file}: {fault}")]
    Newer { file: String, fault: Fault },
}

/// What is wrong, and what is to be done about it.
pub struct Plan {
    /// In the order of the log.
    pub findings: Vec<Finding>,
    /// Everything up to here stays.
    pub head: Position,
    /// How many files go aside, whole or in part, and how many bytes.
    pub aside: (u64, u64),
    steps: Vec<Step>,
}

/// What is done in one go: a crash comes before it or after.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The file has `header`, if it is not empty, and then its own bytes, unpacked, up to `end`; as it was
    /// it goes aside.
    Replace { file: String, header: Vec<u8>, end: usize },
    /// The file, of this folder, goes aside.
    Aside { folder: &'static str, file: String },
}

impl Plan {
    /// Whether there is something that a repair can do.
    pub fn is_needed(&self) -> bool {
        !self.steps.is_empty()
    }
}

/// Looks at every byte; `progress` is told after each commit how far it is. Changes nothing.
pub fn plan(directory: &Offline, mut progress: impl FnMut(&Verifier)) -> Result<Plan, RepairError> {
    let files = directory.files();
    let (names, strangers) = offline::list(files)?;
    let mut plan =
        Plan { findings: Vec::new(), head: Position::ZERO, aside: (0, 0), steps: Vec::new() };
    let size = |file: &str| {
        let path = directory.path().join(SEGMENTS).join(file);
        fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
    };
    let mut aside = Vec::new();
    for stranger in strangers {
        aside.push(stranger.clone());
        plan.findings.push(Finding::Stranger(stranger));
    }
    let mut verifier = Verifier::new();
    let mut ended = false;
    for (index, name) in names.iter().enumerate() {
        let first = first_position(name).expect("it is a segment's");
        let next = verifier.position().next();
        if ended {
            aside.push(name.clone());
        } else if first < next {
            // Its events are those of another file, or another log's.
            aside.push(name.clone());
            plan.findings.push(Finding::Stranger(name.clone()));
        } else if first > next {
            ended = true;
            aside.push(name.clone());
            plan.findings.push(Finding::Missing { file: segment_name(next) });
        } else {
            match files.read(name) {
                Ok(bytes) => {
                    let is_newest = index + 1 == names.len();
                    let file = OneFile { name, first, is_newest };
                    ended = plan.look_at(&file, bytes, &mut verifier, &mut progress)?;
                    if ended && plan.steps.last().is_none_or(|step| !step.is_of(name)) {
                        aside.push(name.clone());
                    }
                }
                Err(source) => {
                    ended = true;
                    aside.push(name.clone());
                    plan.findings.push(Finding::Unreadable { file: name.clone(), source });
                }
            }
        }
    }
    plan.head = verifier.position();
    for file in aside {
        plan.aside.0 += 1;
        plan.aside.1 += size(&file);
        plan.steps.push(Step::Aside { folder: SEGMENTS, file });
    }
    if plan.is_needed() {
        // Of what was lost no index is needed; what is not there needs none.
        let indexes = fs::read_dir(directory.path().join(INDEX)).into_iter().flatten().flatten();
        for entry in indexes {
            let file = entry.file_name().to_string_lossy().into_owned();
            let head = file.strip_suffix(".index").and_then(|head| head.parse().ok());
            if head.is_some_and(|head| Position::new(head) > plan.head) {
                plan.steps.push(Step::Aside { folder: INDEX, file });
            }
        }
    }
    Ok(plan)
}

/// A segment's file that is where it must be.
struct OneFile<'a> {
    name: &'a str,
    first: Position,
    is_newest: bool,
}

impl Plan {
    /// Checks one segment, notes what is wrong with it and how it is replaced; whether the log ends there.
    fn look_at(
        &mut self,
        file: &OneFile<'_>,
        mut bytes: Vec<u8>,
        verifier: &mut Verifier,
        progress: &mut impl FnMut(&Verifier),
    ) -> Result<bool, RepairError> {
        let name = || file.name.to_owned();
        let before = *verifier.chain().expect("it begins at position 1");
        let mut header = Vec::new();
        let begins = match check_header(&bytes, file.first) {
            // In a file the chain is always kept.
            Ok(Header { chain: None, .. }) => Err(Fault::Header),
            begins => begins,
        };
        match begins {
            Ok(_) => {}
            Err(fault @ Fault::Newer(_)) => return Err(RepairError::Newer { file: name(), fault }),
            Err(fault) => {
                header = format::header(file.first, Some(before.value()));
                let torn = file.is_newest && !valid_follows(&bytes, 0);
                bytes = with_header(bytes, &header);
                let (plain, _) = packing::unpack_what_is_good(&Bytes::copy_from_slice(&bytes));
                let first_commit = plain.get(header.len()..).unwrap_or_default();
                if format::check_commit(first_commit, file.first, &mut Vec::new()).is_err() {
                    self.findings.push(found(torn, name(), 0, fault));
                    return Ok(true);
                }
                self.findings.push(Finding::Header { file: name() });
            }
        }
        let (bytes, broken) = packing::unpack_what_is_good(&bytes.into());
        match verifier.begin(&bytes, file.first) {
            Ok(_) => {}
            Err(Damage { fault: fault @ Fault::Chain { .. }, .. }) => {
                self.findings.push(Finding::Chain { file: name(), fault });
            }
            Err(Damage { offset, fault, .. }) => {
                let corrupt = RecoveryError::Corrupt { file: name(), offset, reason: fault };
                return Err(corrupt.into());
            }
        }
        let fault = loop {
            match verifier.commit(&bytes) {
                Ok(Some(_)) => progress(verifier),
                Ok(None) => break None,
                Err(damage) => break Some(damage),
            }
        };
        let end = verifier.offset();
        let torn = |offset| file.is_newest && !valid_follows(&bytes, offset);
        let finding = match (fault, broken) {
            (Some(Damage { offset, fault, .. }), _) => {
                Some(found(torn(offset), name(), offset, fault))
            }
            // A packed block, which no crash tears: the file was renamed when it was whole.
            (None, Some((offset, error))) => Some(found(false, name(), offset, error.into())),
            (None, None) => None,
        };
        let ended = finding.is_some();
        if ended {
            // A fault in the room behind the commits: there the commits end.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            self.aside.1 += used.saturating_sub(end) as u64;
        }
        self.findings.extend(finding);
        if ended || !header.is_empty() {
            self.aside.0 += 1;
            self.steps.push(Step::Replace { file: name(), header, end });
        }
        Ok(ended)
    }

    /// Does it: what is in the way goes to `folder`, a new one in the directory. `go_on` is asked before
    /// every step.
    pub fn run(
        &self,
        directory: &Offline,
        folder: &Path,
        mut go_on: impl FnMut() -> bool,
    ) -> io::Result<()> {
        fs::create_dir(folder)?;
        sync(directory.path())?;
        for step in &self.steps {
            if !go_on() {
                return Ok(());
            }
            step.run(directory.path(), folder)?;
        }
        Ok(())
    }
}

/// The bytes of a segment with `header` in the place of its own; with its own if that is empty.
fn with_header(mut bytes: Vec<u8>, header: &[u8]) -> Vec<u8> {
    let size = header.len().min(bytes.len());
    bytes[..size].copy_from_slice(&header[..size]);
    bytes
}

fn found(torn: bool, file: String, offset: usize, fault: Fault) -> Finding {
    if torn && offline::is_torn(&fault) {
        Finding::Torn { file, offset, fault }
    } else {
        Finding::Damaged { file, offset, fault }
    }
}

impl Step {
    fn is_of(&self, name: &str) -> bool {
        match self {
            Self::Replace { file, .. } | Self::Aside { file, .. } => file == name,
        }
    }

    fn run(&self, directory: &Path, aside: &Path) -> io::Result<()> {
        match self {
            Self::Replace { file, header, end } => {
                let folder = directory.join(SEGMENTS);
                let path = folder.join(file);
                let unfinished = folder.join(format!("{file}{UNFINISHED}"));
                let bytes = with_header(fs::read(&path)?, header);
                let (plain, _) = packing::unpack_what_is_good(&bytes.into());
                let mut new = File::create(&unfinished)?;
                new.write_all(&plain[..*end])?;
                new.sync_all()?;
                keep(&path, &aside.join(file))?;
                sync(aside)?;
                fs::rename(&unfinished, &path)?;
                sync(&folder)
            }
            Self::Aside { folder, file } => {
                let folder = directory.join(folder);
                fs::rename(folder.join(file), aside.join(file))?;
                sync(aside)?;
                sync(&folder)
            }
        }
    }
}

/// The file also has the name `to`, or is copied where it cannot have two names.
fn keep(from: &Path, to: &PathBuf) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    })
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
