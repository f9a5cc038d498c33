//! `annals backup`: a copy of a server's log as a data directory.
//!
//! ```text
//! DIR/backup.unfinished   made first, removed last: what is beside it is ours to remove
//! DIR/lock                held while the copy is made
//! DIR/segments/…          synced and checked, one after the other
//! DIR/annals              last: from then on it is a data directory
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use serde_json::json;

use super::{
    CliError,
    client::ServerArgs,
    info::size,
    output::{self, Output, grouped},
};
use crate::{
    core::{
        commit_log::disk::{LOCK_FILE, MARK_FILE, SEGMENTS, recovery::first_position},
        log::verify::Verifier,
    },
    wire::proto::v1::{BackupFile, BackupRequest, VerifyResult, backup_response::Message},
};

const UNFINISHED_FILE: &str = "backup.unfinished";
const UNFINISHED_TEXT: &str =
    "A backup was not finished. Run `annals backup` again: it begins anew in this directory.\n";

/// Copy a server's history to a directory, while it serves
///
/// The copy has every event up to the head at the beginning, is checked on the way and once more when it is
/// written, and is a data directory: `annals serve --data DIR` goes on with it. It works in memory mode, too.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// A directory that is new or empty, or has the remains of a backup that was interrupted
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: BackupArgs) -> Result<(), CliError> {
    // The directory first: a mistake in its name is found without a server.
    check_free(&args.dir)?;
    let mut admin = args.server.connect().await?.admin();
    let mut messages = admin.backup(BackupRequest {}).await?.into_inner();
    let mut target = Target::begin(args.dir)?;
    let bar = output::progress_bar(Some(0), true);
    let (mut received, started) = (0, Instant::now());
    let result = loop {
        match messages.message().await?.and_then(|message| message.message) {
            Some(Message::Begin(begin)) => bar.set_length(begin.total_bytes),
            Some(Message::File(file)) => target.file(file)?,
            Some(Message::Content(content)) => {
                received += content.len() as u64;
                target.content(&content)?;
                bar.set_position(received);
                bar.set_message(format!("position {}", target.verifier.position()));
            }
            Some(Message::Result(result)) => break result,
            None => return Err(CliError::ConnectionLost("the copy has no end".to_owned())),
        }
    };
    let path = target.finish(&result)?;
    bar.finish_and_clear();

    let mut out = Output::stdout();
    let place = path.display().to_string();
    if args.json {
        out.json(&json!({
            "path": place,
            "head": result.head,
            "segmentCount": result.segment_count,
            "bytes": received,
            "headHash": result.head_hash,
        }))?;
    } else {
        for (name, value) in [
            ("events", grouped(result.event_count)),
            ("segments", grouped(result.segment_count)),
            ("size", size(received)),
            ("head", result.head.to_string()),
            ("hash", result.head_hash),
        ] {
            out.line(|palette| format!("{dim}{name:<18}{dim:#}{value}", dim = palette.dim))?;
        }
        let seconds = started.elapsed().as_secs_f64();
        output::note(&format!("{seconds:.2} s; `annals serve --data {place}` goes on with it"));
    }
    Ok(out.flush()?)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> CliError {
    move |error| CliError::file(path.display().to_string(), error)
}

/// Whether a copy may be made there: `Ok(true)` where remains have to go first.
fn check_free(dir: &Path) -> Result<bool, CliError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed(dir))?.file_name());
    }
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let place = dir.display();
    if has(MARK_FILE) {
        return Err(CliError::Failed(format!(
            "{place} is a data directory already; name a new or an empty one"
        )));
    }
    let ours = |name: &std::ffi::OsString| {
        [UNFINISHED_FILE, LOCK_FILE, SEGMENTS].iter().any(|known| name == known)
    };
    match names.iter().find(|name| !ours(name)) {
        None if names.is_empty() => Ok(false),
        None if has(UNFINISHED_FILE) => Ok(true),
        _ => {
            Err(CliError::Failed(format!("{place} is not empty; name a new or an empty directory")))
        }
    }
}

