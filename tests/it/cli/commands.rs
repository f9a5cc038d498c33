//! The binary as a shell sees it: stdout, stderr and exit code.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Command, Output, Stdio},
};

use tokio::net::TcpSocket;

/// The binary, without what the environment says to it.
pub fn annals(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ANNALS_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    annals(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// An address that refuses connections, as long as the socket lives: bound, so that nobody else gets
/// it, and not listening.
fn nobody() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[test]
fn without_arguments_it_explains_itself_on_one_screen() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output.stdout);
    assert!(text.lines().count() <= 24, "{text}");
    for command in [
        "serve",
        "append",
        "read",
        "tail",
        "subscriptions",
        "groups",
        "streams",
        "search",
        "stats",
        "info",
        "import",
        "export",
        "verify",
    ] {
        assert!(text.contains(&format!("\n  {command} ")), "{command} in\n{text}");
        assert_eq!(run(&[command, "--help"]).status.code(), Some(0));
    }
    for command in [
        "models",
        "explain",
        "correlation",
        "replay",
        "trends",
        "truncate",
        "tombstone",
        "compact",
        "backup",
        "repair",
        "bench",
    ] {
        assert!(text.contains(command), "{command} in\n{text}");
        assert_eq!(run(&[command, "--help"]).status.code(), Some(0));
    }
    assert!(text.contains("annals append Payment-1"), "{text}");
}

#[test]
fn a_client_without_a_server_says_how_to_start_one() {
    let (_socket, server) = nobody();
    for command in ["info", "streams", "read", "tail", "subscriptions", "groups", "models"] {
        let output = run(&[command, "--server", &server]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            text(&output.stderr),
            format!("error: no server answers at http://{server}; start one with `annals serve`\n")
        );
    }
}

#[test]
fn a_wrong_use_ends_with_2_before_any_server_is_asked() {
    for arguments in [
        &["nonsense"][..],
        &["append", "Payment-1"],
        &["append", "Payment-1", "Paid", "{not json"],
        &["append", "Payment-1", "Paid", "{}", "--metadata", "novalue"],
        &["append", "Payment-1", "Paid", "{}", "--metadata", "a=1", "--metadata", "a=2"],
        &["append", "Payment-1", "Paid", "{}", "--id", "7"],
        &["read", "Payment-1", "--tag", "vip"],
        &["read", "--limit", "0"],
        &["tail", "--after", "1", "--from-start"],
        &["tail", "--from-time", "yesterday"],
        &["tail", "--consumer", "c"],
        &["bench", "nonsense"],
        &["bench", "append", "--callers", "0"],
        &["bench", "append", "--batch", "10001"],
        &["bench", "append", "--batch", "10000", "--data-bytes", "4000"],
        &["bench", "append", "--category", "a-b"],
        &["bench", "stream", "--in-flight", "0"],
        &["bench", "stream", "--duration", "0s"],
        &["bench", "stream", "--duration", "5s", "--count", "5"],
        &["bench", "stream", "--compare", "--empty"],
        &["bench", "read", "--empty=bytes"],
        &["bench", "read", "--streams", "0"],
        &["bench", "subscribe", "--live", "--fill", "5"],
        &["bench", "mixed", "--pace", "0"],
        &["bench", "mixed", "--report-every", "often"],
        &["bench", "mixed", "--compare"],
        &["groups", "nonsense"],
        &["groups", "show"],
        &["groups", "create"],
        &["groups", "create", "g", "--after", "1", "--from-now"],
        &["groups", "create", "g", "--strategy", "best"],
        &["groups", "create", "g", "--retries", "1001"],
        &["groups", "create", "g", "--retry-delay", "-1s"],
        &["groups", "create", "g", "--window", "0"],
        &["groups", "update", "g"],
        &["groups", "update", "g", "--all-events", "--type", "Paid"],
        &["groups", "move", "g", "--expected-position", "1"],
        &["groups", "move", "g", "--after", "1"],
        &["groups", "move", "g", "--expected-position", "1", "--after", "1", "--skip", "2"],
        &["groups", "parked", "g", "--limit", "0"],
        &["models", "nonsense"],
        &["models", "show"],
        &["models", "create"],
        &["models", "create", "m", "--version", "0"],
        &["models", "create", "m", "--index", "a,,b"],
        &["models", "create", "m", "--index", ""],
        &["models", "get", "m"],
        &["models", "find"],
        &["models", "find", "m", "--where", "status"],
        &["models", "find", "m", "--where", "status!=paid"],
        &["models", "find", "m", "--limit", "0"],
        &["models", "watch", "m", "--where", "amount="],
        &["models", "switch", "m"],
        &["models", "switch", "m", "0"],
        &["models", "drop", "m"],
        &["models", "drop", "m", "--version", "0", "--yes"],
        &["groups", "replay", "g", "1", "--first", "1"],
        &["groups", "drop", "g"],
        &["groups", "drop", "g", "1", "--all"],
        &["info", "--server", "https://127.0.0.1:2113"],
        &["serve", "--listen", "nowhere"],
        &["retention", "set", "Payment-1"],
        &["retention", "set", "--max-count", "1"],
        &["retention", "set", "Payment-1", "--category", "Payment", "--max-count", "1"],
        &["retention", "set", "Payment-1", "--max-age", "1w"],
        &["retention", "set", "Payment-1", "--max-age", "1d", "--everything"],
        &["retention", "show"],
        &["read", "--occurred-from", "yesterday"],
        &["tail", "--metadata", "novalue"],
        &["export", "--recorded-from", "2011-03-01", "--recorded-to", "2011-03-01"],
        &["search", "--json-match", "$.amount"],
        &["search", "--limit", "0"],
        &["search", "--limit", "1", "--all"],
        &["stats", "--by", "year"],
        &["stats", "--rows", "100001"],
        &["trends", "--by", "type"],
        &["trends", "--split-by", "day"],
        &["trends", "--series", "3"],
        &["correlation"],
        &["correlation", "c", "--limit", "10001"],
        &["replay", "--speed", "-1"],
        &["replay", "--pause-max", "10"],
        &["truncate", "Payment-1"],
        &["truncate", "Payment-1", "--before", "0"],
        &["delete"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{arguments:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let (_socket, server) = nobody();
    for arguments in [
        &["import", "/nowhere.ndjson", "--server", &server][..],
        &["append", "Payment-1", "Paid", "@/nowhere.ndjson", "--server", &server],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1));
        let text = text(&output.stderr);
        assert!(text.starts_with("error: /nowhere.ndjson: No such file"), "{text}");
    }
}

#[test]
fn the_configuration_is_printed_with_its_origins() {
    let output = annals(&["serve", "--print-config", "--bench-service", "--tags-max", "3"])
        .env("ANNALS_LISTEN", "127.0.0.1:9")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output.stdout);
    for (setting, origin) in [
        ("listen = \"127.0.0.1:9\"", "# environment"),
        ("bench-service = true", "# flag"),
        ("tags-max = 3", "# flag"),
        ("log-level = \"info\"", "# default"),
    ] {
        let line = text.lines().find(|line| line.starts_with(setting));
        assert!(line.is_some_and(|line| line.ends_with(origin)), "{setting} {origin} in\n{text}");
    }
}

#[test]
fn a_port_in_use_is_said_to_be() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["serve", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let text = text(&output.stderr);
    assert!(text.contains(&format!("{address} is in use")), "{text}");
}
