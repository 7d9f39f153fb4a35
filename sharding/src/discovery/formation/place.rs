//! Where a region's record is kept: a file, a ConfigMap, an etcd key; or with another node.
//!
//! Invariant: every place creates only what is absent, and replaces only what it was shown.

use std::path::PathBuf;

use super::super::Failure;
use super::super::etcd::{Etcd, Key};
use super::super::kubernetes::{Api, ConfigMap};
use super::{Held, file};

/// Where a region's record is kept.
#[derive(Clone, Debug)]
pub struct Place(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Elsewhere,
    File(PathBuf),
    ConfigMap(ConfigMap),
    Key(Key),
}

impl Place {
    /// Another node is named to form the region.
    pub fn elsewhere() -> Self {
        Self(Kind::Elsewhere)
    }

    /// This node is named to form the region; it keeps the record in this file.
    pub fn file(path: PathBuf) -> Self {
        Self(Kind::File(path))
    }

    /// The ConfigMap `<prefix>-<region>`.
    pub fn config_map(api: Api, prefix: &str, region: &str) -> Self {
        Self(Kind::ConfigMap(ConfigMap::new(api, format!("{prefix}-{region}"))))
    }

    /// The etcd key `<prefix>/regions/<region>`.
    pub fn etcd(etcd: Etcd, region: &str) -> Self {
        Self(Kind::Key(Key::new(etcd, region)))
    }

    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.0, Kind::Elsewhere)
    }

    /// For messages.
    pub(super) fn title(&self) -> String {
        match &self.0 {
            Kind::Elsewhere => "the node named by `cluster.founder`".into(),
            Kind::File(path) => path.display().to_string(),
            Kind::ConfigMap(map) => map.title(),
            Kind::Key(key) => key.title(),
        }
    }

    /// What it holds; `None`: nothing.
    pub(super) async fn read(&self) -> Result<Option<Held>, Failure> {
        match &self.0 {
            Kind::Elsewhere => Ok(None),
            Kind::File(path) => file::read(path),
            Kind::ConfigMap(map) => map.read().await,
            Kind::Key(key) => key.read().await,
        }
    }

    /// Puts a record there if there is none; `false`: there is one.
    pub(super) async fn create(&self, text: &str) -> Result<bool, Failure> {
        match &self.0 {
            Kind::Elsewhere => Ok(false),
            Kind::File(path) => file::create(path, text),
            Kind::ConfigMap(map) => map.create(text).await,
            Kind::Key(key) => key.create(text).await,
        }
    }

    /// Replaces what was read; `false`: it has changed since.
    pub(super) async fn replace(&self, text: &str, held: &Held) -> Result<bool, Failure> {
        match &self.0 {
            Kind::Elsewhere => Ok(false),
            Kind::File(path) => file::replace(path, text, held),
            Kind::ConfigMap(map) => map.replace(text, held).await,
            Kind::Key(key) => key.replace(text, held).await,
        }
    }
}
