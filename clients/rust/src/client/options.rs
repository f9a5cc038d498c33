//! How to connect.

use std::{sync::Arc, sync::atomic::AtomicUsize, time::Duration};

use tonic::transport::Endpoint;

#[cfg(feature = "tls")]
use super::ClientTlsConfig;
use super::{Client, Connection, Connections, Retry, connection::causes};
use crate::{Error, Result};

/// What may be on its way to us without our leave: a reader then waits for no round trip.
const WINDOW_BYTES: u32 = 8 << 20;
/// In one frame of HTTP/2 a server may send so much: a block of events, and what is around it.
const FRAME_BYTES: u32 = 128 << 10;

/// How to connect, with what is usual.
///
/// ```
/// # use annals_client::testing::TestStore;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let url = format!("http://{}", store.address());
/// use annals_client::ClientOptions;
/// use std::time::Duration;
///
/// let client = ClientOptions::new(url)
///     .connections(2)
///     .deadline(Duration::from_secs(5))
///     .connect_timeout(Duration::from_secs(1))
///     .keep_alive(Duration::from_secs(10), Duration::from_secs(5))
///     .connect()
///     .await?;
/// assert_eq!(client.count([]).await?.answer.count, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ClientOptions {
    url: String,
    connections: usize,
    deadline: Duration,
    connect_timeout: Duration,
    keep_alive_interval: Duration,
    keep_alive_timeout: Duration,
    retry: Retry,
    #[cfg(feature = "tls")]
    tls: Option<ClientTlsConfig>,
}

impl ClientOptions {
    /// For the server at `url`: `http://`, or with the feature `tls` also `https://`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections: 1,
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(20),
            retry: Retry::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// So many connections, which take calls in turn: at least 1, which is usual. One connection is served by one
    /// core at a time.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// How long a call may take, its repeats among it: 30 s. A subscription has none; a read has it
    /// until its answer begins.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one try to connect may take: 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Ask a connection whether it is alive after so long (20 s), and give it up when there is no answer for
    /// `timeout` (20 s).
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive_interval = interval;
        self.keep_alive_timeout = timeout;
        self
    }

    /// How calls are repeated while the server is away or overloaded.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Certificates of the server's issuer and of this client, and the name that the server's must have. Where nothing
    /// is said, the server's issuer must be known to the system.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use annals_client::ClientOptions;
    /// use annals_client::client::{Certificate, ClientTlsConfig, Identity};
    ///
    /// let tls = ClientTlsConfig::new()
    ///     .ca_certificate(Certificate::from_pem(std::fs::read("ca.pem")?))
    ///     .identity(Identity::from_pem(std::fs::read("client.pem")?, std::fs::read("client.key")?));
    /// let client = ClientOptions::new("https://annals.example:2113").tls(tls).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The client. Its connections are made when they are needed, and again when they break.
    ///
    /// [`Error::Connect`] where the URL is wrong, or certificates cannot be read.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// use annals_client::{ClientOptions, Error};
    ///
    /// let wrong = ClientOptions::new("annals.example.org").connect().await;
    /// let Err(Error::Connect { url, .. }) = wrong else { panic!("it has no http://") };
    /// assert_eq!(url, "annals.example.org");
    /// # Ok(())
    /// # }
    /// ```
    #[expect(clippy::unused_async, reason = "a handshake may come before the first call")]
    pub async fn connect(self) -> Result<Client> {
        let fault = |reason: String| Error::Connect { url: self.url.clone(), reason };
        let with_tls = cfg!(feature = "tls");
        match self.url.split_once("://") {
            Some(("http", _)) => {}
            Some(("https", _)) if with_tls => {}
            Some(("https", _)) => return Err(fault("https needs the feature `tls`".to_owned())),
            _ => return Err(fault("not a URL such as http://127.0.0.1:2113".to_owned())),
        }
        let endpoint = Endpoint::from_shared(self.url.clone())
            .map_err(|error| fault(causes(&error)))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_mins(1)))
            .http2_keep_alive_interval(self.keep_alive_interval)
            .keep_alive_timeout(self.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES);
        #[cfg(feature = "tls")]
        let endpoint = match (&self.tls, self.url.starts_with("https://")) {
            (Some(tls), true) => endpoint.tls_config(tls.clone()),
            (Some(_), false) => return Err(fault("certificates need https".to_owned())),
            (None, true) => endpoint.tls_config(ClientTlsConfig::new().with_native_roots()),
            (None, false) => Ok(endpoint),
        }
        .map_err(|error| fault(causes(&error)))?;
        let url = Arc::from(self.url);
        let connection = |_| Connection::new(endpoint.connect_lazy(), Arc::clone(&url));
        let all = (0..self.connections).map(connection).collect();
        Ok(Client {
            connections: Arc::new(Connections { all, next: AtomicUsize::new(0) }),
            deadline: self.deadline,
            retry: self.retry,
        })
    }
}
