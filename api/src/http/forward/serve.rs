//! The other end: requests that other nodes carried here.
//!
//! Invariants: a request is marked by where it came in, never by what it says; a peer that sends
//! garbage loses its own channel and affects nothing else.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use atoll_replication::transport::NodeId;
use atoll_replication::transport::quic::{Incoming, RequestStream};
use axum::{Extension, Router};
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{mpsc, watch};

use super::super::limits::Limits;
use super::super::serve::Surface;
use super::channel::REQUESTS;

/// Bytes of one answer that wait to be sent, beyond what its reader has room for.
const SEND_BYTES: usize = 64 << 10;
/// Bytes of a request's head: cursors of streams over several nodes are long.
const HEAD_BYTES: u32 = 128 << 10;

/// Marks a request that another node carried here.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded(());

/// Serves requests from other nodes until `shutdown` completes and running ones have ended, or
/// `Limits::drain_ms` have passed.
pub async fn serve_peers(
    mut incoming: mpsc::Receiver<Incoming>,
    router: Router,
    limits: &Limits,
    shutdown: impl Future<Output = ()>,
) {
    let surface = Surface::new(router.layer(Extension(Forwarded(()))));
    let builder = Arc::new(builder());
    // Dropped on the way out; each channel watches it.
    let (stop, stopped) = watch::channel(());
    // Each channel holds a receiver: `closed` completes when the last has ended.
    let (alive, guard) = watch::channel(());
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            next = incoming.recv() => {
                let Some((peer, stream)) = next else { break };
                let served = serve(builder.clone(), surface.clone(), peer, stream, stopped.clone());
                let guard = guard.clone();
                tokio::spawn(async move {
                    served.await;
                    drop(guard);
                });
            }
        }
    }
    drop((incoming, stop, stopped, guard));
    let _ = tokio::time::timeout(Duration::from_millis(limits.drain_ms), alive.closed()).await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(REQUESTS)
        .max_send_buf_size(SEND_BYTES)
        .max_header_list_size(HEAD_BYTES);
    builder
}

/// Serves one channel to its end, gracefully once `stopped` closes.
async fn serve(
    builder: Arc<Builder<TokioExecutor>>,
    surface: Surface,
    peer: NodeId,
    stream: RequestStream,
    mut stopped: watch::Receiver<()>,
) {
    let connection = builder.serve_connection(TokioIo::new(stream), surface);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        // The sender never sends: this completes when it is dropped.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a channel from another node failed");
    }
}
