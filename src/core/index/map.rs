//! The index map: name → the positions of its events. One each for streams, categories, types, tags and
//! indexed metadata keys.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam_skiplist::SkipSet;

use super::{
    SoleWriter,
    positions::{Last, PositionList, Positions},
    sole::Sole,
};
use crate::core::{name::Name, position::Position};

/// Names and the positions of their events, readable without a lock. (papaya for look-ups, as it
/// measured best for point reads under writes; a skip list for the order of the names, where it is
/// asked for.)
///
/// Each name has a code, from 1, by which columns mean it: the least that no name has. A code is given to
/// another name only when all events of the one that had it are dropped.
pub struct IndexMap {
    lists: papaya::HashMap<Name, Arc<Postings>>,
    names: Option<SkipSet<Name>>,
    codes: Mutex<Codes>,
    /// What was pushed last: events of one stream and of one type come in runs, and a run is looked up once.
    last: Sole<Option<(Name, Arc<Postings>, Last)>>,
    /// Memory held, about. Written by the sole writer.
    allocated: AtomicUsize,
}

struct Postings {
    code: u32,
    list: PositionList,
}

#[derive(Default)]
struct Codes {
    /// All codes that were given are at most this.
    last: u32,
    /// Those that can be given again.
    free: BinaryHeap<Reverse<u32>>,
}

impl Codes {
    fn take(&mut self) -> u32 {
        if let Some(Reverse(code)) = self.free.pop() {
            return code;
        }
        self.last = self.last.checked_add(1).expect("memory holds fewer names");
        self.last
    }
}

/// A name and what is known of its events.
#[derive(Clone)]
pub struct Entry {
    pub name: Name,
    pub positions: Positions,
}

impl IndexMap {
    /// An empty map whose names can be listed.
    pub fn listed() -> Self {
        Self {
            lists: papaya::HashMap::new(),
            names: Some(SkipSet::new()),
            codes: Mutex::default(),
            last: Sole::new(None),
            allocated: AtomicUsize::new(0),
        }
    }

    /// An empty map whose names can only be looked up.
    pub fn unlisted() -> Self {
        Self { names: None, ..Self::listed() }
    }

    /// Notes that the event at `position`, which is above all before it, is of `name`, whose code it gives.
    /// The name is one.
    pub fn push(&self, name: &[u8], position: Position, writer: &mut SoleWriter) -> u32 {
        self.push_run(name, position, position, writer)
    }

    /// The same of all events from `from` to `to`.
    pub fn push_run(
        &self,
        name: &[u8],
        from: Position,
        to: Position,
        writer: &mut SoleWriter,
    ) -> u32 {
        let last = self.last.get(writer).take();
        let is_it = |last: &(Name, _, _)| last.0.as_str().as_bytes() == name;
        if let Some(mut last) = last.filter(is_it).or_else(|| self.find(name)) {
            let (_, postings, hold) = &mut last;
            self.change(postings.list.push_to(hold, from, to, writer));
            let code = postings.code;
            *self.last.get(writer) = Some(last);
            return code;
        }
        let code = self.codes().take();
        let positions = PositionList::new(from);
        positions.push_to(&mut positions.last(), from.next(), to, writer);
        self.insert(Name::any(text(name)), code, positions);
        code
    }

    /// How many events of `name` were pushed, forgotten ones among them. What is asked for is likely to be pushed next.
    pub fn written(&self, name: &Name, writer: &mut SoleWriter) -> u64 {
        let last = self.last.get(writer);
        if last.as_ref().is_none_or(|last| last.0 != *name) {
            let Some(found) = self.find(name.as_str().as_bytes()) else { return 0 };
            *last = Some(found);
        }
        last.as_ref().map_or(0, |(_, _, hold)| hold.written())
    }

    fn find(&self, name: &[u8]) -> Option<(Name, Arc<Postings>, Last)> {
        let lists = self.lists.pin();
        let (name, postings) = lists.get_key_value(text(name))?;
        Some((name.clone(), Arc::clone(postings), postings.list.last()))
    }

