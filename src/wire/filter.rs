//! Filters: proto → core, as in `convert.rs`.

use prost_types::value::Kind;

use super::{
    convert::{At, Check, InvalidRequest, METADATA_VALUE_BYTES_MAX, TEXT_BYTES_MAX, timestamp},
    proto::v1,
};
use crate::core::{
    filter::{
        Clause, Filter, MetadataMatch, TimeRange,
        json::{JsonMatch, Operator, Scalar},
        text::TextMatch,
    },
    limits::Limits,
    name::Name,
};

pub(super) const FILTERS_MAX: usize = 32;
pub(super) const VALUES_MAX: usize = 1000;
const JSON_MATCHES_MAX: usize = 16;

/// Filters by themselves.
pub fn filter(filters: Vec<v1::Filter>, limits: &Limits) -> Result<Filter, InvalidRequest> {
    let mut check = Check::default();
    let filter = check.filter(&At::Root, filters, limits);
    check.finish(Some(filter))
}

impl Check {
    pub(super) fn filter(
        &mut self,
        at: &At<'_>,
        filters: Vec<v1::Filter>,
        limits: &Limits,
    ) -> Filter {
        let field = at.field("filters");
        self.at_most(field, filters.len(), FILTERS_MAX, "entries");
        let mut clauses = Vec::with_capacity(filters.len().min(FILTERS_MAX));
        let mut values = 0;
        for (index, filter) in filters.into_iter().take(FILTERS_MAX).enumerate() {
            let at = field.index(index);
            if filter == v1::Filter::default() {
                self.wrong(at, "names nothing; leave it out to mean every event");
                continue;
            }
            values += size(&filter);
            if values > VALUES_MAX {
                self.wrong(field, format_args!("have more than {VALUES_MAX} values"));
                break;
            }
            clauses.push(self.clause(&at, filter, limits));
        }
        Filter { clauses }
    }

    /// One filter, which names something.
    pub(super) fn clause(&mut self, at: &At<'_>, filter: v1::Filter, limits: &Limits) -> Clause {
        let v1::Filter {
            streams,
            stream_prefixes,
            categories,
            types,
            tags,
            tags_all,
            correlation_ids,
            causation_ids,
            metadata,
            occurred,
            recorded,
            texts,
            json,
        } = filter;
        let stream_max = limits.stream_name_bytes_max;
        let type_max = limits.event_type_bytes_max;
        Clause {
            streams: self.names(at.field("streams"), &streams, stream_max),
            stream_prefixes: self.names(at.field("stream_prefixes"), &stream_prefixes, stream_max),
            categories: self.names(at.field("categories"), &categories, stream_max),
            types: self.names(at.field("types"), &types, type_max),
            tags: self.names(at.field("tags"), &tags, TEXT_BYTES_MAX),
            tags_all: self.names(at.field("tags_all"), &tags_all, TEXT_BYTES_MAX),
            correlation_ids: self.names(
                at.field("correlation_ids"),
                &correlation_ids,
                TEXT_BYTES_MAX,
            ),
            causation_ids: self.names(at.field("causation_ids"), &causation_ids, TEXT_BYTES_MAX),
            metadata: self.metadata(at.field("metadata"), metadata),
            occurred: self.range(&at.field("occurred"), occurred),
            recorded: self.range(&at.field("recorded"), recorded),
            text: self.texts(at.field("texts"), texts),
            json: self.json(at.field("json"), json),
        }
    }

    fn metadata(&mut self, field: At<'_>, matches: Vec<v1::MetadataMatch>) -> Vec<MetadataMatch> {
        let mut checked = Vec::with_capacity(matches.len());
        for (index, v1::MetadataMatch { key, values }) in matches.into_iter().enumerate() {
            let at = field.index(index);
            if values.is_empty() {
                self.wrong(at.field("values"), "must not be empty");
            }
            if values.iter().any(|value| value.len() > METADATA_VALUE_BYTES_MAX) {
                let max = METADATA_VALUE_BYTES_MAX;
                let what = format_args!("has a value of more than {max} bytes");
                self.wrong(at.field("values"), what);
            }
            if let Some(key) = self.name(at.field("key"), &key, TEXT_BYTES_MAX) {
                checked.push(MetadataMatch { key, values });
            }
        }
        checked
    }

