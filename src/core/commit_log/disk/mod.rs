//! Durable mode: the same bytes as in memory, in files that are written ahead of every answer.
//!
//! ```text
//! DIR/annals            "annals data, format 1": the directory is ours
//! DIR/lock              held while a server has it
//! DIR/segments/
//!   00000000000000000001.segment    sealed: cut to its length
//!   00000000000000081923.segment    active: its room is taken, zeros behind the last commit
//! DIR/index/              snapshots of the indexes: they save time and can go
//! ```
//!
//! One write and one fdatasync for a batch of commits. A segment is safe before the next one begins, so
//! only the newest file can be torn. Reading it all back is `recovery`'s.
//!
//! A file's room is taken at its beginning, but the first write into room that was never written also
//! changes the file's extents, and its sync waits for the file system's journal. So the write that
//! reaches new room puts zeros behind its commits, and the syncs of the next ones find room that was
//! written (docs/adr/0012).

pub mod files;
pub mod offline;
pub mod recovery;
pub mod repair;
pub mod snapshot;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    files::{Directory, File, Files},
    recovery::{Recovered, RecoveryError},
};
use super::{CommitLog, CommitLogError};
use crate::core::{
    log::{LogWriter, chain::Hash, format, segment::SegmentWriter},
    position::Position,
    sequencer::Sequencer,
};

/// The text that makes a directory ours.
pub const MARK: &str = "annals data, format 1\n";
/// The file that has it.
pub const MARK_FILE: &str = "annals";
/// The file that is locked while somebody has the directory.
pub const LOCK_FILE: &str = "lock";
/// The folder of the segments.
pub const SEGMENTS: &str = "segments";
const INDEX: &str = "index";

/// When a commit is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Before it is acknowledged: it survives a crash of the process and the loss of power.
    Always,
    /// At the latest so long after it is acknowledged: it survives a crash of the process; the loss of
    /// power takes what is younger.
    Interval(Duration),
    /// When the operating system likes: it survives a crash of the process only.
    Never,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another server has {0}")]
    Locked(PathBuf),
    #[error("{0} has files in it, but is no data directory of annals; name an empty or a new one")]
    NotOurs(PathBuf),
    #[error("{path} says {found:?}: a newer annals has written it, this one knows format 1")]
    Newer { path: PathBuf, found: String },
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: io::Error },
}

/// What keeps others out of a data directory.
struct Lock(fs::File);

impl Lock {
    /// The lock on `directory` by its `file`, which is at `path`.
    fn take(file: fs::File, path: PathBuf, directory: &Path) -> Result<Self, OpenError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(OpenError::Locked(directory.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that is being started has it, too, until it runs.
        let _ = self.0.unlock();
    }
}

/// A data directory, ours alone for as long as this lives.
pub struct DataDirectory {
    files: Arc<dyn Files>,
    index: Arc<dyn Files>,
    _lock: Lock,
}

impl DataDirectory {
    /// Takes the directory at `path`; makes it where there is none.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        fs::create_dir_all(path).map_err(failed(path))?;
        let mark = path.join(MARK_FILE);
        match fs::read_to_string(&mark) {
            Ok(text) if text == MARK => {}
            Ok(found) => {
                let found = found.lines().next().unwrap_or_default().chars().take(80).collect();
                return Err(OpenError::Newer { path: mark, found });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A crash may have come between these steps: the mark is the last one.
                let entries = fs::read_dir(path).map_err(failed(path))?;
                for entry in entries {
                    let name = entry.map_err(failed(path))?.file_name();
                    if name != LOCK_FILE && name != SEGMENTS && name != INDEX {
                        return Err(OpenError::NotOurs(path.to_owned()));
                    }
                }
            }
            Err(source) => return Err(OpenError::Io { path: mark, source }),
        }
        let lock_path = path.join(LOCK_FILE);
        let lock = fs::File::create(&lock_path).map_err(failed(&lock_path))?;
        let lock = Lock::take(lock, lock_path, path)?;
        let (segments, index) = (path.join(SEGMENTS), path.join(INDEX));
        for folder in [&segments, &index] {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        if !mark.exists() {
            let write = || {
                fs::write(&mark, MARK)?;
                fs::File::open(&mark)?.sync_all()?;
                fs::File::open(path)?.sync_all()
            };
            write().map_err(failed(&mark))?;
        }
        let files = |folder| Arc::new(Directory::new(folder));
        Ok(Self { files: files(&segments), index: files(&index), _lock: lock })
    }

