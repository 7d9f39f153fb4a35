//! The server: connections in, responses out, a stop that loses no answer.
//!
//! Invariants:
//! 1. At most `Limits::connections` are open; more wait in the listen queue.
//! 2. A head must arrive within `Limits::head_ms`: a slow client holds a connection, not for ever.
//!    What follows it, and the answer, may take longer.
//! 3. A handler that panics costs its own request: 500 `internal`, outcome unknown.
//! 4. After `shutdown`, who asks is answered for `Limits::linger_ms`, and told that the connection
//!    ends; then nothing is accepted, and what is on its way over a connection has as long again.
//!    A connection that is closed under a request leaves its client not knowing what was done.
//! 5. Running requests get `Limits::drain_ms`.
//!
//! Left out: TLS.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::limits::Limits;
use super::meter::{Meter, Route};
use super::problem::Problem;

/// What an HTTP/2 connection starts with (RFC 9113, section 3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between pings of an HTTP/2 connection, and how long an answer may take.
const H2_PING: Duration = Duration::from_secs(20);

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
        service: Surface::new(router),
        slots: Arc::new(Semaphore::new(limits.connections)),
        head: Duration::from_millis(limits.head_ms),
    };
    // Each connection holds a receiver: `closed` completes when none is open.
    let open = watch::Sender::new(());
    // Dropped when connections are to end; each of them watches it.
    let stop = watch::Sender::new(());
    let take = |(stream, slot): (TcpStream, OwnedSemaphorePermit)| {
        let connection = server.connection(stream, stop.subscribe());
        let guard = open.subscribe();
        tokio::spawn(async move {
            connection.await;
            drop((guard, slot));
        });
    };
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &server.slots) => take(accepted),
        }
    }
    server.service.closing.store(true, Ordering::Relaxed);
    let linger = Duration::from_millis(limits.linger_ms);
    let end = Instant::now() + linger;
    loop {
        tokio::select! {
            biased;
            () = open.closed() => break,
            () = tokio::time::sleep_until(end) => break,
            accepted = accept(&listener, &server.slots) => take(accepted),
        }
    }
    waiting(listener, &server.slots).into_iter().for_each(take);
    let _ = tokio::time::timeout(linger, open.closed()).await;
    drop(stop);
    let _ = tokio::time::timeout(Duration::from_millis(limits.drain_ms), open.closed()).await;
    Ok(())
}

/// Connections that the system has accepted, and that would be reset with their listener.
fn waiting(
    listener: TcpListener,
    slots: &Arc<Semaphore>,
) -> Vec<(TcpStream, OwnedSemaphorePermit)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let next = || {
        let slot = slots.clone().try_acquire_owned().ok()?;
        let (stream, _) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        stream.set_nodelay(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, slot))
    };
    std::iter::from_fn(next).collect()
}

/// The next connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
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
    // Without `pipeline_flush`: it holds an answer back, even for ever, behind what the client
    // sent after the request, be it half a request or garbage.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .keep_alive_interval(Some(H2_PING))
        .keep_alive_timeout(H2_PING);
    builder
}

