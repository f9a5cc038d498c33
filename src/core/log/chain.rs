//! The hash chain: from commit to commit, so that a changed, removed or re-ordered event of the past is
//! found (ADR 13).
//!
//! ```text
//! digest of an event  = SHA-256(its message, as it was recorded)
//! chain after commit n = SHA-256(chain after commit n-1, the digests of its events in their order)
//! ```
//!
//! It begins with 32 zero bytes. A segment's header has the chain's value before its first commit, so each
//! sealed segment is bound by the one behind it, and the value at the head stands for the whole history.
//! An event that compaction has removed leaves its digest, so the chain stays as it was.

use std::fmt;

use sha2::{Digest, Sha256};

use super::format;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The chain up to some commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain(Hash);

impl Chain {
    /// Before the first commit.
    pub const GENESIS: Self = Self([0; 32]);

    /// As a segment's header has it.
    pub fn from_header(value: Hash) -> Self {
        Self(value)
    }

    /// The value that `text` has in hexadecimal digits; `None` if it is not 64 of them.
    pub fn parse(text: &str) -> Option<Self> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() || pairs.len() != size_of::<Hash>() {
            return None;
        }
        let mut value = Hash::default();
        for (byte, pair) in value.iter_mut().zip(pairs) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? << 4 | low?).expect("two digits");
        }
        Some(Self(value))
    }

    /// Its value.
    pub fn value(&self) -> &Hash {
        &self.0
    }

    /// Goes on over one commit, in whose `bytes` the records begin at `records`.
    pub fn extend(&mut self, bytes: &[u8], records: &[u32]) {
        let mut sum = Sha256::new_with_prefix(self.0);
        for record in records {
            sum.update(digest(&bytes[*record as usize..]));
        }
        self.0 = sum.finalize().into();
    }
}

impl fmt::Display for Chain {
    /// In hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The digest of the event whose record, or what is left of it, is at the start of `bytes`.
pub fn digest(bytes: &[u8]) -> Hash {
    let record = &bytes[..format::field_size(bytes)];
    format::removed_digest(record).unwrap_or_else(|| Sha256::digest(format::message(record)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        clock::Timestamp,
        log::format::{Body, Stamp},
        position::{Position, Version},
    };

    /// Also any other program can work the chain out: these values are Python's hashlib's.
    #[test]
    fn the_chain_is_what_its_definition_says() {
        let mut chain = Chain::GENESIS;
        chain.extend(&[0x0a, 3, b'a', b'b', b'c', 0x0a, 0], &[0, 5]);
        assert_eq!(
            chain.to_string(),
            "82f75ecd9ef2cf4aee47b4ad9598bb1971ae82c8b9e541ca75448237bf3a5090"
        );
        assert_eq!(Chain::parse(&chain.to_string()), Some(chain));
        assert_eq!(Chain::parse(&chain.to_string().to_uppercase()), Some(chain));
        let digits = "0".repeat(62);
        for bad in [
            "",
            "0",
            &digits,
            &format!("{digits}0g"),
            &format!("{digits}é"),
            &format!("{digits}000"),
        ] {
            assert_eq!(Chain::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_removed_event_leaves_its_digest() {
        let stamp = Stamp {
            id: uuid::Uuid::from_u128(7),
            position: Position::new(1),
            version: Version::new(1),
            recorded_at: Timestamp::from_micros(5),
            occurred_at: Timestamp::from_micros(5),
        };
        let body = Body { stream: "Account-1", event_type: "T", ..Body::default() }.encode();
        let mut record = Vec::new();
        format::put_event(&mut record, &stamp, &body);
        let mut removed = Vec::new();
        format::put_removed(&mut removed, &record);
        assert!(removed.len() < 38 + 34 + 40, "{}", removed.len());
        assert_eq!(digest(&removed), digest(&record));
        let mut again = Vec::new();
        format::put_removed(&mut again, &removed);
        assert_eq!(again, removed);
    }
}
