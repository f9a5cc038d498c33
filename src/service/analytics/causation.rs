//! Who caused whom: the events of one correlation as trees, for `GetCorrelation`.
//!
//! ```text
//! log order    0  1  2  3  4          walk    depth
//! cause        -  0  1  0  4          0       0
//!                                     ├ 1     1
//!              4 caused itself:       │ └ 2   2
//!              a circle, cut there    └ 3     1
//!                                     4       0
//! ```

use std::iter::successors;

/// An event's place in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// How many causes are above it; 0: it is a root.
    pub depth: u32,
    /// Its place in a walk over all trees, depth first, causes before what they caused, roots and children
    /// in the log's order; dense, from 1.
    pub tree_order: u64,
    /// Its causes lead back to it. Of such a circle this is the first event in the log, and a root.
    pub circle: bool,
}

/// The place of each event, in the order of `causes`: for each event, in the log's order, the index of the
/// one that caused it; none: it is a root. A cause may come later in the log, or be the event itself.
///
/// Takes time and memory in proportion to the number of events, however deep the trees are.
///
/// # Panics
/// If a cause is not one of the events.
pub fn places(causes: &[Option<usize>]) -> Vec<Place> {
    let mut places = vec![Place::default(); causes.len()];
    cut_circles(causes, &mut places);

    // The children of an event are a list: the first one, and to each the next one.
    let mut first_child = vec![None; causes.len()];
    let mut next_sibling = vec![None; causes.len()];
    let mut first_root = None;
    for index in (0..causes.len()).rev() {
        let first = match causes[index] {
            Some(cause) if !places[index].circle => &mut first_child[cause],
            _ => &mut first_root,
        };
        next_sibling[index] = first.replace(index);
    }

    // Who is still to be visited, with its depth; the last one is next.
    let mut waiting: Vec<(usize, u32)> = first_root.map(|root| (root, 0)).into_iter().collect();
    let mut tree_order = 0;
    while let Some((index, depth)) = waiting.pop() {
        tree_order += 1;
        places[index].depth = depth;
        places[index].tree_order = tree_order;
        waiting.extend(next_sibling[index].map(|sibling| (sibling, depth)));
        waiting.extend(first_child[index].map(|child| (child, depth + 1)));
    }
    places
}

