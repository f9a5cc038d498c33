//! The server under load: a process of its own, and its processor time.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// What the log line says before the address.
const LISTENING: &str = "listening address=";
/// `USER_HZ`, the unit of times in /proc: 100 a second on every Linux that we know of (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// A running server; it ends with the value.
pub struct Server {
    child: Child,
    pub binary: PathBuf,
    pub url: String,
}

impl Server {
    /// Starts `binary` in memory mode, on a free port of loopback, with the empty twins.
    pub fn start(binary: &Path) -> Self {
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text"]);
        command.args(["--log-level", "info", "--bench-service"]);
        // Nobody's settings but ours.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ANNALS_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", binary.display()));
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut said = String::new();
        let address = loop {
            let before = said.len();
            let size = log.read_line(&mut said).expect("the server's log is text");
            assert!(size > 0, "the server ended before it listened:\n{said}");
            if let Some((_, address)) = said[before..].split_once(LISTENING) {
                break address.trim().to_owned();
            }
        };
        // Read on, or a full pipe would stop the server; a warning is worth seeing.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("server: {line}");
            }
        });
        Self { child, binary: binary.to_owned(), url: format!("http://{address}") }
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
        // In memory mode there is nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
