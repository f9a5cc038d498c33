//! `annals import`: CloudEvents from a file, each its own append, in the file's order.
//!
//! ```text
//! thread     read, unpack, parse
//!               | lines, at most 32
//! feed       one request for each line, while at most 1024 and 64 MiB are unanswered
//!               | AppendStream
//! receive    one answer for each request, in their order: count it, let `feed` go on
//! ```
//!
//! An event keeps the id that its line gives, so a second run finds everything there and writes
//! nothing, and a run that broke is repaired by another.

use std::{
    cell::{Cell, RefCell},
    collections::{HashSet, VecDeque},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{
    CliError,
    client::{Client, ServerArgs},
    cloud_events, describe,
    output::{self, grouped},
};
use crate::wire::proto::v1::{
    AppendRequest, AppendStreamRequest, AppendStreamResponse, append_stream_response,
};

/// An event of 4 MiB, the server's default limit, fits even if each of its bytes is escaped to six.
const LINE_BYTES_MAX: usize = 32 << 20;
const LINES_AHEAD_MAX: usize = 32;
/// Requests without an answer: enough to hide a round trip, and few enough to be repeated.
const IN_FLIGHT_MAX: usize = 1024;
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(LINE_BYTES_MAX <= IN_FLIGHT_BYTES_MAX, "one line fits");

/// Append CloudEvents from a file
///
/// FILE holds CloudEvents 1.0 in JSON, one a line, plain or gzip. Each event is appended in the order of
/// the file: `subject` is the stream, `id` the event's id (one that is not a UUID gives one, made of
/// `source` and `id`), `type` the type, `time` when it happened, `data` or `data_base64` the data,
/// `correlationid` and `causationid` what they say, `annalstags` the tags (a JSON array in a string), and
/// any other attribute metadata. A second import of a file writes nothing.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The file; `-` is stdin
    file: String,
    /// What to do when a line is bad or the server refuses it; up to 1024 lines after a refused one
    /// may have been written when the import stops
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_error: OnError,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    Stop,
    Continue,
}

/// A line that is not blank, or the reason why it is no event.
struct Line {
    /// From 1, blank lines count.
    number: u64,
    append: Result<AppendRequest, String>,
}

pub async fn run(args: ImportArgs) -> Result<(), CliError> {
    // The file first: a mistake in its name is found without a server.
    let read = Arc::new(AtomicU64::new(0));
    let (length, file): (Option<u64>, Box<dyn Read + Send>) = match args.file.as_str() {
        "-" => (None, Box::new(io::stdin())),
        path => {
            let file = File::open(path).map_err(|error| CliError::file(path, error))?;
            let length = file.metadata().ok().filter(std::fs::Metadata::is_file);
            (length.map(|metadata| metadata.len()), Box::new(file))
        }
    };
    let client = args.server.connect().await?;

    let (sender, lines) = mpsc::channel(LINES_AHEAD_MAX);
    let counted = Counted { inner: file, read: Arc::clone(&read) };
    let reader = std::thread::spawn(move || read_lines(counted, &sender));
    let import = Import {
        on_error: args.on_error,
        bar: output::progress_bar(length, true),
        read,
        started: Instant::now(),
        stop: CancellationToken::new(),
        tally: RefCell::default(),
        in_flight: RefCell::default(),
        slots: Semaphore::new(IN_FLIGHT_MAX),
        room: Semaphore::new(IN_FLIGHT_BYTES_MAX),
        receiving_failed: Cell::new(false),
    };
    let result = import.run(&client, lines).await;
    import.bar.finish_and_clear();
    import.summary();
    result?;
    // Stopped early, the reader may wait for stdin for ever, and what it reads no longer matters.
    if !import.stop.is_cancelled() {
        let read = reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
        read.map_err(|error| CliError::file(args.file, error))?;
    }
    if import.tally.borrow().failed > 0 { Err(CliError::Reported) } else { Ok(()) }
}

#[derive(Default)]
struct Tally {
    written: u64,
    already_there: u64,
    failed: u64,
    streams: HashSet<String>,
}

/// A request without an answer.
struct Sent {
    line: u64,
    stream: String,
    bytes: usize,
}

/// What the two halves of an import share. Both run on one thread.
struct Import {
    on_error: OnError,
    bar: ProgressBar,
    /// Bytes of the file, as they lie on disk.
    read: Arc<AtomicU64>,
    started: Instant,
    /// No more lines are sent.
    stop: CancellationToken,
    tally: RefCell<Tally>,
    /// The oldest first.
    in_flight: RefCell<VecDeque<Sent>>,
    /// Permits are taken for good by `feed`, and given back by `receive`.
    slots: Semaphore,
    /// The same, in bytes.
    room: Semaphore,
    receiving_failed: Cell<bool>,
}

