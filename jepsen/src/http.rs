//! A blocking HTTP/1.1 client over one kept-alive TCP connection: no product code, no runtime.
//!
//! Invariants:
//! 1. A request is sent once. Whatever breaks after its first byte was written is
//!    [`Error::Lost`]: the server may have applied it.
//! 2. After any error the connection is dropped; the next request opens another.
//!
//! Answers without an end are read line by line: [`Stream`].
//!
//! Left out: TLS, redirects, compression, trailers.

mod stream;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub use stream::{Opened, Stream};

/// Largest body that is read; an answer above it is refused as malformed.
const BODY_MAX: usize = 64 << 20;
/// Longest line of a head.
const LINE_MAX: u64 = 64 << 10;
/// Most header lines of an answer.
const HEADERS_MAX: usize = 256;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection: the request was not sent.
    #[error("no connection to {0}: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// The connection broke, or no answer came in time: the request may have been applied.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// The answer is not HTTP: the request may have been applied.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value, Error> {
        serde_json::from_slice(&self.body).map_err(|e| Error::Malformed(e.to_string()))
    }
}

/// A client of one server.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    timeout: Duration,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client of the server at `address`; `timeout` bounds each connect, read and write.
    pub fn new(address: SocketAddr, timeout: Duration) -> Client {
        Client { address, timeout, connection: None }
    }

    /// Sends a request and reads its answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Error> {
        // One that its server has closed meanwhile is of no use any more.
        let mut connection = match self.connection.take().filter(is_open) {
            Some(connection) => connection,
            None => connect(self.address, self.timeout)?,
        };
        connection.get_mut().write_all(&request(self.address, method, path, headers, body))?;
        let (response, reusable) = read_response(&mut connection, method == "HEAD")?;
        self.connection = reusable.then_some(connection);
        Ok(response)
    }

    /// `GET` of a path.
    pub fn fetch(&mut self, path: &str) -> Result<Response, Error> {
        self.send("GET", path, &[], b"")
    }
}

fn connect(address: SocketAddr, timeout: Duration) -> Result<BufReader<TcpStream>, Error> {
    let open = || {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(BufReader::new(stream))
    };
    open().map_err(|e| Error::Unreachable(address, e))
}

/// Whether the other end has neither closed a connection that is idle nor sent anything on it.
fn is_open(connection: &BufReader<TcpStream>) -> bool {
    let stream = connection.get_ref();
    let peek = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    peek().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// The bytes of a request.
fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n");
    if !matches!(method, "GET" | "HEAD") || !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// Reads one answer, and says whether the connection can be used again.
fn read_response(input: &mut impl BufRead, bodyless: bool) -> Result<(Response, bool), Error> {
    let mut status = 100;
    let mut headers = Vec::new();
    while (100..200).contains(&status) {
        status = status_of(&read_line(input)?)?;
        headers = read_headers(input)?;
    }
    let response = Response { status, headers, body: Vec::new() };
    let closes = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    let chunked = response.header("transfer-encoding").is_some_and(|v| v.contains("chunked"));
    let length = response.header("content-length").map(str::parse::<usize>).transpose();
    let length = length.map_err(|_| Error::Malformed("content-length".into()))?;
    let mut known = true;
    let body = if bodyless || matches!(status, 204 | 304) {
        Vec::new()
    } else if chunked {
        read_chunks(input)?
    } else if let Some(length) = length {
        read_exactly(input, length)?
    } else {
        known = false;
        let mut body = Vec::new();
        input.take(BODY_MAX as u64).read_to_end(&mut body)?;
        body
    };
    Ok((Response { body, ..response }, known && !closes))
}

fn status_of(line: &str) -> Result<u16, Error> {
    let bad = || Error::Malformed(format!("status line {line:?}"));
    let mut words = line.split(' ');
    let version = words.next().filter(|word| word.starts_with("HTTP/1."));
    let status = words.next().and_then(|word| word.parse().ok());
    version.and(status).filter(|status| (100..600).contains(status)).ok_or_else(bad)
}

fn read_headers(input: &mut impl BufRead) -> Result<Vec<(String, String)>, Error> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(input)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) =
            line.split_once(':').ok_or_else(|| Error::Malformed(format!("header {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        if headers.len() > HEADERS_MAX {
            return Err(Error::Malformed("too many headers".into()));
        }
    }
}

