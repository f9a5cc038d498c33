//! `Verify` and `Backup`: what is refused, and how they end when the server does.

use annals::{
    core::sequencer::WhenFull,
    wire::proto::v1::{
        BackupRequest, NewEvent, VerifyRequest, VerifyResult,
        admin_service_client::AdminServiceClient, backup_response, new_event::Data,
        verify_response::Message,
    },
};
use tonic::{Code, Status, transport::Channel};

use crate::support::{ANY, Refusal, TestStore, event, within};

fn admin(store: &TestStore) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(store.channel.clone())
}

async fn verify(store: &TestStore, request: VerifyRequest) -> Result<VerifyResult, Status> {
    within(async {
        let mut answers = admin(store).verify(request).await?.into_inner();
        loop {
            match answers.message().await?.expect("it ends with a result").message.unwrap() {
                Message::Progress(progress) => assert!(progress.position <= progress.head),
                Message::Result(result) => return Ok(result),
            }
        }
    })
    .await
}

fn large() -> NewEvent {
    NewEvent { data: Some(Data::Text("x".repeat(10_000))), ..event("Large") }
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused() {
    let store = TestStore::start().await;
    store.append("S-1", ANY, ["A", "B"]).await.unwrap();
    let expected_hash = "0".repeat(63);
    let request = VerifyRequest { expected_hash, ..VerifyRequest::default() };
    let refusal = verify(&store, request).await.unwrap_err();
    assert_eq!(refusal.violations(), ["expected_hash"]);

    let at = |position| VerifyRequest { position, ..VerifyRequest::default() };
    let refusal = verify(&store, at(3)).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.reason().as_str()), (Code::NotFound, "UNKNOWN_EVENT"));
    assert_eq!((refusal.fact("position"), refusal.fact("head")), ("3".into(), "2".into()));
    let refusal = verify(&store, at(1)).await.unwrap_err();
    assert_eq!(
        (refusal.reason().as_str(), refusal.violations()),
        ("INVALID_REQUEST", vec!["position".to_owned()])
    );
    let result = verify(&store, at(2)).await.unwrap();
    assert_eq!((result.position, &result.hash), (2, &result.head_hash));

    let request = VerifyRequest { position: 2, expected_hash: "0".repeat(64) };
    let refusal = verify(&store, request).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.reason().as_str()), (Code::DataLoss, "HISTORY_DIFFERS"));
    assert_eq!(refusal.fact("actual"), result.hash);
    let request = VerifyRequest { position: 2, expected_hash: result.hash.to_uppercase() };
    verify(&store, request).await.unwrap();
}

/// A cache of recent events has no beginning: the rest is checked, and has no hash and no copy.
#[tokio::test]
async fn where_old_events_were_dropped_there_is_no_hash_and_no_copy() {
    let store = TestStore::start_with(|config| {
        config.max_memory = Some(4 << 20);
        config.when_full = WhenFull::Evict;
    })
    .await;
    for _ in 0..60 {
        store.append("Large-1", ANY, (0..10).map(|_| large())).await.unwrap();
    }
    let info = store.info().await;
    let result = verify(&store, VerifyRequest::default()).await.unwrap();
    assert_eq!((result.head, result.head_hash.as_str(), result.hash.as_str()), (600, "", ""));
    assert_eq!(result.event_count, 601 - info.first_position);
    let asked = VerifyRequest { position: 600, ..VerifyRequest::default() };
    let hash = verify(&store, asked).await.unwrap_err();
    let copy = within(admin(&store).backup(BackupRequest {})).await.unwrap_err();
    for refusal in [hash, copy] {
        assert_eq!(refusal.code(), Code::OutOfRange);
        assert_eq!(refusal.reason(), "POSITION_NOT_KEPT");
        assert_eq!(refusal.fact("first"), info.first_position.to_string());
    }
}

/// A copy that nobody reads holds nothing up, and ends with the server, without a result.
#[tokio::test]
async fn a_copy_ends_when_the_server_stops() {
    let store = TestStore::start().await;
    for _ in 0..200 {
        store.append("Large-1", ANY, (0..10).map(|_| large())).await.unwrap();
    }
    let mut messages = within(admin(&store).backup(BackupRequest {})).await.unwrap().into_inner();
    within(messages.message()).await.unwrap().expect("it begins");
    store.stop.cancel();
    let refusal = loop {
        match within(messages.message()).await {
            Ok(message) => {
                let message = message.expect("no end without a status").message.unwrap();
                let is_result = matches!(message, backup_response::Message::Result(_));
                assert!(!is_result, "20 MB are more than the windows hold");
            }
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((refusal.code(), refusal.reason().as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    store.stopped().await.unwrap();
}