    fn range(&mut self, at: &At<'_>, range: Option<v1::TimeRange>) -> TimeRange {
        let Some(v1::TimeRange { from, to }) = range else { return TimeRange::default() };
        if from.is_none() && to.is_none() {
            self.wrong(*at, "has neither `from` nor `to`");
        }
        let from = from.and_then(|moment| self.timestamp(at.field("from"), moment));
        let to = to.and_then(|moment| self.timestamp(at.field("to"), moment));
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            self.wrong(at.field("from"), "must be before `to`");
        }
        TimeRange { from, to }
    }

    fn texts(&mut self, field: At<'_>, texts: Vec<String>) -> Option<TextMatch> {
        if texts.is_empty() {
            return None;
        }
        let wrong_before = self.len();
        for (index, text) in texts.iter().enumerate() {
            if text.is_empty() {
                self.wrong(field.index(index), "must not be empty");
            }
            self.at_most(field.index(index), text.len(), TEXT_BYTES_MAX, "bytes");
        }
        if self.len() > wrong_before {
            return None;
        }
        TextMatch::new(texts).map_err(|error| self.wrong(field, error)).ok()
    }

    fn json(&mut self, field: At<'_>, matches: Vec<v1::JsonMatch>) -> Vec<JsonMatch> {
        if !self.at_most(field, matches.len(), JSON_MATCHES_MAX, "entries") {
            return Vec::new();
        }
        let mut checked = Vec::with_capacity(matches.len());
        for (index, v1::JsonMatch { path, operator, value }) in matches.into_iter().enumerate() {
            let at = field.index(index);
            let Some(operator) = self.operator(at.field("operator"), operator) else { continue };
            let value = value.and_then(|value| value.kind);
            let value = match (operator, value) {
                (Operator::Exists, None) => Some(Scalar::Null),
                (Operator::Exists, Some(_)) => {
                    self.wrong(at.field("value"), "must be unset where the operator is EXISTS");
                    None
                }
                (_, value) => self.scalar(at.field("value"), value),
            };
            let Some(value) = value else { continue };
            match JsonMatch::new(&path, operator, value) {
                Ok(json) => checked.push(json),
                Err(error) => self.wrong(at.field("path"), error),
            }
        }
        checked
    }

    pub(super) fn operator(&mut self, at: At<'_>, operator: i32) -> Option<Operator> {
        use v1::JsonOperator as Sent;
        match Sent::try_from(operator) {
            Ok(Sent::Unspecified | Sent::Equals) => Some(Operator::Equals),
            Ok(Sent::NotEquals) => Some(Operator::NotEquals),
            Ok(Sent::Less) => Some(Operator::Less),
            Ok(Sent::LessOrEqual) => Some(Operator::LessOrEqual),
            Ok(Sent::Greater) => Some(Operator::Greater),
            Ok(Sent::GreaterOrEqual) => Some(Operator::GreaterOrEqual),
            Ok(Sent::Exists) => Some(Operator::Exists),
            Err(_) => {
                self.wrong(at, format_args!("is {operator}, not an operator"));
                None
            }
        }
    }

    pub(super) fn scalar(&mut self, at: At<'_>, value: Option<Kind>) -> Option<Scalar> {
        match value {
            None => self.wrong(at, "must be set"),
            Some(Kind::ListValue(_) | Kind::StructValue(_)) => {
                self.wrong(at, "is a list or an object, which nothing is compared with");
            }
            Some(Kind::NumberValue(number)) if !number.is_finite() => {
                self.wrong(at, "is no finite number");
            }
            Some(Kind::NumberValue(number)) => return Some(Scalar::Number(number)),
            Some(Kind::StringValue(text)) => {
                return self
                    .at_most(at, text.len(), METADATA_VALUE_BYTES_MAX, "bytes")
                    .then_some(Scalar::Text(text));
            }
            Some(Kind::BoolValue(bool)) => return Some(Scalar::Bool(bool)),
            Some(Kind::NullValue(_)) => return Some(Scalar::Null),
        }
        None
    }

    /// The filter of a condition, which the sequencer looks through.
    pub(super) fn condition_filter(
        &mut self,
        at: &At<'_>,
        filters: Vec<v1::Filter>,
        limits: &Limits,
    ) -> Filter {
        let filter = self.filter(at, filters, limits);
        if !filter.is_indexed() {
            self.wrong(
                at.field("filters"),
                "of a condition may name streams, categories, types, tags, correlation and \
                 causation ids, and nothing else",
            );
        }
        filter
    }
}

