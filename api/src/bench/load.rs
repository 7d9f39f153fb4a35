//! A cheap load generator: requests built beforehand, answers parsed just enough.
//!
//! Invariants:
//! 1. Closed loop: a connection sends its next request when the last answer is complete.
//! 2. The first part of the time warms up and is not counted.
//! 3. A status of 400 and above, or a broken connection, fails the whole run: a rate of refusals
//!    is no figure.
//!
//! Left out: pipelining and chunked answers, which neither product nor baseline use here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cli::Failure;

/// Read at once; most answers are smaller.
const CHUNK: usize = 16 << 10;

/// What to send, and how.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) connections: usize,
    pub(super) length: Duration,
    /// Whole requests; each connection picks among them by chance.
    pub(super) requests: Arc<Vec<Vec<u8>>>,
}

/// What came out of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// Requests a second.
    pub(super) rate: f64,
    /// Latencies in milliseconds, sorted.
    latencies: Vec<f32>,
}

impl Measured {
    /// The latency that this part of the requests stayed under, in milliseconds.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        quantile(&self.latencies, part)
    }

    /// Two runs of one thing.
    pub(super) fn and(mut self, other: Measured) -> Measured {
        self.rate = (self.rate + other.rate) / 2.0;
        self.latencies.extend(other.latencies);
        self.latencies.sort_by(f32::total_cmp);
        self
    }
}

/// A quantile of sorted values.
pub(super) fn quantile(sorted: &[f32], part: f64) -> Option<f64> {
    let index = ((sorted.len() as f64 * part) as usize).min(sorted.len().checked_sub(1)?);
    Some(f64::from(sorted[index]))
}

/// A whole request.
pub(super) fn request(method: Method, path: &str, body: Option<&Value>) -> Vec<u8> {
    preferring("", method, path, body)
}

/// A request that prefers an answer without the value.
pub(super) fn minimal(method: Method, path: &str, body: Option<&Value>) -> Vec<u8> {
    preferring("prefer: return=minimal\r\n", method, path, body)
}

fn preferring(prefer: &str, method: Method, path: &str, body: Option<&Value>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: bench\r\n");
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        text.push_str("content-type: application/json\r\n");
        text.push_str(prefer);
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    format!("{text}\r\n{body}").into_bytes()
}

impl Load {
    /// Loads a server for the given time, after a fifth of it to warm up.
    pub(super) async fn run(&self, address: SocketAddr) -> Result<Measured, Failure> {
        let counted = Instant::now() + self.length / 5;
        let end = counted + self.length;
        let mut tasks = tokio::task::JoinSet::new();
        for connection in 0..self.connections {
            let (load, seed) = (self.clone(), connection as u64 + 1);
            tasks.spawn(async move { load.connection(address, seed, counted, end).await });
        }
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let done = done.map_err(|e| Failure::failed(e.to_string()))?;
            latencies.extend(done.map_err(|e| Failure::failed(format!("{address}: {e}")))?);
        }
        let rate = latencies.len() as f64 / self.length.as_secs_f64();
        latencies.sort_by(f32::total_cmp);
        Ok(Measured { rate, latencies })
    }

    async fn connection(
        &self,
        address: SocketAddr,
        seed: u64,
        counted: Instant,
        end: Instant,
    ) -> io::Result<Vec<f32>> {
        let mut connection = Connection::open(address).await?;
        let mut latencies = Vec::new();
        let mut chance = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        loop {
            // xorshift64: only spreads requests over keys.
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            let request = &self.requests[(chance % self.requests.len() as u64) as usize];
            let sent = Instant::now();
            connection.exchange(request).await?;
            let now = Instant::now();
            if now >= end {
                return Ok(latencies);
            }
            if now >= counted {
                latencies.push((now - sent).as_secs_f32() * 1000.0);
            }
        }
    }
}

/// One kept connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(CHUNK) })
    }

    /// Sends one request and gives the body of its answer.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let mut whole = None;
        loop {
            if whole.is_none() {
                whole = head(&self.buffer)?;
            }
            if let Some(head) = whole
                && self.buffer.len() >= head.start + head.length
            {
                let body = &self.buffer[head.start..head.start + head.length];
                if head.status >= 400 {
                    let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
                    return Err(io::Error::other(format!("status {}: {text}", head.status)));
                }
                return Ok(body);
            }
            self.buffer.reserve(CHUNK);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Head {
    status: u16,
    /// Where the body starts, and its length.
    start: usize,
    length: usize,
}

/// The head of an answer, once it is complete.
fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(io::Error::other)?;
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some(Head { status, start: end + 4, length })),
        _ => Err(io::Error::other("an answer without status or content-length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n").expect("fine"), None);
        let whole = head(b"HTTP/1.1 404 No\r\nA: b\r\nContent-Length: 2\r\n\r\nok").expect("fine");
        assert_eq!(whole, Some(Head { status: 404, start: 44, length: 2 }));
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn quantiles() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(3.0));
        assert_eq!(quantile(&[1.0, 2.0], 1.0), Some(2.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