impl Import {
    async fn run(&self, client: &Client, lines: mpsc::Receiver<Line>) -> Result<(), CliError> {
        let (requests, outgoing) = mpsc::channel(LINES_AHEAD_MAX);
        let ((), received) = tokio::join!(
            self.feed(lines, requests),
            self.receive(client, ReceiverStream::new(outgoing))
        );
        received
    }

    /// Sends the lines until there are none, or one is bad, or `receive` says so.
    async fn feed(
        &self,
        mut lines: mpsc::Receiver<Line>,
        requests: mpsc::Sender<AppendStreamRequest>,
    ) {
        let feeding = async {
            while let Some(line) = lines.recv().await {
                let append = match line.append {
                    Ok(append) => append,
                    Err(reason) => {
                        self.fail(line.number, &reason);
                        if self.stop.is_cancelled() {
                            break;
                        }
                        continue;
                    }
                };
                let bytes = append.encoded_len().min(IN_FLIGHT_BYTES_MAX);
                let weight = u32::try_from(bytes).unwrap_or(u32::MAX);
                let slot = self.slots.acquire().await;
                let room = self.room.acquire_many(weight).await;
                if let (Ok(slot), Ok(room)) = (slot, room) {
                    slot.forget();
                    room.forget();
                }
                let sent = Sent { line: line.number, stream: append.stream.clone(), bytes };
                self.in_flight.borrow_mut().push_back(sent);
                if requests.send(AppendStreamRequest { append: Some(append) }).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = feeding => {}
        }
    }

    async fn receive(
        &self,
        client: &Client,
        requests: ReceiverStream<AppendStreamRequest>,
    ) -> Result<(), CliError> {
        let result = self.answers(client, requests).await;
        if result.is_err() {
            self.receiving_failed.set(true);
            self.stop.cancel();
        }
        result
    }

    async fn answers(
        &self,
        client: &Client,
        requests: ReceiverStream<AppendStreamRequest>,
    ) -> Result<(), CliError> {
        let mut answers = client.commands().append_stream(requests).await?.into_inner();
        let mut answered = 0;
        while let Some(answer) = answers.message().await? {
            answered += 1;
            let sent = self.in_flight.borrow_mut().pop_front();
            let Some(sent) = sent.filter(|_| answer.request == answered) else {
                return Err(CliError::Failed(format!(
                    "the server answered request {} in the place of {answered}",
                    answer.request
                )));
            };
            self.slots.add_permits(1);
            self.room.add_permits(sent.bytes);
            self.count(sent, answer);
            if answered % 64 == 0 {
                self.show_progress();
            }
        }
        match self.in_flight.borrow().front() {
            None => Ok(()),
            Some(sent) => Err(CliError::ConnectionLost(format!(
                "the server did not answer to line {}",
                sent.line
            ))),
        }
    }

    fn count(&self, sent: Sent, answer: AppendStreamResponse) {
        match answer.result {
            Some(append_stream_response::Result::Appended(appended)) => {
                let mut tally = self.tally.borrow_mut();
                if appended.duplicate {
                    tally.already_there += 1;
                } else {
                    tally.written += 1;
                }
                tally.streams.insert(sent.stream);
            }
            Some(append_stream_response::Result::Error(error)) => {
                let details = error.encode_to_vec().into();
                let status = Status::with_details(Code::from(error.code), error.message, details);
                self.fail(sent.line, &describe(&status));
            }
            None => self.fail(sent.line, "the server's answer is of a newer protocol"),
        }
    }

    fn fail(&self, line: u64, reason: &str) {
        self.tally.borrow_mut().failed += 1;
        self.bar.suspend(|| output::error(&format!("line {line}: {reason}")));
        if self.on_error == OnError::Stop {
            self.stop.cancel();
        }
    }

    fn show_progress(&self) {
        if self.bar.is_hidden() {
            return;
        }
        let tally = self.tally.borrow();
        let events = tally.written + tally.already_there;
        self.bar.set_position(self.read.load(Ordering::Relaxed));
        self.bar.set_message(format!(
            "{} events, {}/s",
            grouped(events),
            grouped(per_second(events, self.started))
        ));
    }

    fn summary(&self) {
        let tally = self.tally.borrow();
        let events = tally.written + tally.already_there;
        eprintln!(
            "{} written, {} already there, {} failed; {} streams; {:.2} s, {} events/s",
            tally.written,
            tally.already_there,
            tally.failed,
            tally.streams.len(),
            self.started.elapsed().as_secs_f64(),
            per_second(events, self.started),
        );
        if self.receiving_failed.get() {
            output::note("import the file again: what is there already is not written twice");
        }
    }
}

/// Whole events in a second.
pub fn per_second(events: u64, since: Instant) -> u64 {
    let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
    events.saturating_mul(1_000_000) / micros
}

/// Counts what is read of the file, before it is unpacked.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        // Relaxed: a progress bar reads it, nothing hangs on it.
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Runs on a thread of its own until the file ends or nobody wants more.
fn read_lines(file: impl Read + Send, lines: &mpsc::Sender<Line>) -> io::Result<()> {
    let mut file = BufReader::with_capacity(256 << 10, file);
    // The first bytes say it, whatever the name is: RFC 1952.
    if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        let unpacked = BufReader::with_capacity(256 << 10, MultiGzDecoder::new(file));
        each_line(unpacked, |line| lines.blocking_send(line).is_ok())
    } else {
        each_line(file, |line| lines.blocking_send(line).is_ok())
    }
}