/// A line without its end; the end of the stream is an error, for every line is owed.
fn read_line(input: &mut impl BufRead) -> Result<String, Error> {
    let mut line = Vec::new();
    input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(Error::Lost(io::ErrorKind::UnexpectedEof.into()));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| Error::Malformed("head is not UTF-8".into()))
}

fn read_exactly(input: &mut impl BufRead, length: usize) -> Result<Vec<u8>, Error> {
    if length > BODY_MAX {
        return Err(Error::Malformed(format!("body of {length} bytes")));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(input: &mut impl BufRead) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    loop {
        let line = read_line(input)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16)
            .map_err(|_| Error::Malformed(format!("chunk size {line:?}")))?;
        if size == 0 {
            read_headers(input)?;
            return Ok(body);
        }
        if size > BODY_MAX - body.len() {
            return Err(Error::Malformed("body too large".into()));
        }
        body.extend(read_exactly(input, size)?);
        read_line(input)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn read(mut bytes: &[u8]) -> Result<(Response, bool), Error> {
        read_response(&mut bytes, false)
    }

    #[test]
    fn bodies_come_by_length_by_chunks_or_to_the_end() {
        let (response, reusable) =
            read(b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((response.status, &response.body[..], reusable), (200, &b"hi"[..], true));
        assert_eq!(response.header("etag"), Some("\"x\""));
        let (response, reusable) = read(
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
              3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!((response.status, &response.body[..], reusable), (503, &b"abcde"[..], false));
        let (response, reusable) = read(b"HTTP/1.1 200 OK\r\n\r\nall of it").unwrap();
        assert_eq!((&response.body[..], reusable), (&b"all of it"[..], false));
        let (response, reusable) =
            read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 OK\r\n\r\n").unwrap();
        assert_eq!((response.status, reusable), (204, true));
    }

    #[test]
    fn what_is_cut_off_is_lost_and_what_is_not_http_is_malformed() {
        assert!(matches!(read(b""), Err(Error::Lost(_))));
        assert!(matches!(read(b"HTTP/1.1 200 OK\r\n"), Err(Error::Lost(_))));
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi";
        assert!(matches!(read(cut), Err(Error::Lost(_))));
        assert!(matches!(read(b"SSH-2.0\r\n"), Err(Error::Malformed(_))));
        let chunk = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
        assert!(matches!(read(chunk), Err(Error::Malformed(_))));
        let huge = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
        assert!(matches!(read(huge), Err(Error::Malformed(_))));
    }

    #[test]
    fn a_connection_is_kept_and_a_request_goes_out_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut input = BufReader::new(listener.accept().unwrap().0);
            let mut heads = Vec::new();
            for _ in 0..2 {
                heads.push(read_line(&mut input).unwrap());
                let headers = read_headers(&mut input).unwrap();
                let length = headers.iter().find(|(name, _)| name == "content-length");
                read_exactly(&mut input, length.map_or(0, |(_, v)| v.parse().unwrap())).unwrap();
                input
                    .get_mut()
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    .unwrap();
            }
            heads
        });
        let mut client = Client::new(address, Duration::from_secs(10));
        assert_eq!(client.send("POST", "/a", &[("x-y", "z")], b"[1]").unwrap().status, 200);
        assert_eq!(client.fetch("/b").unwrap().json().unwrap(), serde_json::json!({}));
        assert_eq!(server.join().unwrap(), ["POST /a HTTP/1.1", "GET /b HTTP/1.1"]);
        // What the server has closed is not used again: nothing is lost in it.
        assert!(matches!(client.fetch("/c"), Err(Error::Unreachable(..))));
    }
}
