//! Tokens of pages: where the last page ended, and of which question. They are good for ever, also after a restart, and
//! hold nothing in the server.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// The version of the token.
const TOKEN_VERSION: u8 = 1;

/// What is asked, so that a token of one question is not taken by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 8]);

/// Why a text is not the token of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("is not a token that a page has given")]
    Malformed,
    #[error("is of another question: with other filters, in another order, or of another version")]
    OtherQuestion,
}

impl Fingerprint {
    /// Of the bytes that say what is asked.
    pub fn of(question: &[u8]) -> Self {
        let digest = Sha256::digest(question);
        Self(*digest.first_chunk().expect("a digest is longer"))
    }

    /// The token of the page behind `place`: version, fingerprint, place, CRC-32C.
    pub fn token(self, place: &[u8]) -> String {
        let mut token = vec![TOKEN_VERSION];
        token.extend_from_slice(&self.0);
        token.extend_from_slice(place);
        let checksum = crc32c::crc32c(&token);
        token.extend_from_slice(&checksum.to_le_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The place behind which the page of this token begins; `None`: the empty one is the first page's.
    pub fn place(self, token: &str) -> Result<Option<Vec<u8>>, TokenError> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Malformed)?;
        let (checked, checksum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Malformed)?;
        if crc32c::crc32c(checked).to_le_bytes() != *checksum {
            return Err(TokenError::Malformed);
        }
        let said = checked.strip_prefix(&[TOKEN_VERSION]).ok_or(TokenError::Malformed)?;
        let (fingerprint, place) = said.split_first_chunk::<8>().ok_or(TokenError::Malformed)?;
        if *fingerprint != self.0 {
            return Err(TokenError::OtherQuestion);
        }
        Ok(Some(place.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A token leads back to where it was given, and no other text leads anywhere.
        #[test]
        fn a_token_is_its_own_question_s(
            place in prop::collection::vec(any::<u8>(), 0..20),
            bit: prop::sample::Index,
            other: String,
        ) {
            let (question, elsewhere) = (Fingerprint::of(b"a"), Fingerprint::of(b"b"));
            let token = question.token(&place);
            prop_assert_eq!(question.place(&token), Ok(Some(place)));
            prop_assert_eq!(elsewhere.place(&token), Err(TokenError::OtherQuestion));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("it is base64");
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(question.place(&URL_SAFE_NO_PAD.encode(bytes)).is_err());
            prop_assert!(other.is_empty() || question.place(&other).is_err());
        }
    }
}
