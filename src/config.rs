//! Every option of the server: its name, unit, default and check, in one table.
//!
//! ```text
//! defaults < file (--config, ANNALS_CONFIG) < environment < flags      the later one wins
//!            event-size-max-bytes = 65536
//!                             ANNALS_EVENT_SIZE_MAX_BYTES=65536
//!                                              --event-size-max-bytes 65536
//! ```
//!
//! [`load`] collects what each source says, checks all of it, also what a later source overrides, and
//! reports every mistake at once. It opens nothing but the file. The parts of the server get plain
//! values and have no defaults of their own.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::{DeTable, DeValue};
use tracing_subscriber::filter::EnvFilter;

use crate::core::{
    commit_log::disk::SyncMode, limits::Limits, log::packing::Codec, name::Name,
    sequencer::WhenFull,
};

/// How the server is set. Every value is within its bounds once [`load`] has returned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the server listens: 127.0.0.1:2113. Port 0: one that is free.
    pub listen: SocketAddr,
    /// Where the history is kept; unset: in memory only, and it ends with the process.
    pub data: Option<PathBuf>,
    /// With a data directory: when an append is safe.
    pub sync: SyncMode,
    /// The memory that the history may have, events and what finds them, bytes: from 1 MiB. Unset: all
    /// that there is. When it is full, appends are refused.
    pub max_memory: Option<usize>,
    /// What is done when it is full: reject. Evict, in memory mode only, drops the oldest events.
    pub when_full: WhenFull,
    /// How sealed segments are compressed: not.
    pub compress: Option<Codec>,
    /// The metadata keys whose values are indexed, at most 16: organizationId and userId.
    pub index_metadata: Vec<Name>,
    /// The memory that answers may have that are kept for the next one who asks, bytes, at most 16 GiB; 0:
    /// none are kept. 64 MiB.
    pub query_cache: usize,
    /// What one event, one commit and one name may measure: each from 1 to [`Limits::HARD`], and an
    /// event no larger than a commit.
    pub limits: Limits,
    /// Appends that wait for the sequencer at once, 1 to 1 048 576: 65 536. More are refused.
    pub append_queue_max: usize,
    /// Bytes of the events of appends that wait for the sequencer at once, 1 MiB to 64 GiB: 256 MiB. More are refused,
    /// but one always may.
    pub append_queue_bytes_max: usize,
    /// Connections at once, 1 to 1 000 000: 10 000, and no more than the system lets the process have open files. More
    /// are refused.
    pub connections_max: usize,
    /// Calls that are open at once, on all connections together, 1 to 1 000 000: 65 536; a call is open until the last
    /// byte of its answer is sent. More are refused, but health checks.
    pub calls_max: usize,
    /// Bytes of requests that are being received or worked on at once, as they come over the wire, 32 MiB to 64 GiB: 256
    /// MiB. More are refused.
    pub requests_bytes_max: usize,
    /// Subscriptions, consumers, watches and replays that are open at once, 1 to 1 000 000: 10 000. More are refused.
    pub subscriptions_max: usize,
    /// Consumer groups that there are at once, 1 to 100 000: 1000. More are refused.
    pub groups_max: usize,
    /// Versions of read models that there are at once, 1 to 100 000: 1000. More are refused.
    pub models_max: usize,
    /// What the documents of all read models may have together with their keys, bytes: from 1 MiB. Unset: no limit.
    pub models_size_bytes_max: Option<usize>,
    /// What one document of a read model may have, bytes: 1 to 8 MiB, 1 MiB.
    pub document_size_bytes_max: usize,
    /// Threads that serve calls, 1 to 1024, or 0: as many as there are cores, which is the default.
    pub worker_threads: usize,
    /// A connection is asked whether it is alive when it has been quiet for so long, 100 ms to 1 h: 30 s.
    pub keep_alive_interval: Duration,
    /// And is dropped if it does not answer for so long, 100 ms to 1 h: 10 s. So half-open ones end.
    pub keep_alive_timeout: Duration,
    /// How long calls and subscriptions have to end when the server stops, at most 1 h: 10 s.
    pub shutdown_timeout: Duration,
    /// What is logged: a level, or directives such as `info,annals::core=debug`: `info`.
    pub log_level: String,
    /// How log lines look: text.
    pub log_format: LogFormat,
    /// Whether the empty twins of the calls are served, for benchmarks: no.
    pub bench_service: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 2113)),
            data: None,
            sync: SyncMode::Always,
            max_memory: None,
            when_full: WhenFull::Reject,
            compress: None,
            index_metadata: ["organizationId", "userId"].map(Name::any).to_vec(),
            query_cache: 64 << 20,
            limits: Limits::default(),
            append_queue_max: 65_536,
            append_queue_bytes_max: 256 << 20,
            connections_max: 10_000,
            calls_max: 65_536,
            requests_bytes_max: 256 << 20,
            subscriptions_max: 10_000,
            groups_max: 1000,
            models_max: 1000,
            models_size_bytes_max: None,
            document_size_bytes_max: 1 << 20,
            worker_threads: 0,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(10),
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            bench_service: false,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// One option, in its three spellings.
pub struct Spec {
    /// `append-queue-max`: the flag without its dashes, and the key in the file.
    pub name: &'static str,
    /// What help calls the value.
    pub value_name: &'static str,
    /// One sentence for help, without the default.
    pub help: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
    get: fn(&Config) -> String,
}

