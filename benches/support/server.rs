//! The server under load: a process of its own, and its processor time.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::disk::Place;

/// What the log line says before the address.
const LISTENING: &str = "listening address=";
/// `USER_HZ`, the unit of times in /proc: 100 a second on every Linux that we know of (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// A running server; it ends with the value.
pub struct Server {
    child: Child,
    pub binary: PathBuf,
    pub url: String,
    /// What it said until it listened, and when, from the start of its process on; the last line is the
    /// one that tells the address.
    pub start: Vec<(Duration, String)>,
    /// In durable mode: where its directory is.
    pub place: Option<Place>,
}

impl Server {
    /// Starts `binary` on a free port of loopback, with the empty twins: in memory mode, or in durable
    /// mode on the directory in `place`.
    pub fn start(binary: &Path, place: Option<Place>) -> Self {
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text"]);
        command.args(["--log-level", "info", "--bench-service"]);
        if let Some(place) = &place {
            command.arg("--data").arg(place.data()).args(["--sync", "always"]);
        }
        // Nobody's settings but ours.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ANNALS_") {
                command.env_remove(name);
            }
        }
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", binary.display()));
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut start = Vec::new();
        let address = loop {
            let mut line = String::new();
            let size = log.read_line(&mut line).expect("the server's log is text");
            assert!(size > 0, "the server ended before it listened:\n{start:?}");
            let address = line.split_once(LISTENING).map(|(_, address)| address.trim().to_owned());
            start.push((started.elapsed(), line));
            if let Some(address) = address {
                break address;
            }
        };
        // Read on, or a full pipe would stop the server; a warning is worth seeing.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("server: {line}");
            }
        });
        let url = format!("http://{address}");
        Self { child, binary: binary.to_owned(), url, start, place }
    }

    /// Kills it, as a crash does, and starts it again on its directory once `meanwhile` is done.
    pub fn crash_and_start(self, meanwhile: impl FnOnce(&Place)) -> Self {
        let (binary, place) = (self.binary.clone(), self.place.clone());
        drop(self);
        meanwhile(place.as_ref().expect("durable mode"));
        Self::start(&binary, place)
    }

    /// Processor time of all its threads until now, user and system. `None` where there is no /proc.
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15 (proc(5)).
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u32>().ok();
        Some(TICK * (ticks()? + ticks()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL: in memory mode there is nothing to save, and in durable mode it must be safe already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
