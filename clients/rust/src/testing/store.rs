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
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut config = annals::config::Config::default();
    /// config.limits.event_size_bytes_max = 1024;
    /// let store = TestStore::start_with(config).await;
    /// let too_large = NewEvent::json("Noted", &"x".repeat(2000))?;
    /// let error = store.client().append("Note-1", 0, [too_large]).await.unwrap_err();
    /// assert_eq!(error.reason(), "INVALID_REQUEST");
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```
    /// # use annals_client::{Client, NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = TestStore::start().await;
    /// let client = Client::connect(format!("http://{}", store.address())).await?;
    /// assert_eq!(client.append("Payment-1", 0, [NewEvent::new("Started")]).await?.version, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it, and returns when it has.
    ///
    /// ```
    /// # use annals_client::{NewEvent, client::ClientOptions, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = TestStore::start().await;
    /// # let once = annals_client::client::Retry { tries: 1, ..Default::default() };
    /// # let url = format!("http://{}", store.address());
    /// # let client = ClientOptions::new(url).retry(once).connect().await?;
    /// store.stop().await;
    /// let error = client.append("Payment-1", 0, [NewEvent::new("Started")]).await.unwrap_err();
    /// assert!(error.is_transient());
    /// # Ok(())
    /// # }
    /// ```
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
