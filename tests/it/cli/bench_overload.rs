//! `annals bench overload`, small: it finds that a server with tight limits keeps its promises.

use std::process::Command;

use serde_json::Value;

use super::commands::annals;
use crate::support::process::Process;

#[test]
fn a_small_overload_is_shed_and_every_promise_holds() {
    let mut serve = Command::new(env!("CARGO_BIN_EXE_annals"));
    let server = Process::start_with(
        serve.envs([("ANNALS_CONNECTIONS_MAX", "20"), ("ANNALS_CALLS_MAX", "100")]),
    );
    let url = format!("http://{}", server.address);
    let sizes = [
        "--connections",
        "50",
        "--callers",
        "2000",
        "--append-connections",
        "10",
        "--readers",
        "20",
    ];
    // Whether it is fast is not what is looked at here.
    let patience = ["--health-max-ms", "10000", "--factor", "1000"];
    let output = annals(
        &[&["bench", "overload", "--json", "--server", &url], &sizes[..], &patience].concat(),
    )
    .output()
    .unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{stdout}");

    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["broken"], serde_json::json!([]));
    let phases = report["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    let all = ["baseline", "connections", "appends", "slow readers", "oversized", "recovery"];
    assert_eq!(names, all);
    // Two are the tool's own.
    assert_eq!(phases[1]["codes"]["OK"], 18);
    assert!(phases[2]["codes"]["RESOURCE_EXHAUSTED"].as_u64().unwrap() > 0, "{stdout}");
}

#[test]
fn more_connections_than_files_may_be_open_are_told_before_anything_is_done() {
    let command = "ulimit -n 100 && exec \"$0\" bench overload --connections 1000";
    let output =
        Command::new("sh").args(["-c", command, env!("CARGO_BIN_EXE_annals")]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("ulimit -n"), "{stderr}");
}
