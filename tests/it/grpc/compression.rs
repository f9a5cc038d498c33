//! Requests may be compressed; answers are not.

use annals::wire::proto::v1::{NewEvent, ReadAllRequest, new_event::Data};
use prost::Message;
use tonic::codec::CompressionEncoding;

use crate::support::{
    ANY, TestStore, append_request, event,
    raw::{Raw, frame},
    within,
};

fn large() -> NewEvent {
    NewEvent { data: Some(Data::Text("x".repeat(100_000))), ..event("Paid") }
}

#[tokio::test]
async fn compressed_requests_are_taken_and_the_answers_are_not_compressed() {
    let store = TestStore::start().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut commands = store.commands().send_compressed(encoding).accept_compressed(encoding);
        let request = append_request("Payment-1", ANY, [large()]);
        let answer = within(commands.append(request)).await.unwrap();
        assert_eq!(answer.metadata().get("grpc-encoding"), None);

        let mut queries = store.queries().send_compressed(encoding).accept_compressed(encoding);
        let answer = within(queries.read_all(ReadAllRequest::default())).await.unwrap();
        assert_eq!(answer.metadata().get("grpc-encoding"), None);
    }
    assert_eq!(store.head().await, 2);

    let mut raw = Raw::connect(store.address).await;
    let headers = [("grpc-accept-encoding", "gzip,zstd")];
    let answer = raw.call("QueryService/ReadAll", &headers, &[]).await;
    assert!(answer.headers.get("grpc-encoding").is_none());
    assert!(!answer.messages.is_empty());
    assert!(answer.messages.iter().all(|(compressed, _)| *compressed == 0));
}

/// Small on the wire, large in memory: the limit is that of what comes out.
#[tokio::test]
async fn a_request_that_unpacks_to_more_than_the_limit_is_refused() {
    let store = TestStore::start().await;
    let bomb = NewEvent { data: Some(Data::Text("x".repeat(200 << 20))), ..event("Paid") };
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut commands = store.commands().send_compressed(encoding);
        let request = append_request("Payment-1", ANY, [bomb.clone()]);
        assert!(within(commands.append(request)).await.is_err());
    }
    assert_eq!(store.head().await, 0);
}

#[tokio::test]
async fn a_request_in_an_unknown_or_broken_encoding_is_refused() {
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    let message = append_request("Payment-1", ANY, ["Paid"]).encode_to_vec();
    for encoding in ["br", "gzip", "zstd"] {
        let mut call = raw.begin("CommandService/Append", &[("grpc-encoding", encoding)]).await;
        let mut bytes = frame(&message).to_vec();
        bytes[0] = 1;
        call.request.send_data(bytes.into(), true).unwrap();
        let answer = call.end().await;
        assert!(answer.status.is_some(), "{encoding}");
    }
    assert_eq!(store.head().await, 0);
}
