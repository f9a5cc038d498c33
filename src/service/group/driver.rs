//! What drives a group: one task each, which looks ahead in the log, does what is due, and writes what must
//! survive. Without consumers it looks at nothing.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Group, Shared,
    journal::{self, Change},
    key,
    window::Key,
};
use crate::{
    core::{
        append::{AppendError, Committed},
        filter::plan,
        position::Position,
    },
    service::subscription::Interest,
};

/// So many events that match are looked for at once.
const FOUND_MAX: usize = 512;
/// And so many jumps are made, before other tasks get their turn.
const JUMPS_BETWEEN_YIELDS: u32 = 4096;
/// So many parked events are written in one commit.
const PARKED_MAX: usize = 256;
/// What could not be written is tried again after so long.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Drives `group` until it is deleted or the server stops.
pub async fn run(shared: Arc<Shared>, group: Arc<Group>) {
    let mut driver = Driver { shared, group, noted: Instant::now(), write_again: None };
    driver.run().await;
}

struct Driver {
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// When the last checkpoint was written.
    noted: Instant,
    /// What failed is not tried again before.
    write_again: Option<Instant>,
}

impl Driver {
    async fn run(&mut self) {
        let (shared, group) = (Arc::clone(&self.shared), Arc::clone(&self.group));
        loop {
            let changed = group.changed.notified();
            let now = Instant::now();
            {
                let mut state = group.state();
                state.window.tick(now);
                state.forget_idle_pollers();
            }
            if group.ended.is_cancelled() {
                return;
            }
            let stops = shared.stop.is_cancelled();
            self.write(stops).await;
            if stops {
                return;
            }
            let interest = self.interest();
            let more = look_ahead(&shared, &group, false);
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let (read_to, room, wake_at) = self.plan();
            let interest = interest.filter(|_| room);
            tokio::select! {
                () = changed => {}
                () = shared.stop.cancelled() => {}
                () = group.ended.cancelled() => {}
                () = news(interest.as_deref(), read_to) => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// What wakes it when something comes: there before it looks ahead, so that nothing is missed.
    fn interest(&self) -> Option<Arc<Interest>> {
        let mut state = self.group.state();
        if state.members.is_empty() {
            state.interest = None;
        } else if state.interest.is_none() {
            state.interest = Some(Arc::new(self.shared.interests.register(&state.filter)));
        }
        state.interest.clone()
    }

    /// Up to where was looked, whether to look on, and when there is something to do.
    fn plan(&self) -> (Position, bool, Option<Instant>) {
        let mut state = self.group.state();
        state.note_error(self.shared.now());
        let window = &state.window;
        let note_at = window
            .is_dirty()
            .then(|| self.noted + window.settings().checkpoint_interval)
            .map(|at| self.write_again.map_or(at, |again| again.max(at)));
        let wake_at = [window.next_timer(), note_at, self.write_again];
        (window.read_to(), window.room() > 0, wake_at.into_iter().flatten().min())
    }

    /// Writes what is to be parked and what was settled of it, and a checkpoint when it is due or at the end.
    async fn write(&mut self, stops: bool) {
        let now = Instant::now();
        if self.write_again.is_some_and(|again| again > now) && !stops {
            return;
        }
        self.write_again = None;
        let (shared, group) = (&self.shared, &self.group);
        let _writing = group.writing.lock().await;
        if group.ended.is_cancelled() {
            return;
        }
        let result = async {
            // Before anything is parked: what was settled may be parked anew, in a group that was moved back.
            group.note_unparked(shared).await?;
            while group.park(shared).await? {}
            let due = self.noted + group.state().window.settings().checkpoint_interval <= now;
            if (due || stops) && group.note(shared).await? {
                self.noted = now;
            }
            Ok::<_, AppendError>(())
        };
        if let Err(error) = result.await {
            let text = format!("the group's state cannot be written: {error}");
            tracing::warn!(group = %group.name, %error, "a group's state cannot be written");
            group.state().last_error = Some((text.into(), shared.now()));
            self.write_again = Some(Instant::now() + WRITE_AGAIN_AFTER);
        }
    }
}

/// Offers what matches and was not looked at, as far as there is room; `alone`: also where there is
/// no consumer. Whether there may be more at once.
pub(super) fn look_ahead(shared: &Shared, group: &Group, alone: bool) -> bool {
    let (room, after, filter, strategy, generation) = {
        let state = group.state();
        let window = &state.window;
        let room = if alone { window.room_left() } else { window.room() }.min(FOUND_MAX);
        if room == 0 {
            return false;
        }
        let strategy = window.settings().strategy;
        (room, window.read_to(), state.filter.clone(), strategy, state.generation)
    };
    let reader = shared.history.log.reader();
    if after >= reader.head() {
        return false;
    }
    let before_kept = reader.first().previous();
    let mut visibility = shared.history.visibility(&reader, &*shared.clock);
    let (found, seen) = plan::matches(
        &filter,
        &shared.history,
        &reader,
        after.max(before_kept),
        room,
        JUMPS_BETWEEN_YIELDS,
        visibility.as_mut(),
    );
    let everything = filter.is_everything();
    let event = |position: &Position| -> Option<(Position, Key)> {
        let record = reader.record(*position)?;
        let event = record.event();
        let stream = event.body.stream;
        let passed = journal::is_of_a_group(stream) || (everything && stream.starts_with('$'));
        (!passed).then(|| (*position, key(&event, strategy, &group.hasher)))
    };
    let events: Vec<_> = found.iter().filter_map(event).collect();
    let mut state = group.state();
    // Others may have looked meanwhile: then this is known.
    if state.generation == generation && state.window.read_to() == after {
        if after < before_kept {
            let (first, last) = (after.next(), before_kept);
            let error = format!("events {first} to {last} were dropped before they were delivered");
            tracing::warn!(group = %group.name, %first, %last, "events were dropped before a group had them");
            state.last_error = Some((error.into(), shared.now()));
        }
        state.window.offer(events, seen, Instant::now());
    }
    seen < reader.head()
}

async fn news(interest: Option<&Interest>, after: Position) {
    match interest {
        Some(interest) => interest.changed(after).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What is written, by whoever holds `writing`.
impl Group {
    pub(super) async fn commit(
        &self,
        shared: &Shared,
        change: &Change<'_>,
    ) -> Result<Committed, AppendError> {
        shared.commands.commit(change.proposal(&self.name)).await
    }

    /// Parks some of what is to be parked. Whether there may be more.
    async fn park(&self, shared: &Shared) -> Result<bool, AppendError> {
        let (to_park, checkpoint) = {
            let mut state = self.state();
            let to_park = state.window.take_to_park(PARKED_MAX);
            if to_park.is_empty() {
                return Ok(false);
            }
            let checkpoint = state.window.checkpoint(&to_park);
            (to_park, checkpoint)
        };
        match self.commit(shared, &Change::Parked(&to_park, self.created, &checkpoint)).await {
            Ok(committed) => {
                let at = committed.recorded_at.expect("something was written");
                self.state().window.parked(to_park, at, Instant::now());
                Ok(true)
            }
            Err(error) => {
                self.state().window.not_parked(to_park);
                Err(error)
            }
        }
    }

    pub(super) async fn note_unparked(&self, shared: &Shared) -> Result<(), AppendError> {
        let settled = self.state().window.take_unparked();
        if settled.is_empty() {
            return Ok(());
        }
        let written = self.commit(shared, &Change::Settled(&settled)).await;
        if let Err(error) = written {
            self.state().window.not_unparked(settled);
            return Err(error);
        }
        Ok(())
    }

    /// Writes a checkpoint if something was settled since the last one. Whether it was.
    pub(super) async fn note(&self, shared: &Shared) -> Result<bool, AppendError> {
        let checkpoint = {
            let window = &mut self.state().window;
            window.is_dirty().then(|| window.take_checkpoint())
        };
        let Some(checkpoint) = checkpoint else { return Ok(false) };
        let written = self.commit(shared, &Change::Checkpoint(self.created, &checkpoint)).await;
        if let Err(error) = written {
            self.state().window.not_noted();
            return Err(error);
        }
        Ok(true)
    }
}
