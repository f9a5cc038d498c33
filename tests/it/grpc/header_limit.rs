//! A status travels in HTTP/2 headers, which clients limit, some of them to 8 KiB: no answer may break
//! that. In another store a conflict that carried the payload did.

use annals::wire::proto::v1::{
    AppendCondition, AppendRequest, AppendStreamRequest, CommitRequest, GetStreamRequest, NewEvent,
};
use prost::Message;
use tonic::Code;

use crate::support::{
    ANY, Refusal, TestStore, append_request, event, expect,
    raw::{Answer, HEADER_LIST_BYTES_MAX, Raw},
    write,
};

fn refusal(answer: Answer, code: Code, reason: &str) -> tonic::Status {
    assert!(
        answer.status_bytes < HEADER_LIST_BYTES_MAX as usize,
        "{reason}: {} bytes of headers",
        answer.status_bytes
    );
    let status = answer.status.unwrap();
    assert_eq!((status.code(), &*status.reason()), (code, reason));
    status
}

/// Names of the greatest length: of characters that become three times as long in `grpc-message`.
#[tokio::test]
async fn a_refusal_fits_the_headers_whatever_it_names() {
    let stream = "é".repeat(256);
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    let known = NewEvent {
        data: Some(annals::wire::proto::v1::new_event::Data::Text("x".repeat(1 << 20))),
        metadata: (0..64).map(|n| (format!("{n:é>128}"), "ü".repeat(2048))).collect(),
        ..event(&"é".repeat(128))
    };
    store.append(&stream, expect(0), [known.clone(), event("Paid")]).await.unwrap();

    let append = "CommandService/Append";
    let stale = append_request(&stream, expect(0), [event(&known.r#type)]).encode_to_vec();
    let status = refusal(
        raw.call(append, &[], &stale).await,
        Code::FailedPrecondition,
        "WRONG_EXPECTED_VERSION",
    );
    assert_eq!((status.fact("stream"), status.fact("actual")), (stream.clone(), "2".to_owned()));

    let taken = append_request("Other-1", ANY, [known.clone()]).encode_to_vec();
    let status =
        refusal(raw.call(append, &[], &taken).await, Code::AlreadyExists, "EVENT_ID_CONFLICT");
    assert_eq!(status.fact("stream"), stream);

    let guarded = AppendRequest {
        conditions: vec![AppendCondition::default()],
        ..append_request("Other-1", ANY, ["Paid"])
    };
    let answer = raw.call(append, &[], &guarded.encode_to_vec()).await;
    refusal(answer, Code::FailedPrecondition, "CONDITION_BROKEN");

    let unknown = GetStreamRequest { stream: "ü".repeat(256), min_position: 0 }.encode_to_vec();
    let answer = raw.call("QueryService/GetStream", &[], &unknown).await;
    let status = refusal(answer, Code::NotFound, "UNKNOWN_STREAM");
    assert_eq!(status.fact("stream"), "ü".repeat(256));
}

#[tokio::test]
async fn ten_thousand_mistakes_fit_the_headers_and_are_counted() {
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    let bad = || NewEvent {
        id: "ü".repeat(100),
        content_type: "ü".repeat(50),
        correlation_id: "\n".repeat(10),
        tags: vec!["\n".repeat(50); 64],
        metadata: [("\n".repeat(100), "ü".repeat(2500))].into(),
        ..NewEvent::default()
    };
    let writes = (0..1000).map(|_| write(&"\n".repeat(500), ANY, [bad(), bad()])).collect();
    let request = CommitRequest { writes, ..CommitRequest::default() };
    let answer = raw.call("CommandService/Commit", &[], &request.encode_to_vec()).await;
    let status = refusal(answer, Code::InvalidArgument, "INVALID_REQUEST");
    let fields = status.violations();
    assert_eq!(fields[0], "writes[0].stream");
    assert_eq!(fields.last().unwrap(), "", "the rest is counted");

    // An event alone can break more rules than there is room for.
    let request = append_request("Payment-1", ANY, [bad()]);
    let answer = raw.call("CommandService/Append", &[], &request.encode_to_vec()).await;
    refusal(answer, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(store.head().await, 0);
}

/// What does not decode is told where it is wrong, and the way there can be long.
#[tokio::test]
async fn a_message_that_does_not_decode_fits_the_headers() {
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    // Groups in groups, as far down as a decoder goes, and an unknown field of a megabyte.
    for bytes in [vec![0x0b; 100_000], [&[0x0a][..], &vec![0x80; 1 << 20]].concat()] {
        let answer = raw.call("CommandService/Append", &[], &bytes).await;
        refusal(answer, Code::InvalidArgument, "INVALID_REQUEST");
    }
    let bytes = AppendStreamRequest { append: Some(append_request("", ANY, ["Paid"])) };
    let answer = raw.call("CommandService/AppendStream", &[], &bytes.encode_to_vec()).await;
    assert_eq!((answer.status.is_none(), answer.messages.len()), (true, 1));
}
