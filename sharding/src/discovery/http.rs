//! A small HTTP/1.1 client for the APIs that know where nodes are.
//!
//! Invariants:
//! 1. A connection carries one request: nothing goes stale, and there is no pool to account for.
//! 2. Certificates and tokens are read anew for each request: they rotate under a running node.
//! 3. A token is sent over TLS only.
//! 4. Every wait has an end, and every answer a largest size.
//!
//! Left out: redirects, proxies, compression, HTTP/2, client certificates.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::Failure;

/// How long a connection with its handshake may take: a distant server answers in a second.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take, without the connection. Longer than a busy server needs.
const ANSWER: Duration = Duration::from_secs(10);
/// The largest answer, bytes: several thousand pods.
const ANSWER_BYTES: usize = 64 << 20;
/// The largest line of a stream, bytes: an object of Kubernetes is at most 1.5 MiB.
const LINE_BYTES: usize = 4 << 20;

/// A server, and what is needed to be let in.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// `http://host:port` or `https://host:port`, with nothing behind.
    base: String,
    host: String,
    port: u16,
    tls: bool,
    authority: Option<PathBuf>,
    token: Option<PathBuf>,
}

/// An answer whose head has come.
struct Answer {
    status: u16,
    body: Incoming,
    /// The connection ends with whoever reads from it.
    connection: Connection,
}

struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    /// The server at `url`. `authority`: PEM file of who signs its certificate. `token`: file of
    /// the bearer token that it wants.
    pub(super) fn new(
        url: &str,
        authority: Option<PathBuf>,
        token: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let bad = |why: &str| Failure::Url { url: url.into(), why: why.into() };
        let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("it begins with neither http:// nor https://")),
        };
        let host = uri.host().ok_or_else(|| bad("it names no host"))?;
        let authority = authority.filter(|path| !path.as_os_str().is_empty());
        if tls && authority.is_none() {
            return Err(bad("no file names the authority of its certificate"));
        }
        Ok(Self {
            base: url.trim_end_matches('/').into(),
            host: host.trim_matches(['[', ']']).into(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            authority,
            token: token.filter(|path| tls && !path.as_os_str().is_empty()),
        })
    }

    /// Its URL, for messages.
    pub(super) fn url(&self) -> &str {
        &self.base
    }

    /// Asks, with a JSON body if there is one, and reads the whole answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let answer = self.start(method, path, body).await?;
        let whole = timeout(ANSWER, self.whole(answer)).await.map_err(|_| self.slow())??;
        serde_json::from_slice(&whole).map_err(|error| self.odd(error))
    }

    /// Asks for an answer that comes line by line, until it ends or `limit` is over.
    pub(super) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<Lines, Failure> {
        let Answer { body, connection, .. } = self.start(method, path, body).await?;
        Ok(Lines {
            server: self.clone(),
            body,
            buffer: BytesMut::new(),
            until: Instant::now() + limit,
            _connection: connection,
        })
    }

    /// Sends a request; an answer that is no success is a [`Failure::Refused`].
    async fn start(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, Failure> {
        let request = self.request(method, path, body).await?;
        let answer = match timeout(CONNECT, TcpStream::connect((&*self.host, self.port))).await {
            Err(_) => return Err(self.slow()),
            Ok(Err(error)) => return Err(self.connect(error)),
            Ok(Ok(stream)) if self.tls => self.send(self.encrypt(stream).await?, request).await?,
            Ok(Ok(stream)) => self.send(stream, request).await?,
        };
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let status = answer.status;
        let why = timeout(ANSWER, self.whole(answer)).await.map_err(|_| self.slow())??;
        Err(Failure::Refused { url: self.base.clone(), status, why: message(&why) })
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{host}:{}", self.port))
            .header(ACCEPT, "application/json");
        if let Some(path) = &self.token {
            let token = String::from_utf8_lossy(&read(path).await?).trim().to_owned();
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(|error| self.odd(error))?
            }
            None => Vec::new(),
        };
        request.body(Full::new(body.into())).map_err(|error| self.odd(error))
    }

    async fn encrypt(
        &self,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        let bad = |why: String| Failure::Tls { url: self.base.clone(), why };
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.authority {
            for certificate in CertificateDer::pem_slice_iter(&read(path).await?) {
                let file = |why| bad(format!("{}: {why}", path.display()));
                let certificate = certificate.map_err(|error| file(error.to_string()))?;
                roots.add(certificate).map_err(|error| file(error.to_string()))?;
            }
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(self.host.clone()).map_err(|e| bad(e.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        let connected = timeout(CONNECT, connector.connect(name, stream)).await;
        connected.map_err(|_| self.slow())?.map_err(|error| bad(error.to_string()))
    }

    async fn send(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, Failure> {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| self.broken(error))?;
        // What goes wrong on the connection shows where its answer is read.
        let connection = Connection(tokio::spawn(connection).abort_handle());
        let answer = timeout(ANSWER, sender.send_request(request)).await;
        let answer = answer.map_err(|_| self.slow())?.map_err(|error| self.broken(error))?;
        Ok(Answer { status: answer.status().as_u16(), body: answer.into_body(), connection })
    }

    async fn whole(&self, mut answer: Answer) -> Result<BytesMut, Failure> {
        let mut whole = BytesMut::new();
        while let Some(frame) = answer.body.frame().await {
            if let Ok(data) = frame.map_err(|error| self.broken(error))?.into_data() {
                whole.extend_from_slice(&data);
            }
            if whole.len() > ANSWER_BYTES {
                return Err(self.odd("an answer larger than 64 MiB"));
            }
        }
        Ok(whole)
    }

    fn connect(&self, error: io::Error) -> Failure {
        Failure::Connect { url: self.base.clone(), why: error.to_string() }
    }

    fn slow(&self) -> Failure {
        Failure::Slow { url: self.base.clone() }
    }

    fn broken(&self, error: hyper::Error) -> Failure {
        Failure::Broken { url: self.base.clone(), why: error.to_string() }
    }

    /// An answer that nobody here understands.
    pub(super) fn odd(&self, why: impl ToString) -> Failure {
        Failure::Odd { url: self.base.clone(), why: why.to_string() }
    }
}

/// The lines of an answer that goes on and on.
pub(super) struct Lines {
    server: Server,
    body: Incoming,
    buffer: BytesMut,
    until: Instant,
    _connection: Connection,
}

impl Lines {
    /// The next line as JSON. `None`: the answer ended after a whole line, or its time is over.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|e| self.server.odd(e));
            }
            if self.buffer.len() > LINE_BYTES {
                return Err(self.server.odd("a line longer than 4 MiB"));
            }
            let Ok(frame) = timeout_at(self.until, self.body.frame()).await else {
                return Ok(None);
            };
            let Some(frame) = frame else { return self.ended() };
            if let Ok(data) = frame.map_err(|error| self.server.broken(error))?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    fn ended<T>(&self) -> Result<Option<T>, Failure> {
        if self.buffer.trim_ascii().is_empty() {
            return Ok(None);
        }
        let why = "the answer ended within a line".to_owned();
        Err(Failure::Broken { url: self.server.base.clone(), why })
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = tokio::fs::read(path).await;
    bytes.map_err(|source| Failure::File { path: path.into(), source })
}

/// What a refusal says: the `message` of a JSON answer, else its beginning.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Status {
        message: String,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).trim().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_server() {
        let server = |url: &str| Server::new(url, Some("ca".into()), Some("token".into()));
        let (a, b) = (server("https://api.example").unwrap(), server("http://[::1]:23/").unwrap());
        assert_eq!((&*a.host, a.port, a.url()), ("api.example", 443, "https://api.example"));
        assert_eq!((&*b.host, b.port, b.url()), ("::1", 23, "http://[::1]:23"));
        assert!(a.token.is_some() && b.token.is_none(), "a token goes over TLS only");
        for bad in ["", "host:23", "ftp://host", "https://"] {
            assert!(matches!(server(bad), Err(Failure::Url { .. })), "{bad}");
        }
        assert!(Server::new("https://host", None, None).is_err(), "nobody to trust");
    }

    #[test]
    fn refusals_say_why() {
        assert_eq!(message(br#"{"kind":"Status","message":"no","code":403}"#), "no");
        assert_eq!(message(b" gateway \n"), "gateway");
    }
}
