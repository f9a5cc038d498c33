//! Filters that a server tells: in one line for people, and as the protocol's JSON.

use prost_types::{Timestamp, value::Kind};
use serde_json::{Map, Value, json};

use super::{cloud_events::format_time, output};
use crate::wire::proto::v1::{Filter, JsonMatch, JsonOperator, MetadataMatch, TimeRange};

/// By the names of the options: `type=Paid,Refunded category=Payment or tag=vip`.
pub fn filters_line(filters: &[Filter]) -> String {
    if filters.is_empty() {
        return "every event".to_owned();
    }
    filters.iter().map(filter_line).collect::<Vec<_>>().join(" or ")
}

fn filter_line(filter: &Filter) -> String {
    let mut parts: Vec<String> = names(filter)
        .into_iter()
        .filter(|(_, _, values)| !values.is_empty())
        .map(|(option, _, values)| format!("{option}={}", values.join(",")))
        .collect();
    let metadata = |it: &MetadataMatch| format!("metadata:{}={}", it.key, it.values.join(","));
    parts.extend(filter.metadata.iter().map(metadata));
    for (option, range) in [("occurred", &filter.occurred), ("recorded", &filter.recorded)] {
        parts.extend(range.as_ref().map(|range| range_line(option, range)));
    }
    parts.extend(filter.json.iter().map(match_line));
    if parts.is_empty() { "every event".to_owned() } else { parts.join(" ") }
}

/// The option's name, the field's, and the values, of which any may match; of `tags_all` all must.
fn names(filter: &Filter) -> [(&'static str, &'static str, &[String]); 9] {
    [
        ("in-stream", "streams", &filter.streams),
        ("stream-prefix", "streamPrefixes", &filter.stream_prefixes),
        ("category", "categories", &filter.categories),
        ("type", "types", &filter.types),
        ("tag", "tags", &filter.tags),
        ("tag-all", "tagsAll", &filter.tags_all),
        ("correlation-id", "correlationIds", &filter.correlation_ids),
        ("causation-id", "causationIds", &filter.causation_ids),
        ("text", "texts", &filter.texts),
    ]
}

/// `occurred=2011-03-01T00:00:00Z..`, where `..` is open.
fn range_line(option: &str, range: &TimeRange) -> String {
    let end = |time: &Option<Timestamp>| {
        time.as_ref().map_or_else(String::new, |it| output::time(Some(it)))
    };
    format!("{option}={}..{}", end(&range.from), end(&range.to))
}

fn match_line(it: &JsonMatch) -> String {
    let symbol = match it.operator() {
        JsonOperator::Unspecified | JsonOperator::Equals => "=",
        JsonOperator::NotEquals => "!=",
        JsonOperator::Less => "<",
        JsonOperator::LessOrEqual => "<=",
        JsonOperator::Greater => ">",
        JsonOperator::GreaterOrEqual => ">=",
        JsonOperator::Exists => return format!("{} exists", it.path),
    };
    format!("{}{symbol}{}", it.path, it.value.as_ref().map_or(Value::Null, scalar_json))
}

/// Every field that is set, by the names of the protocol's JSON.
pub fn filters_json(filters: &[Filter]) -> Value {
    filters.iter().map(filter_json).collect()
}

fn filter_json(filter: &Filter) -> Value {
    let mut json = Map::new();
    for (_, field, values) in names(filter) {
        if !values.is_empty() {
            json.insert(field.to_owned(), values.into());
        }
    }
    if !filter.metadata.is_empty() {
        let metadata = |it: &MetadataMatch| json!({ "key": it.key, "values": it.values });
        json.insert("metadata".to_owned(), filter.metadata.iter().map(metadata).collect());
    }
    for (field, range) in [("occurred", &filter.occurred), ("recorded", &filter.recorded)] {
        if let Some(range) = range {
            json.insert(field.to_owned(), range_json(range));
        }
    }
    if !filter.json.is_empty() {
        json.insert("json".to_owned(), filter.json.iter().map(match_json).collect());
    }
    json.into()
}

fn range_json(range: &TimeRange) -> Value {
    let ends = [("from", &range.from), ("to", &range.to)];
    let ends = ends.into_iter().filter_map(|(name, end)| {
        Some((name.to_owned(), Value::from(end.as_ref().and_then(format_time)?)))
    });
    Value::Object(ends.collect())
}

fn match_json(it: &JsonMatch) -> Value {
    let mut json = json!({ "path": it.path, "operator": it.operator().as_str_name() });
    if let Some(value) = &it.value {
        json["value"] = scalar_json(value);
    }
    json
}

/// A filter compares with no list and no object.
fn scalar_json(value: &prost_types::Value) -> Value {
    match &value.kind {
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::NumberValue(value)) => (*value).into(),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::NullValue(_) | Kind::ListValue(_) | Kind::StructValue(_)) | None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Filter {
        let value = |kind| Some(prost_types::Value { kind: Some(kind) });
        let json = |path: &str, operator: JsonOperator, value| JsonMatch {
            path: path.to_owned(),
            operator: operator.into(),
            value,
        };
        Filter {
            types: vec!["Paid".to_owned(), "Refunded".to_owned()],
            tags_all: vec!["vip".to_owned()],
            metadata: vec![MetadataMatch { key: "k".to_owned(), values: vec!["1".to_owned()] }],
            occurred: Some(TimeRange { from: Some(Timestamp::default()), to: None }),
            json: vec![
                json("$.a", JsonOperator::GreaterOrEqual, value(Kind::NumberValue(1.5))),
                json("$.b", JsonOperator::Unspecified, value(Kind::StringValue("x".to_owned()))),
                json("$.c", JsonOperator::Exists, None),
            ],
            ..Filter::default()
        }
    }

    #[test]
    fn filters_are_one_line() {
        assert_eq!(filters_line(&[]), "every event");
        assert_eq!(filters_line(&[Filter::default()]), "every event");
        let other = Filter { categories: vec!["Payment".to_owned()], ..Filter::default() };
        assert_eq!(
            filters_line(&[filter(), other]),
            "type=Paid,Refunded tag-all=vip metadata:k=1 occurred=1970-01-01T00:00:00Z.. \
             $.a>=1.5 $.b=\"x\" $.c exists or category=Payment"
        );
    }

    #[test]
    fn filters_as_json_have_the_names_of_the_protocol_and_nothing_that_is_not_set() {
        assert_eq!(
            filters_json(&[filter()]),
            json!([{
                "types": ["Paid", "Refunded"],
                "tagsAll": ["vip"],
                "metadata": [{"key": "k", "values": ["1"]}],
                "occurred": {"from": "1970-01-01T00:00:00Z"},
                "json": [
                    {"path": "$.a", "operator": "JSON_OPERATOR_GREATER_OR_EQUAL", "value": 1.5},
                    {"path": "$.b", "operator": "JSON_OPERATOR_UNSPECIFIED", "value": "x"},
                    {"path": "$.c", "operator": "JSON_OPERATOR_EXISTS"},
                ],
            }])
        );
    }
}
