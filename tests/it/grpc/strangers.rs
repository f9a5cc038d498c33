//! What is not gRPC comes to the port as well, and disturbs nobody.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::support::{ANY, TestStore, dice::Dice, raw::Raw, within};

#[tokio::test]
async fn bytes_that_are_not_http2_end_their_own_connection_only() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let store = TestStore::start().await;
    let mut dice = Dice::new(9);
    for round in 0..200_usize {
        let mut bytes: Vec<u8> =
            (0..dice.below(2000)).map(|_| dice.next().to_le_bytes()[0]).collect();
        match round % 4 {
            0 => bytes = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
            1 => bytes = [PREFACE, &bytes].concat(),
            2 => bytes = PREFACE[..round % PREFACE.len()].to_vec(),
            _ => {}
        }
        let mut socket = TcpStream::connect(store.address).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        let _ = socket.shutdown().await;
        // Until the server has had enough of it; a reset is fine.
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
    }
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    assert_eq!(store.head().await, 1);
}

#[tokio::test]
async fn a_call_that_does_not_exist_is_unimplemented() {
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    for path in ["CommandService/Forget", "NoService/Append", "CommandService"] {
        let answer = raw.call(path, &[], &[]).await;
        assert_eq!(answer.status.unwrap().code(), Code::Unimplemented, "{path}");
    }
}

/// Calls that are begun and never said, and calls that are taken back at once.
#[tokio::test]
async fn calls_that_say_nothing_write_nothing_and_hold_nobody() {
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    let mut open = Vec::new();
    for number in 0..500 {
        let mut call = raw.begin("CommandService/Append", &[]).await;
        match number % 3 {
            0 => call.request.send_reset(h2::Reason::CANCEL),
            // Five bytes are announced, three come.
            1 => call.request.send_data((&[0, 0, 0, 0, 5, 1, 2, 3][..]).into(), false).unwrap(),
            _ => {}
        }
        open.push(call);
    }
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    drop(open);
    assert_eq!(store.head().await, 1);
}
