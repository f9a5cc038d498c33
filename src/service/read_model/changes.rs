//! What has changed of a version of a model lately, for those who watch it. Kept once, within bounds, and only while
//! somebody watches: a watcher is a place in it, and one that comes too late begins anew.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::database::Stored;

/// Of one version so many bytes of changes are kept.
const BYTES_MAX: usize = 8 << 20;
/// And of all versions together.
const ALL_BYTES_MAX: usize = 64 << 20;

/// What became of one document.
#[derive(Debug, Clone)]
pub struct Change {
    pub key: String,
    pub before: Option<Stored>,
    pub after: Option<Stored>,
}

impl Change {
    fn size(&self) -> usize {
        let stored = |it: &Option<Stored>| it.as_ref().map_or(0, |it| it.json.len());
        size_of::<Self>() + self.key.len() + stored(&self.before) + stored(&self.after)
    }
}

/// The changes up to a checkpoint, since the one before it.
#[derive(Clone)]
pub struct Step {
    pub checkpoint: u64,
    pub changes: Arc<Vec<Change>>,
    size: usize,
}

/// The last changes of a version.
pub struct Changes {
    kept: Mutex<Kept>,
    watchers: AtomicUsize,
    /// Of all versions, together.
    all_bytes: Arc<AtomicUsize>,
}

struct Kept {
    /// Every change after this checkpoint is in `steps`.
    since: u64,
    steps: VecDeque<Step>,
    bytes: usize,
}

/// A change that is asked for is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

impl Changes {
    /// None yet, of a version that has come to `checkpoint`.
    pub fn new(checkpoint: u64, all_bytes: Arc<AtomicUsize>) -> Self {
        let kept = Kept { since: checkpoint, steps: VecDeque::new(), bytes: 0 };
        Self { kept: Mutex::new(kept), watchers: AtomicUsize::new(0), all_bytes }
    }

    /// Somebody watches from now on.
    pub fn watch(self: &Arc<Self>) -> Watching {
        // Relaxed: who sees it late leaves a gap, which `after` tells.
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watching(Arc::clone(self))
    }

    /// Whether anybody watches.
    pub fn is_watched(&self) -> bool {
        // Relaxed: as in `watch`.
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Notes what has changed up to `checkpoint`; `None`: it was not collected.
    pub fn note(&self, checkpoint: u64, changes: Option<Vec<Change>>) {
        let mut kept = self.kept.lock().expect("no holder panics");
        let Some(changes) = changes.filter(|_| self.is_watched()) else {
            self.forget(&mut kept, checkpoint);
            return;
        };
        let size = size_of::<Step>() + changes.iter().map(Change::size).sum::<usize>();
        kept.steps.push_back(Step { checkpoint, changes: Arc::new(changes), size });
        kept.bytes += size;
        // Relaxed: a number to compare.
        let mut all = self.all_bytes.fetch_add(size, Ordering::Relaxed) + size;
        while kept.bytes > BYTES_MAX || all > ALL_BYTES_MAX {
            let Some(oldest) = kept.steps.pop_front() else { break };
            kept.since = oldest.checkpoint;
            kept.bytes -= oldest.size;
            // Relaxed: as above.
            all = self.all_bytes.fetch_sub(oldest.size, Ordering::Relaxed) - oldest.size;
        }
    }

    /// What has changed after `checkpoint`, at most the next few steps.
    pub fn after(&self, checkpoint: u64) -> Result<Vec<Step>, Lost> {
        const STEPS_MAX: usize = 64;
        let kept = self.kept.lock().expect("no holder panics");
        if checkpoint < kept.since {
            return Err(Lost);
        }
        let begin = kept.steps.partition_point(|step| step.checkpoint <= checkpoint);
        Ok(kept.steps.range(begin..).take(STEPS_MAX).cloned().collect())
    }

    fn forget(&self, kept: &mut Kept, checkpoint: u64) {
        // Relaxed: a number to compare.
        self.all_bytes.fetch_sub(kept.bytes, Ordering::Relaxed);
        *kept = Kept { since: checkpoint.max(kept.since), steps: VecDeque::new(), bytes: 0 };
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let kept = self.kept.get_mut().expect("no holder panics");
        // Relaxed: a number to compare.
        self.all_bytes.fetch_sub(kept.bytes, Ordering::Relaxed);
    }
}

/// Somebody watches, until this is dropped.
pub struct Watching(Arc<Changes>);

impl Watching {
    /// What is watched.
    pub fn changes(&self) -> &Changes {
        &self.0
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Relaxed: as in `Changes::watch`.
        if self.0.watchers.fetch_sub(1, Ordering::Relaxed) == 1 {
            let mut kept = self.0.kept.lock().expect("no holder panics");
            let newest = kept.steps.back().map_or(kept.since, |step| step.checkpoint);
            self.0.forget(&mut kept, newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(bytes: usize) -> Vec<Change> {
        let after = Some(Stored { position: 1, json: "x".repeat(bytes) });
        vec![Change { key: "k".to_owned(), before: None, after }]
    }

    fn checkpoints(changes: &Changes, after: u64) -> Result<Vec<u64>, Lost> {
        Ok(changes.after(after)?.iter().map(|step| step.checkpoint).collect())
    }

    /// Who asks for what is not kept is told, whether nobody watched, or it was too much.
    #[test]
    fn every_change_after_a_checkpoint_is_given_or_said_to_be_lost() {
        let all = Arc::new(AtomicUsize::new(0));
        let changes = Arc::new(Changes::new(5, Arc::clone(&all)));
        assert_eq!(checkpoints(&changes, 4), Err(Lost));
        changes.note(7, Some(change(1)));
        assert_eq!(checkpoints(&changes, 5), Err(Lost), "nobody watched");
        let watching = changes.watch();
        changes.note(8, None);
        assert_eq!(checkpoints(&changes, 7), Err(Lost), "not collected");
        changes.note(9, Some(change(1)));
        changes.note(12, Some(change(1)));
        assert_eq!(checkpoints(&changes, 8), Ok(vec![9, 12]));
        assert_eq!(checkpoints(&changes, 9), Ok(vec![12]));
        assert_eq!(checkpoints(&changes, 12), Ok(vec![]));
        changes.note(13, Some(change(BYTES_MAX - 1000)));
        assert_eq!(checkpoints(&changes, 8), Ok(vec![9, 12, 13]));
        changes.note(14, Some(change(1000)));
        assert_eq!(checkpoints(&changes, 8), Err(Lost), "too much");
        assert_eq!(checkpoints(&changes, 13), Ok(vec![14]));
        changes.note(15, Some(change(BYTES_MAX + 1)));
        assert_eq!(checkpoints(&changes, 14), Err(Lost), "larger than all that is kept");
        assert_eq!(checkpoints(&changes, 15), Ok(vec![]));
        changes.note(16, Some(change(1)));
        drop(watching);
        assert_eq!(checkpoints(&changes, 15), Err(Lost));
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
