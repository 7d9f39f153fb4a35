//! `atoll cert`: the cluster's authority and its nodes' certificates.
//!
//! Invariant: an authority that is there is used, never replaced: its nodes would no longer know
//! each other.

use std::path::{Path, PathBuf};

use atoll_replication::transport::certificates::Authority;
use clap::Args;

use super::Failure;

/// Arguments of `cert`.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory of the authority, ca.pem and ca.key; created if it has none. Keep it away from
    /// the nodes: who has ca.key can add nodes
    #[arg(long, default_value = "authority")]
    authority: PathBuf,
    /// Name of the cluster; only nodes of one cluster talk to each other
    #[arg(long, default_value = "atoll")]
    cluster: String,
    /// Name of the node; without it only the authority is created
    #[arg(long)]
    node: Option<String>,
    /// Directory for the node's ca.pem, node.pem and node.key; by default its name
    #[arg(long, requires = "node")]
    directory: Option<PathBuf>,
}

/// Creates what was asked for.
pub fn run(options: Options) -> Result<(), Failure> {
    let authority = &options.authority;
    match options.node {
        Some(node) => {
            let directory = options.directory.unwrap_or_else(|| PathBuf::from(&node));
            issue(authority, &options.cluster, &directory, &node)?;
            println!("{}", directory.display());
        }
        None => {
            open(authority, &options.cluster)?;
            println!("{}", authority.display());
        }
    }
    Ok(())
}

/// Writes a certificate for `node` to `directory`, from the authority in `authority`, which is
/// created if it is not there.
pub fn issue(authority: &Path, cluster: &str, directory: &Path, node: &str) -> Result<(), Failure> {
    let identity = open(authority, cluster)?.issue(node).map_err(failed)?;
    std::fs::create_dir_all(directory).map_err(Failure::of(directory.display()))?;
    identity.save(directory).map_err(failed)
}

fn open(directory: &Path, cluster: &str) -> Result<Authority, Failure> {
    if directory.join("ca.key").exists() {
        let authority = Authority::open(directory).map_err(failed)?;
        if authority.cluster() != cluster {
            return Err(Failure::failed(format!(
                "{} is the authority of cluster {:?}, not of {cluster:?}",
                directory.display(),
                authority.cluster()
            )));
        }
        return Ok(authority);
    }
    let authority = Authority::create(cluster).map_err(failed)?;
    std::fs::create_dir_all(directory).map_err(Failure::of(directory.display()))?;
    authority.save(directory).map_err(failed)?;
    Ok(authority)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}