/// Parses each line until `take` has had enough.
fn each_line(mut file: impl BufRead, mut take: impl FnMut(Line) -> bool) -> io::Result<()> {
    let mut buffer = Vec::new();
    for number in 1.. {
        buffer.clear();
        // One more than the limit: its line end.
        file.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut buffer)?;
        if buffer.is_empty() {
            break;
        }
        let append = if buffer.len() > LINE_BYTES_MAX && !buffer.ends_with(b"\n") {
            file.skip_until(b'\n')?;
            Err(format!("longer than {LINE_BYTES_MAX} bytes"))
        } else {
            let line = if number == 1 { without_byte_order_mark(&buffer) } else { &buffer };
            if line.trim_ascii().is_empty() {
                continue;
            }
            parse(line)
        };
        if !take(Line { number, append }) {
            break;
        }
    }
    Ok(())
}

fn without_byte_order_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

fn parse(line: &[u8]) -> Result<AppendRequest, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?;
    let (stream, event) = cloud_events::parse(line).map_err(|error| error.to_string())?;
    Ok(AppendRequest { stream, events: vec![event], ..AppendRequest::default() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const EVENT: &str =
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"T","subject":"S-1"}"#;

    fn lines(file: &[u8]) -> Vec<(u64, Result<String, String>)> {
        let mut lines = Vec::new();
        let take = |line: Line| {
            lines.push((line.number, line.append.map(|append| append.stream)));
            true
        };
        each_line(file, take).expect("bytes can be read");
        lines
    }

    #[test]
    fn blank_lines_count_and_are_no_events() {
        let file = format!("\u{feff}{EVENT}\r\n\n  \n{EVENT}");
        assert_eq!(lines(file.as_bytes()), [(1, Ok("S-1".to_owned())), (4, Ok("S-1".to_owned()))]);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_without_being_held() {
        let mut file = vec![b'x'; LINE_BYTES_MAX + 10];
        file.push(b'\n');
        file.extend(EVENT.as_bytes());
        let lines = lines(&file);
        assert_eq!(lines[0], (1, Err("longer than 33554432 bytes".to_owned())));
        assert_eq!(lines[1], (2, Ok("S-1".to_owned())));
    }

    #[test]
    fn gzip_is_known_by_its_first_bytes() {
        // Two members, as `cat a.gz b.gz` makes them.
        let mut packed = Vec::new();
        for _ in 0..2 {
            let mut member = GzEncoder::new(&mut packed, Compression::fast());
            writeln!(member, "{EVENT}").expect("a vector takes everything");
            member.finish().expect("a vector takes everything");
        }
        let (sender, mut lines) = mpsc::channel(2);
        read_lines(packed.as_slice(), &sender).expect("gzip");
        drop(sender);
        let numbers: Vec<u64> =
            std::iter::from_fn(|| lines.blocking_recv()).map(|line| line.number).collect();
        assert_eq!(numbers, [1, 2]);
    }

    #[test]
    fn a_torn_gzip_file_is_an_error() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        writeln!(packed, "{EVENT}").expect("a vector takes everything");
        let packed = packed.finish().expect("a vector takes everything");
        let (sender, _lines) = mpsc::channel(2);
        assert!(read_lines(&packed[..packed.len() - 4], &sender).is_err());
    }
}
