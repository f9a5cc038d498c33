//! `annals repair`: what it says, what it keeps, that it removes nothing, and that it can be interrupted.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use annals::core::commit_log::disk::{offline::Offline, repair};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::made_history::{
    EVENTS_IN_SEGMENT, MadeHistory, Serving, flip, json, offset_of, pack, record, run, segment_path,
};

/// Every file below a directory but the lock.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap().path();
            if entry.is_dir() {
                folders.push(entry);
            } else if !entry.ends_with("lock") {
                all.insert(entry.strip_prefix(path).unwrap().to_owned(), fs::read(entry).unwrap());
            }
        }
    }
    all
}

/// The folder of what went aside.
fn aside(data: &Path) -> PathBuf {
    let mut folders = fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("damaged-"));
    let folder = folders.next().expect("something went aside");
    assert_eq!(folders.next(), None);
    folder
}

/// A look changes nothing; the repair keeps `head` events and every byte; then it starts and verifies.
fn assert_mends(data: &Path, said: &[&str], head: u64) {
    let path = data.to_str().unwrap();
    let before = files(data);
    let (code, stdout, stderr) = run(&["repair", "--data", path]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""), "{stdout}");
    let stays = if head == 0 {
        "stays: no event".to_owned()
    } else {
        format!("stays: positions 1 to {head}\n")
    };
    for text in [said, &[&stays, "nothing was changed"]].concat() {
        assert!(stdout.contains(text), "{text} in\n{stdout}");
    }
    assert_eq!(files(data), before);

    let (code, stdout, stderr) = run(&["repair", "--data", path, "--yes"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let folder = aside(data);
    assert!(stdout.contains(folder.to_str().unwrap()), "{stdout}");
    let after = files(data);
    for (name, bytes) in &before {
        let is_there = after.get(name) == Some(bytes)
            || fs::read(folder.join(name.file_name().unwrap())).unwrap() == *bytes;
        assert!(is_there, "{} is where it was or aside", name.display());
    }
    assert_eq!(json(&["verify", "--json", "--data", path])["head"], head);
    let (code, stdout, _) = run(&["repair", "--data", path]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("nothing is wrong"), "{stdout}");

    let server = Serving::start(data);
    assert_eq!(server.run(&["append", "S-2", "Afterwards"]).0, Some(0));
    assert_eq!(server.json(&["verify", "--json"])[0]["head"], head + 1);
}

#[test]
fn where_nothing_is_wrong_nothing_is_changed() {
    let data = MadeHistory::new(2).write();
    let path = data.path().to_str().unwrap();
    let before = files(data.path());
    for arguments in [&["repair", "--data", path][..], &["repair", "--data", path, "--yes"]] {
        let (code, stdout, _) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(0), "nothing is wrong: positions 1 to 24\n"));
    }
    assert_eq!(files(data.path()), before);
}

#[test]
fn a_fault_in_the_middle_keeps_what_is_before_and_puts_the_rest_aside() {
    let data = MadeHistory::new(4).write();
    let offset = offset_of(data.path(), 13, "{\"n\":17}");
    flip(&segment_path(data.path(), 13), offset);
    let said = ["00000000000000000013.segment is damaged at byte", "goes aside: 3 files"];
    assert_mends(data.path(), &said, 15);
}

#[test]
fn what_looks_like_a_commit_behind_a_torn_one_stops_the_start_and_not_the_repair() {
    let data = MadeHistory::new(2).write();
    // A valid commit follows: a start cannot take it for a torn tail.
    let offset = offset_of(data.path(), 13, "{\"n\":20}");
    flip(&segment_path(data.path(), 13), offset);
    let path = data.path().to_str().unwrap();
    let (code, _, stderr) = run(&["serve", "--listen", "127.0.0.1:0", "--data", path]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is damaged at byte"), "{stderr}");
    assert_mends(data.path(), &["00000000000000000013.segment is damaged at byte"], 18);
}

#[test]
fn a_torn_tail_is_put_aside_too() {
    let data = MadeHistory::new(2).write();
    let newest = segment_path(data.path(), 13);
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() - 30]).unwrap();
    assert_mends(data.path(), &["is torn at byte", "nothing of it was acknowledged"], 21);
}

#[test]
fn a_header_is_written_anew_and_nothing_is_lost() {
    for first in [1, 13, 25] {
        let made = MadeHistory::new(3);
        let data = made.write();
        flip(&segment_path(data.path(), first), 4);
        assert_mends(data.path(), &["a damaged header"], 36);
        let path = data.path().to_str().unwrap();
        let at = ["verify", "--data", path, "--at", "36", "--expect-hash", &made.head_hash()];
        assert_eq!(run(&at).0, Some(0));
    }
}

