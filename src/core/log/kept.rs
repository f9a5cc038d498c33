//! Which events of a rewritten segment were not removed: a bit each, so that a reader jumps over those that were.

/// A segment's events, by their number in it. Nothing is allocated where none was removed.
pub struct Kept(Box<[u64]>);

impl Kept {
    /// Of a segment of which `all` says, one after the other, whether the event was kept.
    pub fn new(all: impl Iterator<Item = bool>) -> Self {
        let mut words = Vec::new();
        let mut removed = false;
        for (index, is_kept) in all.enumerate() {
            if index % 64 == 0 {
                words.push(0u64);
            }
            words[index / 64] |= u64::from(is_kept) << (index % 64);
            removed |= !is_kept;
        }
        Self(if removed { words.into_boxed_slice() } else { Box::default() })
    }

    /// The first one from `index` on, which is one of them.
    pub fn from(&self, index: usize) -> Option<usize> {
        let Some(first) = self.0.get(index / 64) else { return Some(index) };
        let first = first & (u64::MAX << (index % 64));
        if first != 0 {
            return Some(index / 64 * 64 + first.trailing_zeros() as usize);
        }
        let next = index / 64 + 1;
        let word = next + self.0[next..].iter().position(|word| *word != 0)?;
        Some(word * 64 + self.0[word].trailing_zeros() as usize)
    }

    /// The last one up to `index`, which is one of them.
    pub fn up_to(&self, index: usize) -> Option<usize> {
        let Some(last) = self.0.get(index / 64) else { return Some(index) };
        let last = last & (u64::MAX >> (63 - index % 64));
        if last != 0 {
            return Some(index / 64 * 64 + last.ilog2() as usize);
        }
        let word = self.0[..index / 64].iter().rposition(|word| *word != 0)?;
        Some(word * 64 + self.0[word].ilog2() as usize)
    }

    /// Memory held.
    pub fn allocated(&self) -> usize {
        size_of_val(&*self.0)
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_next_one_is_the_one_that_a_look_at_all_finds(
            all in prop_oneof![
                proptest::collection::vec(any::<bool>(), 1..300),
                proptest::collection::vec(proptest::bool::weighted(0.01), 1..1000),
                proptest::collection::vec(Just(false), 1..200),
                proptest::collection::vec(Just(true), 1..200),
            ],
        ) {
            let kept = Kept::new(all.iter().copied());
            for index in 0..all.len() {
                let next = all[index..].iter().position(|is_kept| *is_kept).map(|at| index + at);
                prop_assert_eq!(kept.from(index), next);
                prop_assert_eq!(kept.up_to(index), all[..=index].iter().rposition(|is_kept| *is_kept));
            }
        }
    }
}