impl Spec {
    /// The environment's spelling: `ANNALS_APPEND_QUEUE_MAX`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// The default as the file would have it.
    pub fn default_value(&self) -> String {
        (self.get)(&Config::default())
    }
}

macro_rules! option {
    ($name:literal, $value_name:literal, $($field:ident).+, $parse:expr, $help:literal) => {
        Spec {
            name: $name,
            value_name: $value_name,
            help: $help,
            set: |config, text| Ok(config.$($field).+ = $parse(text)?),
            get: |config| config.$($field).+.to_toml(),
        }
    };
}

/// All options, in the order of help and of `--print-config`. A line here, a field in [`Config`] and
/// its default are all that a new option needs.
#[rustfmt::skip]
pub const OPTIONS: &[Spec] = &[
    option!("listen", "ADDRESS:PORT", listen, address, "Where to listen; port 0 takes a free one"),
    option!("data", "DIR", data, directory, "Keep the history in this directory; without it, in memory only"),
    option!("sync", "MODE", sync, sync_mode, "When an append is safe: always, interval=50ms (weaker) or never (weaker)"),
    option!("max-memory", "BYTES", max_memory, memory, "The memory that the history may have, such as 4GiB"),
    option!("when-full", "WHAT", when_full, when_full, "What to do when it is full: reject appends, or, in memory only, evict the oldest events"),
    option!("compress", "CODEC", compress, codec, "How to compress what is not written to any more: none, lz4 or zstd"),
    option!("index-metadata", "KEYS", index_metadata, metadata_keys, "The metadata keys to index, separated by commas"),
    option!("query-cache", "BYTES", query_cache, bytes(0..=16 << 30), "The memory for answers that may be asked for again; 0 keeps none"),
    option!("event-size-max-bytes", "BYTES", limits.event_size_bytes_max, bytes(1..=Limits::HARD.event_size_bytes_max), "One event as recorded, with its names and metadata"),
    option!("commit-size-max-bytes", "BYTES", limits.commit_size_bytes_max, bytes(1..=Limits::HARD.commit_size_bytes_max), "The events of one commit as recorded"),
    option!("commit-events-max", "N", limits.commit_events_max, count(1..=Limits::HARD.commit_events_max), "Events in one commit"),
    option!("stream-name-max-bytes", "BYTES", limits.stream_name_bytes_max, bytes(1..=Limits::HARD.stream_name_bytes_max), "A stream's name"),
    option!("event-type-max-bytes", "BYTES", limits.event_type_bytes_max, bytes(1..=Limits::HARD.event_type_bytes_max), "An event's type"),
    option!("metadata-entries-max", "N", limits.metadata_entries_max, count(1..=Limits::HARD.metadata_entries_max), "Metadata entries of one event"),
    option!("tags-max", "N", limits.tags_max, count(1..=Limits::HARD.tags_max), "Tags of one event"),
    option!("append-queue-max", "N", append_queue_max, count(1..=1 << 20), "Appends that wait at once; more are refused"),
    option!("append-queue-max-bytes", "BYTES", append_queue_bytes_max, bytes(1 << 20..=64 << 30), "The events of appends that wait at once; more are refused"),
    option!("connections-max", "N", connections_max, count(1..=1_000_000), "Connections at once; more are refused"),
    option!("calls-max", "N", calls_max, count(1..=1_000_000), "Calls that are open at once; more are refused, but health checks"),
    option!("requests-max-bytes", "BYTES", requests_bytes_max, bytes(32 << 20..=64 << 30), "Requests that are received or worked on at once; more are refused"),
    option!("subscriptions-max", "N", subscriptions_max, count(1..=1_000_000), "Subscriptions, consumers, watches and replays that are open at once; more are refused"),
    option!("groups-max", "N", groups_max, count(1..=100_000), "Consumer groups that there are at once; more are refused"),
    option!("models-max", "N", models_max, count(1..=100_000), "Versions of read models that there are at once; more are refused"),
    option!("models-size-max-bytes", "BYTES", models_size_bytes_max, memory, "The documents of all read models with their keys, such as 4GiB; more are refused"),
    option!("document-size-max-bytes", "BYTES", document_size_bytes_max, bytes(1..=8 << 20), "One document of a read model"),
    option!("worker-threads", "N", worker_threads, count(0..=1024), "Threads that serve calls; 0: as many as there are cores"),
    option!("keep-alive-interval", "DURATION", keep_alive_interval, interval, "Ask a connection that has been quiet for so long whether it is alive"),
    option!("keep-alive-timeout", "DURATION", keep_alive_timeout, interval, "Drop a connection that does not answer for so long"),
    option!("shutdown-timeout", "DURATION", shutdown_timeout, duration(Duration::from_hours(1)), "How long calls have to end when the server stops"),
    option!("log-level", "DIRECTIVES", log_level, directives, "What to log: a level, or directives such as info,annals=debug"),
    option!("log-format", "FORMAT", log_format, log_format, "How log lines look: text or json"),
    option!("bench-service", "BOOL", bench_service, boolean, "Serve the empty twins of the calls, for benchmarks"),
];