#[test]
fn a_missing_segment_ends_the_log_before_it() {
    let data = MadeHistory::new(4).write();
    fs::remove_file(segment_path(data.path(), 13)).unwrap();
    assert_mends(data.path(), &["00000000000000000013.segment is missing", "2 files"], 12);

    let data = MadeHistory::new(2).write();
    fs::remove_file(segment_path(data.path(), 1)).unwrap();
    assert_mends(data.path(), &["00000000000000000001.segment is missing"], 0);
}

#[test]
fn a_strangers_file_goes_aside_and_nothing_else() {
    let data = MadeHistory::new(2).write();
    fs::write(data.path().join("segments/notes.txt"), "mine").unwrap();
    assert_mends(data.path(), &["notes.txt does not belong here"], 24);

    // Another log's, among ours.
    let data = MadeHistory::new(2).write();
    fs::copy(segment_path(data.path(), 1), segment_path(data.path(), 5)).unwrap();
    assert_mends(data.path(), &["00000000000000000005.segment does not belong here"], 24);
}

#[test]
fn a_file_that_cannot_be_read_goes_aside_unread() {
    let data = MadeHistory::new(3).write();
    let path = segment_path(data.path(), 13);
    fs::remove_file(&path).unwrap();
    // Also root cannot read a folder as a file.
    fs::create_dir(&path).unwrap();
    let place = data.path().to_str().unwrap();
    let (code, stdout, _) = run(&["repair", "--data", place, "--yes"]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.contains("00000000000000000013.segment cannot be read: "), "{stdout}");
    assert!(aside(data.path()).join("00000000000000000013.segment").is_dir());
    assert_eq!(json(&["verify", "--json", "--data", place])["head"], 12);
}

/// A compressed segment that has become the newest was sealed: it is no torn one.
#[test]
fn a_compressed_segment_that_is_the_newest_is_not_cut_off() {
    let made = MadeHistory::new(2);
    let data = made.write();
    pack(data.path(), 13);
    let path = data.path().to_str().unwrap();
    assert_eq!(json(&["verify", "--json", "--data", path])["headHash"], made.head_hash());
    let server = Serving::start(data.path());
    assert_eq!(server.run(&["append", "S-2", "More"]).0, Some(0));
    let at = ["verify", "--at", "24", "--expect-hash", &made.head_hash()];
    assert_eq!(server.run(&at).0, Some(0));
    assert_eq!(server.json(&["verify", "--json"])[0]["head"], 25);
    drop(server);

    // Nor is one whose first block's tag is damaged.
    let data = MadeHistory::filled(2, 20_000).write();
    pack(data.path(), 13);
    let bytes = fs::read(segment_path(data.path(), 13)).unwrap();
    let tag = usize::from(bytes[1]) + 2;
    assert_eq!(bytes[tag], 0x2a);
    flip(&segment_path(data.path(), 13), tag);
    assert_mends(data.path(), &["00000000000000000013.segment is damaged"], 12);
}

#[test]
fn of_a_compressed_segment_what_is_before_the_damage_stays() {
    let made = MadeHistory::filled(3, 20_000);
    let data = made.write();
    for first in [1, 13, 25] {
        pack(data.path(), first);
    }
    let path = data.path().to_str().unwrap();
    assert_eq!(json(&["verify", "--json", "--data", path])["headHash"], made.head_hash());
    let file = segment_path(data.path(), 13);
    flip(&file, fs::read(&file).unwrap().len() - 10);
    // Two commits are a block.
    assert_mends(data.path(), &["a packed block cannot be unpacked", "2 files"], 18);

    let data = made.write();
    pack(data.path(), 1);
    flip(&segment_path(data.path(), 1), 4);
    assert_mends(data.path(), &["a damaged header"], 3 * EVENTS_IN_SEGMENT);
}

/// What was rewritten can be read, and what it was is not here: nothing is thrown away for it.
#[test]
fn a_rewritten_past_is_told_and_left() {
    let mut made = MadeHistory::new(3);
    *made.record_mut(14) = record(14, "{\"n\":0}");
    let data = made.write();
    let before = files(data.path());
    let (code, stdout, _) = run(&["repair", "--yes", "--data", data.path().to_str().unwrap()]);
    assert_eq!(code, Some(1));
    for text in ["from 13 to 24", "restore a backup", "nothing was changed"] {
        assert!(stdout.contains(text), "{stdout}");
    }
    assert_eq!(files(data.path()), before);
}

