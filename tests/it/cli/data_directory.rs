//! What a user sees of a data directory that cannot be used, at a start and later: a clear sentence and an
//! exit code, and nothing is changed.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use annals::wire::proto::v1::{
    AppendRequest, NewEvent, command_service_client::CommandServiceClient, new_event::Data,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    commands::annals,
    made_history::{MadeHistory, Serving, run, segment_path},
};
use crate::support::{Refusal, connect, within};

/// A start that is refused: what it says.
fn refused(data: &Path) -> String {
    let (code, stdout, stderr) =
        run(&["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    let said = stderr.lines().skip_while(|line| !line.starts_with("error: "));
    said.collect::<Vec<_>>().join("\n")
}

/// `annals serve` under a shell's limit for files of so many KiB: a disk that is full, for want of one that
/// a test can fill.
fn with_files_of(kib: &str, data: &Path) -> Command {
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f $1; shift; exec \"$@\"";
    command.args(["-c", script, "sh", kib, env!("CARGO_BIN_EXE_annals")]);
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"]);
    command.arg(data).env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn a_directory_that_is_not_ours_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), "years").unwrap();
    let said = refused(folder.path());
    assert!(said.contains("has files in it, but is no data directory of annals"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let said = refused(&folder.path().join("thesis.txt"));
    assert!(said.contains("thesis.txt"), "{said}");
}

#[test]
fn a_newer_format_a_lock_and_a_stranger_are_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("annals"), "annals data, format 2\n").unwrap();
    let said = refused(folder.path());
    assert!(said.contains("format 2") && said.contains("a newer annals has written it"), "{said}");

    let data = MadeHistory::new(1).write();
    let server = Serving::start(data.path());
    let said = refused(data.path());
    assert!(said.contains("another server has"), "{said}");
    drop(server);
    fs::write(data.path().join("segments/notes.txt"), "").unwrap();
    let said = refused(data.path());
    assert!(said.contains("notes.txt is not a segment"), "{said}");
}

/// What was lost is named, and the command that helps.
#[test]
fn a_damaged_directory_is_said_to_be_one_and_how_to_go_on() {
    let data = MadeHistory::new(3).write();
    fs::remove_file(segment_path(data.path(), 13)).unwrap();
    let said = refused(data.path());
    assert!(said.contains("00000000000000000013.segment is missing"), "{said}");
    assert!(said.contains("`annals repair --data"), "{said}");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o555)).unwrap();
    if fs::write(data.join("probe"), "").is_ok() {
        eprintln!("not run: root may write everywhere");
        return;
    }
    let said = refused(&data);
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn a_disk_that_is_full_at_the_start_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = with_files_of("100", folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let said = stderr.lines().last().unwrap();
    assert!(said.contains("the data directory cannot be written to: File too large"), "{stderr}");
    // And where there is room again it starts.
    let server = Serving::start(folder.path());
    assert_eq!(server.run(&["append", "S-1", "T"]).0, Some(0));
}

/// No next segment can be made: appends are refused, health says so, reads go on, and a restart has all
/// that was acknowledged. (Nobody here may fill a disk: something is in the way of the next file instead.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_more_refuses_appends_until_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Serving::start(folder.path());
    let channel = connect(server.address.parse().unwrap()).await;
    let mut client = CommandServiceClient::new(channel.clone());
    let append = || AppendRequest {
        stream: "S-1".to_owned(),
        events: vec![NewEvent {
            r#type: "T".to_owned(),
            data: Some(Data::Text("x".repeat(1 << 20))),
            ..NewEvent::default()
        }],
        ..AppendRequest::default()
    };
    let in_the_way: Vec<_> = (2..60).map(|first| segment_path(folder.path(), first)).collect();
    for path in &in_the_way {
        fs::create_dir(path).unwrap();
    }
    let mut acknowledged = 0;
    let error = loop {
        match within(client.append(append())).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!((30..50).contains(&acknowledged), "a segment is full: {acknowledged}");
    assert_eq!((error.code(), error.reason().as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"));
    let mut health = HealthClient::new(channel);
    let request = HealthCheckRequest { service: "annals.v1.CommandService".to_owned() };
    let mut watch = within(health.watch(request)).await.unwrap().into_inner();
    while within(watch.message()).await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    let head = || server.json(&["verify", "--json"])[0]["head"].clone();
    assert_eq!(head(), acknowledged);
    // A way that is free again helps nothing until a restart: what is on the disk is not known.
    for path in &in_the_way {
        fs::remove_dir(path).unwrap();
    }
    within(client.append(append())).await.unwrap_err();
    assert_eq!(head(), acknowledged);
    drop(server);

    let server = Serving::start(folder.path());
    let head = server.json(&["verify", "--json"])[0]["head"].as_u64().unwrap();
    assert!((acknowledged..=acknowledged + 1).contains(&head), "{acknowledged} of {head}");
    assert_eq!(server.run(&["append", "S-1", "T"]).0, Some(0));
}

/// A start tells how far it is where it takes long, and is quiet where it does not.
#[test]
fn a_short_start_has_no_line_for_each_segment() {
    let data = MadeHistory::new(40).write();
    let mut command = annals(&["serve", "--listen", "127.0.0.1:0"]);
    let mut process =
        command.arg("--data").arg(data.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut seen = String::new();
    let mut log = std::io::BufReader::new(process.stderr.take().unwrap());
    while !seen.contains("listening") {
        assert!(std::io::BufRead::read_line(&mut log, &mut seen).unwrap() > 0, "{seen}");
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(seen.lines().count() < 10, "{seen}");
}