/// The flag that names the file, without its dashes.
pub const FILE_FLAG: &str = "config";

const PREFIX: &str = "ANNALS_";
const FILE_VARIABLE: &str = "ANNALS_CONFIG";
/// Variables that are not the server's, and no mistake.
const OTHER_VARIABLES: [&str; 1] = ["ANNALS_SERVER"];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file, from 1.
    File(PathBuf, usize),
    /// A variable of the environment.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "file {}:{line}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A configuration, and where each of its values comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The effective values.
    pub config: Config,
    /// What is not here is a default.
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Every option's name, effective value as the file would have it, and origin.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, String, &Origin)> {
        OPTIONS.iter().map(|spec| (spec.name, (spec.get)(&self.config), self.origin(spec.name)))
    }

    /// Where the option's value comes from.
    pub fn origin(&self, name: &str) -> &Origin {
        self.origins.get(name).unwrap_or(&Origin::Default)
    }
}

/// A file that [`load`] accepts, each line with its origin.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value, origin) in self.settings() {
            let setting = format!("{name} = {value}");
            writeln!(f, "{setting:<40} # {origin}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong, one line each; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// The lines: origin, option, value, what is allowed.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [mistake] => write!(f, "the configuration has a mistake\n  - {mistake}"),
            mistakes => {
                write!(f, "the configuration has {} mistakes", mistakes.len())?;
                mistakes.iter().try_for_each(|mistake| write!(f, "\n  - {mistake}"))
            }
        }
    }
}

