//! The indexes that are written to disk, against those that a log gives anew.

use std::sync::Arc;

use annals::core::{
    append::{Proposal, Write},
    clock::ManualClock,
    commit_log::disk::{
        self, SyncMode,
        files::Files,
        snapshot::{self, SnapshotError},
    },
    event::NewEvent,
    history::History,
    log::format::{Body, Data},
    name::Name,
    position::Position,
    sequencer::Sequencer,
    store::Store,
    upkeep::{DataFiles, Upkeep},
};
use proptest::{prelude::*, sample::Index};
use uuid::Uuid;

use crate::commit_log::{Failure, FaultyDisk};

const SEGMENT_SIZE: usize = 2000;

fn open(segments: &FaultyDisk) -> (Sequencer, Position) {
    let files: Arc<dyn Files> = Arc::new(segments.clone());
    let (sequencer, recovered) =
        disk::open(files, SyncMode::Always, SEGMENT_SIZE, None, |_, _| {}).unwrap();
    (sequencer, recovered.head)
}

fn store(mut sequencer: Sequencer, head: Position) -> Store {
    sequencer.restore(head, |_| {});
    Store::new(sequencer, Arc::new(ManualClock::default()), 100)
}

/// An event whose names follow from its number.
fn append(store: &Store, number: u128, size: usize) {
    let name = |text: &str| Name::new(text, 100).unwrap();
    let stream = name(["Account-1", "Account-2", "Order-1", "Order"][number as usize % 4]);
    let event_type = name(["Made", "Changed", "Ended"][number as usize % 3]);
    let tags = ["red", "green"].map(name)[..number as usize % 3 % 2].to_vec();
    let text = "y".repeat(size);
    let body = Body { data: Data::Text(&text), ..Body::default() };
    let event = NewEvent::new(Uuid::from_u128(number), &stream, &event_type, &tags, None, body);
    let write = Write { stream, events: event.into(), expected: None };
    let proposal = Proposal { writes: [write].into(), ..Proposal::default() };
    let (mut answer, _) = store.submit(proposal).unwrap();
    while store.lead(1) {}
    answer.try_recv().unwrap().unwrap();
}

/// All that the indexes say.
fn everything(history: &History, numbers: u128) -> Vec<(String, Vec<u64>)> {
    let maps = [&history.streams, &history.categories, &history.types, &history.tags];
    let mut all = Vec::new();
    for (kind, map) in maps.into_iter().enumerate() {
        let mut names = map.names();
        names.sort();
        all.extend(names.into_iter().map(|name| {
            let positions = map.get(name.as_str()).unwrap().up_to(Position::MAX).collect();
            (format!("{kind} {name}"), positions)
        }));
    }
    let reader = history.log.reader();
    all.extend((0..numbers).map(|number| {
        let found = history.find(&Uuid::from_u128(number), &reader);
        (format!("id {number}"), found.map(Position::get).into_iter().collect())
    }));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever becomes of the written indexes, also where the disk fails as they are written or a bit
    /// flips later: a start comes to the same as without them, or says that it does not use them.
    #[test]
    fn a_start_with_written_indexes_is_a_start_without(
        sizes in proptest::collection::vec(0usize..400, 2..60),
        written_at in any::<Index>(),
        failure in proptest::option::of((0u32..12, Just(Failure::Refuse))),
        flip in proptest::option::of((any::<Index>(), 0u8..8)),
        choices in proptest::collection::vec(any::<Index>(), 50),
    ) {
        let (segments, index) = (FaultyDisk::default(), FaultyDisk::default());
        let (sequencer, head) = open(&segments);
        let first = store(sequencer, head);
        let written_at = 1 + written_at.index(sizes.len() - 1);
        for (number, size) in sizes.iter().enumerate() {
            if number == written_at {
                snapshot::write(&index, first.history(), &first.history().log.reader()).unwrap();
                index.fail(failure);
            }
            append(&first, number as u128, *size);
        }
        let again = snapshot::write(&index, first.history(), &first.history().log.reader());
        prop_assert!(again.is_ok() || failure.is_some());
        drop(first);
        let mut choices = choices.into_iter().cycle();
        index.crash(|count| choices.next().unwrap().index(count));
        let damaged = flip.map(|(byte, bit)| index.flip(byte, bit));

        let (sequencer, head) = open(&segments);
        let without = store(sequencer, head);
        let (mut sequencer, head) = open(&segments);
        let (name, indexes) = snapshot::read_newest(&index).expect("one was written");
        let damaged = damaged == Some(name);
        match indexes.and_then(|indexes| indexes.check(&sequencer.reader(head), &[])) {
            Ok(indexes) => {
                prop_assert!(!damaged);
                prop_assert!(indexes.head.get() >= written_at as u64);
                sequencer.take_indexes(indexes);
            }
            Err(error) => prop_assert!(matches!(error, SnapshotError::Damaged) && damaged),
        }
        let with = store(sequencer, head);
        let numbers = sizes.len() as u128;
        prop_assert_eq!(everything(with.history(), numbers + 1), everything(without.history(), numbers + 1));
        // And both go on.
        append(&with, numbers, 10);
        let found = with.history().find(&Uuid::from_u128(numbers), &with.history().log.reader());
        prop_assert_eq!(found, Some(head.next()));
    }

    /// A sealed segment's file in the place of its memory changes nothing that anyone reads.
    #[test]
    fn a_mapped_segment_reads_as_it_did_in_memory(
        sizes in proptest::collection::vec(0usize..400, 10..80),
    ) {
        let segments = FaultyDisk::default();
        let (sequencer, head) = open(&segments);
        let store = store(sequencer, head);
        let files = DataFiles {
            segments: Arc::new(segments.clone()),
            index: Arc::new(FaultyDisk::default()),
        };
        let upkeep = Upkeep::new(Arc::clone(store.history()), Some(files), Position::ZERO);
        let mut mapped = 0;
        for (number, size) in sizes.iter().enumerate() {
            append(&store, number as u128, *size);
            let before = store.history().log.reader();
            mapped += upkeep.map_sealed().unwrap();
            let after = store.history().log.reader();
            for position in (1..=before.head().get()).map(Position::new) {
                prop_assert_eq!(before.record(position), after.record(position));
            }
            let (a, b) = (before.slice(Position::ZERO, 9, 999), after.slice(Position::ZERO, 9, 999));
            prop_assert_eq!(a.map(|slice| slice.bytes), b.map(|slice| slice.bytes));
        }
        prop_assert_eq!(mapped, store.history().log.segments().len() - 1);
        let in_memory = store.history().log.allocated().0;
        prop_assert!(in_memory <= SEGMENT_SIZE, "the active one only: {}", in_memory);
    }
}

#[test]
fn the_indexes_of_another_log_are_not_used() {
    let (one, other, index) = (FaultyDisk::default(), FaultyDisk::default(), FaultyDisk::default());
    for (segments, first) in [(&one, 0), (&other, 1)] {
        let (sequencer, head) = open(segments);
        let store = store(sequencer, head);
        (first..first + 10).for_each(|number| append(&store, number, 10));
        if first == 0 {
            snapshot::write(&index, store.history(), &store.history().log.reader()).unwrap();
        }
    }
    let check = |segments| {
        let (sequencer, head) = open(segments);
        let (_, indexes) = snapshot::read_newest(&index).unwrap();
        indexes.and_then(|indexes| indexes.check(&sequencer.reader(head), &[])).err()
    };
    assert!(check(&one).is_none());
    assert!(matches!(check(&other), Some(SnapshotError::OtherLog)));
}
