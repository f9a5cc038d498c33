//! A loop of one write and one sync for all that wait, and nothing else: what a disk allows, for benchmarks.

use std::{
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// As many calls as a store decides together.
const BATCH_MAX: usize = 1024;
/// The file is written over and over, from its start again where it ends.
const ROOM_BYTES: usize = 64 << 20;

/// The way to the loop, which ends with it.
pub struct BareDisk {
    waiting: mpsc::Sender<Waiting>,
}

/// What is to be written, and who waits for that; or why it cannot be.
type Waiting = (Bytes, oneshot::Sender<Result<(), String>>);

impl BareDisk {
    /// Begins the loop, on a file in `directory` that has no name and goes with the process.
    pub fn begin(directory: &Path) -> io::Result<Self> {
        let (waiting, mut handed_in) = mpsc::channel::<Waiting>(BATCH_MAX);
        let directory: PathBuf = directory.to_owned();
        let work = move || {
            let mut disk = None;
            let (mut batch, mut bytes) = (Vec::new(), Vec::new());
            while handed_in.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
                bytes.clear();
                for (payload, _) in &batch {
                    bytes.extend_from_slice(payload);
                }
                let file = match &mut disk {
                    Some(file) => Ok(file),
                    None => File::create(&directory).map(|file| disk.insert(file)),
                };
                let written = file.and_then(|file| file.write(&bytes));
                for (_, caller) in batch.drain(..) {
                    // The caller may be gone.
                    let _ = caller.send(written.as_ref().copied().map_err(ToString::to_string));
                }
            }
        };
        thread::Builder::new().name("annals-bare-disk".to_owned()).spawn(work)?;
        Ok(Self { waiting })
    }

    /// Writes `payload`, and comes back once it is safe; or says why it is not.
    pub async fn persist(&self, payload: Bytes) -> Result<(), String> {
        let ended = "the loop has ended";
        let (caller, answer) = oneshot::channel();
        self.waiting.send((payload, caller)).await.map_err(|_| ended)?;
        answer.await.map_err(|_| ended)?
    }
}

/// A file full of zeros: a write into it makes the file system note nothing more.
struct File {
    file: std::fs::File,
    at: usize,
}

impl File {
    fn create(directory: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(directory)?;
        file.write_all_at(&vec![0; ROOM_BYTES], 0)?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at + bytes.len() > ROOM_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at as u64)?;
        self.at += bytes.len();
        self.file.sync_data()
    }
}