/// Merges what the flags (names without dashes, [`FILE_FLAG`] among them) and the environment (all of
/// it) say, and the file that one of them names.
pub fn load(
    flags: impl IntoIterator<Item = (String, String)>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Mistakes> {
    let mut mistakes = Vec::new();
    let mut given: Vec<(&Spec, Origin, String)> = Vec::new();
    let mut file = None;

    for (variable, value) in environment {
        // A name that is not UTF-8 is not one of ours.
        let Some(variable) = variable.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        if variable == FILE_VARIABLE {
            file = Some(PathBuf::from(value));
        } else if let Some(spec) = OPTIONS.iter().find(|spec| spec.variable() == variable) {
            match value.into_string() {
                Ok(value) => given.push((spec, Origin::Environment, value)),
                Err(_) => mistakes.push(format!("environment: {variable} is not UTF-8")),
            }
        } else if !OTHER_VARIABLES.contains(&variable) {
            let known = OPTIONS.iter().map(Spec::variable).chain([FILE_VARIABLE.to_owned()]);
            let hint = did_you_mean(variable, known);
            mistakes.push(format!("environment: {variable} is not an option{hint}"));
        }
    }
    for (name, value) in flags {
        if name == FILE_FLAG {
            file = Some(PathBuf::from(value));
        } else if let Some(spec) = OPTIONS.iter().find(|spec| spec.name == name) {
            given.push((spec, Origin::Flag, value));
        } else {
            let hint = did_you_mean(&name, names());
            mistakes.push(format!("flag: --{name} is not an option{hint}"));
        }
    }
    if let Some(path) = file {
        read_file(&path, &mut given, &mut mistakes);
    }

    // The weakest first. The sort is stable: the last of two equal flags wins.
    given.sort_by_key(|(_, origin, _)| match origin {
        Origin::Default => 0,
        Origin::File(..) => 1,
        Origin::Environment => 2,
        Origin::Flag => 3,
    });
    let mut loaded = Loaded { config: Config::default(), origins: BTreeMap::new() };
    for (spec, origin, value) in given {
        match (spec.set)(&mut loaded.config, &value) {
            Ok(()) => {
                loaded.origins.insert(spec.name, origin);
            }
            Err(allowed) => {
                let option = spelling(spec, &origin);
                mistakes.push(format!("{origin}: {option} is {value:?}; allowed: {allowed}"));
            }
        }
    }
    check_together(&loaded, &mut mistakes);
    if mistakes.is_empty() { Ok(loaded) } else { Err(Mistakes(mistakes)) }
}

/// Rules that take more than one option.
fn check_together(loaded: &Loaded, mistakes: &mut Vec<String>) {
    let Limits { event_size_bytes_max: event, commit_size_bytes_max: commit, .. } =
        loaded.config.limits;
    if event > commit {
        mistakes.push(format!(
            "event-size-max-bytes ({event}, {}) is more than commit-size-max-bytes ({commit}, {}); \
             allowed: an event that fits a commit",
            loaded.origin("event-size-max-bytes"),
            loaded.origin("commit-size-max-bytes"),
        ));
    }
    if loaded.config.when_full == WhenFull::Evict {
        let origin = loaded.origin("when-full");
        if loaded.config.data.is_some() {
            mistakes.push(format!(
                "when-full (evict, {origin}) is for memory mode, and data is set ({}); allowed: reject",
                loaded.origin("data"),
            ));
        }
        if loaded.config.max_memory.is_none() {
            mistakes.push(format!(
                "when-full (evict, {origin}) needs max-memory; allowed: a size such as 4GiB"
            ));
        }
    }
}

fn read_file(
    path: &Path,
    given: &mut Vec<(&'static Spec, Origin, String)>,
    mistakes: &mut Vec<String>,
) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return mistakes.push(format!("file {}: {error}", path.display())),
    };
    let line_of = |offset: usize| 1 + text[..offset].matches('\n').count();
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        let line = error.span().map_or(1, |span| line_of(span.start));
        mistakes.push(format!("file {}:{line}: not TOML: {}", path.display(), error.message()));
    }
    for (key, value) in table.get_ref() {
        let origin = Origin::File(path.to_owned(), line_of(key.span().start));
        let key = key.get_ref();
        let Some(spec) = OPTIONS.iter().find(|spec| spec.name == key) else {
            mistakes
                .push(format!("{origin}: {key} is not an option{}", did_you_mean(key, names())));
            continue;
        };
        match value.get_ref() {
            DeValue::String(text) => given.push((spec, origin, text.to_string())),
            DeValue::Integer(number) => given.push((spec, origin, number.to_string())),
            DeValue::Boolean(truth) => given.push((spec, origin, truth.to_string())),
            other => mistakes.push(format!(
                "{origin}: {key} is {}; allowed: a string, an integer or a boolean",
                other.type_str()
            )),
        }
    }
}