    fn codes(&self) -> MutexGuard<'_, Codes> {
        self.codes.lock().expect("no holder panics")
    }

    /// Notes a name that is not there with its code and all its positions. After the last one of those that
    /// were written: [`IndexMap::restored`].
    pub fn insert(&self, name: Name, code: u32, list: PositionList) {
        self.change((self.name_size(&name) + list.allocated()).cast_signed());
        self.lists.pin().insert(name.clone(), Arc::new(Postings { code, list }));
        if let Some(names) = &self.names {
            names.insert(name);
        }
    }

    /// Works out which codes are taken; not if one is taken twice or is 0.
    pub fn restored(&self) -> bool {
        let lists = self.lists.pin();
        let mut taken: Vec<u32> = lists.values().map(|postings| postings.code).collect();
        taken.sort_unstable();
        let codes = &mut self.codes();
        codes.last = taken.last().copied().unwrap_or(0);
        taken.first() != Some(&0) && taken.is_sorted_by(|a, b| a < b)
    }

    /// Codes are at most this.
    pub fn code_max(&self) -> u32 {
        self.codes().last
    }

    /// The code of `name`; `None` if it has no events.
    pub fn code(&self, name: &str) -> Option<u32> {
        self.lists.pin().get(name).map(|postings| postings.code)
    }

    /// Forgets positions of `name` below `floor`, as far as whole blocks go, and the name with its last
    /// one.
    pub fn forget(&self, name: &str, floor: Position, writer: &mut SoleWriter) {
        self.last.get(writer).take_if(|(last, ..)| last.as_str() == name);
        let lists = self.lists.pin();
        let Some((name, postings)) = lists.get_key_value(name) else { return };
        let Postings { code, list } = &**postings;
        let freed = list.forget(floor, writer).unwrap_or_else(|| {
            if let Some(names) = &self.names {
                names.remove(name);
            }
            lists.remove(name);
            self.codes().free.push(Reverse(*code));
            self.name_size(name) + list.allocated()
        });
        // Relaxed: a number to look at, and nobody else writes.
        self.allocated.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Gives back what growth has set aside for these names' lists. How many bytes that was.
    pub fn pack(&self, names: &[Name], writer: &mut SoleWriter) -> usize {
        *self.last.get(writer) = None;
        let lists = self.lists.pin();
        let lists = names.iter().filter_map(|name| lists.get(name));
        let freed = lists.map(|postings| postings.list.pack(writer)).sum();
        // Relaxed: a number to look at, and nobody else writes.
        self.allocated.fetch_sub(freed, Ordering::Relaxed);
        freed
    }

    /// A name in its allocation, an entry of the map at its usual load, the list's allocation, and a node
    /// of the skip list with the mean height of its tower.
    fn name_size(&self, name: &Name) -> usize {
        let listed = if self.names.is_some() { 56 } else { 0 };
        name.as_str().len() + 16 + 64 + 24 + listed
    }

    /// The positions of `name`; `None` if it has none.
    pub fn get(&self, name: &str) -> Option<Positions> {
        self.lists.pin().get(name).map(|postings| postings.list.view())
    }

    /// How many events of `name` are at or below `head`.
    pub fn count(&self, name: &str, head: Position) -> u64 {
        self.get(name).map_or(0, |positions| positions.count(head))
    }

    /// The entries whose names are after `after` and begin with `prefix`, in the order of the names'
    /// bytes, that have events at or below `head`.
    ///
    /// # Panics
    /// If the map is unlisted.
    pub fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        head: Position,
    ) -> impl Iterator<Item = Entry> + 'a {
        let names = self.names.as_ref().expect("a listed map");
        let from = if after < prefix {
            std::ops::Bound::Included(prefix)
        } else {
            std::ops::Bound::Excluded(after)
        };
        names
            .range::<str, _>((from, std::ops::Bound::Unbounded))
            .map(|name| name.value().clone())
            .take_while(move |name| name.as_str().starts_with(prefix))
            .filter_map(move |name| {
                let positions = self.get(name.as_str())?;
                (positions.first() <= head).then_some(Entry { name, positions })
            })
    }

    /// All names of now: in their order where the map is listed.
    pub fn names(&self) -> Vec<Name> {
        match &self.names {
            Some(names) => names.iter().map(|name| name.value().clone()).collect(),
            None => self.lists.pin().keys().cloned().collect(),
        }
    }

    /// How many names there are. May count one that is not visible yet.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    fn change(&self, bytes: isize) {
        if bytes != 0 {
            // Relaxed: a number to look at, and nobody else writes. It wraps as signed numbers do.
            self.allocated.fetch_add(bytes.cast_unsigned(), Ordering::Relaxed);
        }
    }

    /// Memory held, about.
    pub fn allocated(&self) -> usize {
        // Relaxed: a number to look at.
        self.allocated.load(Ordering::Relaxed)
    }
}

fn text(name: &[u8]) -> &str {
    str::from_utf8(name).expect("a name is text")
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;

    /// The writer's hold on the list that it was at is not used where that has become another. Seen to fail where
    /// `pack` keeps it, and where `forget` does.
    #[test]
    fn a_run_goes_on_after_its_list_was_packed_or_forgotten() {
        let mut writer = SoleWriter::new();
        let map = IndexMap::listed();
        let all = |map: &IndexMap| -> Vec<u64> {
            map.get("a").map_or(Vec::new(), |list| list.up_to(Position::MAX).collect())
        };
        let code = map.push(b"a", Position::new(1), &mut writer);
        for at in [2, 3] {
            assert_eq!(map.push(b"a", Position::new(at), &mut writer), code);
        }
        assert!(map.pack(&[Name::any("a")], &mut writer) > 0, "there was room for a fourth");
        assert_eq!(map.push(b"a", Position::new(4), &mut writer), code);
        assert_eq!(all(&map), [1, 2, 3, 4]);
        map.forget("a", Position::new(5), &mut writer);
        assert!(all(&map).is_empty());
        map.push(b"a", Position::new(5), &mut writer);
        assert_eq!(all(&map), [5]);
        // Two blocks and more, of which the first is forgotten.
        map.push_run(b"a", Position::new(6), Position::new(2000), &mut writer);
        map.forget("a", Position::new(1500), &mut writer);
        map.push(b"a", Position::new(2001), &mut writer);
        let kept = all(&map);
        assert!(kept[0] > 5 && kept.ends_with(&[2000, 2001]), "{kept:?}");
    }
}
