//! Texts in an event's data, without regard to case.

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// So much memory the automaton of a filter's texts may have, bytes: enough for 1000 texts of 256 bytes.
const AUTOMATON_SIZE_BYTES_MAX: usize = 256 << 20;

/// Data that contains at least one of some texts; case does not matter (Unicode's simple case folding).
///
/// (The texts as one regular expression of literals: the library finds them with SIMD where they are few,
/// and in linear time always.)
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct TextMatch {
    texts: Vec<String>,
    regex: Regex,
}

/// The texts are too many or too long together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("are too much to look for together")]
pub struct TooMuchText;

impl TextMatch {
    /// Texts to look for; at least one, none of them empty.
    pub fn new(texts: Vec<String>) -> Result<Self, TooMuchText> {
        let literals: Vec<String> = texts.iter().map(|text| regex::escape(text)).collect();
        let regex = RegexBuilder::new(&literals.join("|"))
            .case_insensitive(true)
            .size_limit(AUTOMATON_SIZE_BYTES_MAX)
            .build()
            .map_err(|_| TooMuchText)?;
        Ok(Self { texts, regex })
    }

    /// What is looked for.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether `data` contains any of the texts.
    pub fn is_in(&self, data: &[u8]) -> bool {
        self.regex.is_match(data)
    }
}

impl TryFrom<Vec<String>> for TextMatch {
    type Error = TooMuchText;

    fn try_from(texts: Vec<String>) -> Result<Self, TooMuchText> {
        Self::new(texts)
    }
}

impl From<TextMatch> for Vec<String> {
    fn from(text: TextMatch) -> Self {
        text.texts
    }
}

impl PartialEq for TextMatch {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for TextMatch {}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(texts: &[&str], data: &[u8]) -> bool {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        TextMatch::new(texts).expect("few and short").is_in(data)
    }

    #[test]
    fn case_does_not_matter_and_nothing_has_a_meaning_of_its_own() {
        assert!(finds(&["ÄPFEL"], "sieben äpfel".as_bytes()));
        assert!(finds(&["(a+)+$"], b"{\"x\":\"(A+)+$\"}"));
        assert!(!finds(&["a.c"], b"abc"));
        assert!(finds(&["none", "b"], b"ABC"));
        assert!(finds(&["abc"], b"\xff\xfeABC\xff"), "binary data is searched, too");
        assert!(!finds(&["abc"], b""));
    }
}