/// A data directory that is being made.
struct Target {
    dir: PathBuf,
    _lock: File,
    verifier: Verifier,
    at_hand: Option<Open>,
    /// The text of the mark, which is written last of all.
    mark: Option<Vec<u8>>,
}

/// A file that is being received.
struct Open {
    name: String,
    size: u64,
    content: Vec<u8>,
}

impl Target {
    fn begin(dir: PathBuf) -> Result<Self, CliError> {
        let segments = dir.join(SEGMENTS);
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
        let remains = check_free(&dir)?;
        let unfinished = dir.join(UNFINISHED_FILE);
        if !remains {
            fs::write(&unfinished, UNFINISHED_TEXT).map_err(failed(&unfinished))?;
        }
        let lock_path = dir.join(LOCK_FILE);
        let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
        lock.try_lock().map_err(|_| {
            CliError::Failed(format!("another backup is being made in {}", dir.display()))
        })?;
        if remains && segments.exists() {
            fs::remove_dir_all(&segments).map_err(failed(&segments))?;
        }
        fs::create_dir(&segments).map_err(failed(&segments))?;
        Ok(Self { dir, _lock: lock, verifier: Verifier::new(), at_hand: None, mark: None })
    }

    fn file(&mut self, BackupFile { name, size_bytes }: BackupFile) -> Result<(), CliError> {
        self.complete()?;
        self.at_hand = Some(Open { name, size: size_bytes, content: Vec::new() });
        Ok(())
    }

    fn content(&mut self, content: &[u8]) -> Result<(), CliError> {
        let file = self.at_hand.as_mut().ok_or_else(|| protocol("content without a file"))?;
        if (file.content.len() + content.len()) as u64 > file.size {
            return Err(protocol("more content than the file has"));
        }
        file.content.extend_from_slice(content);
        Ok(())
    }

    /// The file that was received is written and checked as it is on the disk.
    fn complete(&mut self) -> Result<(), CliError> {
        let Some(Open { name, size, content }) = self.at_hand.take() else { return Ok(()) };
        if content.len() as u64 != size {
            return Err(protocol("less content than the file has"));
        }
        if name == MARK_FILE {
            self.mark = Some(content);
            return Ok(());
        }
        // Whatever a server says: nothing is written but segments, where they belong.
        let first = name.strip_prefix(SEGMENTS).and_then(|name| name.strip_prefix('/'));
        let first = first.and_then(first_position).ok_or_else(|| protocol("an unknown file"))?;
        let path = self.dir.join(&name);
        write(&path, &content).map_err(failed(&path))?;
        drop(content);
        let content = fs::read(&path).map_err(failed(&path))?;
        let mut check = || {
            self.verifier.begin(&content, first)?;
            while self.verifier.commit(&content)?.is_some() {}
            Ok::<_, crate::core::log::verify::Damage>(())
        };
        check().map_err(|damage| CliError::Failed(format!("{}: {damage}", path.display())))
    }

    /// Everything is there: the directory becomes a data directory.
    fn finish(mut self, result: &VerifyResult) -> Result<PathBuf, CliError> {
        self.complete()?;
        let mark = self.mark.ok_or_else(|| protocol("no mark"))?;
        let hash = self.verifier.chain().map(ToString::to_string).unwrap_or_default();
        let head = self.verifier.position().get();
        if (head, &hash) != (result.head, &result.head_hash) {
            return Err(CliError::Failed(format!(
                "what was written is not what the server has: position {head}, hash {hash}"
            )));
        }
        let (dir, segments, mark_path, unfinished) = (
            &self.dir,
            self.dir.join(SEGMENTS),
            self.dir.join(MARK_FILE),
            self.dir.join(UNFINISHED_FILE),
        );
        sync_dir(&segments).map_err(failed(&segments))?;
        sync_dir(dir).map_err(failed(dir))?;
        write(&mark_path, &mark).map_err(failed(&mark_path))?;
        sync_dir(dir).map_err(failed(dir))?;
        fs::remove_file(&unfinished).map_err(failed(&unfinished))?;
        sync_dir(dir).map_err(failed(dir))?;
        Ok(self.dir)
    }
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn protocol(what: &str) -> CliError {
    CliError::Failed(format!("the server sent {what}; is it of a newer version?"))
}