/// Filters as they are told: what [`filter`] made of them, or the same.
pub fn told(filter: &Filter) -> Vec<v1::Filter> {
    filter.clauses.iter().map(told_clause).collect()
}

fn told_clause(clause: &Clause) -> v1::Filter {
    let Clause {
        streams,
        stream_prefixes,
        categories,
        types,
        tags,
        tags_all,
        correlation_ids,
        causation_ids,
        metadata,
        occurred,
        recorded,
        text,
        json,
    } = clause;
    let texts = |names: &[Name]| names.iter().map(ToString::to_string).collect();
    let metadata_match = |MetadataMatch { key, values }: &MetadataMatch| v1::MetadataMatch {
        key: key.to_string(),
        values: values.clone(),
    };
    v1::Filter {
        streams: texts(streams),
        stream_prefixes: texts(stream_prefixes),
        categories: texts(categories),
        types: texts(types),
        tags: texts(tags),
        tags_all: texts(tags_all),
        correlation_ids: texts(correlation_ids),
        causation_ids: texts(causation_ids),
        metadata: metadata.iter().map(metadata_match).collect(),
        occurred: told_range(*occurred),
        recorded: told_range(*recorded),
        texts: text.as_ref().map_or_else(Vec::new, |text| text.texts().to_vec()),
        json: json.iter().map(told_json).collect(),
    }
}

fn told_range(range: TimeRange) -> Option<v1::TimeRange> {
    let TimeRange { from, to } = range;
    let told = v1::TimeRange { from: from.map(timestamp), to: to.map(timestamp) };
    (!range.is_everything()).then_some(told)
}

fn told_json(json: &JsonMatch) -> v1::JsonMatch {
    use v1::JsonOperator as Told;
    let operator = match json.operator() {
        Operator::Equals => Told::Equals,
        Operator::NotEquals => Told::NotEquals,
        Operator::Less => Told::Less,
        Operator::LessOrEqual => Told::LessOrEqual,
        Operator::Greater => Told::Greater,
        Operator::GreaterOrEqual => Told::GreaterOrEqual,
        Operator::Exists => Told::Exists,
    };
    let value = match json.value() {
        Scalar::Null => Kind::NullValue(0),
        Scalar::Bool(bool) => Kind::BoolValue(*bool),
        Scalar::Number(number) => Kind::NumberValue(*number),
        Scalar::Text(text) => Kind::StringValue(text.clone()),
    };
    let value = (operator != Told::Exists).then_some(prost_types::Value { kind: Some(value) });
    v1::JsonMatch { path: json.path().to_owned(), operator: operator.into(), value }
}

/// Whether there are more filters, or more values in them, than a request may have.
pub fn are_too_many(filters: &[v1::Filter]) -> bool {
    filters.len() > FILTERS_MAX || filters.iter().map(size).sum::<usize>() > VALUES_MAX
}

/// How many values a filter names, before anything is made of them.
pub(super) fn size(filter: &v1::Filter) -> usize {
    let v1::Filter {
        streams,
        stream_prefixes,
        categories,
        types,
        tags,
        tags_all,
        correlation_ids,
        causation_ids,
        metadata,
        occurred,
        recorded,
        texts,
        json,
    } = filter;
    let names = [
        streams,
        stream_prefixes,
        categories,
        types,
        tags,
        tags_all,
        correlation_ids,
        causation_ids,
        texts,
    ];
    let names: usize = names.iter().map(|values| values.len()).sum();
    let metadata: usize = metadata.iter().map(|entry| 1 + entry.values.len()).sum();
    names
        + metadata
        + json.len()
        + usize::from(occurred.is_some())
        + usize::from(recorded.is_some())
}
