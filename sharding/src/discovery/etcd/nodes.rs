//! Nodes that register in an etcd: a key under a lease, a list, a watch.
//!
//! Invariants:
//! 1. A node's key lives as long as its lease, and the lease as long as the node renews it. If the
//!    lease is lost (the node was cut off, or somebody revoked it), the node registers anew.
//! 2. The watch begins right behind the list, and resumes right behind the last change seen; if
//!    etcd has compacted what is between, or was set up anew, the list is read again.
//!
//! Left out: taking the key away when a node stops. It goes with its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::{Failure, Found, PAUSE_MIN, Registration, Tries};
use super::{Bytes, Etcd, Header, Number, Range, Stored};

/// So many tries to renew it fit into a lease.
const TRIES: u32 = 3;
/// A watch ends and resumes this often, so that a connection that died silently is noticed.
const WATCH: Duration = Duration::from_secs(60);

/// What a node's key holds.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    address: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    region: String,
}

#[derive(Deserialize)]
struct Lease {
    #[serde(rename = "ID", default)]
    id: Number,
    /// Seconds; left out when the lease is gone.
    #[serde(rename = "TTL", default)]
    ttl: Number,
}

/// What streams wrap their messages in.
#[derive(Deserialize)]
struct Streamed<T> {
    result: Option<T>,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Changes {
    header: Header,
    #[serde(default)]
    events: Vec<Change>,
    /// The watch is over.
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    cancel_reason: String,
    /// Not zero: what was asked for is compacted.
    #[serde(default)]
    compact_revision: Number,
}

#[derive(Deserialize)]
struct Change {
    #[serde(default, rename = "type")]
    kind: Kind,
    kv: Stored,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    #[default]
    Put,
    Delete,
}

/// What is known of the nodes, and up to which revision.
struct Known {
    nodes: BTreeMap<Bytes, String>,
    revision: i64,
}

/// How a watch ended.
enum End {
    /// It may resume.
    Resume,
    /// What it would resume from is compacted, or the etcd is a younger one: list again.
    Lost,
}

impl Known {
    fn put(&mut self, stored: Stored) {
        match serde_json::from_slice::<Entry>(&stored.value.0) {
            Ok(entry) => drop(self.nodes.insert(stored.key, entry.address)),
            Err(error) => {
                tracing::warn!(key = stored.key.text(), %error, "not a node's registration");
                self.nodes.remove(&stored.key);
            }
        }
    }

    fn take(&mut self, change: Change) {
        self.revision = self.revision.max(change.kv.mod_revision.0);
        match change.kind {
            Kind::Put => self.put(change.kv),
            Kind::Delete => drop(self.nodes.remove(&change.kv.key)),
        }
    }
}

impl Etcd {
    fn nodes(&self) -> Bytes {
        Bytes::of(&format!("{}/nodes/", self.prefix))
    }

    /// Asks for ever.
    pub(in super::super) async fn watch(&self, found: &mut Found) {
        let mut known = None;
        loop {
            match self.turn_of_watch(&mut known, found).await {
                // Not at once: a server that ends every watch is not to be asked in a circle.
                Ok(()) => sleep(PAUSE_MIN).await,
                Err(failure) => found.tries.after(&failure).await,
            }
        }
    }

    /// Lists if nothing is known, then watches until the watch ends.
    async fn turn_of_watch(
        &self,
        state: &mut Option<Known>,
        found: &mut Found,
    ) -> Result<(), Failure> {
        if state.is_none() {
            *state = Some(self.list().await?);
        }
        let Some(known) = state else { return Ok(()) };
        found.set(known.nodes.values().cloned().collect());
        let ended = self.follow(known, found).await;
        let again = matches!(ended, Ok(End::Lost)) || ended.as_ref().is_err_and(Failure::is_final);
        if again {
            *state = None;
        }
        ended.map(drop)
    }

    async fn list(&self) -> Result<Known, Failure> {
        let body = json!({ "key": self.nodes(), "range_end": self.nodes().end() });
        let range: Range = self.ask("/v3/kv/range", &body).await?;
        let mut known = Known { nodes: BTreeMap::new(), revision: range.header.revision.0 };
        range.kvs.into_iter().for_each(|stored| known.put(stored));
        Ok(known)
    }

