//! The store itself, in the test's own process.

use std::net::SocketAddr;

use annals::{config::Config, server};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{Client, ClientOptions};

/// A whole server in memory, in this process, on a free port of loopback. Dropped, it stops.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
///
/// let store = TestStore::start().await;
/// let client = store.client();
/// client.append("Payment-1", ExpectedVersion::NoStream, [NewEvent::new("PaymentProcessed")]).await?;
/// assert_eq!(client.read_stream("Payment-1").collect().await?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestStore {
    address: SocketAddr,
    client: Client,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
}

impl TestStore {
    /// A server with its usual settings.
    ///
    /// # Panics
    /// Where the machine gives no port, as a test should.
    pub async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    /// A server with these settings; its address is a free port of loopback, whatever they say.
    ///
    /// # Panics
    /// Where the machine gives no port, as a test should.
    pub async fn start_with(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port of loopback");
        let address = listener.local_addr().expect("a listener has an address");
        let stop = CancellationToken::new();
        let served = tokio::spawn({
            let stop = stop.clone();
            async move {
                if let Err(error) = server::run(config, listener, stop).await {
                    panic!("the server under test: {error}");
                }
            }
        });
        let client = ClientOptions::new(format!("http://{address}"))
            .connect()
            .await
            .expect("the URL is one");
        Self { address, client, stop, served: Some(served) }
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it, and returns when it has.
    ///
    /// # Panics
    /// If the server failed.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            served.await.expect("the server under test");
        }
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
