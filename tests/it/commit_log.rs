//! The log on files that fail: below the trait sits a disk that loses, tears and refuses.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use annals::core::{
    append::{AppendError, Proposal, Write},
    clock::ManualClock,
    commit_log::disk::{
        self, SyncMode,
        files::{File, Files},
        recovery::{self, RecoveryError},
    },
    event::NewEvent,
    log::format::{Body, Data},
    name::Name,
    position::Position,
    store::Store,
};
use bytes::Bytes;
use proptest::{prelude::*, sample::Index};
use uuid::Uuid;

const SEGMENT_SIZE: usize = 2000;

/// What a call to the disk does instead of what it should.
#[derive(Debug, Clone, Copy)]
pub enum Failure {
    /// Nothing, and an error.
    Refuse,
    /// A part of a write, and an error; a sync that forgets what it should have kept, and an error.
    Tear(usize),
}

#[derive(Clone)]
enum Change {
    Write(Vec<u8>, usize),
    Resize(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(new, offset) => {
                let end = offset + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(new);
            }
            Self::Resize(size) => bytes.resize(*size, 0),
        }
    }
}

#[derive(Clone, Default)]
pub struct OneFile {
    /// What a crash leaves for certain.
    safe: Vec<u8>,
    /// What came since, in order.
    unsafe_changes: Vec<Change>,
    name_is_safe: bool,
}

impl OneFile {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.safe.clone();
        self.unsafe_changes.iter().for_each(|change| change.apply(&mut bytes));
        bytes
    }
}

#[derive(Default)]
pub struct State {
    files: BTreeMap<String, OneFile>,
    /// From, to, and what had the name, until the names are synced.
    renames: Vec<(String, String, Option<OneFile>)>,
    /// Fails when it comes to 0.
    calls_left: Option<(u32, Failure)>,
}

impl State {
    fn failure(&mut self) -> Option<Failure> {
        let (left, failure) = self.calls_left.as_mut()?;
        if *left == 0 {
            let failure = *failure;
            self.calls_left = None;
            return Some(failure);
        }
        *left -= 1;
        None
    }
}

/// A disk in memory that tells what a crash would leave of it.
#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

impl FaultyDisk {
    /// The call after so many others fails.
    pub fn fail(&self, failure: Option<(u32, Failure)>) {
        self.0.lock().unwrap().calls_left = failure;
    }

    /// Changes one bit of all that the files have. In which file.
    pub fn flip(&self, byte: Index, bit: u8) -> String {
        let mut state = self.0.lock().unwrap();
        let size = state.files.values().map(|file| file.safe.len()).sum();
        let mut at = byte.index(size);
        for (name, file) in &mut state.files {
            if let Some(byte) = file.safe.get_mut(at) {
                *byte ^= 1 << bit;
                return name.clone();
            }
            at -= file.safe.len();
        }
        unreachable!("the byte is in one of them")
    }

    fn failed() -> io::Error {
        io::Error::new(io::ErrorKind::StorageFull, "no space left on device")
    }

    /// The power goes: of what was not synced any part is there, torn anywhere.
    pub fn crash(&self, mut choose: impl FnMut(usize) -> usize) {
        let mut state = self.0.lock().unwrap();
        state.calls_left = None;
        for (from, to, replaced) in std::mem::take(&mut state.renames).into_iter().rev() {
            if choose(2) == 0 {
                let file = state.files.remove(&to).unwrap();
                state.files.insert(from, file);
                replaced.map(|file| state.files.insert(to, file));
            } else {
                // It has come to the disk.
                state.files.get_mut(&to).unwrap().name_is_safe = true;
            }
        }
        state.files.retain(|_, file| file.name_is_safe || choose(2) == 0);
        for file in state.files.values_mut() {
            for change in std::mem::take(&mut file.unsafe_changes) {
                match change {
                    Change::Write(bytes, offset) if choose(2) == 0 => {
                        let kept = choose(bytes.len() + 1);
                        Change::Write(bytes[..kept].to_vec(), offset).apply(&mut file.safe);
                    }
                    Change::Write(..) => {}
                    resize @ Change::Resize(_) => resize.apply(&mut file.safe),
                }
            }
            file.name_is_safe = true;
        }
    }
}