    async fn follow(&self, known: &mut Known, found: &mut Found) -> Result<End, Failure> {
        let body = json!({ "create_request": {
            "key": self.nodes(),
            "range_end": self.nodes().end(),
            "start_revision": Number(known.revision + 1),
        }});
        let server = self.server();
        let mut lines = self.stream("/v3/watch", &body, WATCH).await?;
        while let Some(line) = lines.next::<Streamed<Changes>>().await? {
            let changes = line.result.ok_or_else(|| server.odd(line.error))?;
            let younger = changes.header.revision.0 < known.revision;
            if younger || changes.compact_revision != Number(0) {
                return Ok(End::Lost);
            }
            if changes.canceled {
                return Err(server.odd(format!("watch canceled: {}", changes.cancel_reason)));
            }
            changes.events.into_iter().for_each(|change| known.take(change));
            found.set(known.nodes.values().cloned().collect());
        }
        Ok(End::Resume)
    }

    /// Keeps this node registered, for ever.
    pub(in super::super) async fn register(&self, me: &Registration) {
        let mut tries = Tries::new("registration in etcd");
        let mut lease = None;
        loop {
            match self.turn_of_lease(&mut lease, me).await {
                Ok(()) => {
                    tries.succeeded();
                    sleep(self.lease / TRIES).await;
                }
                Err(failure) => tries.after(&failure).await,
            }
        }
    }

    /// Renews the lease; registers under a new one if there is none any more.
    async fn turn_of_lease(
        &self,
        lease: &mut Option<Number>,
        me: &Registration,
    ) -> Result<(), Failure> {
        if let Some(id) = *lease {
            let answer: Streamed<Lease> =
                self.ask("/v3/lease/keepalive", &json!({ "ID": id })).await?;
            let renewed = answer.result.ok_or_else(|| self.server().odd(answer.error))?;
            if renewed.ttl > Number(0) {
                return Ok(());
            }
            tracing::warn!("the lease in etcd was lost: registers anew");
            *lease = None;
        }
        let ttl = json!({ "TTL": self.lease.as_secs().to_string() });
        let granted: Lease = self.ask("/v3/lease/grant", &ttl).await?;
        let entry =
            Entry { address: me.address.clone(), name: me.name.clone(), region: me.region.clone() };
        let value = serde_json::to_vec(&entry).map_err(|error| self.server().odd(error))?;
        let key = Bytes::of(&format!("{}/nodes/{}", self.prefix, me.node));
        let put = json!({ "key": key, "value": Bytes(value), "lease": granted.id });
        let _: PutAnswer = self.ask("/v3/kv/put", &put).await?;
        *lease = Some(granted.id);
        Ok(())
    }
}

#[derive(Deserialize)]
struct PutAnswer {
    #[serde(rename = "header")]
    _header: Header,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_move_the_set_and_the_revision() {
        let mut known = Known { nodes: BTreeMap::new(), revision: 4 };
        let entry = Bytes::of(r#"{"address":"a:1"}"#);
        let stored =
            |value, revision| Stored { key: Bytes::of("k"), value, mod_revision: Number(revision) };
        known.take(Change { kind: Kind::Put, kv: stored(entry.clone(), 5) });
        assert_eq!((known.nodes.values().next().unwrap().as_str(), known.revision), ("a:1", 5));
        known.take(Change { kind: Kind::Put, kv: stored(Bytes::of("what?"), 6) });
        assert!(known.nodes.is_empty(), "who registers nonsense is not where he was");
        known.take(Change { kind: Kind::Put, kv: stored(entry, 7) });
        known.take(Change { kind: Kind::Delete, kv: stored(Bytes::default(), 8) });
        assert_eq!((known.nodes.len(), known.revision), (0, 8));
    }

    #[test]
    fn messages_leave_out_what_is_zero() {
        let line = r#"{"result":{"header":{"revision":"5"},"events":[{"kv":{"key":"aw=="}}]}}"#;
        let line: Streamed<Changes> = serde_json::from_str(line).unwrap();
        assert!(matches!(line.result.unwrap().events[0].kind, Kind::Put));
        let gone: Streamed<Lease> = serde_json::from_str(r#"{"result":{"ID":"7"}}"#).unwrap();
        assert_eq!(gone.result.unwrap().ttl, Number(0));
    }
}
