//! One etcd key a region, which holds who formed it.
//!
//! Invariants: it is created by a transaction on its not being there, and changed by one on the
//! revision that was read. It has no lease: it outlives every node.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Failure;
use super::super::formation::Held;
use super::{Bytes, Etcd, Number, Range};

/// The key of a region.
#[derive(Clone, Debug)]
pub(in super::super) struct Key {
    etcd: Etcd,
    name: String,
}

#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    succeeded: bool,
}

impl Key {
    pub(in super::super) fn new(etcd: Etcd, region: &str) -> Self {
        let name = format!("{}/regions/{region}", etcd.prefix);
        Self { etcd, name }
    }

    /// For messages.
    pub(in super::super) fn title(&self) -> String {
        format!("etcd key {}", self.name)
    }

    fn key(&self) -> Bytes {
        Bytes::of(&self.name)
    }

    /// What it holds; `None`: it is not there.
    pub(in super::super) async fn read(&self) -> Result<Option<Held>, Failure> {
        let range: Range = self.etcd.ask("/v3/kv/range", &json!({ "key": self.key() })).await?;
        Ok(range.kvs.into_iter().next().map(|stored| Held {
            text: stored.value.text(),
            version: stored.mod_revision.0.to_string(),
        }))
    }

    /// Creates it; `false`: it is there.
    pub(in super::super) async fn create(&self, text: &str) -> Result<bool, Failure> {
        let absent = json!({
            "key": self.key(), "target": "CREATE", "result": "EQUAL", "create_revision": "0",
        });
        self.put_if(absent, text).await
    }

    /// Replaces what was read; `false`: it has changed since.
    pub(in super::super) async fn replace(&self, text: &str, held: &Held) -> Result<bool, Failure> {
        let revision = Number(held.version.parse().unwrap_or(-1));
        let same = json!({
            "key": self.key(), "target": "MOD", "result": "EQUAL", "mod_revision": revision,
        });
        self.put_if(same, text).await
    }

    async fn put_if(&self, condition: Value, text: &str) -> Result<bool, Failure> {
        let put = json!({ "request_put": { "key": self.key(), "value": Bytes::of(text) } });
        let transaction = json!({ "compare": [condition], "success": [put] });
        let done: Done = self.etcd.ask("/v3/kv/txn", &transaction).await?;
        Ok(done.succeeded)
    }
}
