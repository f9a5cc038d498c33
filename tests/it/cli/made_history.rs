//! A data directory made by hand, in small segments, by whoever knows the format: honest, or with a past
//! that was rewritten and checksums that are right all the same. And the server that has one.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use annals::core::{
    clock::Timestamp,
    log::{
        chain::{Chain, Hash},
        format::{self, Body, Data, Stamp},
        packing::{Codec, Packed},
    },
    position::{Position, Version},
};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use super::commands::annals;

pub const EVENTS_IN_COMMIT: u64 = 3;
pub const COMMITS_IN_SEGMENT: u64 = 4;
pub const EVENTS_IN_SEGMENT: u64 = EVENTS_IN_COMMIT * COMMITS_IN_SEGMENT;

/// One commit's records.
type Commit = Vec<Vec<u8>>;

/// A log, segment by segment.
pub struct MadeHistory {
    pub segments: Vec<Vec<Commit>>,
    /// The values of an honest log before each segment, and at its end.
    pub chains: Vec<Hash>,
}

/// The record of an event of stream `S-1`.
pub fn record(position: u64, text: &str) -> Vec<u8> {
    let stamp = Stamp {
        id: Uuid::from_u64_pair(7, position),
        position: Position::new(position),
        version: Version::new(position),
        recorded_at: Timestamp::from_micros(1_000_000 + i64::try_from(position).unwrap()),
        occurred_at: Timestamp::from_micros(5),
    };
    let body = Body { stream: "S-1", event_type: "T", data: Data::Text(text), ..Body::default() };
    let mut record = Vec::new();
    format::put_event(&mut record, &stamp, &body.encode());
    record
}

/// A commit with a seal that fits.
fn sealed(commit: &Commit) -> Vec<u8> {
    let mut bytes = commit.concat();
    let records = bytes.clone();
    format::put_seal(&mut bytes, &records, u32::try_from(commit.len()).unwrap());
    bytes
}

impl MadeHistory {
    /// An honest one.
    pub fn new(segments: u64) -> Self {
        Self::filled(segments, 0)
    }

    /// The same, with texts that are so much longer.
    pub fn filled(segments: u64, fill: usize) -> Self {
        let fill = " ".repeat(fill);
        let commit = |number: u64| {
            let positions = (1..=EVENTS_IN_COMMIT).map(|event| number * EVENTS_IN_COMMIT + event);
            let text = |position| format!("{{\"n\":{position}{fill}}}");
            positions.map(|position| record(position, &text(position))).collect()
        };
        let segment = |number: u64| {
            (0..COMMITS_IN_SEGMENT).map(|it| commit(number * COMMITS_IN_SEGMENT + it)).collect()
        };
        let segments: Vec<Vec<Commit>> = (0..segments).map(segment).collect();
        let mut chain = Chain::GENESIS;
        let mut chains = vec![*chain.value()];
        for segment in &segments {
            for commit in segment {
                extend(&mut chain, commit);
            }
            chains.push(*chain.value());
        }
        Self { segments, chains }
    }

    /// The last position.
    pub fn head(&self) -> u64 {
        self.segments.len() as u64 * EVENTS_IN_SEGMENT
    }

    /// The value at the head of the honest log, in digits.
    pub fn head_hash(&self) -> String {
        Chain::from_header(*self.chains.last().unwrap()).to_string()
    }

    /// The record at `position`.
    pub fn record_mut(&mut self, position: u64) -> &mut Vec<u8> {
        let at = |number: u64| usize::try_from(number).unwrap();
        let index = position - 1;
        let segment = &mut self.segments[at(index / EVENTS_IN_SEGMENT)];
        let index = index % EVENTS_IN_SEGMENT;
        &mut segment[at(index / EVENTS_IN_COMMIT)][at(index % EVENTS_IN_COMMIT)]
    }

    /// Its files: the headers have the honest values, seals fit what they seal.
    pub fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("segments")).unwrap();
        fs::write(path.join("annals"), "annals data, format 1\n").unwrap();
        for (number, segment) in (0..).zip(&self.segments) {
            let first = number * EVENTS_IN_SEGMENT + 1;
            let chain = &self.chains[usize::try_from(number).unwrap()];
            let mut bytes = format::header(Position::new(first), Some(chain));
            bytes.extend(segment.iter().flat_map(sealed));
            fs::write(segment_path(path, first), bytes).unwrap();
        }
        directory
    }
}

/// What the definition says, in the test's own words.
fn extend(chain: &mut Chain, commit: &Commit) {
    let bytes = commit.concat();
    let mut offset = 0;
    let begins = commit.iter().map(|record| {
        let begin = u32::try_from(offset).unwrap();
        offset += record.len();
        begin
    });
    chain.extend(&bytes, &begins.collect::<Vec<_>>());
}

/// The file of the segment that begins at `first`.
pub fn segment_path(data: &Path, first: u64) -> PathBuf {
    data.join("segments").join(format!("{first:020}.segment"))
}

/// Where in the file of the segment that begins at `first` the text of an event stands.
pub fn offset_of(data: &Path, first: u64, text: &str) -> usize {
    let bytes = fs::read(segment_path(data, first)).unwrap();
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).expect("it is there")
}

/// Compresses the file of the segment that begins at `first`, as the upkeep does.
pub fn pack(data: &Path, first: u64) {
    let path = segment_path(data, first);
    let packed = Packed::pack(Codec::Lz4, &fs::read(&path).unwrap()).expect("it is smaller");
    fs::write(path, packed).unwrap();
}

/// Turns a bit of a file.
pub fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A command's exit code, stdout and stderr.
pub fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = annals(arguments).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), stdout, stderr)
}

/// The object that a command prints.
pub fn json(arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// `annals serve --data`, killed when dropped.
pub struct Serving {
    pub process: Child,
    pub address: String,
}

impl Serving {
    /// Waits until it listens.
    pub fn start(data: &Path) -> Self {
        let mut command = annals(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.arg("--data").arg(data);
        Self::started_by(command)
    }

    /// The same, by a command of any kind.
    pub fn started_by(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut seen = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended: {seen}");
            let fields: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = fields["address"].as_str() {
                break address.to_owned();
            }
            seen += &line;
        };
        // A pipe that nobody reads would stop the server.
        std::thread::spawn(move || log.read_to_string(&mut String::new()));
        Self { process, address }
    }

    /// Runs a command against it.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        run(&[arguments, &["--server", &self.address]].concat())
    }

    /// The objects that a command prints.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, Some(0), "{stderr}");
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