impl Files for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().files.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.0.lock().unwrap().files[name].bytes())
    }

    fn map(&self, name: &str) -> io::Result<Bytes> {
        self.read(name).map(Bytes::from)
    }

    fn open(&self, name: &str, new: bool) -> io::Result<Box<dyn File>> {
        let mut state = self.0.lock().unwrap();
        if state.failure().is_some() {
            return Err(Self::failed());
        }
        assert_eq!(state.files.contains_key(name), !new, "{name}");
        state.files.entry(name.to_owned()).or_default();
        Ok(Box::new(Handle { disk: self.clone(), name: name.to_owned() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().files.remove(name).unwrap();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.failure().is_some() {
            return Err(Self::failed());
        }
        let file = state.files.remove(from).unwrap();
        let replaced = state.files.insert(to.to_owned(), file);
        state.renames.push((from.to_owned(), to.to_owned(), replaced));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.failure().is_some() {
            return Err(Self::failed());
        }
        state.files.values_mut().for_each(|file| file.name_is_safe = true);
        state.renames.clear();
        Ok(())
    }
}

struct Handle {
    disk: FaultyDisk,
    name: String,
}

impl Handle {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let failure = state.failure();
        let changes = &mut state.files.get_mut(&self.name).unwrap().unsafe_changes;
        match (failure, change) {
            (None, change) => {
                changes.push(change);
                return Ok(());
            }
            (Some(Failure::Tear(at)), Change::Write(bytes, offset)) => {
                let kept = at % (bytes.len() + 1);
                changes.push(Change::Write(bytes[..kept].to_vec(), offset));
            }
            (Some(_), _) => {}
        }
        Err(FaultyDisk::failed())
    }
}

impl File for Handle {
    fn resize(&mut self, size: u64) -> io::Result<()> {
        self.change(Change::Resize(usize::try_from(size).unwrap()))
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(bytes.to_vec(), usize::try_from(offset).unwrap()))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let failure = state.failure();
        let file = state.files.get_mut(&self.name).unwrap();
        if failure.is_none() {
            file.safe = file.bytes();
            file.unsafe_changes.clear();
            return Ok(());
        }
        if let Some(Failure::Tear(at)) = failure {
            // The kernel has dropped what it could not write, and a later sync would say all is well.
            file.unsafe_changes.truncate(at % (file.unsafe_changes.len() + 1));
        }
        Err(FaultyDisk::failed())
    }
}

fn open(disk: &FaultyDisk) -> Result<(Store, Option<recovery::Cut>), disk::OpenLogError> {
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let (mut sequencer, recovered) =
        disk::open(files, SyncMode::Always, SEGMENT_SIZE, None, |_, _| {})?;
    sequencer.restore(recovered.head, |_| {});
    Ok((Store::new(sequencer, Arc::new(ManualClock::default()), 100), recovered.cut))
}

/// One commit of the test: so many events, with data of this length.
#[derive(Debug, Clone, PartialEq)]
struct Commit {
    id: u128,
    events: u128,
    size: usize,
}

impl Commit {
    fn ids(&self) -> impl Iterator<Item = Uuid> {
        (0..self.events).map(|event| Uuid::from_u128(self.id * 100 + event))
    }

    fn proposal(&self) -> Proposal {
        let name = |text| Name::new(text, 100).unwrap();
        let text = "y".repeat(self.size);
        let body = Body { data: Data::Text(&text), ..Body::default() };
        let stream = name("Account-1");
        let event = |id| NewEvent::new(id, &stream, &name("T"), &[], None, body.clone());
        let events = self.ids().map(event).collect();
        Proposal {
            writes: [Write { stream: stream.clone(), events, expected: None }].into(),
            ..Proposal::default()
        }
    }
}

/// Hands the commits in as one batch, so that they share a write and a sync.
fn append(store: &Store, commits: &[Commit]) -> Vec<Result<Position, AppendError>> {
    let answers: Vec<_> =
        commits.iter().map(|commit| store.submit(commit.proposal()).unwrap().0).collect();
    while store.lead(1) {}
    answers
        .into_iter()
        .map(|mut answer| answer.try_recv().unwrap().map(|committed| committed.first))
        .collect()
}

fn all_ids(store: &Store) -> Vec<Uuid> {
    let reader = store.history().log.reader();
    (1..=reader.head().get())
        .map(|at| reader.record(Position::new(at)).unwrap().event().stamp.id)
        .collect()
}