fn names() -> impl Iterator<Item = String> {
    OPTIONS.iter().map(|spec| spec.name.to_owned())
}

/// The option as its origin spells it.
fn spelling(spec: &Spec, origin: &Origin) -> String {
    match origin {
        Origin::Flag => format!("--{}", spec.name),
        Origin::Environment => spec.variable(),
        Origin::File(..) | Origin::Default => spec.name.to_owned(),
    }
}

/// The closest name that exists, as the end of a sentence; empty where none is close.
fn did_you_mean(wrong: &str, known: impl Iterator<Item = String>) -> String {
    // Case and the two ways to join words are the likeliest slips, and no distance.
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    known
        .map(|name| (strsim::jaro_winkler(&plain(wrong), &plain(&name)), name))
        .filter(|(closeness, _)| *closeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

// Parsers. An error is what is allowed.

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "ADDRESS:PORT, such as 127.0.0.1:2113 or [::1]:2113".to_owned())
}

fn count(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        let number = text.replace('_', "").parse().ok();
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("{} to {}", range.start(), range.end()))
    }
}

fn bytes(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        let (number, unit) = split_unit(text);
        let factor = match unit {
            "" | "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        number
            .parse::<usize>()
            .ok()
            .and_then(|number| number.checked_mul(factor?))
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                format!("{} to {} bytes, also as 64KiB or 4MiB", range.start(), range.end())
            })
    }
}

fn duration(longest: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let (number, unit) = split_unit(text);
        let unit_ms: Option<u64> = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit_ms?))
            .map(Duration::from_millis)
            .filter(|duration| *duration <= longest)
            .ok_or_else(|| {
                format!(
                    "a whole number of ms, s, m or h, at most {}s: 500ms, 10s",
                    longest.as_secs()
                )
            })
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(100);
    let checked = duration(Duration::from_hours(1))(text).ok().filter(|it| *it >= least);
    checked.ok_or_else(|| "a whole number of ms, s, m or h, from 100ms to 1h: 30s".to_owned())
}

/// `10s` is `10` and `s`; spaces do not count.
fn split_unit(text: &str) -> (String, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    (text[..end].replace('_', ""), text[end..].trim())
}

/// A name alone would be taken for a target and log everything of it: `verbose` is not a level.
fn directives(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let says_a_level = |directive: &str| {
        directive.contains('=') || LEVELS.contains(&directive.trim().to_lowercase().as_str())
    };
    if text.split(',').all(says_a_level) && EnvFilter::builder().parse(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err(format!("{}, or directives such as info,annals=debug", LEVELS.join(", ")))
    }
}

/// Empty: none.
#[expect(clippy::unnecessary_wraps, reason = "every option's check may refuse")]
fn directory(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

/// Empty: no limit.
fn memory(text: &str) -> Result<Option<usize>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    bytes(1 << 20..=1 << 50)(text).map(Some)
}

