//! Retention, truncation and deletion: proto ↔ core, as in `convert.rs`.

use super::{
    convert::{At, Check, InvalidRequest},
    proto::v1::{
        GetRetentionResponse, RetentionRule, SetRetentionRequest, StreamState,
        TruncateStreamRequest, get_retention_request, set_retention_request,
    },
};
use crate::{
    core::{
        limits::Limits,
        position::Version,
        retention::{Change, Gone, Rule, Scope, Setting},
    },
    service::query::RetentionFacts,
};

/// 10 000 years of 365.25 days, as google/protobuf/duration.proto has it.
const MAX_AGE_SECONDS_MAX: i64 = 315_576_000_000;

/// What to keep, and of whom.
pub fn set_retention(
    request: SetRetentionRequest,
    limits: &Limits,
) -> Result<Setting, InvalidRequest> {
    use set_retention_request::Scope as Sent;
    let SetRetentionRequest { scope, max_age, max_count } = request;
    let mut check = Check::default();
    let root = At::Root;
    let scope = match scope {
        None => {
            check.wrong(root.field("scope"), "must be set: a stream or a category");
            None
        }
        Some(Sent::Stream(stream)) => {
            check.stream(root.field("stream"), &stream, limits).map(Scope::Stream)
        }
        Some(Sent::Category(category)) => {
            check.stream(root.field("category"), &category, limits).map(Scope::Category)
        }
    };
    let max_age_micros = max_age.map(|age| {
        let micros = micros(age);
        if micros.is_none() {
            check.wrong(root.field("max_age"), "is not more than 0 and at most 10 000 years");
        }
        micros.unwrap_or_default()
    });
    if max_count == Some(0) {
        check.wrong(root.field("max_count"), "is 0, at least 1 is kept; delete the stream instead");
    }
    let change = Change::Retain(Rule { max_age_micros, max_count });
    check.finish(scope.map(|scope| Setting { scope, change, expected: None }))
}

/// Microseconds, rounded up; `None` if out of range.
fn micros(age: prost_types::Duration) -> Option<i64> {
    let prost_types::Duration { seconds, nanos } = age;
    let whole = (0..=MAX_AGE_SECONDS_MAX).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
    let micros = whole.then(|| seconds * 1_000_000 + (i64::from(nanos) + 999) / 1000)?;
    (micros > 0 && micros <= MAX_AGE_SECONDS_MAX * 1_000_000).then_some(micros)
}

fn duration(micros: i64) -> prost_types::Duration {
    let nanos = i32::try_from(micros % 1_000_000 * 1000).expect("below 10^9");
    prost_types::Duration { seconds: micros / 1_000_000, nanos }
}

/// Which events to hide.
pub fn truncate(
    request: &TruncateStreamRequest,
    limits: &Limits,
) -> Result<Setting, InvalidRequest> {
    let TruncateStreamRequest { stream, before_version } = request;
    let mut check = Check::default();
    let root = At::Root;
    let stream = check.stream(root.field("stream"), stream, limits);
    if *before_version == 0 {
        check.wrong(root.field("before_version"), "must be at least 1");
    }
    let change = Change::Truncate { before: Version::new(*before_version) };
    let scope = stream.map(Scope::Stream);
    check.finish(scope.map(|scope| Setting { scope, change, expected: None }))
}

/// Which stream to delete, and `change` says how.
pub fn delete(
    stream: &str,
    expected_version: Option<u64>,
    change: Change,
    limits: &Limits,
) -> Result<Setting, InvalidRequest> {
    let mut check = Check::default();
    let scope = check.stream(At::Root.field("stream"), stream, limits).map(Scope::Stream);
    let expected = expected_version.map(Version::new);
    check.finish(scope.map(|scope| Setting { scope, change, expected }))
}

/// Whose retention; it may be the server's.
pub fn scope(
    scope: Option<get_retention_request::Scope>,
    limits: &Limits,
) -> Result<Scope, InvalidRequest> {
    use get_retention_request::Scope as Asked;
    let mut check = Check::default();
    let root = At::Root;
    let max = limits.stream_name_bytes_max;
    let scope = match scope {
        None => {
            check.wrong(root.field("scope"), "must be set: a stream or a category");
            None
        }
        Some(Asked::Stream(stream)) => {
            check.name(root.field("stream"), &stream, max).map(Scope::Stream)
        }
        Some(Asked::Category(category)) => {
            check.name(root.field("category"), &category, max).map(Scope::Category)
        }
    };
    check.finish(scope)
}

impl From<Rule> for RetentionRule {
    fn from(Rule { max_age_micros, max_count }: Rule) -> Self {
        Self { max_age: max_age_micros.map(duration), max_count }
    }
}

/// The answer to a `GetRetentionRequest` for `scope`.
pub fn retention(scope: &Scope, facts: &RetentionFacts) -> GetRetentionResponse {
    let RetentionFacts { rule, category_rule, ended_rules, version, floor, gone } = *facts;
    let state = match gone {
        Some(Gone::Deleted) => StreamState::Deleted,
        Some(Gone::Tombstoned) => StreamState::Tombstoned,
        None if version > Version::ZERO => StreamState::Live,
        None => StreamState::Unspecified,
    };
    GetRetentionResponse {
        rule: Some(rule.into()),
        category_rule: matches!(scope, Scope::Stream(_)).then(|| category_rule.into()),
        state: state.into(),
        version: version.get(),
        hidden_version: floor.get(),
        ended_rules: u32::try_from(ended_rules).expect("a small number"),
    }
}