/// Waits until the peer's first bytes tell HTTP/1 from HTTP/2.
///
/// The connection itself would wait for them without a limit of time.
async fn spoken(stream: &TcpStream) -> io::Result<()> {
    let mut first = [0; H2_PREFACE.len()];
    loop {
        stream.readable().await?;
        let n = stream.peek(&mut first).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if n == H2_PREFACE.len() || first[..n] != H2_PREFACE[..n] {
            return Ok(());
        }
        // Half a preface stays readable: look again a little later.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Server {
    builder: Arc<Builder<TokioExecutor>>,
    service: Surface,
    slots: Arc<Semaphore>,
    head: Duration,
}

impl Server {
    /// Serves one connection to its end, gracefully once `stopped` closes.
    fn connection(
        &self,
        stream: TcpStream,
        mut stopped: watch::Receiver<()>,
    ) -> impl Future<Output = ()> + use<> {
        let (builder, service) = (self.builder.clone(), self.service.clone());
        let head = self.head;
        async move {
            let spoken = tokio::select! {
                spoken = tokio::time::timeout(head, spoken(&stream)) => spoken,
                _ = stopped.changed() => return,
            };
            if !matches!(spoken, Ok(Ok(()))) {
                return;
            }
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
pub(super) struct Surface {
    inner: TowerToHyperService<Router>,
    meter: Arc<Meter>,
    /// Connections end after the request that they are in; HTTP/2 has a way of its own.
    closing: Arc<AtomicBool>,
}

impl Surface {
    pub(super) fn new(router: Router) -> Surface {
        let inner = TowerToHyperService::new(router);
        Surface { inner, meter: Arc::default(), closing: Arc::default() }
    }
}

impl Service<Request<Incoming>> for Surface {
    type Response = Response;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let route = Route::of(request.uri().path());
        let meter = self.meter.clone();
        let closing = (request.version() < Version::HTTP_2).then(|| self.closing.clone());
        let start = std::time::Instant::now();
        let running = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let mut response = match running.await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    tracing::error!("a handler panicked");
                    Problem::internal().into_response()
                }
            };
            if closing.is_some_and(|closing| closing.load(Ordering::Relaxed)) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            meter.record(route, response.status(), start.elapsed());
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::sync::{Notify, oneshot};

    /// A server on a port of its own; dropping `stop` stops it.
    struct Running {
        port: u16,
        stop: Option<oneshot::Sender<()>>,
        done: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn start(router: Router, limits: Limits) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let done =
            tokio::spawn(async move { serve_with(listener, router, &limits, shutdown).await });
        Running { port, stop: Some(stop), done }
    }

    impl Running {
        /// Sends bytes and reads until the server closes.
        async fn raw(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("connected");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            let read = tokio::time::timeout(Duration::from_secs(10), read).await;
            // A reset is a close too: bytes that the server never read make one.
            let _ = read.expect("closed in time");
            String::from_utf8(answer).expect("UTF-8")
        }

        async fn get(&self, path: &str) -> String {
            self.raw(&format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await
        }
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_request() {
        async fn broken() -> &'static str {
            panic!("on purpose")
        }
        let router = Router::new().route("/broken", get(broken)).route("/", get(async || "fine"));
        let server = start(router, Limits::default()).await;
        let answer = server.get("/broken").await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        assert!(answer.contains("\"code\":\"internal\"") && answer.contains("\"unknown\""));
        assert!(server.get("/").await.ends_with("fine"));
    }

    #[tokio::test]
    async fn an_answer_does_not_wait_for_what_follows_its_request() {
        let router = Router::new().route("/", get(async || "fine"));
        let server = start(router, Limits { head_ms: 500, ..Limits::default() }).await;
        let whole = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for next in ["GET / HT", "\0garbage\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n"] {
            let answer = server.raw(&format!("{whole}{next}")).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains("fine"),
                "{next}: {answer}"
            );
        }
        let answer = server.raw("\0garbage\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }

    #[tokio::test]
    async fn a_slow_head_is_cut_off() {
        let router = Router::new().route("/", get(async || "fine"));
        let server = start(router, Limits { head_ms: 50, ..Limits::default() }).await;
        for head in ["", "P", "PRI * HTTP", "GET / HTTP/1.1\r\nhost: "] {
            let answer = server.raw(head).await;
            assert!(!answer.contains("200"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_long_answer_is_not_cut_off() {
        let slow = async || {
            let chunks = futures_util::stream::unfold(0, async |n: u8| {
                // A server that is slow, not a test that waits.
                let slow = std::future::pending::<()>();
                let _ = tokio::time::timeout(Duration::from_millis(100), slow).await;
                (n < 3).then(|| (Ok::<_, Infallible>(n.to_string()), n + 1))
            });
            Response::new(axum::body::Body::from_stream(chunks))
        };
        let limits = Limits { head_ms: 20, ..Limits::default() };
        let server = start(Router::new().route("/", get(slow)), limits).await;
        let answer = server.get("/").await;
        assert!(answer.contains("2\r\n0\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_stop_waits_for_running_requests() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (on_enter, on_release) = (entered.clone(), release.clone());
        let slow = async move || {
            on_enter.notify_one();
            on_release.notified().await;
            "done"
        };
        let mut server = start(Router::new().route("/", get(slow)), Limits::default()).await;
        let stop = server.stop.take().expect("running");
        let (answer, ()) = tokio::join!(server.get("/"), async {
            entered.notified().await;
            drop(stop);
            release.notify_one();
        });
        assert!(answer.ends_with("done"), "{answer}");
        let done = tokio::time::timeout(Duration::from_secs(10), server.done).await;
        done.expect("stops in time").expect("no panic").expect("no error");
    }

    #[tokio::test]
    async fn who_asks_while_it_stops_is_answered_and_told_to_go() {
        let router = Router::new().route("/", get(async || "fine"));
        let limits = Limits { linger_ms: 60_000, ..Limits::default() };
        let mut server = start(router, limits).await;
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let open = async || {
            let stream = TcpStream::connect(("127.0.0.1", server.port)).await.expect("connected");
            BufReader::new(stream)
        };
        let (mut idle, mut busy) = (open().await, open().await);
        idle.write_all(request).await.expect("sent");
        idle.read_until(b'e', &mut Vec::new()).await.expect("answered");
        drop(server.stop.take());
        // It has noticed once an answer says so; until then the connection goes on.
        let mut answer = String::new();
        while !answer.contains("connection: close") {
            busy.write_all(request).await.expect("sent");
            answer.clear();
            while !answer.ends_with("fine") {
                answer.push(busy.read_u8().await.expect("answered") as char);
            }
        }
        drop(busy);
        let last = async |mut stream: BufReader<TcpStream>| {
            stream.write_all(request).await.expect("sent");
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.expect("answered, and closed");
            assert!(rest.contains("connection: close") && rest.ends_with("fine"), "{rest}");
        };
        // Those that are new, and the one that was open before.
        for _ in 0..50 {
            last(open().await).await;
        }
        last(idle).await;
        // Nobody is left to wait for.
        let done = tokio::time::timeout(Duration::from_secs(10), server.done).await;
        done.expect("stops in time").expect("no panic").expect("no error");
    }

    #[tokio::test]
    async fn connections_above_the_limit_wait() {
        let router = Router::new().route("/", get(async || "fine"));
        let server = start(router, Limits { connections: 1, ..Limits::default() }).await;
        let held = TcpStream::connect(("127.0.0.1", server.port)).await.expect("connected");
        let (answer, ()) = tokio::join!(server.get("/"), async { drop(held) });
        assert!(answer.ends_with("fine"), "{answer}");
    }
}
