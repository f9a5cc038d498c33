//! A consumer whose connection is there for the server, and for nobody else.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    TestStore, connect,
    consumer::{Groups, consumer, group, patient},
};

/// Between a client and the server: passes bytes on until it is told to stop, and then holds both
/// connections open and says nothing to anybody, as a network does that is cut.
struct Proxy {
    address: SocketAddr,
    cut: CancellationToken,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = CancellationToken::new();
        tokio::spawn({
            let cut = cut.clone();
            async move {
                let client = listener.accept().await.unwrap().0;
                let server = TcpStream::connect(server).await.unwrap();
                for socket in [&client, &server] {
                    socket.set_nodelay(true).unwrap();
                }
                let ((client_up, client_down), (server_up, server_down)) =
                    (client.into_split(), server.into_split());
                tokio::join!(
                    pass_on(client_up, server_down, &cut),
                    pass_on(server_up, client_down, &cut),
                );
            }
        });
        Self { address, cut }
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: &CancellationToken) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            biased;
            // Neither end is closed: both halves stay here.
            () = cut.cancelled() => std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(count @ 1..) if to.write_all(&buffer[..count]).await.is_ok() => {}
            _ => return,
        }
    }
}

/// The message timeout is an hour: that the connection is dead is all that can tell.
#[tokio::test]
async fn what_a_consumer_has_whose_connection_is_cut_goes_to_another_one() {
    let store = TestStore::start_with(|config| {
        config.keep_alive_interval = Duration::from_millis(200);
        config.keep_alive_timeout = Duration::from_millis(500);
    })
    .await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let proxy = Proxy::to(store.address).await;
    let far = Groups::new(connect(proxy.address).await);
    let mut cut = far.consume(consumer("mail", "cut")).await.unwrap();
    let events = store.fill("Payment-1", 2).await;
    assert_eq!(cut.positions(2).await, events);
    let mut near = groups.consume(consumer("mail", "near")).await.unwrap();
    // It lives as long as its connection does, whatever it says.
    near.expect_nothing().await;
    proxy.cut.cancel();
    near.expect(events[0], 2).await;
    near.expect(events[1], 2).await;
    near.ack(events).await;
    let info = groups.until("mail", |info| info.settled_count == 2).await;
    assert_eq!(info.consumer_count, 1);
    drop(cut);
}

/// Who answers pings is alive, however long it says nothing.
#[tokio::test]
async fn a_consumer_that_only_listens_keeps_what_it_has() {
    let store = TestStore::start_with(|config| {
        config.keep_alive_interval = Duration::from_millis(100);
        config.keep_alive_timeout = Duration::from_secs(30);
    })
    .await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut quiet =
        Groups::new(connect(store.address).await).consume(consumer("mail", "quiet")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    quiet.expect(events[0], 1).await;
    for _ in 0..3 {
        quiet.expect_nothing().await;
    }
    let info = groups.info("mail").await;
    assert_eq!((info.consumer_count, info.in_flight_count, info.delivered_count), (1, 1, 1));
}
