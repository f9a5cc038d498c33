//! `annals verify`: of a server and of a directory, good, damaged, and rewritten.

use std::fs;

use annals::core::log::format;

use super::made_history::{
    EVENTS_IN_SEGMENT, MadeHistory, Serving, flip, json, offset_of, record, run, segment_path,
};

#[test]
fn a_server_and_its_directory_have_the_same_hash_which_is_that_of_the_definition() {
    let made = MadeHistory::new(3);
    let data = made.write();
    let path = data.path().to_str().unwrap();
    let offline = json(&["verify", "--data", path, "--json"]);
    assert_eq!(offline["headHash"], made.head_hash());
    assert_eq!((&offline["head"], &offline["eventCount"]), (&36.into(), &36.into()));
    assert_eq!((&offline["segmentCount"], &offline["removedCount"]), (&3.into(), &0.into()));

    let server = Serving::start(data.path());
    assert_eq!(server.json(&["verify", "--json"])[0], offline);
    // A server has it: nobody else may.
    let (code, _, stderr) = run(&["verify", "--data", path]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("another server has"), "{stderr}");
}

#[test]
fn a_value_that_was_noted_tells_later_whether_anything_before_was_changed() {
    let mut made = MadeHistory::new(2);
    let data = made.write();
    let noted = made.head_hash();
    let more = Serving::start(data.path());
    assert_eq!(more.run(&["append", "S-2", "More"]).0, Some(0));
    let verify = |hash: &str| more.run(&["verify", "--at", "24", "--expect-hash", hash]);
    let (code, stdout, stderr) = verify(&noted);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains(&format!("hash at 24        {noted}")), "{stdout}");
    let (code, _, stderr) = verify(&"0".repeat(64));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("HISTORY_DIFFERS") && stderr.contains(&noted), "{stderr}");
    let (code, _, stderr) = more.run(&["verify", "--at", "23"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("ends at 24"), "{stderr}");
    let (code, _, stderr) = more.run(&["verify", "--at", "99"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("UNKNOWN_EVENT"), "{stderr}");
    drop(more);

    // In the newest segment only a noted value tells: no header stands behind it yet.
    *made.record_mut(20) = record(20, "{\"n\":99}");
    let rewritten = made.write();
    let path = rewritten.path().to_str().unwrap();
    assert_eq!(run(&["verify", "--data", path]).0, Some(0));
    let (code, _, stderr) = run(&["verify", "--data", path, "--expect-hash", &noted]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&noted), "{stderr}");
    let at = ["verify", "--data", path, "--at", "12", "--json"];
    assert_eq!(json(&at)["position"], 12);
    for (position, said) in [("23", "ends at 24"), ("99", "the head is 24")] {
        let (code, _, stderr) = run(&["verify", "--data", path, "--at", position]);
        assert_eq!(code, Some(1));
        assert!(stderr.contains(said), "{stderr}");
    }
    assert_eq!(run(&["verify", "--expect-hash", "abc"]).0, Some(2));
}

#[test]
fn a_changed_bit_is_named_with_file_and_byte() {
    let data = MadeHistory::new(3).write();
    let path = data.path().to_str().unwrap();
    let offset = offset_of(data.path(), 13, "{\"n\":17}");
    flip(&segment_path(data.path(), 13), offset + 5);
    let (code, stdout, stderr) = run(&["verify", "--data", path]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("00000000000000000013.segment is damaged at byte "), "{stderr}");
    assert!(stderr.contains("annals repair --data"), "{stderr}");
    let byte: usize = stderr
        .split("at byte ")
        .nth(1)
        .and_then(|rest| rest.split(':').next()?.parse().ok())
        .unwrap();
    assert!(byte < offset && offset - byte < 1000, "the commit that has byte {offset}: {stderr}");
}

