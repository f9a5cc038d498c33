//! RFC 7396: merge patches, one after the other, to one document. Only what a patch names is written anew; numbers keep
//! their digits, whatever they are.
//!
//! Each object is parsed once, when the first patch looks into it: many small patches to a large document cost what the
//! document and the patches have, not their product.

use indexmap::{IndexMap, map::Entry};

use super::document::{is_object, members};

/// An object that patches are merged into.
#[derive(Debug, Default)]
pub struct Merging {
    /// In their order. `None`: a patch has removed it, which moves no other.
    members: IndexMap<String, Option<Member>>,
}

#[derive(Debug)]
enum Member {
    /// As it was written.
    Text(String),
    /// A patch has looked into it.
    Object(Merging),
}

impl Merging {
    /// The object `text`.
    pub fn of(text: &str) -> Self {
        let member = |(name, value): (String, &serde_json::value::RawValue)| {
            (name, Some(Member::Text(value.get().to_owned())))
        };
        Self { members: members(text).into_iter().map(member).collect() }
    }

    /// Merges `patch`, an object, as section 2 says. What comes out lies no deeper than the deeper one of both.
    pub fn patch(&mut self, patch: &str) {
        for (name, change) in members(patch) {
            match self.members.entry(name) {
                Entry::Occupied(mut member) if change.get() == "null" => {
                    member.insert(None);
                }
                Entry::Vacant(_) if change.get() == "null" => {}
                member if is_object(change) => {
                    let member = member.or_default();
                    let mut object = match member.take() {
                        Some(Member::Object(object)) => object,
                        Some(Member::Text(text)) if text.starts_with('{') => Self::of(&text),
                        Some(Member::Text(_)) | None => Self::default(),
                    };
                    object.patch(change.get());
                    *member = Some(Member::Object(object));
                }
                member => {
                    member.insert_entry(Some(Member::Text(change.get().to_owned())));
                }
            }
        }
    }

    /// What it is by now.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.put_text(&mut text);
        text
    }

    fn put_text(&self, text: &mut String) {
        text.push('{');
        let mut is_first = true;
        for (name, member) in &self.members {
            let Some(member) = member else { continue };
            if !std::mem::take(&mut is_first) {
                text.push(',');
            }
            text.push_str(&serde_json::to_string(name).expect("a string is JSON"));
            text.push(':');
            match member {
                Member::Text(value) => text.push_str(value),
                Member::Object(object) => object.put_text(text),
            }
        }
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(target: &str, patches: &[&str]) -> String {
        let mut merging = Merging::of(target);
        for patch in patches {
            merging.patch(patch);
        }
        merging.text()
    }

    /// RFC 7396, appendix A, where target and patch are objects.
    #[test]
    fn merges_are_those_of_the_rfc() {
        for (target, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r"{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r"{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(merged(target, &[patch]), expected, "{target} + {patch}");
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        let target = r#"{"a":12.10,"b":18446744073709551617,"c":1e400}"#;
        let merged = merged(target, &[r#"{"d":0.10}"#]);
        assert_eq!(merged, r#"{"a":12.10,"b":18446744073709551617,"c":1e400,"d":0.10}"#);
    }

    #[test]
    fn patches_follow_one_another() {
        let patches = [
            r#"{"a":{"b":1},"n":1.0}"#,
            r#"{"a":{"c":{"d":2}}}"#,
            r#"{"a":{"b":null,"c":{"d":null,"e":[null]}}}"#,
            r#"{"n":null}"#,
            r#"{"n":2.50,"z":{}}"#,
        ];
        let expected = r#"{"a":{"x":0,"c":{"e":[null]}},"n":2.50,"z":{}}"#;
        assert_eq!(merged(r#"{"a":{"x":0},"n":0}"#, &patches), expected);
        assert_eq!(merged(r#"{"a":1}"#, &[r#"{"a":null}"#, r#"{"a":{"b":null}}"#]), r#"{"a":{}}"#);
        assert_eq!(merged("{}", &[]), "{}");
    }
}
