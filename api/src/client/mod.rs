//! A client of Atoll's HTTP contract, for the command line, the demo and the benchmarks.
//!
//! Invariants:
//! 1. A request is sent once: it is repeated only if it never left this process (the kept
//!    connection had died before).
//! 2. A connection serves one request at a time and returns to the pool only after its whole
//!    answer was read.
//!
//! Left out: TLS (a proxy or tunnel does it), redirects and compression, which Atoll never uses.

mod problem;
mod stream;
mod trace;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use problem::Problem;
pub use stream::{Event, Feed};
pub use trace::curl;

/// How long a connection may take to open. Far above any round trip on earth.
const CONNECT: Duration = Duration::from_secs(5);
/// Largest answer that is read into memory, in bytes. Bounds what a wrong server can cost.
const ANSWER_MAX: usize = 256 << 20;
/// Idle connections kept for later requests.
const KEPT: usize = 64;

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is no `http://host:port`: mend it.
    #[error("{0:?} is not a server address; expected something like http://127.0.0.1:7401")]
    Address(String),
    /// No connection, or it broke before the answer: is the server there?
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// The server.
        url: String,
        /// The reason.
        cause: String,
    },
    /// The server refused; the problem says why and whether to retry.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The answer is not what the contract says: is this an Atoll server?
    #[error("unexpected answer from {url}: {cause}")]
    Answer {
        /// The server.
        url: String,
        /// What is wrong.
        cause: String,
    },
}

/// One request, before it is sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query, encoded.
    pub path: String,
    /// The JSON body, if any.
    pub body: Option<Value>,
    /// Further headers.
    pub headers: Vec<(HeaderName, String)>,
}

impl Call {
    /// A `GET`.
    pub fn get(path: impl Into<String>) -> Call {
        Call { method: Method::GET, path: path.into(), body: None, headers: Vec::new() }
    }

    /// A `POST` of JSON.
    pub fn post(path: impl Into<String>, body: Value) -> Call {
        let body = Some(body);
        Call { method: Method::POST, path: path.into(), body, headers: Vec::new() }
    }

    /// A `DELETE`.
    pub fn delete(path: impl Into<String>) -> Call {
        Call { method: Method::DELETE, path: path.into(), body: None, headers: Vec::new() }
    }

    /// With one header more.
    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Call {
        self.headers.push((name, value.into()));
        self
    }
}

/// A good answer: status 2xx and its JSON.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body; null if there was none.
    pub body: Value,
}

/// A server, with kept connections. Clones share them.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    url: String,
    authority: String,
    /// Idle connections. A std mutex: held for a push or pop only.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// A client of `url`, `http://host:port`. Connects with the first request.
    pub fn new(url: &str) -> Result<Client, ClientError> {
        let wrong = || ClientError::Address(url.into());
        let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let plain = uri.scheme_str() == Some("http") && uri.path().trim_end_matches('/').is_empty();
        let authority = uri.authority().filter(|_| plain).ok_or_else(wrong)?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Client(Arc::new(Inner {
            url: format!("http://{authority}"),
            authority: format!("{}:{port}", authority.host()),
            idle: Mutex::new(Vec::new()),
        })))
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Sends and reads the whole answer. A status of 400 and above is [`ClientError::Refused`].
    pub async fn call(&self, call: &Call) -> Result<Answer, ClientError> {
        let (status, body) = self.raw(call).await?;
        if !status.is_success() {
            return Err(ClientError::Refused(Box::new(Problem::parse(status.as_u16(), &body))));
        }
        let body = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&body)
                .map_err(|e| self.answer(format!("its body is not JSON ({e})")))?,
        };
        Ok(Answer { status, body })
    }

    /// Sends and reads the whole answer as bytes, whatever its status.
    pub async fn raw(&self, call: &Call) -> Result<(StatusCode, Bytes), ClientError> {
        let (response, sender) = self.send(call).await?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
        let body = body.collect().await.map_err(|e| self.unreachable(e.to_string()))?;
        if let Ok(mut idle) = self.0.idle.lock()
            && idle.len() < KEPT
        {
            idle.push(sender);
        }
        Ok((status, body.to_bytes()))
    }

    /// Sends, and hands out the body as it arrives.
    pub async fn open(&self, call: &Call) -> Result<Response<Incoming>, ClientError> {
        let (response, _) = self.send(call).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
        let body = body.collect().await.map_err(|e| self.unreachable(e.to_string()))?;
        Err(ClientError::Refused(Box::new(Problem::parse(status, &body.to_bytes()))))
    }

    async fn send(
        &self,
        call: &Call,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), ClientError> {
        let mut request = self.request(call)?;
        while let Some(mut kept) = self.kept() {
            if kept.ready().await.is_err() {
                continue;
            }
            match kept.try_send_request(request).await {
                Ok(response) => return Ok((response, kept)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.unreachable(error.error().to_string())),
                },
            }
        }
        let mut fresh = self.connect().await?;
        let response = fresh.send_request(request).await;
        Ok((response.map_err(|e| self.unreachable(e.to_string()))?, fresh))
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.0.idle.lock().ok()?.pop()
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = match timeout(CONNECT, TcpStream::connect(&self.0.authority)).await {
            Err(_) => return Err(self.unreachable("no answer to the connect".into())),
            Ok(stream) => stream.map_err(|e| self.unreachable(e.to_string()))?,
        };
        stream.set_nodelay(true).map_err(|e| self.unreachable(e.to_string()))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|e| self.unreachable(e.to_string()))?;
        // Its end shows at the sender; there is nothing else to learn from it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut builder = Request::builder()
            .method(call.method.clone())
            .uri(call.path.as_str())
            .header(HOST, self.0.authority.as_str());
        if call.body.is_some() {
            builder = builder.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in &call.headers {
            builder = builder.header(name, value);
        }
        let body = call.body.as_ref().map(Value::to_string).unwrap_or_default();
        builder
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| self.answer(format!("the request cannot be built ({e})")))
    }

    fn unreachable(&self, cause: String) -> ClientError {
        ClientError::Unreachable { url: self.0.url.clone(), cause }
    }

    fn answer(&self, cause: String) -> ClientError {
        ClientError::Answer { url: self.0.url.clone(), cause }
    }
}

#[cfg(test)]
mod tests;
