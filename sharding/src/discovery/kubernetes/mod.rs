//! What is asked of a Kubernetes API server: pods by label, and one ConfigMap a region.
//!
//! The rights that it takes, in the namespace: `list` and `watch` on pods; `create` on ConfigMaps,
//! `get` and `update` on those of the regions.
//!
//! Left out: paging of lists (a region has at most some hundred pods), other resources.

mod config_map;
mod pods;

use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

pub(super) use config_map::ConfigMap;
pub use pods::Pods;

use super::Failure;
use super::http::Server;

/// Where the pod's own namespace is mounted.
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// An API server and a namespace.
#[derive(Clone, Debug)]
pub struct Api {
    server: Server,
    namespace: String,
}

impl Api {
    /// The API server at `url`, for one namespace; an empty one is the pod's own. `token` and
    /// `authority` are files; they are read at every request, because they rotate.
    pub fn new(
        url: &str,
        namespace: &str,
        token: PathBuf,
        authority: PathBuf,
    ) -> Result<Self, Failure> {
        let namespace = match namespace {
            "" => std::fs::read_to_string(NAMESPACE)
                .map_err(|source| Failure::File { path: NAMESPACE.into(), source })?,
            given => given.to_owned(),
        };
        let server = Server::new(url, Some(authority), Some(token))?;
        Ok(Self { server, namespace: namespace.trim().to_owned() })
    }

    fn path(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }
}

/// A value in a query.
fn encoded(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}
