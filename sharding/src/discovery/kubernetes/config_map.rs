//! One ConfigMap a region, which holds who formed it.
//!
//! Invariants: it is created by POST, which the server refuses if it is there, and changed by PUT
//! with the version that was read, which the server refuses if it is another by now. Labels and
//! other keys that somebody added stay.

use std::collections::BTreeMap;

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::Failure;
use super::super::formation::Held;
use super::Api;

/// The key of the record in the ConfigMap's data.
const RECORD: &str = "record";
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;

/// A ConfigMap by name.
#[derive(Clone, Debug)]
pub(in super::super) struct ConfigMap {
    api: Api,
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    api_version: String,
    kind: String,
    metadata: Meta,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl ConfigMap {
    pub(in super::super) fn new(api: Api, name: String) -> Self {
        Self { api, name }
    }

    /// For messages.
    pub(in super::super) fn title(&self) -> String {
        format!("ConfigMap {} in namespace {}", self.name, self.api.namespace)
    }

    /// What it holds; `None`: it is not there.
    pub(in super::super) async fn read(&self) -> Result<Option<Held>, Failure> {
        let path = self.path();
        let object: Object = match self.api.server.ask(Method::GET, &path, None::<&()>).await {
            Ok(object) => object,
            Err(Failure::Refused { status: NOT_FOUND, .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let missing = || self.api.server.odd(format!("{} has no key {RECORD}", self.title()));
        let text = object.data.get(RECORD).ok_or_else(missing)?.clone();
        let version = serde_json::to_string(&object).map_err(|e| self.api.server.odd(e))?;
        Ok(Some(Held { text, version }))
    }

    /// Creates it; `false`: it is there.
    pub(in super::super) async fn create(&self, text: &str) -> Result<bool, Failure> {
        let labels = serde_json::json!({ "app.kubernetes.io/part-of": "atoll" });
        let object = Object {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            metadata: Meta {
                name: self.name.clone(),
                resource_version: String::new(),
                rest: Map::from_iter([("labels".to_owned(), labels)]),
            },
            data: BTreeMap::from([(RECORD.to_owned(), text.to_owned())]),
            rest: Map::new(),
        };
        let path = self.api.path("configmaps");
        done(self.api.server.ask::<Value>(Method::POST, &path, Some(&object)).await)
    }

    /// Replaces what was read; `false`: it has changed since.
    pub(in super::super) async fn replace(&self, text: &str, held: &Held) -> Result<bool, Failure> {
        // The whole object as it was read, its version included: that is what the server compares.
        let object = serde_json::from_str(&held.version);
        let mut object: Object = object.map_err(|error| self.api.server.odd(error))?;
        object.data.insert(RECORD.to_owned(), text.to_owned());
        done(self.api.server.ask::<Value>(Method::PUT, &self.path(), Some(&object)).await)
    }

    fn path(&self) -> String {
        self.api.path(&format!("configmaps/{}", self.name))
    }
}

/// Whether it was done, or somebody else was first.
fn done(answer: Result<Value, Failure>) -> Result<bool, Failure> {
    match answer {
        Ok(_) => Ok(true),
        Err(Failure::Refused { status: CONFLICT, .. }) => Ok(false),
        Err(failure) => Err(failure),
    }
}
