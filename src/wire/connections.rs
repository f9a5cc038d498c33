//! Connections: how many there are, and when one that says nothing ends.
//!
//! ```text
//! 1 … connections-max     served
//! … + EXTRA_MAX           health checks are answered, other calls refused; closed after REFUSING
//! beyond                  closed at once
//! ```
//!
//! So a flood of connections takes neither the health checks of those that stand, nor, mostly, those of a
//! supervisor that connects for each, and a client is told why it is not served.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::outlet::Outlet;
use crate::service::places::{NoPlace, Place, Places};

/// So many connections above the limit are told so.
const EXTRA_MAX: usize = 128;
/// So long they have to ask, and to read the answer.
const REFUSING: Duration = Duration::from_secs(3);
/// When the system gives no connection, out of files for example, it is asked again after so long.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections that `listener` gives, for as long as it is asked. One whose client says nothing for `silence` at its
/// beginning ends: only later does HTTP/2 ask whether it is alive.
pub fn accept(
    listener: TcpListener,
    places: Places,
    silence: Duration,
) -> impl Stream<Item = Connection> {
    let door = Door { listener, places, extra: Places::new(EXTRA_MAX), silence, full: false };
    stream::unfold(door, |mut door| async move { Some((door.next().await, door)) })
}

struct Door {
    listener: TcpListener,
    places: Places,
    extra: Places,
    silence: Duration,
    /// That has been logged.
    full: bool,
}

impl Door {
    async fn next(&mut self) -> Connection {
        loop {
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            // Slower, but no reason to refuse it.
            socket.set_nodelay(true).ok();
            let full = match self.places.take() {
                Ok(place) => {
                    self.full = false;
                    return Connection::new(socket, place, self.silence, None);
                }
                Err(NoPlace { limit }) => limit,
            };
            if !self.full {
                tracing::warn!(limit = full, "no more connections are served");
                self.full = true;
            }
            if let Ok(place) = self.extra.take() {
                return Connection::new(socket, place, REFUSING, Some(full));
            }
        }
    }
}

/// A connection, and its place among all.
pub struct Connection {
    inlet: OwnedReadHalf,
    outlet: Arc<Outlet>,
    _place: Place,
    /// Served only to be told that there are so many.
    full: Option<usize>,
    /// When it ends, if nothing comes before, or if it is not served.
    end: Option<Pin<Box<Sleep>>>,
}

/// What is known of a call's connection.
#[derive(Debug, Clone)]
pub struct Origin {
    pub tcp: TcpConnectInfo,
    /// Above the limit, which is so high: only health checks are answered.
    pub full: Option<usize>,
}

impl Connection {
    fn new(socket: TcpStream, place: Place, end: Duration, full: Option<usize>) -> Self {
        let (inlet, outlet) = socket.into_split();
        let outlet = Arc::new(Outlet::new(outlet));
        Self { inlet, outlet, _place: place, full, end: Some(Box::pin(sleep(end))) }
    }

    /// Its way out, for as long as it stands.
    pub fn outlet(&self) -> Weak<Outlet> {
        Arc::downgrade(&self.outlet)
    }
}

impl Connected for Connection {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Origin {
        Origin { tcp: self.outlet.socket().connect_info(), full: self.full }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(end) = &mut this.end
            && end.as_mut().poll(context).is_ready()
        {
            // As if the client had closed it.
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut this.inlet).poll_read(context, buffer))?;
        if this.full.is_none() {
            this.end = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.outlet.poll_send(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outlet.poll_send(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.outlet.shutdown())
    }
}
