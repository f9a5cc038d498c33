//! Documents as text: what they are made of, and what their fields say. Merges of them are merge.rs's.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use indexmap::IndexMap;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::order::{self, StringTooLong};

/// How deep lists and objects may lie in each other: readers of JSON stop at 128, most of them.
pub const DEPTH_MAX: usize = 64;

/// The members of an object, in their order.
pub type Members<'a> = IndexMap<String, &'a RawValue>;

/// Why a text is not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADocument {
    #[error("is not JSON: {0}")]
    NotJson(String),
    #[error("is not a JSON object")]
    NotAnObject,
    #[error("has more than {DEPTH_MAX} lists and objects in each other")]
    TooDeep,
    #[error("names the member `{0}` twice in one object")]
    NamedTwice(String),
}

/// Whether `text` is a document.
pub fn check(text: &str) -> Result<(), NotADocument> {
    // Before the parser, which is recursive.
    if depth(text) > DEPTH_MAX {
        return Err(NotADocument::TooDeep);
    }
    let value: &RawValue = parse(text)?;
    if !is_object(value) {
        return Err(NotADocument::NotAnObject);
    }
    check_value(value)
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, NotADocument> {
    serde_json::from_str(text).map_err(|error| NotADocument::NotJson(error.to_string()))
}

/// What the grammar does not say: strings are Unicode (no lone surrogates), members have names of their own.
fn check_value(value: &RawValue) -> Result<(), NotADocument> {
    match value.get().trim_start().as_bytes().first() {
        Some(b'"') => parse::<String>(value.get()).map(drop),
        Some(b'[') => parse::<Vec<&RawValue>>(value.get())?.into_iter().try_for_each(check_value),
        Some(b'{') => {
            let members: AllMembers<'_> = parse(value.get())?;
            let mut names = HashSet::with_capacity(members.0.len());
            for (name, value) in members.0 {
                check_value(value)?;
                if let Some(name) = names.replace(name) {
                    return Err(NotADocument::NamedTwice(name));
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The members of an object, also those with one name.
struct AllMembers<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for AllMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = AllMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(AllMembers(members))
            }
        }

        from.deserialize_map(Members)
    }
}

/// At most so deep do lists and objects lie in each other; exact where it is JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

pub fn is_object(value: &RawValue) -> bool {
    value.get().trim_start().starts_with('{')
}

/// The members of the object `text`; none where it is no object.
pub fn members(text: &str) -> Members<'_> {
    serde_json::from_str(text).unwrap_or_default()
}

/// A field of documents: the names on the way to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    /// `customer.country`, with names that are not empty.
    pub fn parse(text: &str) -> Option<Self> {
        let names: Vec<_> = text.split('.').map(str::to_owned).collect();
        names.iter().all(|name| !name.is_empty()).then_some(Self(names))
    }

    /// How many names it has.
    pub fn depth(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A document in which fields are looked up. However many are, each object is parsed once, when it is looked into.
pub struct Object<'a> {
    text: &'a str,
    members: Option<Members<'a>>,
    inner: HashMap<String, Object<'a>>,
}

impl<'a> Object<'a> {
    /// The document `text`. What is no object has no members.
    pub fn of(text: &'a str) -> Self {
        Self { text, members: None, inner: HashMap::new() }
    }

    /// What an index of `fields` orders the document by.
    pub fn index_values(&mut self, fields: &[FieldPath]) -> Result<Vec<u8>, StringTooLong> {
        let mut values = Vec::new();
        for path in fields {
            order::put_value(&mut values, self.value_of(path))?;
        }
        Ok(values)
    }

    /// The value at the end of the path, if there is one.
    pub fn value_of(&mut self, path: &FieldPath) -> Option<&'a RawValue> {
        self.value_at(&path.0)
    }

    fn value_at(&mut self, names: &[String]) -> Option<&'a RawValue> {
        let (name, rest) = names.split_first()?;
        let value = *self.members.get_or_insert_with(|| members(self.text)).get(name)?;
        if rest.is_empty() {
            return Some(value);
        }
        let inner = self.inner.entry(name.clone()).or_insert_with(|| Self::of(value.get()));
        inner.value_at(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_document_says_why() {
        assert_eq!(check(r#" {"a": [1]} "#), Ok(()));
        assert_eq!(check("[1]"), Err(NotADocument::NotAnObject));
        assert!(matches!(check("{"), Err(NotADocument::NotJson(_))));
        assert!(matches!(check(""), Err(NotADocument::NotJson(_))));
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(&nested(DEPTH_MAX - 1)), Ok(()));
        assert_eq!(check(&nested(DEPTH_MAX)), Err(NotADocument::TooDeep));
        assert_eq!(check(&nested(400_000)), Err(NotADocument::TooDeep));
        let brackets = format!("{{\"a\":\"{}\"}}", "[\\\"".repeat(100));
        assert_eq!(check(&brackets), Ok(()));
    }

    #[test]
    fn a_field_is_found_along_its_path() {
        let text = r#"{"a":{"b":{"c":1}},"a.b":2,"d":[1]}"#;
        let mut object = Object::of(text);
        let mut at = |path| object.value_of(&FieldPath::parse(path).unwrap()).map(RawValue::get);
        assert_eq!(at("a.b.c"), Some("1"));
        assert_eq!(at("a.b.c"), Some("1"), "again");
        assert_eq!(at("a.b"), Some(r#"{"c":1}"#));
        assert_eq!(at("d.0"), None);
        assert_eq!(at("x"), None);
        assert_eq!(FieldPath::parse("a..b"), None);
        assert_eq!(FieldPath::parse(""), None);
    }
}
