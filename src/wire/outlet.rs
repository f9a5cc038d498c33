//! A connection's way out: large pieces that are sent in one turn of its task leave together.
//!
//! HTTP/2 sends long answers in frames, of 16 KiB where a client does not say otherwise, and flushes after each. Every one of
//! them would be a packet of its own, for which the other side is woken. So a large piece waits for what comes behind it until
//! a packet is full, and at the end of the turn nothing waits any more ([`Outlet::push`]).

use std::{
    io::{self, IoSlice},
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, ready},
};

use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, sendmsg, shutdown, sockopt};
use tokio::{
    io::Interest,
    net::{TcpStream, tcp::OwnedWriteHalf},
};

/// A piece of so many bytes is a frame of many. Answers to single calls are smaller, and leave at once; a larger frame, which
/// some clients allow, is a packet by itself.
const FRAME_BYTES: std::ops::Range<usize> = 8 << 10..32 << 10;

/// The writing half of a socket.
pub struct Outlet {
    half: OwnedWriteHalf,
    /// Something may wait. Used by the connection's task only.
    holds: AtomicBool,
}

impl Outlet {
    /// The way out of `half`.
    pub fn new(half: OwnedWriteHalf) -> Self {
        Self { half, holds: AtomicBool::new(false) }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.half.as_ref()
    }

    /// Sends what the socket has room for, as much of `slices` as it says.
    pub fn poll_send(
        &self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size: usize = slices.iter().map(|slice| slice.len()).sum();
        let waits = FRAME_BYTES.contains(&size);
        let more = if waits { SendFlags::MORE } else { SendFlags::empty() };
        let socket = self.socket();
        loop {
            ready!(socket.poll_write_ready(context))?;
            let sent = socket.try_io(Interest::WRITABLE, || {
                let nothing = &mut SendAncillaryBuffer::default();
                Ok(sendmsg(socket, slices, nothing, SendFlags::NOSIGNAL | more)?)
            });
            if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                continue;
            }
            // Relaxed: one task uses it. A piece that leaves at once has taken along what was waiting.
            self.holds.store(waits, Ordering::Relaxed);
            return Poll::Ready(sent);
        }
    }

    /// Lets go what waits.
    pub fn push(&self) {
        // Relaxed: as above.
        if self.holds.swap(false, Ordering::Relaxed) {
            // Which sends what waits, also where it is set (tcp(7)). Where that fails the connection has.
            sockopt::set_tcp_nodelay(self.socket(), true).ok();
        }
    }

    /// Nothing more is sent.
    pub fn shutdown(&self) -> io::Result<()> {
        Ok(shutdown(self.socket(), Shutdown::Write)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Read};

    use super::*;

    const FRAME: [u8; 16 << 10] = [7; 16 << 10];

    async fn two() -> (Outlet, std::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        (Outlet::new(socket.into_split().1), other)
    }

    async fn send(outlet: &Outlet, bytes: &[u8]) {
        let slices = [IoSlice::new(bytes)];
        let sent = poll_fn(|context| outlet.poll_send(context, &slices)).await.unwrap();
        assert_eq!(sent, bytes.len(), "the socket has room");
    }

    /// Seen to fail without MORE, and without the push.
    #[tokio::test]
    async fn a_frame_waits_for_the_end_of_the_turn() {
        let (outlet, mut other) = two().await;
        send(&outlet, &FRAME).await;
        other.set_nonblocking(true).unwrap();
        let nothing = other.peek(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        other.set_nonblocking(false).unwrap();
        outlet.push();
        // Sooner than the system would have sent it by itself.
        other.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        other.read_exact(&mut [0; FRAME.len()]).unwrap();
    }

    /// Seen to fail where all pieces wait.
    #[tokio::test]
    async fn a_small_piece_leaves_at_once_and_takes_along_what_waits() {
        let (outlet, mut other) = two().await;
        send(&outlet, &FRAME).await;
        send(&outlet, &[8; 10]).await;
        other.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let mut all = vec![0; FRAME.len() + 10];
        other.read_exact(&mut all).unwrap();
        assert_eq!(all[FRAME.len()..], [8; 10]);
    }
}