/// Empty: none.
fn metadata_keys(text: &str) -> Result<Vec<Name>, String> {
    let keys: Vec<&str> = text.split(',').map(str::trim).filter(|key| !key.is_empty()).collect();
    let allowed = || "at most 16 different keys of 1 to 256 bytes, separated by commas".to_owned();
    let different = keys.iter().collect::<std::collections::HashSet<_>>().len() == keys.len();
    let keys: Option<Vec<Name>> = keys.iter().map(|key| Name::new(key, 256).ok()).collect();
    keys.filter(|keys| different && keys.len() <= 16).ok_or_else(allowed)
}

fn sync_mode(text: &str) -> Result<SyncMode, String> {
    let interval = text.strip_prefix("interval=").map(duration(Duration::from_mins(1)));
    match (text, interval) {
        ("always", _) => Ok(SyncMode::Always),
        ("never", _) => Ok(SyncMode::Never),
        (_, Some(Ok(interval))) if !interval.is_zero() => Ok(SyncMode::Interval(interval)),
        _ => Err("always, interval=50ms (up to 1m), never".to_owned()),
    }
}

fn codec(text: &str) -> Result<Option<Codec>, String> {
    match text {
        "none" => Ok(None),
        "lz4" => Ok(Some(Codec::Lz4)),
        "zstd" => Ok(Some(Codec::Zstd)),
        _ => Err("none, lz4, zstd".to_owned()),
    }
}

fn when_full(text: &str) -> Result<WhenFull, String> {
    match text {
        "reject" => Ok(WhenFull::Reject),
        "evict" => Ok(WhenFull::Evict),
        _ => Err("reject, evict".to_owned()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text, json".to_owned()),
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "true, false".to_owned())
}

/// A value as the file has it.
trait ToToml {
    fn to_toml(&self) -> String;
}

impl ToToml for usize {
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl ToToml for Vec<Name> {
    fn to_toml(&self) -> String {
        let names: Vec<&str> = self.iter().map(Name::as_str).collect();
        names.join(",").to_toml()
    }
}

impl ToToml for bool {
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl ToToml for String {
    fn to_toml(&self) -> String {
        toml::Value::String(self.clone()).to_string()
    }
}

impl ToToml for SocketAddr {
    fn to_toml(&self) -> String {
        format!("\"{self}\"")
    }
}

impl ToToml for Duration {
    fn to_toml(&self) -> String {
        match self.as_millis() {
            ms if ms % 1000 == 0 => format!("\"{}s\"", ms / 1000),
            ms => format!("\"{ms}ms\""),
        }
    }
}

impl ToToml for Option<PathBuf> {
    fn to_toml(&self) -> String {
        let path = self.as_ref().map(|path| path.display().to_string());
        path.unwrap_or_default().to_toml()
    }
}

impl ToToml for Option<usize> {
    fn to_toml(&self) -> String {
        self.map_or_else(|| "\"\"".to_owned(), |number| number.to_toml())
    }
}

impl ToToml for SyncMode {
    fn to_toml(&self) -> String {
        match self {
            Self::Always => "\"always\"".to_owned(),
            Self::Interval(interval) => {
                format!("\"interval={}\"", interval.to_toml().trim_matches('"'))
            }
            Self::Never => "\"never\"".to_owned(),
        }
    }
}

impl ToToml for Option<Codec> {
    fn to_toml(&self) -> String {
        match self {
            None => "\"none\"".to_owned(),
            Some(Codec::Lz4) => "\"lz4\"".to_owned(),
            Some(Codec::Zstd) => "\"zstd\"".to_owned(),
        }
    }
}

impl ToToml for WhenFull {
    fn to_toml(&self) -> String {
        match self {
            Self::Reject => "\"reject\"".to_owned(),
            Self::Evict => "\"evict\"".to_owned(),
        }
    }
}

impl ToToml for LogFormat {
    fn to_toml(&self) -> String {
        match self {
            Self::Text => "\"text\"".to_owned(),
            Self::Json => "\"json\"".to_owned(),
        }
    }
}