    /// The files of its segments.
    pub fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// The files of its index snapshots.
    pub fn index(&self) -> &Arc<dyn Files> {
        &self.index
    }
}

/// Reads back what `files` have, and goes on behind it: a sequencer that has to be
/// [restored](Sequencer::restore) up to the head that was found.
pub fn open(
    files: Arc<dyn Files>,
    mode: SyncMode,
    segment_size: usize,
    directory: Option<DataDirectory>,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<(Sequencer, Recovered), OpenLogError> {
    let mut recovered = recovery::recover(&*files, segment_size, progress)?;
    let sealed = std::mem::take(&mut recovered.sealed);
    let (disk, active) = if let Some(active) = recovered.active.take() {
        let place = (active.segment().first(), active.size(), active.capacity());
        (Disk::resume(files, mode, place, directory)?, active)
    } else {
        let (first, chain) = (recovered.head.next(), recovered.chain.value());
        let disk = Disk::create(files, mode, (first, segment_size), chain, directory)?;
        (disk, SegmentWriter::new(first, segment_size, Some(chain)))
    };
    let log = LogWriter::restore(sealed, active, segment_size);
    let sequencer = Sequencer::new(log, Box::new(disk)).with_chain(recovered.chain);
    Ok((sequencer, recovered))
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("the data directory cannot be written to: {}", .0.0)]
    Disk(#[from] CommitLogError),
}

/// The name of the segment whose first event is at `first`: names sort as positions do.
pub fn segment_name(first: Position) -> String {
    format!("{:020}.segment", first.get())
}

/// What a file's name ends with until it is whole; then it is renamed. A start removes what a crash has
/// left of them.
pub const UNFINISHED: &str = ".unfinished";

/// So many zeros are put into new room at once: enough that few batches pay for them (the one that does
/// takes about 0.4 ms longer), not so many that it is slow on a slow disk.
const ZEROS_BYTES: usize = 512 << 10;
/// A larger batch puts none: what it saves is little beside its own bytes.
const ZEROS_BATCH_BYTES_MAX: usize = 128 << 10;

/// The write side of the files.
pub struct Disk {
    files: Arc<dyn Files>,
    mode: SyncMode,
    active: Box<dyn File>,
    /// Where the next commit goes.
    offset: u64,
    /// How long the file is; below, its room is taken.
    size: u64,
    /// Up to here something was written, zeros at least.
    written: u64,
    /// Commits that were taken and are not in the file yet.
    pending: Vec<u8>,
    synced_at: Instant,
    /// Whether the file has what no sync has covered.
    unsynced: bool,
    /// Holds the lock; nothing where a test brings its own files.
    _directory: Option<DataDirectory>,
}

impl Disk {
    /// Begins the segment at `first`, of `size` bytes, where there is none.
    pub fn create(
        files: Arc<dyn Files>,
        mode: SyncMode,
        (first, size): (Position, usize),
        chain: &Hash,
        directory: Option<DataDirectory>,
    ) -> Result<Self, CommitLogError> {
        let header = format::header(first, Some(chain));
        let active = make(&*files, first, size, &header)?;
        let place = (header.len() as u64, size as u64);
        Ok(Self::at(files, mode, active, place, directory))
    }

    /// Goes on in the segment that begins at `first`, behind the `end` bytes that recovery has found
    /// good; what is behind them is zeros again when this returns.
    pub fn resume(
        files: Arc<dyn Files>,
        mode: SyncMode,
        (first, end, size): (Position, usize, usize),
        directory: Option<DataDirectory>,
    ) -> Result<Self, CommitLogError> {
        let mut active = files.open(&segment_name(first), false).map_err(CommitLogError::new)?;
        let (end, size) = (end as u64, size.max(end) as u64);
        active.resize(end).map_err(CommitLogError::new)?;
        active.resize(size).map_err(CommitLogError::new)?;
        active.sync().map_err(CommitLogError::new)?;
        Ok(Self::at(files, mode, active, (end, size), directory))
    }

    fn at(
        files: Arc<dyn Files>,
        mode: SyncMode,
        active: Box<dyn File>,
        (offset, size): (u64, u64),
        directory: Option<DataDirectory>,
    ) -> Self {
        Self {
            files,
            mode,
            active,
            offset,
            size,
            written: offset,
            pending: Vec::new(),
            synced_at: Instant::now(),
            unsynced: false,
            _directory: directory,
        }
    }

    /// `zeros`: also into the room behind it, where that is new.
    fn write_pending(&mut self, zeros: bool) -> Result<(), CommitLogError> {
        if !self.pending.is_empty() {
            let end = self.offset + self.pending.len() as u64;
            if zeros {
                self.put_zeros(end);
            }
            self.active.write_at(&self.pending, self.offset).map_err(CommitLogError::new)?;
            self.written = self.written.max(self.offset + self.pending.len() as u64);
            self.offset = end;
            self.pending.clear();
            self.unsynced = true;
        }
        Ok(())
    }

    /// Where what is pending, up to `end` in the file, reaches new room: puts zeros behind it.
    fn put_zeros(&mut self, end: u64) {
        if end > self.written && self.pending.len() <= ZEROS_BATCH_BYTES_MAX {
            let left = usize::try_from(self.size.saturating_sub(end)).unwrap_or(usize::MAX);
            self.pending.resize(self.pending.len() + left.min(ZEROS_BYTES), 0);
        }
    }

    fn sync_file(&mut self) -> Result<(), CommitLogError> {
        if self.unsynced {
            self.active.sync().map_err(CommitLogError::new)?;
            self.unsynced = false;
            self.synced_at = Instant::now();
        }
        Ok(())
    }
}

fn make(
    files: &dyn Files,
    first: Position,
    size: usize,
    header: &[u8],
) -> Result<Box<dyn File>, CommitLogError> {
    let make = || {
        let mut file = files.open(&segment_name(first), true)?;
        file.resize(size as u64)?;
        file.write_at(header, 0)?;
        file.sync()?;
        files.sync_names()?;
        Ok::<_, io::Error>(file)
    };
    make().map_err(CommitLogError::new)
}

impl CommitLog for Disk {
    fn begin(
        &mut self,
        first: Position,
        size: usize,
        chain: Option<&Hash>,
    ) -> Result<(), CommitLogError> {
        self.write_pending(false)?;
        self.active.resize(self.offset).map_err(CommitLogError::new)?;
        self.unsynced = true;
        self.sync_file()?;
        let header = format::header(first, chain);
        self.active = make(&*self.files, first, size, &header)?;
        self.offset = header.len() as u64;
        self.size = size as u64;
        self.written = self.offset;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CommitLogError> {
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), CommitLogError> {
        self.write_pending(self.mode == SyncMode::Always)?;
        match self.mode {
            SyncMode::Always => self.sync_file(),
            SyncMode::Interval(interval) if self.synced_at.elapsed() >= interval => {
                self.sync_file()
            }
            SyncMode::Interval(_) | SyncMode::Never => Ok(()),
        }
    }

    fn settle(&mut self) -> Result<(), CommitLogError> {
        self.write_pending(false)?;
        self.sync_file()
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SIZE: u64 = 3 * ZEROS_BYTES as u64;

    /// Notes where each write begins and how long it is.
    struct Recorder(Arc<Mutex<Vec<(u64, usize)>>>);

    impl File for Recorder {
        fn resize(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.0.lock().expect("no holder panics").push((offset, bytes.len()));
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The writes of batches of these sizes into a file of `SIZE` bytes that has 100.
    fn writes(mode: SyncMode, batches: &[usize]) -> Vec<(u64, usize)> {
        let writes = Arc::default();
        let files = Arc::new(Directory::new(Path::new("unused")));
        let file = Box::new(Recorder(Arc::clone(&writes)));
        let mut disk = Disk::at(files, mode, file, (100, SIZE), None);
        for size in batches {
            disk.write(&vec![1; *size]).expect("it is taken");
            disk.sync().expect("it is synced");
        }
        std::mem::take(&mut writes.lock().expect("no holder panics"))
    }

    #[test]
    fn a_batch_that_reaches_new_room_puts_zeros_for_the_next_ones() {
        let batch = 128 << 10;
        // The fifth fills the zeros to the last byte, the sixth reaches new room.
        assert_eq!(
            writes(SyncMode::Always, &[batch; 6]),
            [
                (100, batch + ZEROS_BYTES),
                (100 + batch as u64, batch),
                (100 + 2 * batch as u64, batch),
                (100 + 3 * batch as u64, batch),
                (100 + 4 * batch as u64, batch),
                (100 + 5 * batch as u64, batch + ZEROS_BYTES),
            ]
        );
    }

    #[test]
    fn zeros_end_with_the_file() {
        let all = writes(SyncMode::Always, &[100 << 10; 15]);
        let end = all.iter().map(|(offset, size)| offset + *size as u64).max();
        assert_eq!(end, Some(SIZE));
    }

    #[test]
    fn zeros_are_for_batches_that_are_small_and_synced() {
        let large = ZEROS_BATCH_BYTES_MAX + 1;
        assert_eq!(writes(SyncMode::Always, &[large]), [(100, large)]);
        for mode in [SyncMode::Never, SyncMode::Interval(Duration::from_secs(1))] {
            assert_eq!(writes(mode, &[10, 10]), [(100, 10), (110, 10)]);
        }
    }

    /// As a child process has it that is being started. Seen to fail where the file is only closed.
    #[test]
    fn a_lock_is_given_up_though_its_file_is_still_open_elsewhere() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(LOCK_FILE);
        let file = fs::File::create(&path).expect("a file");
        let elsewhere = file.try_clone().expect("a copy");
        let take = |file| Lock::take(file, path.clone(), directory.path());
        let other = || fs::File::open(&path).expect("it is there");
        let lock = take(file).expect("nobody has it");
        assert!(matches!(take(other()), Err(OpenError::Locked(_))));
        drop(lock);
        take(other()).map(drop).expect("nobody has it any more");
        drop(elsewhere);
    }
}
