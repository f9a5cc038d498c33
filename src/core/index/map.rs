//! The index map: name → the positions of its events. One each for streams, categories, types and tags.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crossbeam_skiplist::SkipSet;

use super::{
    SoleWriter,
    positions::{PositionList, Positions},
};
use crate::core::{name::Name, position::Position};

/// Names and the positions of their events, readable without a lock. (papaya for look-ups, as it
/// measured best for point reads under writes; a skip list for the order of the names, where it is
/// asked for.)
pub struct IndexMap {
    lists: papaya::HashMap<Name, Arc<PositionList>>,
    names: Option<SkipSet<Name>>,
    /// Memory held, about. Written by the sole writer.
    allocated: AtomicUsize,
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
            allocated: AtomicUsize::new(0),
        }
    }

    /// An empty map whose names can only be looked up.
    pub fn unlisted() -> Self {
        Self { lists: papaya::HashMap::new(), names: None, allocated: AtomicUsize::new(0) }
    }

    /// Notes that the event at `position`, which is above all before it, is of `name`.
    pub fn push(&self, name: &str, position: Position, writer: &mut SoleWriter) {
        let lists = self.lists.pin();
        if let Some(list) = lists.get(name) {
            let grown = list.push(position, writer);
            self.grow(grown);
            return;
        }
        let name = Name::new(name, usize::MAX).expect("part of a name is a name");
        self.insert(name, PositionList::new(position));
    }

    /// Notes a name that is not there with all its positions.
    pub fn insert(&self, name: Name, list: PositionList) {
        self.grow(self.name_size(&name) + list.allocated());
        self.lists.pin().insert(name.clone(), Arc::new(list));
        if let Some(names) = &self.names {
            names.insert(name);
        }
    }

    /// Forgets positions of `name` below `floor`, as far as whole blocks go, and the name with its last
    /// one.
    pub fn forget(&self, name: &str, floor: Position, writer: &mut SoleWriter) {
        let lists = self.lists.pin();
        let Some((name, list)) = lists.get_key_value(name) else { return };
        let freed = list.forget(floor, writer).unwrap_or_else(|| {
            if let Some(names) = &self.names {
                names.remove(name);
            }
            lists.remove(name);
            self.name_size(name) + list.allocated()
        });
        // Relaxed: a number to look at, and nobody else writes.
        self.allocated.fetch_sub(freed, Ordering::Relaxed);
    }

    /// A name in its allocation, an entry of the map at its usual load, the list's allocation, and a node
    /// of the skip list with the mean height of its tower.
    fn name_size(&self, name: &Name) -> usize {
        let listed = if self.names.is_some() { 56 } else { 0 };
        name.as_str().len() + 16 + 64 + 16 + listed
    }

    /// The positions of `name`; `None` if it has none.
    pub fn get(&self, name: &str) -> Option<Positions> {
        self.lists.pin().get(name).map(|list| list.view())
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

    fn grow(&self, bytes: usize) {
        if bytes > 0 {
            // Relaxed: a number to look at, and nobody else writes.
            self.allocated.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Memory held, about.
    pub fn allocated(&self) -> usize {
        // Relaxed: a number to look at.
        self.allocated.load(Ordering::Relaxed)
    }
}
