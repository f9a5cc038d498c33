//! The few things that the log asks of a file system. Below this trait tests put one that fails.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

/// The files of one directory.
pub trait Files: Send + Sync {
    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// All bytes of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// The same, without reading: the bytes are read as they are looked at. Nobody may write to the file
    /// any more.
    fn map(&self, name: &str) -> io::Result<Bytes>;

    /// Opens a file for writing; makes it if `new`, and then it must not exist.
    fn open(&self, name: &str, new: bool) -> io::Result<Box<dyn File>>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives the file `from` the name `to`; what had it is gone. Either is so after a crash, never half.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Returns when files made and removed are as safe as the disk makes them.
    fn sync_names(&self) -> io::Result<()>;
}

/// One file, open for writing.
pub trait File: Send {
    /// Cuts the file to `size`, or makes it that long with zeros, and gives it the room.
    fn resize(&mut self, size: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written is as safe as the disk makes it.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory of the operating system.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Files for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.0)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    #[allow(unsafe_code)]
    fn map(&self, name: &str) -> io::Result<Bytes> {
        let file = fs::File::open(self.0.join(name))?;
        // SAFETY: the bytes do not change: the file is sealed, we never write to a sealed file but put
        // another in its place, and the lock keeps other servers away. Whoever else writes to the
        // directory has been told (docs/adr).
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Bytes::from_owner(map))
    }

    fn open(&self, name: &str, new: bool) -> io::Result<Box<dyn File>> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(new);
        Ok(Box::new(options.open(self.0.join(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn sync_names(&self) -> io::Result<()> {
        fs::File::open(&self.0)?.sync_all()
    }
}

impl File for fs::File {
    fn resize(&mut self, size: u64) -> io::Result<()> {
        let old = self.metadata()?.len();
        self.set_len(size)?;
        // The room is taken now, so that a full disk is told here and not in the middle of a commit,
        // and so that a sync need not also write the file's length.
        if size > old {
            rustix::fs::fallocate(&*self, rustix::fs::FallocateFlags::empty(), 0, size)?;
        }
        Ok(())
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
