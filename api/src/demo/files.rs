//! The demo's directory: certificates, configurations, data, and `demo.json`.
//!
//! Invariant: `demo.json` is replaced whole, so a reader never sees half of it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::layout::Place;
use crate::cli::{Failure, cert};
use crate::config::Config;

/// The cluster's name in certificates.
const CLUSTER: &str = "demo";
/// Memory for hot entities, in MiB: three or more nodes share a laptop.
const CACHE_MB: u64 = 64;
/// Free disk to leave, in MiB: the temporary directory may be a small one.
const RESERVE_MB: u64 = 64;

pub(super) struct Directory {
    path: PathBuf,
    /// Removed with us, unless the directory was named.
    _temporary: Option<TempDir>,
}

impl Directory {
    /// The named directory, created if need be, or a temporary one.
    pub(super) fn open(named: Option<PathBuf>) -> Result<Directory, Failure> {
        let Some(path) = named else {
            let temporary = tempfile::Builder::new().prefix("atoll-demo-").tempdir();
            let temporary = temporary.map_err(Failure::of("temporary directory"))?;
            return Ok(Directory { path: temporary.path().into(), _temporary: Some(temporary) });
        };
        std::fs::create_dir_all(&path).map_err(Failure::of(path.display()))?;
        let path = path.canonicalize().map_err(Failure::of(path.display()))?;
        Ok(Directory { path, _temporary: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The data directory of a node.
    pub(super) fn data(&self, place: &Place) -> PathBuf {
        self.path.join(place.name()).join("data")
    }

    /// What a node prints.
    pub(super) fn log(&self, place: &Place) -> PathBuf {
        self.path.join(place.name()).join("log")
    }

    /// Writes a node's configuration and, the first time, its certificate; says where the former
    /// is.
    pub(super) fn prepare(
        &self,
        place: &Place,
        seeds: Vec<String>,
        translate: Vec<String>,
    ) -> Result<PathBuf, Failure> {
        let home = self.path.join(place.name());
        let certificates = home.join("certificates");
        if !certificates.join("node.pem").exists() {
            cert::issue(&self.path.join("authority"), CLUSTER, &certificates, &place.name())?;
        }
        let mut config = Config::default();
        config.node.name = place.name();
        config.node.region = place.region.into();
        config.node.data = self.data(place);
        config.http.listen = place.address();
        config.replication.listen = place.address();
        config.replication.seeds = seeds;
        config.replication.translate = translate;
        config.replication.certificates = certificates;
        config.cluster.founder = place.founder();
        config.store.cache_mb = CACHE_MB;
        config.store.disk_reserve_mb = RESERVE_MB;
        let path = home.join("atoll.toml");
        std::fs::write(&path, config.to_toml()).map_err(Failure::of(path.display()))?;
        Ok(path)
    }

    /// Replaces `demo.json`.
    pub(super) fn publish(&self, contents: &Value) -> Result<(), Failure> {
        let path = self.path.join("demo.json");
        let next = self.path.join("demo.json.next");
        std::fs::write(&next, format!("{contents:#}\n")).map_err(Failure::of(next.display()))?;
        std::fs::rename(&next, &path).map_err(Failure::of(path.display()))
    }
}