/// Marks the first event of each circle.
fn cut_circles(causes: &[Option<usize>], places: &mut [Place]) {
    // On which walk an event was passed. Whoever meets an event of its own walk has gone round.
    let mut passed = vec![None; causes.len()];
    for start in 0..causes.len() {
        let mut at = Some(start);
        while let Some(index) = at.filter(|index| passed[*index].is_none()) {
            passed[index] = Some(start);
            at = causes[index];
        }
        let Some(met) = at.filter(|index| passed[*index] == Some(start)) else { continue };
        let circle = successors(Some(met), |index| causes[*index].filter(|cause| *cause != met));
        places[circle.min().expect("one that was met")].circle = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Depth and tree order of each event, and the circles' events.
    fn walk(causes: &[Option<usize>]) -> (Vec<(u32, u64)>, Vec<usize>) {
        let places = places(causes);
        let circles = (0..causes.len()).filter(|index| places[*index].circle).collect();
        (places.iter().map(|place| (place.depth, place.tree_order)).collect(), circles)
    }

    #[test]
    fn no_events_have_no_places() {
        assert_eq!(places(&[]), []);
    }

    #[test]
    fn trees_are_walked_depth_first_in_the_logs_order() {
        let causes = [None, None, Some(0), Some(1), Some(2), Some(0)];
        let expected = vec![(0, 1), (0, 5), (1, 2), (1, 6), (2, 3), (1, 4)];
        assert_eq!(walk(&causes), (expected, vec![]));
    }

    #[test]
    fn a_cause_may_come_later_in_the_log() {
        assert_eq!(walk(&[Some(2), Some(0), None]), (vec![(1, 2), (2, 3), (0, 1)], vec![]));
    }

    #[test]
    fn an_event_that_caused_itself_is_a_root_and_has_its_children() {
        assert_eq!(walk(&[Some(0), Some(0)]), (vec![(0, 1), (1, 2)], vec![0]));
    }

    #[test]
    fn each_circle_is_cut_at_its_first_event() {
        // 1 caused 4, 4 caused 2, 2 caused 1; 3 and 0 each other.
        let causes = [Some(3), Some(2), Some(4), Some(0), Some(1)];
        let expected = vec![(0, 1), (0, 3), (2, 5), (1, 2), (1, 4)];
        assert_eq!(walk(&causes), (expected, vec![0, 1]));
    }

    /// 0 leads to the circle of 2 and 3 and is on none itself; 1 and 4 hang on it, too.
    #[test]
    fn what_a_circle_has_caused_hangs_on_it() {
        let causes = [Some(3), Some(2), Some(3), Some(2), Some(0)];
        let expected = vec![(2, 4), (1, 2), (0, 1), (1, 3), (3, 5)];
        assert_eq!(walk(&causes), (expected, vec![2]));
    }

    #[test]
    fn long_chains_need_no_stack() {
        const LENGTH: usize = 1_000_000;
        for backwards in [false, true] {
            let causes: Vec<Option<usize>> = (0..LENGTH)
                .map(|index| {
                    if backwards {
                        Some(index + 1).filter(|cause| *cause < LENGTH)
                    } else {
                        index.checked_sub(1)
                    }
                })
                .collect();
            let places = places(&causes);
            let last = places[if backwards { 0 } else { LENGTH - 1 }];
            assert_eq!((last.depth, last.tree_order), (999_999, 1_000_000));
        }
    }

    fn causes() -> impl Strategy<Value = Vec<Option<usize>>> {
        (1..60usize).prop_flat_map(|events| {
            let cause = prop_oneof![1 => Just(None), 4 => (0..events).prop_map(Some)];
            proptest::collection::vec(cause, events)
        })
    }

    /// What the words say, one event at a time: the events that are met on the way to its root.
    fn ancestors(causes: &[Option<usize>], index: usize) -> Vec<usize> {
        let mut met = vec![];
        let mut at = causes[index];
        while let Some(cause) = at.filter(|cause| !met.contains(cause)) {
            met.push(cause);
            at = causes[cause];
        }
        met
    }

    proptest! {
        #[test]
        fn the_places_are_what_the_words_say(causes in causes()) {
            let places = places(&causes);
            prop_assert_eq!(places.len(), causes.len());
            let mut order: Vec<usize> = (0..causes.len()).collect();
            order.sort_by_key(|index| places[*index].tree_order);
            // Each place once.
            for (place, index) in order.iter().enumerate() {
                prop_assert_eq!(places[*index].tree_order, place as u64 + 1);
            }
            let parent = |index: usize| causes[index].filter(|_| !places[index].circle);
            for (index, place) in places.iter().enumerate() {
                let met = ancestors(&causes, index);
                // Whoever is on the way from an event to itself is on its circle.
                let circle = met.contains(&index) && met.iter().all(|other| {
                    index <= *other || !ancestors(&causes, *other).contains(other)
                });
                prop_assert_eq!(place.circle, circle);
                match parent(index) {
                    None => prop_assert_eq!(place.depth, 0),
                    Some(parent) => {
                        prop_assert_eq!(place.depth, places[parent].depth + 1);
                        prop_assert!(places[parent].tree_order < place.tree_order);
                    }
                }
            }
            // Depth first: the parent of the next one is on the way from this one to its root.
            for pair in order.windows(2) {
                let Some(wanted) = parent(pair[1]) else { continue };
                let mut way = successors(Some(pair[0]), |index| parent(*index));
                prop_assert!(way.any(|index| index == wanted));
            }
            // Roots and children are in the log's order.
            for (index, place) in places.iter().enumerate() {
                for (other, other_place) in places.iter().enumerate().skip(index + 1) {
                    if parent(index) == parent(other) {
                        prop_assert!(place.tree_order < other_place.tree_order);
                    }
                }
            }
        }
    }
}
