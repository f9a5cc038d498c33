//! Errors to gRPC statuses: the one place. error.proto lists every reason.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::convert::InvalidRequest;
use crate::{
    core::{append::AppendError, log::verify::Damage, position::Position},
    service::{
        analytics::tally::TooManyRows, group::GroupError, places::NoPlace, query::QueryError,
        read_model::ReadModelError, subscription::SubscribeError, upkeep::CompactError,
        verify::VerifyError,
    },
};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "annals";
/// Details travel in HTTP/2 headers, which clients limit, to 8 KiB some of them: so many violations are
/// named, the rest is counted.
const VIOLATIONS_MAX: usize = 16;
/// And so much of a message is sent.
const MESSAGE_BYTES_MAX: usize = 512;

type Facts<const N: usize> = [(&'static str, String); N];

fn status<const N: usize>(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    facts: Facts<N>,
) -> Status {
    let facts = facts.into_iter().map(|(key, value)| (key.to_owned(), value));
    let details = ErrorDetails::with_error_info(reason, DOMAIN, facts.collect::<HashMap<_, _>>());
    Status::with_error_details(code, short(message.into()), details)
}

fn short(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
        text.push('…');
    }
    text
}

impl From<AppendError> for Status {
    fn from(error: AppendError) -> Self {
        use AppendError as E;
        let text = error.to_string();
        match error {
            E::WrongExpectedVersion { stream, expected, actual } => status(
                Code::FailedPrecondition,
                "WRONG_EXPECTED_VERSION",
                text,
                [
                    ("stream", stream.to_string()),
                    ("expected", expected.to_string()),
                    ("actual", actual.to_string()),
                ],
            ),
            E::ConditionBroken { condition, after, positions } => {
                let positions: Vec<_> = positions.iter().map(ToString::to_string).collect();
                status(
                    Code::FailedPrecondition,
                    "CONDITION_BROKEN",
                    text,
                    [
                        ("condition", condition.to_string()),
                        ("after", after.to_string()),
                        ("positions", positions.join(",")),
                    ],
                )
            }
            E::EventIdConflict { id, stream, position } => status(
                Code::AlreadyExists,
                "EVENT_ID_CONFLICT",
                text,
                [
                    ("event_id", id.to_string()),
                    ("stream", stream.to_string()),
                    ("position", position.to_string()),
                ],
            ),
            E::UnknownStream { stream } => {
                status(Code::NotFound, "UNKNOWN_STREAM", text, [("stream", stream.to_string())])
            }
            E::Tombstoned { stream, version } => status(
                Code::FailedPrecondition,
                "STREAM_TOMBSTONED",
                text,
                [("stream", stream.to_string()), ("version", version.to_string())],
            ),
            E::TruncatesBeyondEnd { before, max } => {
                let what =
                    format!("is {before}, at most {max} is allowed: the stream's version + 1");
                InvalidRequest::one("before_version", what).into()
            }
            E::TooManyRules { category, max } => status(
                Code::FailedPrecondition,
                "TOO_MANY_RULES",
                text,
                [("category", category.to_string()), ("max", max.to_string())],
            ),
            E::Full { used, max } => status(
                Code::ResourceExhausted,
                "FULL",
                text,
                [("used", used.to_string()), ("max", max.to_string())],
            ),
            E::Overloaded { queue, max } => overloaded(&queue.to_string(), max),
            // Not UNAVAILABLE: clients repeat that one by themselves, as if nothing could have happened.
            E::OutcomeUnknown(reason) => {
                tracing::error!(%reason, "append failed");
                status(Code::Unknown, "OUTCOME_UNKNOWN", text, [])
            }
        }
    }
}

impl From<CompactError> for Status {
    fn from(error: CompactError) -> Self {
        use CompactError as E;
        let text = error.to_string();
        match error {
            E::Disk(_) => status(Code::Internal, "COMPACTION_FAILED", text, []),
            E::Append(error) => error.into(),
            E::Busy => status(Code::ResourceExhausted, "OVERLOADED", text, []),
            E::Stopping => shutting_down(),
        }
    }
}

impl From<QueryError> for Status {
    fn from(error: QueryError) -> Self {
        use QueryError as E;
        let text = error.to_string();
        match error {
            E::UnknownStream(stream) => {
                status(Code::NotFound, "UNKNOWN_STREAM", text, [("stream", short(stream))])
            }
            E::Deleted { stream, version } => status(
                Code::NotFound,
                "STREAM_DELETED",
                text,
                [("stream", stream), ("version", version.to_string())],
            ),
            E::Tombstoned { stream, version } => status(
                Code::NotFound,
                "STREAM_TOMBSTONED",
                text,
                [("stream", stream), ("version", version.to_string())],
            ),
            E::UnknownId(id) => {
                status(Code::NotFound, "UNKNOWN_EVENT", text, [("id", id.to_string())])
            }
            E::UnknownPosition { position, head } => status(
                Code::NotFound,
                "UNKNOWN_EVENT",
                text,
                [("position", position.to_string()), ("head", head.to_string())],
            ),
            E::NotKept { after, first } => status(
                Code::OutOfRange,
                "POSITION_NOT_KEPT",
                text,
                [("after", after.to_string()), ("first", first.to_string())],
            ),
            E::MinPositionNotReached { min_position, head } => status(
                Code::DeadlineExceeded,
                "MIN_POSITION_NOT_REACHED",
                text,
                [("min_position", min_position.to_string()), ("head", head.to_string())],
            ),
            E::TooMany(NoPlace { limit }) => too_many_subscriptions(text, limit),
            E::UnknownCorrelation(id) => {
                status(Code::NotFound, "UNKNOWN_CORRELATION", text, [("correlation_id", short(id))])
            }
            E::TooManyRows(TooManyRows { rows, max }) => status(
                Code::ResourceExhausted,
                "TOO_MANY_ROWS",
                text,
                [("rows", rows.to_string()), ("max", max.to_string())],
            ),
            E::Stopping => shutting_down(),
            E::ShuttingDown { min_position } => status(
                Code::Unavailable,
                "SHUTTING_DOWN",
                text,
                [("min_position", min_position.to_string())],
            ),
        }
    }
}

fn too_many_subscriptions(text: String, limit: usize) -> Status {
    let facts = [("limit", limit.to_string())];
    status(Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS", text, facts)
}

impl From<SubscribeError> for Status {
    fn from(error: SubscribeError) -> Self {
        use SubscribeError as E;
        let text = error.to_string();
        match error {
            E::BeyondHead { after, head } => beyond_head(text, after, head),
            E::NotKept { after, first } => not_kept(text, after, first),
            E::TooMany(NoPlace { limit }) => too_many_subscriptions(text, limit),
            E::ShuttingDown { resume_after } => status(
                Code::Unavailable,
                "SHUTTING_DOWN",
                text,
                [("resume_after", resume_after.to_string())],
            ),
        }
    }
}

impl From<GroupError> for Status {
    fn from(error: GroupError) -> Self {
        use GroupError as E;
        let text = error.to_string();
        match error {
            E::UnknownGroup { group } => {
                status(Code::NotFound, "UNKNOWN_GROUP", text, [("group", group.to_string())])
            }
            E::Exists { group } => {
                status(Code::AlreadyExists, "GROUP_EXISTS", text, [("group", group.to_string())])
            }
            E::TooManyGroups { limit } => {
                let facts = [("limit", limit.to_string())];
                status(Code::ResourceExhausted, "TOO_MANY_GROUPS", text, facts)
            }
            E::TooManyConsumers { group, limit } => status(
                Code::ResourceExhausted,
                "TOO_MANY_CONSUMERS",
                text,
                [("group", group.to_string()), ("limit", limit.to_string())],
            ),
            E::TooManyInFlight { wanted, max } => {
                let what = format!("is {wanted}, at most {max} is allowed, as the group says");
                InvalidRequest::one("start.in_flight_max", what).into()
            }
            E::BeyondHead { after, head } => beyond_head(text, after, head),
            E::NotKept { after, first } => not_kept(text, after, first),
            E::WrongPosition { group, expected, actual } => status(
                Code::FailedPrecondition,
                "WRONG_GROUP_POSITION",
                text,
                [
                    ("group", group.to_string()),
                    ("expected", expected.to_string()),
                    ("actual", actual.to_string()),
                ],
            ),
            E::NotUnsettled { group, position } => status(
                Code::NotFound,
                "NOT_UNSETTLED",
                text,
                [("group", group.to_string()), ("position", position.to_string())],
            ),
            E::TooLarge { size, max } => {
                let what = format!("make an event of {size} bytes, at most {max} are allowed");
                InvalidRequest::one("filters", what).into()
            }
            E::TooMany(NoPlace { limit }) => too_many_subscriptions(text, limit),
            E::ShuttingDown => shutting_down(),
            E::Append(error) => error.into(),
        }
    }
}

fn beyond_head(text: String, after: Position, head: Position) -> Status {
    let facts = [("after", after.to_string()), ("head", head.to_string())];
    status(Code::OutOfRange, "POSITION_BEYOND_HEAD", text, facts)
}

fn not_kept(text: String, after: Position, first: Position) -> Status {
    let facts = [("after", after.to_string()), ("first", first.to_string())];
    status(Code::OutOfRange, "POSITION_NOT_KEPT", text, facts)
}

impl From<VerifyError> for Status {
    fn from(error: VerifyError) -> Self {
        use VerifyError as E;
        let text = error.to_string();
        match error {
            E::Damaged(Damage { segment, offset, fault }) => {
                tracing::error!(%segment, offset, %fault, "the log is damaged");
                status(
                    Code::DataLoss,
                    "SEGMENT_DAMAGED",
                    text,
                    [
                        ("segment", segment.to_string()),
                        ("offset", offset.to_string()),
                        ("fault", fault.to_string()),
                    ],
                )
            }
            E::Differs { position, expected, actual } => status(
                Code::DataLoss,
                "HISTORY_DIFFERS",
                text,
                [
                    ("position", position.to_string()),
                    ("expected", expected.to_string()),
                    ("actual", actual.to_string()),
                ],
            ),
            E::InsideCommit { end, .. } => {
                let ends = format!("is inside of a commit that ends at {end}; name a commit's end");
                InvalidRequest::one("position", ends).into()
            }
            E::BeyondHead { position, head } => status(
                Code::NotFound,
                "UNKNOWN_EVENT",
                text,
                [("position", position.to_string()), ("head", head.to_string())],
            ),
            E::NotKept { first } => status(
                Code::OutOfRange,
                "POSITION_NOT_KEPT",
                text,
                [("after", "0".to_owned()), ("first", first.to_string())],
            ),
            E::ShuttingDown => shutting_down(),
        }
    }
}

impl From<ReadModelError> for Status {
    fn from(error: ReadModelError) -> Self {
        use ReadModelError as E;
        let text = error.to_string();
        let of = |model: String, version: u32| {
            [("model", short(model)), ("version", version.to_string())]
        };
        match error {
            E::UnknownModel { model, version: 0 } => {
                status(Code::NotFound, "UNKNOWN_MODEL", text, [("model", short(model))])
            }
            E::UnknownModel { model, version } => {
                status(Code::NotFound, "UNKNOWN_MODEL", text, of(model, version))
            }
            E::Exists { model, version } => {
                status(Code::AlreadyExists, "MODEL_EXISTS", text, of(model, version))
            }
            E::WrongCheckpoint { model, version, expected, actual } => {
                let [model, version] = of(model, version);
                let facts = [
                    model,
                    version,
                    ("expected", expected.to_string()),
                    ("actual", actual.to_string()),
                ];
                status(Code::FailedPrecondition, "WRONG_CHECKPOINT", text, facts)
            }
            E::UnknownDocument { model, version, key } => {
                let [model, version] = of(model, version);
                let facts = [model, version, ("key", short(key))];
                status(Code::NotFound, "UNKNOWN_DOCUMENT", text, facts)
            }
            E::TooMany { limit } => {
                let facts = [("limit", limit.to_string())];
                status(Code::ResourceExhausted, "TOO_MANY_MODELS", text, facts)
            }
            E::NotIndexed { model, version, fields } => {
                let [model, version] = of(model, version);
                let facts = [model, version, ("fields", short(fields))];
                status(Code::FailedPrecondition, "NOT_INDEXED", text, facts)
            }
            E::IsCurrent { model, version } => {
                status(Code::FailedPrecondition, "MODEL_VERSION_CURRENT", text, of(model, version))
            }
            E::Full { used, max } => status(
                Code::ResourceExhausted,
                "MODELS_FULL",
                text,
                [("used", used.to_string()), ("max", max.to_string())],
            ),
            E::Invalid { write, field, what } => {
                InvalidRequest::one(format!("writes[{write}].{field}"), what).into()
            }
            E::BeyondHead { checkpoint, head } => {
                let what = format!("is {checkpoint}, which is beyond the head, {head}");
                InvalidRequest::one("checkpoint", what).into()
            }
            E::PageToken(error) => InvalidRequest::one("page_token", error.to_string()).into(),
            E::MinPositionNotReached { min_position, checkpoint } => status(
                Code::DeadlineExceeded,
                "MIN_POSITION_NOT_REACHED",
                text,
                [
                    ("min_position", min_position.to_string()),
                    ("checkpoint", checkpoint.to_string()),
                ],
            ),
            E::Overloaded => status(Code::ResourceExhausted, "OVERLOADED", text, []),
            E::TooManyOpen(NoPlace { limit }) => too_many_subscriptions(text, limit),
            E::Stopping => shutting_down(),
            E::Failed(fault) => {
                status(Code::Internal, "MODELS_FAILED", text, [("fault", fault.to_string())])
            }
            E::Damaged(fault) => {
                tracing::error!(%fault, "a read model cannot be read");
                status(Code::DataLoss, "MODELS_FAILED", text, [("fault", fault.to_string())])
            }
        }
    }
}

impl From<InvalidRequest> for Status {
    fn from(error: InvalidRequest) -> Self {
        let message = error.to_string();
        let mut violations = error.violations;
        let more = violations.len().saturating_sub(VIOLATIONS_MAX);
        violations.truncate(VIOLATIONS_MAX);
        let mut violations: Vec<_> = violations
            .into_iter()
            .map(|violation| FieldViolation::new(violation.field, violation.description))
            .collect();
        if more > 0 {
            violations.push(FieldViolation::new("", format!("and {more} more")));
        }
        let mut details = ErrorDetails::with_bad_request(violations);
        details.set_error_info("INVALID_REQUEST", DOMAIN, HashMap::new());
        Status::with_error_details(Code::InvalidArgument, short(message), details)
    }
}

/// The most that the server takes at once is there: `max` of `what`.
pub fn overloaded(what: &str, max: usize) -> Status {
    let text = format!("the server has too much to do: {max} {what} are the most; try again later");
    let facts = [("what", what.to_owned()), ("max", max.to_string())];
    status(Code::ResourceExhausted, "OVERLOADED", text, facts)
}

/// One message is larger than any may be.
pub fn request_too_large(size: usize, max: usize) -> Status {
    let text = format!("the request has {size} bytes, at most {max} are allowed");
    let facts = [("size", size.to_string()), ("max", max.to_string())];
    status(Code::ResourceExhausted, "REQUEST_TOO_LARGE", text, facts)
}

/// The server stops and takes nothing more on this stream.
pub fn shutting_down() -> Status {
    status(Code::Unavailable, "SHUTTING_DOWN", "the server stops; connect again", [])
}

/// The call's deadline has passed.
pub fn deadline_exceeded() -> Status {
    status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the call's deadline has passed", [])
}

/// The bytes are not the message of this call. prost names the fields on the way from the fault to the
/// message: `…: NewEvent.type: AppendRequest.events: invalid string value: …`.
pub fn undecodable(error: &prost::DecodeError) -> Status {
    let text = error.to_string();
    let text = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text);
    let mut fields = Vec::new();
    let mut rest = text;
    while let Some((step, after)) = rest.split_once(": ")
        && let Some((message, field)) = step.split_once('.')
        && !message.contains(' ')
    {
        // A field that Rust has a word for is `r#type` there.
        fields.push(field.trim_start_matches("r#"));
        rest = after;
    }
    fields.reverse();
    let field = if fields.is_empty() { "(message)".to_owned() } else { fields.join(".") };
    InvalidRequest::one(field, rest).into()
}
