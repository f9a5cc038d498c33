//! Where a durable server's files go, and what the disk below it can do: a bare loop of write and sync.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use tempfile::TempDir;

/// A fresh temporary directory, gone with the last clone.
#[derive(Clone)]
pub struct Place(Arc<TempDir>);

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("annals-bench-").tempdir();
        Self(Arc::new(directory.expect("a temporary directory")))
    }

    /// The server's data directory in it.
    pub fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// The number of segment files.
    pub fn segments(&self) -> usize {
        fs::read_dir(self.data().join("segments")).map_or(0, Iterator::count)
    }

    /// Removes the written indexes.
    pub fn remove_indexes(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.data().join("index"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Makes the system forget the files' pages, so that the next reader goes to the disk.
    pub fn forget_pages(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.data().join("segments"))? {
            let file = File::open(entry?.path())?;
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }
}

/// The kind of the file system that holds temporary directories, and what it is mounted from.
pub struct FileSystem {
    pub kind: String,
    pub source: String,
}

impl FileSystem {
    /// `None` where there is no /proc.
    pub fn of_temporary_files() -> Option<Self> {
        let path = fs::canonicalize(std::env::temp_dir()).ok()?;
        let mounts = fs::read_to_string("/proc/mounts").ok()?;
        // Of two on one point the later one counts: `max_by_key` keeps the last.
        let mounts = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ');
            let (source, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            path.starts_with(point).then_some((Path::new(point).components().count(), source, kind))
        });
        let (_, source, kind) = mounts.max_by_key(|(depth, ..)| *depth)?;
        Some(Self { kind: kind.to_owned(), source: source.to_owned() })
    }

    /// Where a sync costs nothing a figure says nothing.
    pub fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs")
    }
}

/// What a batch is written over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Room that was taken and never written.
    Taken,
    /// Zeros that are on the disk; most of the server's batches find them, too.
    Zeros,
}

/// How long it takes to write and sync `count` batches of `size` bytes, one after the other, in one file
/// that has the room. The file stays until the directory goes, so that its removal disturbs nobody.
pub fn write_and_sync(place: &Place, over: Over, size: usize, count: usize) -> Duration {
    let load = || {
        let file = tempfile::Builder::new().disable_cleanup(true).tempfile_in(place.0.path())?;
        let file = file.into_file();
        fallocate(&file, FallocateFlags::empty(), 0, (size * count) as u64)?;
        if over == Over::Zeros {
            let zeros = vec![0; size];
            for index in 0..count {
                file.write_all_at(&zeros, (index * size) as u64)?;
            }
        }
        file.sync_all()?;
        let batch = vec![b'x'; size];
        let started = Instant::now();
        for index in 0..count {
            file.write_all_at(&batch, (index * size) as u64)?;
            file.sync_data()?;
        }
        Ok::<_, io::Error>(started.elapsed())
    };
    load().expect("the disk takes it")
}
