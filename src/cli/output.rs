//! What the commands print: lines for people, coloured on a terminal, or one JSON object a line.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, BufWriter, StdoutLock, Write},
};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;

use super::cloud_events::{format_time, is_json};
use crate::wire::proto::v1::{RecordedEvent, recorded_event};

/// How parts of a line look; nothing where colours are off.
#[derive(Clone, Copy, Default)]
pub struct Palette {
    pub dim: Style,
    pub stream: Style,
    pub event_type: Style,
}

impl Palette {
    fn of(choice: ColorChoice) -> Self {
        if choice == ColorChoice::Never {
            return Self::default();
        }
        Self {
            dim: Style::new().dimmed(),
            stream: AnsiColor::Cyan.on_default(),
            event_type: AnsiColor::Green.on_default().bold(),
        }
    }
}

/// stdout, with a buffer of its own: [`Output::flush`] when a reader may wait.
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
    palette: Palette,
}

impl Output {
    pub fn stdout() -> Self {
        // Honours NO_COLOR, CLICOLOR_FORCE and TERM.
        let palette = Palette::of(AutoStream::choice(&io::stdout()));
        Self { out: BufWriter::with_capacity(64 << 10, io::stdout().lock()), palette }
    }

    pub fn line(&mut self, line: impl FnOnce(&Palette) -> String) -> io::Result<()> {
        let mut text = line(&self.palette);
        text.push('\n');
        self.out.write_all(text.as_bytes())
    }

    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    pub fn event(&mut self, event: &RecordedEvent, json: bool) -> io::Result<()> {
        if json {
            self.json(&EventJson::of(event))
        } else {
            self.line(|palette| event_line(event, palette))
        }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Ends when the other end of stdout is closed; never where stdout is no pipe.
pub async fn stdout_closed() {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        use tokio::{io::Interest, net::unix::pipe::Sender};
        // Unchecked: the check would make the pipe non-blocking for all who have it. Nothing is written
        // here. A file cannot be watched, and has no other end.
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        if let Ok(pipe) = stdout.and_then(Sender::from_owned_fd_unchecked) {
            let _ = pipe.ready(Interest::ERROR).await;
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// `error: …` on stderr.
pub fn error(text: &str) {
    let style = AnsiColor::Red.on_default().bold();
    anstream::eprintln!("{style}error:{style:#} {}", printable_lines(text));
}

/// A remark on stderr, dim.
pub fn note(text: &str) {
    let style = Style::new().dimmed();
    anstream::eprintln!("{style}{}{style:#}", printable_lines(text));
}

/// Progress on stderr, if that is a terminal. `length` is unknown where a pipe is read.
pub fn progress_bar(length: Option<u64>, unit_is_bytes: bool) -> ProgressBar {
    let (bar, template) = match (length, unit_is_bytes) {
        (Some(length), true) => {
            (ProgressBar::new(length), "{bar:30} {bytes}/{total_bytes}  {msg}  {eta} left")
        }
        (Some(length), false) => {
            (ProgressBar::new(length), "{bar:30} {percent}%  {msg}  {eta} left")
        }
        (None, _) => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// `12 345 678` is easier to read than its digits in a row.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// What a stranger wrote, without what would move a terminal's cursor; one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => safe.push(' '),
            c if c.is_control() => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe.into()
}

fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// Not more than `width` characters of what a stranger wrote; `…` stands for the rest.
pub fn cut(text: &str, width: usize) -> String {
    let text = printable(text);
    match text.char_indices().nth(width) {
        None => text.into_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// How many characters a line of the terminal has; 80 where stdout is none.
pub fn terminal_width() -> usize {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stdout())
        && size.ws_col > 0
    {
        return size.ws_col.into();
    }
    80
}

/// `count` as a bar, where `longest` is `width` characters long; only 0 has none.
pub fn bar(count: u64, longest: u64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if count == 0 || longest == 0 {
        return String::new();
    }
    let eighths = u128::from(count.min(longest)) * width as u128 * 8 / u128::from(longest);
    let eighths = usize::try_from(eighths).unwrap_or(usize::MAX).max(1);
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}

/// The two largest units from a minute on, one below, rounded down: `3 d 4 h`, `1.5 s`, `-20 ms`.
pub fn duration(nanos: i128) -> String {
    const BELOW_A_MINUTE: [(u128, &str); 4] =
        [(1_000_000_000, "s"), (1_000_000, "ms"), (1000, "µs"), (1, "ns")];
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let text = match (days, hours, minutes) {
        (0, 0, 0) => {
            // Without any it is 0 s.
            let fits = |(unit, _): &(u128, &str)| nanos >= *unit;
            let (unit, name) = BELOW_A_MINUTE.into_iter().find(fits).unwrap_or(BELOW_A_MINUTE[0]);
            match nanos % unit * 10 / unit {
                0 => format!("{} {name}", nanos / unit),
                tenth => format!("{}.{tenth} {name}", nanos / unit),
            }
        }
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{} d {hours} h", grouped(days)),
    };
    format!("{sign}{text}")
}

pub fn nanos(duration: &prost_types::Duration) -> i128 {
    i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos)
}

/// As protobuf's JSON has a duration: `1.5s`, `-0.02s`.
pub fn duration_json(duration: &prost_types::Duration) -> String {
    let nanos = nanos(duration);
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = format!(".{:09}", nanos % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{sign}{}{fraction}s", nanos / 1_000_000_000)
}

pub fn time(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(format_time).unwrap_or_else(|| "-".to_owned())
}

/// Position, when it happened, stream@version, type, data, and what else it carries.
pub fn event_line(event: &RecordedEvent, palette: &Palette) -> String {
    let Palette { dim, stream, event_type } = palette;
    let mut line = format!(
        "{dim}{:>8}  {}{dim:#}  {stream}{}@{}{stream:#}  {event_type}{}{event_type:#}",
        event.position,
        time(event.occurred_at.as_ref()),
        printable(&event.stream),
        event.version,
        printable(&event.r#type),
    );
    match &event.data {
        Some(recorded_event::Data::Text(text)) => {
            line.push_str("  ");
            line.push_str(&printable(text));
        }
        Some(recorded_event::Data::Binary(bytes)) => {
            let content_type = match event.content_type.as_str() {
                "" => "application/octet-stream",
                content_type => content_type,
            };
            let _ = write!(line, "  ({} bytes of {})", bytes.len(), printable(content_type));
        }
        None => {}
    }
    let mut rest = String::new();
    for tag in &event.tags {
        let _ = write!(rest, " #{tag}");
    }
    for (name, value) in
        [("correlation", &event.correlation_id), ("causation", &event.causation_id)]
    {
        if !value.is_empty() {
            let _ = write!(rest, " {name}={value}");
        }
    }
    for (key, value) in &event.metadata {
        let _ = write!(rest, " {key}={value}");
    }
    if !rest.is_empty() {
        let _ = write!(line, "  {dim}{}{dim:#}", printable(rest.trim_start()));
    }
    line
}

/// An event as one JSON object: the names of the protocol's JSON, numbers as numbers, and JSON data as
/// JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventJson<'a> {
    position: u64,
    version: u64,
    stream: &'a str,
    id: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    causation_id: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    metadata: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
    #[serde(flatten)]
    data: Option<DataJson<'a>>,
}

#[derive(Serialize)]
enum DataJson<'a> {
    #[serde(rename = "data")]
    Json(Cow<'a, RawValue>),
    #[serde(rename = "data")]
    Text(&'a str),
    #[serde(rename = "dataBase64")]
    Binary(String),
}

impl<'a> EventJson<'a> {
    pub fn of(event: &'a RecordedEvent) -> Self {
        let data = event.data.as_ref().map(|data| match data {
            recorded_event::Data::Text(text) => {
                let json = event.content_type.is_empty() || is_json(&event.content_type);
                match json.then(|| json_in_one_line(text)).flatten() {
                    Some(raw) => DataJson::Json(raw),
                    None => DataJson::Text(text),
                }
            }
            recorded_event::Data::Binary(bytes) => DataJson::Binary(BASE64.encode(bytes)),
        });
        Self {
            position: event.position,
            version: event.version,
            stream: &event.stream,
            id: &event.id,
            r#type: &event.r#type,
            recorded_at: event.recorded_at.as_ref().and_then(format_time),
            occurred_at: event.occurred_at.as_ref().and_then(format_time),
            correlation_id: &event.correlation_id,
            causation_id: &event.causation_id,
            tags: &event.tags,
            metadata: &event.metadata,
            content_type: &event.content_type,
            data,
        }
    }
}

/// Line breaks stand between JSON's tokens only, and mean as much as a space there.
pub fn json_in_one_line(text: &str) -> Option<Cow<'_, RawValue>> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    if raw.get().contains(['\n', '\r']) {
        RawValue::from_string(raw.get().replace(['\n', '\r'], " ")).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(raw))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn event(data: Option<recorded_event::Data>) -> RecordedEvent {
        RecordedEvent {
            id: "f60da00d-6540-5046-9bda-f10ec0cce8a2".to_owned(),
            position: 12,
            version: 1,
            recorded_at: None,
            occurred_at: Some(prost_types::Timestamp { seconds: 0, nanos: 5_000_000 }),
            stream: "Payment-1".to_owned(),
            r#type: "PaymentProcessed".to_owned(),
            data,
            content_type: String::new(),
            correlation_id: String::new(),
            causation_id: String::new(),
            metadata: BTreeMap::new(),
            tags: vec!["vip".to_owned()],
        }
    }

    #[test]
    fn json_data_is_nested_on_one_line_and_anything_else_is_a_string() {
        for (text, expected) in [
            ("{\n \"a\": 1.10\n}", r#""data":{  "a": 1.10 }"#),
            ("{", r#""data":"{""#),
            ("null", r#""data":null"#),
        ] {
            let event = event(Some(recorded_event::Data::Text(text.to_owned())));
            let json = serde_json::to_string(&EventJson::of(&event)).expect("JSON");
            assert!(json.ends_with(&format!("{expected}}}")), "{json}");
            assert!(!json.contains('\n'), "{json}");
        }
    }

    #[test]
    fn what_a_stranger_wrote_moves_no_cursor() {
        let data = recorded_event::Data::Text("\"a\u{1b}[2Jb\"\r\n".to_owned());
        let line = event_line(&event(Some(data)), &Palette::default());
        assert_eq!(
            line,
            "      12  1970-01-01T00:00:00.005Z  Payment-1@1  PaymentProcessed  \
             \"a\\u{1b}[2Jb\"    #vip"
        );
    }

    #[test]
    fn durations_are_short_and_have_a_sign_only_where_time_runs_back() {
        let seconds = [0, 59, 61, 3600, 90_000, 100_000_000].map(|it| duration(it * 1_000_000_000));
        assert_eq!(seconds, ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h", "1 157 d 9 h"]);
        let below =
            [1_500_000_000, 1_999_999, 12_000, 7, -2_000_000_000, -20_000_000].map(duration);
        assert_eq!(below, ["1.5 s", "1.9 ms", "12 µs", "7 ns", "-2 s", "-20 ms"]);
        let json = |seconds, nanos| duration_json(&prost_types::Duration { seconds, nanos });
        assert_eq!([json(0, 0), json(1, 500_000_000)], ["0s", "1.5s"]);
        assert_eq!([json(0, -20_000_000), json(-3, -1)], ["-0.02s", "-3.000000001s"]);
    }

    #[test]
    fn a_bar_is_as_long_as_its_count_and_never_empty_for_some() {
        let bars = [0, 1, 4, 8, 12, 16, 99].map(|count| bar(count, 16, 2));
        assert_eq!(bars, ["", "▏", "▌", "█", "█▌", "██", "██"]);
        assert_eq!(bar(1, u64::MAX, 10), "▏");
        assert_eq!(bar(u64::MAX, u64::MAX, 3), "███");
        assert_eq!([bar(0, 0, 9), bar(5, 0, 9)], ["", ""]);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!([cut("größe", 5), cut("größe", 4), cut("a\u{7}", 2)], ["größe", "grö…", "a…"]);
    }

    #[test]
    fn long_numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }
}