#[test]
fn a_newer_format_and_a_servers_directory_are_left_alone() {
    let data = MadeHistory::new(1).write();
    let path = data.path().to_str().unwrap();
    let server = Serving::start(data.path());
    let (code, _, stderr) = run(&["repair", "--data", path, "--yes"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("another server has"), "{stderr}");
    drop(server);

    // Version 2, with the checksum that belongs to it.
    let file = segment_path(data.path(), 1);
    let mut bytes = fs::read(&file).unwrap();
    let header = 2..usize::from(bytes[1]) + 2;
    assert_eq!(bytes[header.clone()][5..7], [0x10, 1]);
    bytes[header.start + 6] = 2;
    let checksum = crc32c::crc32c(&bytes[header.start..header.end - 5]);
    bytes[header.end - 4..header.end].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    for arguments in [
        &["repair", "--yes", "--data", path][..],
        &["verify", "--data", path],
        &["serve", "--listen", "127.0.0.1:0", "--data", path],
    ] {
        let before = files(data.path());
        let (code, _, stderr) = run(arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(stderr.contains("it is of format 2"), "{arguments:?}: {stderr}");
        assert_eq!(files(data.path()), before);
    }
}

/// Any bit of any file: a look at it and a repair never end in anything but a log that starts and is a
/// beginning of the one that was written.
#[test]
fn any_changed_bit_is_found_and_mended() {
    let made = MadeHistory::new(3);
    let mut random = SmallRng::seed_from_u64(0x000a_11a1);
    for _ in 0..60 {
        let data = made.write();
        let path = data.path().to_str().unwrap();
        let first = [1, 13, 25][random.random_range(0..3)];
        let file = segment_path(data.path(), first);
        let size = fs::read(&file).unwrap().len();
        let offset = random.random_range(0..size);
        flip(&file, offset);
        let before = fs::read(&file).unwrap();

        let (code, _, stderr) = run(&["verify", "--data", path]);
        let found = code == Some(1) || stderr.contains("torn tail");
        assert!(found, "byte {offset} of {first}");
        let (code, stdout, stderr) = run(&["repair", "--data", path, "--yes"]);
        assert_eq!(code, Some(0), "byte {offset} of {first}: {stdout}{stderr}");
        let kept = fs::read(aside(data.path()).join(file.file_name().unwrap())).unwrap();
        assert_eq!(kept, before);
        let found = json(&["verify", "--json", "--data", path]);
        let head = found["head"].as_u64().unwrap();
        assert!(head + 3 > first && head <= made.head(), "byte {offset} of {first}: {head}");
    }
}

/// The power goes between any two steps: the directory does not start with a log that is neither the old
/// nor the mended one, and a second repair comes to the same.
#[test]
fn a_repair_that_was_interrupted_is_finished_by_the_next_one() {
    let made = MadeHistory::new(5);
    let steps = 4;
    for interrupted_after in 0..=steps {
        let data = made.write();
        let path = data.path().to_str().unwrap();
        let offset = offset_of(data.path(), 13, "{\"n\":17}");
        flip(&segment_path(data.path(), 13), offset);
        let before = files(data.path());

        let directory = Offline::open(data.path()).unwrap();
        let plan = repair::plan(&directory, |_| {}).unwrap();
        let mut done = 0;
        let go_on = || {
            done += 1;
            done <= interrupted_after
        };
        plan.run(&directory, &data.path().join("damaged-first"), go_on).unwrap();
        assert_eq!(done, (interrupted_after + 1).min(steps), "so many steps");
        drop(directory);

        if interrupted_after < steps {
            let (code, _, stderr) = run(&["serve", "--listen", "127.0.0.1:0", "--data", path]);
            assert_eq!(code, Some(1), "after {interrupted_after}");
            assert!(stderr.contains("damaged") || stderr.contains("missing"), "{stderr}");
            let (code, stdout, _) = run(&["repair", "--data", path, "--yes"]);
            assert_eq!(code, Some(0), "after {interrupted_after}: {stdout}");
        }
        assert_eq!(json(&["verify", "--json", "--data", path])["head"], 15);
        let after: Vec<_> = files(data.path()).into_iter().collect();
        for (name, bytes) in before {
            let same = |(other, kept): &(PathBuf, Vec<u8>)| {
                other.file_name() == name.file_name() && *kept == bytes
            };
            assert!(after.iter().any(same), "after {interrupted_after}: {name:?}");
        }
    }
}
