//! Streams in both directions that the layers above fill: requests to a peer and their answers.
//!
//! Invariants:
//! 1. Bytes are what the peer wrote, in order. An end without a `shutdown` of the peer is an error,
//!    never a clean end: a stream that is dropped in the middle is reset.
//! 2. A peer has at most `Config::request_streams` open; above it, opening waits.
//! 3. Nobody awaits a peer's streams here: what has no taker is refused.
//!
//! Whoever reads a stream must keep up with it: what lies unread takes room that frames from the
//! same peer need too (`Config::connection_window_bytes`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::{RecvStream, SendStream, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::{Class, NodeId};
use super::peers::Link;
use super::{Shared, meters};

/// Error code of a stream that was dropped before its end, or that nobody takes.
const CANCELLED: VarInt = VarInt::from_u32(3);

/// A peer cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no connection to it.
    #[error("not connected to that node")]
    Disconnected,
}

/// One stream to a peer and back. `shutdown` ends this side's bytes; dropping it before that tells
/// the peer that they are incomplete, and that no more of its own are wanted.
pub struct RequestStream {
    send: SendStream,
    receive: RecvStream,
    ended: bool,
}

impl RequestStream {
    fn new(send: SendStream, receive: RecvStream) -> Self {
        // Fails on a lost connection, which the first write says too.
        let _ = send.set_priority(Class::Commands.priority());
        Self { send, receive, ended: false }
    }

    /// Opens one, as soon as the peer allows another.
    pub(super) async fn open(link: &Link) -> Result<Self, OpenError> {
        let opened = link.connection.open_bi().await;
        let (send, receive) = opened.map_err(|_| OpenError::Disconnected)?;
        meters::request("opened");
        Ok(Self::new(send, receive))
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.ended {
            // Fails on a lost connection.
            let _ = self.send.reset(CANCELLED);
        }
        let _ = self.receive.stop(CANCELLED);
    }
}

impl AsyncRead for RequestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer)
    }
}

impl AsyncWrite for RequestStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

/// Hands over a peer's streams until the connection is lost.
pub(super) async fn accept(shared: Arc<Shared>, link: Arc<Link>) {
    while let Ok((send, receive)) = link.connection.accept_bi().await {
        let stream = RequestStream::new(send, receive);
        let taken = shared.inboxes.request(link.peer, stream);
        meters::request(if taken { "accepted" } else { "refused" });
    }
}

/// A stream that a peer opened.
pub type Incoming = (NodeId, RequestStream);
