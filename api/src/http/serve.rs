//! The server: connections in, responses out, a stop that loses no answer.
//!
//! Invariants:
//! 1. At most `Limits::connections` are open; more wait in the listen queue.
//! 2. A head must arrive within `Limits::head_ms`: a slow client holds a connection, not for ever.
//! 3. A handler that panics costs its own request: 500 `internal`, outcome unknown.
//! 4. After `shutdown`, nothing is accepted; running requests get `Limits::drain_ms`.
//!
//! Left out: TLS.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::limits::Limits;
use super::meter::{Meter, Route};
use super::problem::Problem;

/// Serves with the default limits until `shutdown` completes and running requests have ended.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_with(listener, router, &Limits::default(), shutdown).await
}

/// Serves with limits until `shutdown` completes and running requests have ended.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let server = Server {
        builder: Arc::new(builder(limits)),
        service: Surface {
            inner: TowerToHyperService::new(router),
            meter: Arc::new(Meter::default()),
        },
        slots: Arc::new(Semaphore::new(limits.connections)),
    };
    // Dropped by the accept loop on its way out; each connection watches it.
    let (stop, stopped) = watch::channel(());
    // Each connection holds a receiver: `closed` completes when the last has ended.
    let (alive, guard) = watch::channel(());
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &server.slots) => {
                let (stream, slot) = accepted;
                let (stopped, guard) = (stopped.clone(), guard.clone());
                let connection = server.connection(stream, stopped);
                tokio::spawn(async move {
                    connection.await;
                    drop((guard, slot));
                });
            }
        }
    }
    drop((listener, stop, stopped, guard));
    let _ = tokio::time::timeout(Duration::from_millis(limits.drain_ms), alive.closed()).await;
    Ok(())
}

/// The next connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it small answers wait for the peer's delayed acknowledgement.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return (stream, slot);
            }
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                // Out of descriptors, most likely: they come back as connections end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let head = Duration::from_millis(limits.head_ms);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head).pipeline_flush(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    builder
}

struct Server {
    builder: Arc<Builder<TokioExecutor>>,
    service: Surface,
    slots: Arc<Semaphore>,
}

impl Server {
    /// Serves one connection to its end, gracefully once `stopped` closes.
    fn connection(
        &self,
        stream: TcpStream,
        mut stopped: watch::Receiver<()>,
    ) -> impl Future<Output = ()> + use<> {
        let (builder, service) = (self.builder.clone(), self.service.clone());
        async move {
            let connection = builder.serve_connection(TokioIo::new(stream), service);
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
                tracing::debug!(%error, "a connection failed");
            }
        }
    }
}

/// The router, metered, with panics caught.
#[derive(Clone)]
struct Surface {
    inner: TowerToHyperService<Router>,
    meter: Arc<Meter>,
}

impl Service<Request<Incoming>> for Surface {
    type Response = Response;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let route = Route::of(request.uri().path());
        let meter = self.meter.clone();
        let start = std::time::Instant::now();
        let running = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let response = match running.await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    tracing::error!("a handler panicked");
                    Problem::internal().into_response()
                }
            };
            meter.record(route, response.status(), start.elapsed());
            Ok(response)
        })
    }
}
