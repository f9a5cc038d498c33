//! Places of an event: in the log and in its stream.

use std::fmt;

/// An event's place in the whole log: dense, gapless, 1 for the first. 0 is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

/// An event's place in its stream: dense, gapless, 1 for the first. 0 is that of an empty stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(u64);

macro_rules! place {
    ($name:ident) => {
        impl $name {
            /// Before everything.
            pub const ZERO: Self = Self(0);
            /// Behind everything that can ever be.
            pub const MAX: Self = Self(u64::MAX);

            /// The `place`-th one, from 1; 0 is before everything.
            pub const fn new(place: u64) -> Self {
                Self(place)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The place `by` further on.
            #[must_use]
            pub const fn plus(self, by: u64) -> Self {
                Self(self.0.saturating_add(by))
            }

            /// The place after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// The place before this one; nothing is before 0.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

place!(Position);
place!(Version);
