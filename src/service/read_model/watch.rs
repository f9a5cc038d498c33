//! A watch: the documents that match, then what changes of them. It holds no snapshot and no queue: the first result is
//! read in parts, each of its own moment, and then every change since before the first part is told.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    ReadModelError, ReadModelService, Version,
    changes::{Change, Lost, Watching},
    database::{Stored, VersionRecord},
    document::Object,
    find,
    plan::{FieldMatch, Plan},
};
use crate::{core::clock::Timestamp, service::places::Place};

/// So many documents are in one message.
const MESSAGE_DOCUMENTS_MAX: usize = 1000;
/// And so many bytes of them, unless one has more.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// One message of a watch.
#[derive(Debug, Clone)]
pub enum Message {
    /// Documents that match by now, and keys of those that do so no more.
    Changes { upserts: Vec<(String, Stored)>, removed: Vec<String> },
    /// All that had happened up to the checkpoint has been sent.
    CaughtUp { checkpoint: u64, version: u32 },
    /// The result comes again, of this version.
    Reset { version: u32 },
    /// Nothing happened for a while.
    Heartbeat { checkpoint: u64, at: Timestamp },
}

/// A message of changes that is being filled. A key is in it once.
#[derive(Default)]
struct Pack {
    upserts: Vec<(String, Stored)>,
    removed: Vec<String>,
    keys: HashSet<String>,
    bytes: usize,
}

impl Pack {
    fn has_room_for(&self, key: &str) -> bool {
        self.keys.len() < MESSAGE_DOCUMENTS_MAX
            && self.bytes < MESSAGE_BYTES_MAX
            && !self.keys.contains(key)
    }

    fn put(&mut self, key: &str, document: Option<&Stored>) {
        self.keys.insert(key.to_owned());
        self.bytes += key.len() + document.map_or(0, |document| document.json.len());
        match document {
            Some(document) => self.upserts.push((key.to_owned(), document.clone())),
            None => self.removed.push(key.to_owned()),
        }
    }

    fn into_message(self) -> Option<Message> {
        let Self { upserts, removed, keys, bytes: _ } = self;
        (!keys.is_empty()).then_some(Message::Changes { upserts, removed })
    }
}

/// What is watched.
pub struct Watch {
    service: ReadModelService,
    model: String,
    /// 0: the current one.
    wanted: u32,
    matches: Vec<FieldMatch>,
    heartbeat_interval: Duration,
    quiet_since: Instant,
    watched: Watched,
    ready: VecDeque<Message>,
    _place: Place,
}

/// A version that is watched.
struct Watched {
    version: Arc<Version>,
    states: tokio::sync::watch::Receiver<VersionRecord>,
    watching: Watching,
    plan: Plan,
    /// Every change up to here has been told, or is in what comes of the first result.
    told: Option<u64>,
    /// The last part of the first result is of this checkpoint: before it is told the result is of no one moment.
    read: u64,
    reading: Reading,
}

/// How far the first result is read.
#[derive(Clone)]
enum Reading {
    FromTheStart,
    /// From behind this place on.
    Behind(Vec<u8>),
    Done,
}

impl Watched {
    fn new(
        model: &str,
        version: Arc<Version>,
        matches: &[FieldMatch],
    ) -> Result<Self, ReadModelError> {
        let plan = find::planned(model, &version, matches, None)?;
        // In this order: every change after the first part was read is noted.
        let watching = version.changes.watch();
        let states = version.follow();
        let (told, read, reading) = (None, 0, Reading::FromTheStart);
        Ok(Self { version, states, watching, plan, told, read, reading })
    }
}

impl ReadModelService {
    /// Begins a watch of `version`, or with 0 of the current one, whichever it is.
    pub fn watch(
        &self,
        model: String,
        wanted: u32,
        version: Arc<Version>,
        matches: Vec<FieldMatch>,
        heartbeat_interval: Duration,
    ) -> Result<Watch, ReadModelError> {
        let place = self.shared.places.take()?;
        let watched = Watched::new(&model, version, &matches)?;
        Ok(Watch {
            service: self.clone(),
            model,
            wanted,
            matches,
            heartbeat_interval,
            quiet_since: Instant::now(),
            watched,
            ready: VecDeque::new(),
            _place: place,
        })
    }
}

