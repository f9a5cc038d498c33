//! Stands between a client and the server: holds answers back, and cuts connections.

use std::{net::SocketAddr, sync::Arc};

use annals_client::{Client, testing::TestStore};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    task::JoinSet,
};

pub struct Proxy {
    address: SocketAddr,
    held: watch::Sender<bool>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Proxy {
    pub async fn before(store: &TestStore) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (held, state) = watch::channel(false);
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            held,
            connections: Arc::new(Mutex::new(JoinSet::new())),
        };
        let (connections, server) = (Arc::clone(&proxy.connections), store.address());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                connections.lock().await.spawn(forward(client, server, state.clone()));
            }
        });
        proxy
    }

    pub async fn client(&self) -> Client {
        Client::connect(format!("http://{}", self.address)).await.unwrap()
    }

    /// From here on no answer comes through.
    pub fn hold_answers(&self) {
        self.held.send_replace(true);
    }

    pub fn let_answers_through(&self) {
        self.held.send_replace(false);
    }

    /// Ends all connections; new ones are taken.
    pub async fn cut(&self) {
        self.connections.lock().await.shutdown().await;
    }
}

async fn forward(client: TcpStream, server: TcpStream, mut held: watch::Receiver<bool>) {
    let (mut asks, mut hears) = client.into_split();
    let (mut answers, mut takes) = server.into_split();
    let up = tokio::io::copy(&mut asks, &mut takes);
    let down = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = answers.read(&mut bytes).await?;
            if count == 0 || held.wait_for(|held| !held).await.is_err() {
                return Ok::<_, std::io::Error>(());
            }
            hears.write_all(&bytes[..count]).await?;
        }
    };
    tokio::select! {
        _ = up => {}
        _ = down => {}
    }
}
