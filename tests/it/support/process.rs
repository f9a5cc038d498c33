//! A server in a process of its own, for what a process has: its memory, and a death of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

/// A server. Dropped, it is killed.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    /// Starts the built binary, and waits until it listens.
    pub fn start() -> Self {
        Self::start_with(&mut Command::new(env!("CARGO_BIN_EXE_annals")))
    }

    /// The same on a data directory.
    pub fn start_on(data: &Path) -> Self {
        Self::start_with(Command::new(env!("CARGO_BIN_EXE_annals")).env("ANNALS_DATA", data))
    }

    /// The same with what `command` brings along.
    pub fn start_with(command: &mut Command) -> Self {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = log
            .by_ref()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
            .find(|line| line["message"] == "listening")
            .and_then(|line| line["address"].as_str()?.parse().ok())
            .expect("the log says where the server listens");
        // A pipe that nobody reads would stop the server.
        std::thread::spawn(move || log.for_each(drop));
        Self { address, child }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