impl Watch {
    /// The next message.
    pub async fn next(&mut self) -> Result<Message, ReadModelError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.quiet_since = Instant::now();
                return Ok(message);
            }
            if self.service.shared.stop.is_cancelled() {
                return Err(ReadModelError::Stopping);
            }
            self.follow_switch()?;
            match self.watched.reading.clone() {
                Reading::Done => {}
                Reading::FromTheStart => {
                    self.read_part(None).await?;
                    continue;
                }
                Reading::Behind(place) => {
                    self.read_part(Some(place)).await?;
                    continue;
                }
            }
            if self.take_changes() {
                continue;
            }
            self.wait().await?;
        }
    }

    /// Goes over to the version that is wanted by now.
    fn follow_switch(&mut self) -> Result<(), ReadModelError> {
        let version = self.service.version(&self.model, self.wanted)?;
        if version.id != self.watched.version.id {
            if self.wanted != 0 {
                // Dropped, and made again under the same number.
                let (model, version) = (self.model.clone(), self.wanted);
                return Err(ReadModelError::UnknownModel { model, version });
            }
            self.begin(version)?;
        }
        Ok(())
    }

    fn begin(&mut self, version: Arc<Version>) -> Result<(), ReadModelError> {
        self.watched = Watched::new(&self.model, version, &self.matches)?;
        self.ready.clear();
        self.ready.push_back(Message::Reset { version: self.watched.version.number });
        Ok(())
    }

    /// Reads a part of the first result.
    async fn read_part(&mut self, after: Option<Vec<u8>>) -> Result<(), ReadModelError> {
        let Watched { version, plan, .. } = &self.watched;
        let part = self.service.part(
            &self.model,
            version,
            plan,
            self.matches.clone(),
            after,
            false,
            MESSAGE_DOCUMENTS_MAX,
        );
        let part = part.await?;
        let watched = &mut self.watched;
        // Changes are told from the first part's moment on: what later parts have seen is told again, and then what
        // came after it.
        let told = *watched.told.get_or_insert(part.checkpoint);
        watched.read = part.checkpoint;
        watched.reading = part.reached.map_or(Reading::Done, Reading::Behind);
        let removed = Vec::new();
        if !part.documents.is_empty() {
            self.ready.push_back(Message::Changes { upserts: part.documents, removed });
        }
        // If all parts were of one moment the result is whole; otherwise the changes in between make it so.
        if matches!(watched.reading, Reading::Done) && told == part.checkpoint {
            let version = watched.version.number;
            self.ready.push_back(Message::CaughtUp { checkpoint: told, version });
        }
        Ok(())
    }

    /// Takes what has changed since it was told. Whether there was anything.
    fn take_changes(&mut self) -> bool {
        // Before the changes: what is published is noted.
        self.watched.states.borrow_and_update();
        let told = self.watched.told.expect("the first result was read");
        match self.watched.watching.changes().after(told) {
            Err(Lost) => {
                let version = Arc::clone(&self.watched.version);
                // It was planned before.
                self.begin(version).is_ok()
            }
            Ok(steps) => {
                let Some(last) = steps.last() else { return false };
                let checkpoint = last.checkpoint;
                let mut pack = Pack::default();
                for change in steps.iter().flat_map(|step| step.changes.iter()) {
                    self.take_change(change, &mut pack);
                }
                self.ready.extend(pack.into_message());
                self.watched.told = Some(checkpoint);
                if checkpoint >= self.watched.read {
                    let version = self.watched.version.number;
                    self.ready.push_back(Message::CaughtUp { checkpoint, version });
                }
                true
            }
        }
    }

    fn take_change(&mut self, change: &Change, pack: &mut Pack) {
        let matches = |it: &Option<Stored>| {
            it.as_ref().is_some_and(|it| {
                let mut object = Object::of(&it.json);
                self.matches.iter().all(|one| one.holds(&mut object))
            })
        };
        let was = matches(&change.before);
        let after = change.after.as_ref().filter(|_| matches(&change.after));
        if !was && after.is_none() {
            return;
        }
        if !pack.has_room_for(&change.key) {
            self.ready.extend(std::mem::take(pack).into_message());
        }
        pack.put(&change.key, after);
    }

    /// Waits until something happens.
    async fn wait(&mut self) -> Result<(), ReadModelError> {
        let mut models = self.service.shared.models.clone();
        models.borrow_and_update();
        // Looked at once more, now that every change wakes.
        let current = self.service.version(&self.model, self.wanted)?;
        if current.id != self.watched.version.id {
            return Ok(());
        }
        let heartbeat = self.quiet_since + self.heartbeat_interval;
        tokio::select! {
            () = self.service.shared.stop.cancelled() => {}
            // An error: the writer has gone, and so will this.
            changed = self.watched.states.changed() => {
                if changed.is_err() {
                    return Err(ReadModelError::Stopping);
                }
            }
            changed = models.changed() => {
                if changed.is_err() {
                    return Err(ReadModelError::Stopping);
                }
            }
            () = tokio::time::sleep_until(heartbeat) => {
                let checkpoint = self.watched.told.unwrap_or_default();
                let at = Timestamp::from_micros(self.service.clock().now_micros());
                self.ready.push_back(Message::Heartbeat { checkpoint, at });
            }
        }
        Ok(())
    }
}