fn commits() -> impl Strategy<Value = Vec<Vec<Commit>>> {
    let commit = (1u128..5, 0usize..400);
    proptest::collection::vec(proptest::collection::vec(commit, 1..4), 1..20).prop_map(|batches| {
        let mut id = 0;
        let mut number = |(events, size)| {
            id += 1;
            Commit { id, events, size }
        };
        batches.into_iter().map(|batch| batch.into_iter().map(&mut number).collect()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever call to the disk fails, and wherever the power goes: what was acknowledged is there,
    /// whole and in its place; what was not is there whole or not at all; and a repeat finds it.
    #[test]
    fn what_was_acknowledged_survives_any_failure_and_crash(
        batches in commits(),
        failures in proptest::collection::vec(
            (0u32..60, prop_oneof![Just(Failure::Refuse), any::<usize>().prop_map(Failure::Tear)]), 3),
        choices in proptest::collection::vec(any::<Index>(), 200),
    ) {
        let disk = FaultyDisk::default();
        let mut choices = choices.into_iter().cycle();
        let mut failures = failures.into_iter();
        let mut acknowledged: Vec<(Position, Uuid)> = Vec::new();
        let (mut store, _) = open(&disk).unwrap();
        disk.0.lock().unwrap().calls_left = failures.next();
        for batch in &batches {
            let mut tries = 0;
            loop {
                let answers = append(&store, batch);
                // All of a batch or none of it is told to be safe.
                let safe = answers.iter().all(Result::is_ok);
                if safe {
                    for (commit, first) in batch.iter().zip(answers) {
                        let first = first.unwrap();
                        let places = (0..).map(|by| first.plus(by));
                        acknowledged.extend(places.zip(commit.ids()));
                    }
                    break;
                }
                for answer in answers {
                    prop_assert!(matches!(answer, Err(AppendError::OutcomeUnknown(_))));
                }
                prop_assert!(matches!(append(&store, batch)[0], Err(AppendError::OutcomeUnknown(_))));
                tries += 1;
                prop_assert!(tries < 10, "the disk works again after its failures");
                drop(store);
                disk.crash(|count| choices.next().unwrap().index(count));
                (store, _) = open(&disk).unwrap();
                let ids = all_ids(&store);
                for (position, id) in &acknowledged {
                    let index = usize::try_from(position.get() - 1).unwrap();
                    prop_assert_eq!(ids.get(index), Some(id));
                }
                disk.0.lock().unwrap().calls_left = failures.next();
            }
        }
        drop(store);
        disk.crash(|count| choices.next().unwrap().index(count));
        let (store, _) = open(&disk).unwrap();
        let everything: Vec<Uuid> = batches.iter().flatten().flat_map(Commit::ids).collect();
        prop_assert_eq!(all_ids(&store), everything);
    }

    /// A changed bit never gives a wrong event: it is told with its file, or, in the last commit of the
    /// newest file, which is what a torn write looks like, cut off and told.
    #[test]
    fn a_flipped_bit_is_found(
        batches in commits(),
        file in any::<Index>(),
        byte in any::<Index>(),
        bit in 0u8..8,
    ) {
        let disk = FaultyDisk::default();
        let (store, _) = open(&disk).unwrap();
        for batch in &batches {
            for answer in append(&store, batch) {
                prop_assert!(answer.is_ok());
            }
        }
        let ids = all_ids(&store);
        let last = batches.iter().flatten().last().unwrap().clone();
        drop(store);
        {
            let mut state = disk.0.lock().unwrap();
            let index = file.index(state.files.len());
            let newest = index + 1 == state.files.len();
            let file = state.files.values_mut().nth(index).unwrap();
            file.safe = file.bytes();
            file.unsafe_changes.clear();
            let used = file.safe.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            // In the newest file also the room behind the last commit.
            let range = if newest { file.safe.len() } else { used };
            let at = byte.index(range);
            file.safe[at] ^= 1 << bit;
        }
        match open(&disk) {
            Err(disk::OpenLogError::Recovery(
                RecoveryError::Corrupt { .. } | RecoveryError::Missing { .. },
            )) => {}
            Err(other) => prop_assert!(false, "{other}"),
            Ok((store, cut)) => {
                let found = all_ids(&store);
                let lost = usize::try_from(last.events).unwrap();
                prop_assert!(found == ids || found == ids[..ids.len() - lost]);
                prop_assert!(cut.is_some(), "it is told");
            }
        }
    }
}
