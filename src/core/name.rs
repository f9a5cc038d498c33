//! Names: of streams, types and tags. Valid once they exist; how long they may be is the edge's to check.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A name, shared without copying: not empty, without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing in it.
    #[error("must not be empty")]
    Empty,
    /// Longer than the limit, in bytes.
    #[error("has {actual} bytes, at most {max} are allowed")]
    TooLong { actual: usize, max: usize },
    /// A character that no terminal or log shows as it is.
    #[error("has a control character at byte {0}")]
    Control(usize),
    /// It is one of the server's.
    #[error(
        "begins with `$`, which is kept for the server's own streams (and `$snapshot-` for clients' snapshots)"
    )]
    Reserved,
}

/// Streams whose names begin with this are beside the server's own, and clients write to them: snapshots of what other
/// streams say. So tools that pass over the server's streams pass over them, too.
const SNAPSHOT_PREFIX: &str = "$snapshot-";

/// Whether only the server writes to the stream `name`, or to those of this category.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with('$') && name.strip_prefix(SNAPSHOT_PREFIX).is_none_or(str::is_empty)
}

impl Name {
    /// The name that `text` is, if it is one: 1 to `bytes_max` bytes, no control characters.
    pub fn new(text: &str, bytes_max: usize) -> Result<Self, NameError> {
        Self::check(text, bytes_max).map(|()| Self(text.into()))
    }

    /// Whether `text` is a name, as [`Name::new`].
    pub fn check(text: &str, bytes_max: usize) -> Result<(), NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > bytes_max {
            return Err(NameError::TooLong { actual: text.len(), max: bytes_max });
        }
        // Of nearly all names a look at the bytes is enough.
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Ok(());
        }
        match text.char_indices().find(|(_, character)| character.is_control()) {
            Some((at, _)) => Err(NameError::Control(at)),
            None => Ok(()),
        }
    }

    /// Any text as it is: a metadata value is listed by it.
    pub fn any(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The category of the stream `name`: the text before the first `-`, all of it where there is none.
/// A name that begins with `-` is a category of its own: no category is empty.
pub fn category(name: &str) -> &str {
    &name[..category_size(name.as_bytes())]
}

/// How many bytes at the beginning of `name` are its category.
pub fn category_size(name: &[u8]) -> usize {
    match name.iter().position(|byte| *byte == b'-') {
        None | Some(0) => name.len(),
        Some(hyphen) => hyphen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_is_the_text_before_the_first_hyphen() {
        assert_eq!(category("Payment-payment-123"), "Payment");
        assert_eq!(category("Payment"), "Payment");
        assert_eq!(category("-1"), "-1");
    }

    #[test]
    fn names_with_a_dollar_are_the_servers_but_for_snapshots() {
        let reserved = ["$", "$stream-Payment-1", "$snapshot", "$snapshot-", "$snapshots-1"];
        assert!(reserved.into_iter().all(is_reserved));
        assert!(!["Payment-$1", "$snapshot-Payment-1"].into_iter().any(is_reserved));
    }

    #[test]
    fn a_name_is_not_empty_not_long_and_shows_as_it_is() {
        assert_eq!(Name::new("", 4), Err(NameError::Empty));
        assert_eq!(Name::new("abcde", 4), Err(NameError::TooLong { actual: 5, max: 4 }));
        assert_eq!(Name::new("a\u{7}", 4), Err(NameError::Control(1)));
        assert_eq!(Name::new("é-1", 4).map(|name| name.to_string()), Ok("é-1".to_owned()));
    }
}
