//! What is asked of an etcd v3, through its JSON gateway: keys, leases, watches.
//!
//! Keys are `<prefix>/nodes/<node id>`, one a node, under a lease; and `<prefix>/regions/<region>`,
//! which holds who formed the region.
//!
//! Invariants: any endpoint may answer; after a failure the next one is asked. Bytes are Base64
//! and 64-bit numbers are text on this wire, as protobuf's JSON wants it.
//!
//! Left out: users and passwords, client certificates, gRPC.

mod key;
mod nodes;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) use key::Key;

use super::Failure;
use super::http::{Lines, Server};

/// How long a node that died stays listed: no longer than others take to forget it, no shorter
/// than an election of etcd with some to spare.
const LEASE: Duration = Duration::from_secs(30);

/// An etcd cluster, and where in it.
#[derive(Clone, Debug)]
pub struct Etcd {
    servers: Vec<Server>,
    prefix: String,
    lease: Duration,
    /// Which server to ask; shared, so that all learn from one failure.
    turn: Arc<AtomicUsize>,
}

impl Etcd {
    /// The etcd with these endpoints (URLs). `authority`: PEM file of who signs the certificates
    /// of `https` endpoints.
    pub fn new(
        endpoints: &[String],
        prefix: &str,
        authority: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let server = |url: &String| Server::new(url, authority.clone(), None);
        let servers = endpoints.iter().map(server).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            let why = "there is no endpoint".to_owned();
            return Err(Failure::Url { url: String::new(), why });
        }
        let prefix = prefix.trim_end_matches('/').to_owned();
        Ok(Self { servers, prefix, lease: LEASE, turn: Arc::default() })
    }

    /// Registers under leases of this length, whole seconds, instead of 30 s.
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    fn server(&self) -> &Server {
        self.server_at(self.turn.load(Ordering::Relaxed))
    }

    fn server_at(&self, turn: usize) -> &Server {
        &self.servers[turn % self.servers.len()]
    }

    /// The server of this turn failed: the next one is asked from now on. Who finds the same one
    /// dead at the same time does not turn on as well, or both would come round to it again.
    fn failed(&self, turn: usize) {
        let next = turn.wrapping_add(1);
        // An error says that somebody else has turned on.
        let _ = self.turn.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let turn = self.turn.load(Ordering::Relaxed);
        let answer = self.server_at(turn).ask(Method::POST, path, Some(body)).await;
        answer.inspect_err(|_| self.failed(turn))
    }

    /// As `ask`, for an answer that comes line by line.
    async fn stream(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<Lines, Failure> {
        let turn = self.turn.load(Ordering::Relaxed);
        let lines = self.server_at(turn).stream(Method::POST, path, Some(body), limit).await;
        lines.inspect_err(|_| self.failed(turn))
    }
}

/// Bytes, as Base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn of(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    /// The end of the range of all keys that begin so.
    fn end(&self) -> Self {
        let mut end = self.0.clone();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        Self(end)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(Error::custom)
    }
}

/// A 64-bit number, as text. Zero is left out by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Number(i64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(Error::custom)
    }
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    revision: Number,
}

/// A key as it is stored.
#[derive(Deserialize)]
struct Stored {
    key: Bytes,
    #[serde(default)]
    value: Bytes,
    #[serde(default)]
    mod_revision: Number,
}

#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<Stored>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_is_protobufs_json() {
        assert_eq!(
            serde_json::to_string(&(Bytes::of("/a"), Number(-7))).unwrap(),
            r#"["L2E=","-7"]"#
        );
        let read: (Bytes, Number) = serde_json::from_str(r#"["L2E=","-7"]"#).unwrap();
        assert_eq!(read, (Bytes::of("/a"), Number(-7)));
        assert!(serde_json::from_str::<Bytes>("\"*\"").is_err());
    }

    #[test]
    fn ranges_end_behind_all_keys_that_begin_so() {
        assert_eq!(Bytes::of("/a/").end(), Bytes::of("/a0"));
        assert_eq!(Bytes(vec![1, 255, 255]).end(), Bytes(vec![2]));
        assert_eq!(Bytes(vec![255]).end(), Bytes(vec![]), "to the end of all keys");
    }

    #[test]
    fn the_next_endpoint_follows_a_failure() {
        let urls = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        let etcd = Etcd::new(&urls, "/atoll/", None).unwrap();
        assert_eq!((etcd.server().url(), &*etcd.prefix), ("http://a:1", "/atoll"));
        (0..2).for_each(|_| etcd.clone().failed(0));
        assert_eq!(etcd.server().url(), "http://b:1", "two who found the same one dead");
        etcd.failed(1);
        assert_eq!(etcd.server().url(), "http://a:1");
        assert!(Etcd::new(&[], "/atoll", None).is_err());
    }
}
