//! What a read model is, as simple as it can be said: documents by key, each of which is looked at.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use annals::wire::proto::v1::{
    Document, DocumentWrite, FieldMatch, FindRequest, JsonOperator, document_write::Write,
};
use prost_types::value::Kind;
use serde_json::{Map, Value};

/// A document, and the checkpoint that was written with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub json: Value,
    pub position: u64,
}

/// A version of a model. What many of its states have is there once.
#[derive(Debug, Clone, Default)]
pub struct Plain {
    pub documents: BTreeMap<String, Arc<Kept>>,
    pub checkpoint: u64,
}

/// What an index has of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Indexed {
    Absent,
    Null,
    False,
    True,
    Number(f64),
    Text(String),
}

impl Indexed {
    fn of(value: Option<&Value>) -> Self {
        match value {
            None | Some(Value::Array(_) | Value::Object(_)) => Self::Absent,
            Some(Value::Null) => Self::Null,
            Some(Value::Bool(false)) => Self::False,
            Some(Value::Bool(true)) => Self::True,
            Some(Value::Number(number)) => Self::Number(number.as_f64().unwrap()),
            Some(Value::String(text)) => Self::Text(text.clone()),
        }
    }

    fn of_kind(kind: &Kind) -> Self {
        match kind {
            Kind::NullValue(_) => Self::Null,
            Kind::BoolValue(false) => Self::False,
            Kind::BoolValue(true) => Self::True,
            Kind::NumberValue(number) => Self::Number(*number),
            Kind::StringValue(text) => Self::Text(text.clone()),
            Kind::ListValue(_) | Kind::StructValue(_) => panic!("no scalar: {kind:?}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Absent => 0,
            Self::Null => 1,
            Self::False => 2,
            Self::True => 3,
            Self::Number(_) => 4,
            Self::Text(_) => 5,
        }
    }

    /// Absent, null, false, true, numbers, strings.
    pub fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            // Both zeros are the same.
            (Self::Number(one), Self::Number(other)) => one.partial_cmp(other).unwrap(),
            (Self::Text(one), Self::Text(other)) => one.as_bytes().cmp(other.as_bytes()),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// The field's value: a member, or a member of one.
pub fn field(json: &Value, path: &str) -> Indexed {
    let mut value = Some(json);
    for name in path.split('.') {
        value = value.and_then(Value::as_object).and_then(|object| object.get(name));
    }
    Indexed::of(value)
}

pub fn is_match(json: &Value, wanted: &FieldMatch) -> bool {
    let there = field(json, &wanted.field);
    let value = Indexed::of_kind(wanted.value.as_ref().unwrap().kind.as_ref().unwrap());
    let order = there.order(&value);
    let same_kind = there.rank() == value.rank();
    match wanted.operator() {
        JsonOperator::Unspecified | JsonOperator::Equals => order.is_eq(),
        JsonOperator::Less => same_kind && order.is_lt(),
        JsonOperator::LessOrEqual => same_kind && order.is_le(),
        JsonOperator::Greater => same_kind && order.is_gt(),
        JsonOperator::GreaterOrEqual => same_kind && order.is_ge(),
        JsonOperator::NotEquals | JsonOperator::Exists => panic!("no such match: {wanted:?}"),
    }
}

/// RFC 7396, section 2.
fn merged(target: Option<Value>, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut object = match target {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            object.remove(name);
        } else {
            let was = object.remove(name);
            object.insert(name.clone(), merged(was, value));
        }
    }
    Value::Object(object)
}

impl Plain {
    pub fn apply(&mut self, checkpoint: u64, writes: &[DocumentWrite]) {
        let parse = |text: &String| serde_json::from_str::<Value>(text).unwrap();
        for write in writes {
            let json = match write.write.as_ref().unwrap() {
                Write::Upsert(json) => parse(json),
                Write::Merge(patch) => {
                    let was = self.documents.get(&write.key).map(|kept| kept.json.clone());
                    merged(was, &parse(patch))
                }
                Write::Delete(()) => {
                    self.documents.remove(&write.key);
                    continue;
                }
            };
            let kept = Arc::new(Kept { json, position: checkpoint });
            self.documents.insert(write.key.clone(), kept);
        }
        self.checkpoint = checkpoint;
    }

    pub fn matching(&self, matches: &[FieldMatch]) -> BTreeMap<&str, &Kept> {
        let is_wanted = |kept: &Kept| matches.iter().all(|wanted| is_match(&kept.json, wanted));
        let found = self.documents.iter().filter(|(_, kept)| is_wanted(kept));
        found.map(|(key, kept)| (&**key, &**kept)).collect()
    }

    /// The documents are all that match, each once, in the order that was asked for. What that leaves open is the
    /// index's to say.
    #[track_caller]
    pub fn assert_found(&self, found: &[Document], request: &FindRequest) {
        let what = format!("{request:?}");
        let mut sorted: Vec<_> = found.iter().collect();
        sorted.sort_by(|one, other| one.key.cmp(&other.key));
        assert_same(sorted.iter().copied(), self.matching(&request.matches), &what);
        let value = |document: &Document| match &*request.order_by {
            "" => Indexed::Absent,
            order_by => field(&self.documents[&document.key].json, order_by),
        };
        let by_key = request.order_by.is_empty() && request.matches.is_empty();
        for (one, next) in found.iter().zip(&found[1.min(found.len())..]) {
            let keys = if by_key { one.key.cmp(&next.key) } else { Ordering::Equal };
            let order = value(one).order(&value(next)).then(keys);
            let order = if request.descending { order.reverse() } else { order };
            assert!(order.is_le(), "{} before {}: {what}", one.key, next.key);
        }
    }
}

/// Whether one of the indexes answers it.
pub fn is_indexed(indexes: &[&[&str]], request: &FindRequest) -> bool {
    let named = request.matches.iter().map(|wanted| &*wanted.field);
    let is_equal = |field: &str| {
        let equal = |it: &FieldMatch| {
            matches!(it.operator(), JsonOperator::Equals | JsonOperator::Unspecified)
        };
        request.matches.iter().any(|it| it.field == field && equal(it))
    };
    let is_known = |field: &str| indexes.iter().any(|index| index.contains(&field));
    if !named.clone().all(is_known) {
        return false;
    }
    let order_by = &*request.order_by;
    if order_by.is_empty() {
        let begins = |index: &&[&str]| named.clone().any(|field| field == index[0]);
        return request.matches.is_empty() || indexes.iter().any(begins);
    }
    indexes.iter().any(|index| {
        let place = index.iter().position(|field| *field == order_by);
        place.is_some_and(|place| index[..place].iter().all(|field| is_equal(field)))
    })
}

/// The documents are these, byte for byte or by what they say.
#[track_caller]
pub fn assert_same<'a>(
    found: impl IntoIterator<Item = &'a Document>,
    expected: impl IntoIterator<Item = (&'a str, &'a Kept)>,
    what: &str,
) {
    let found: Vec<_> = found
        .into_iter()
        .map(|it| (&*it.key, serde_json::from_str::<Value>(&it.json).unwrap(), it.position))
        .collect();
    let expected: Vec<_> =
        expected.into_iter().map(|(key, it)| (key, it.json.clone(), it.position)).collect();
    assert_eq!(found, expected, "{what}");
}