/// The checksums are right, the positions rise, the server would serve it: only the chain tells.
#[test]
fn a_rewritten_past_is_found_by_the_chain_alone() {
    type Tamper = fn(&mut MadeHistory);
    let tampers: [(&str, Tamper); 3] = [
        ("changed", |made| *made.record_mut(14) = record(14, "{\"n\":0}")),
        ("removed", |made| {
            let mut removed = Vec::new();
            format::put_removed(&mut removed, &record(14, "another"));
            *made.record_mut(14) = removed;
        }),
        ("re-ordered", |made| {
            *made.record_mut(14) = record(14, "{\"n\":15}");
            *made.record_mut(15) = record(15, "{\"n\":14}");
        }),
    ];
    for (name, tamper) in tampers {
        let mut made = MadeHistory::new(3);
        tamper(&mut made);
        let data = made.write();
        let path = data.path().to_str().unwrap();
        let (code, _, stderr) = run(&["verify", "--data", path]);
        assert_eq!(code, Some(1), "{name}");
        assert!(stderr.contains("00000000000000000025.segment is damaged at byte 0"), "{stderr}");
        assert!(stderr.contains("from 13 to 24"), "{name}: {stderr}");

        let server = Serving::start(data.path());
        let (code, _, stderr) = server.run(&["verify"]);
        assert_eq!(code, Some(1), "{name}");
        for text in ["SEGMENT_DAMAGED", "segment=25", "offset=0", "from 13 to 24"] {
            assert!(stderr.contains(text), "{name}: {stderr}");
        }
    }
}

/// Compaction leaves the digest: the hash is that of the whole history.
#[test]
fn a_removed_event_that_left_its_digest_changes_no_hash() {
    let mut made = MadeHistory::new(2);
    let whole = made.record_mut(5).clone();
    let mut removed = Vec::new();
    format::put_removed(&mut removed, &whole);
    *made.record_mut(5) = removed;
    let data = made.write();
    let found = json(&["verify", "--json", "--data", data.path().to_str().unwrap()]);
    assert_eq!(found["headHash"], made.head_hash());
    assert_eq!((&found["eventCount"], &found["removedCount"]), (&23.into(), &1.into()));
}

#[test]
fn a_torn_tail_is_told_and_is_no_damage() {
    let data = MadeHistory::new(2).write();
    let newest = segment_path(data.path(), 13);
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() - 30]).unwrap();
    let before = fs::read(&newest).unwrap();
    let (code, stdout, stderr) = run(&["verify", "--data", data.path().to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("torn tail"), "{stderr}");
    assert!(stdout.contains("head              21"), "{stdout}");
    assert_eq!(fs::read(&newest).unwrap(), before, "nothing was changed");
}

#[test]
fn what_is_no_data_directory_is_said_to_be_none_and_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for command in ["verify", "repair"] {
        let (code, _, stderr) = run(&[command, "--data", path]);
        assert_eq!(code, Some(1));
        assert!(stderr.contains("is no data directory"), "{stderr}");
        let (code, _, stderr) = run(&[command, "--data", "nowhere/at/all"]);
        assert_eq!(code, Some(1));
        assert!(stderr.contains("is no data directory"), "{stderr}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::write(folder.path().join("annals"), "annals data, format 9\n").unwrap();
    let (code, _, stderr) = run(&["verify", "--data", path]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("format 9") && stderr.contains("newer"), "{stderr}");
}

#[test]
fn memory_mode_has_a_hash_too() {
    let mut command = super::commands::annals(&["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--log-format", "json"]);
    let server = Serving::started_by(command);
    let empty = &server.json(&["verify", "--json"])[0];
    assert_eq!((&empty["head"], &empty["headHash"]), (&0.into(), &"0".repeat(64).into()));
    for _ in 0..EVENTS_IN_SEGMENT {
        assert_eq!(server.run(&["append", "S-1", "T"]).0, Some(0));
    }
    let full = &server.json(&["verify", "--json"])[0];
    assert_eq!((&full["head"], &full["eventCount"]), (&12.into(), &12.into()));
    let at = server.json(&["verify", "--json", "--at", "7"]);
    let hash = at[0]["hash"].as_str().unwrap();
    assert_ne!(hash, full["headHash"].as_str().unwrap());
    assert_eq!(server.run(&["verify", "--at", "7", "--expect-hash", hash]).0, Some(0));
}
