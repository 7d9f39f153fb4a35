//! `atoll cert`: the cluster's authority and its nodes' certificates.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;

/// Arguments of `cert`.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory to write ca.pem, ca.key, node.pem and node.key to; an authority found there is
    /// used again
    #[arg(long, default_value = "certificates")]
    directory: PathBuf,
    /// Name of the cluster; only nodes of one cluster talk to each other
    #[arg(long, default_value = "atoll")]
    cluster: String,
    /// Name of the node; without it only the authority is created
    #[arg(long)]
    node: Option<String>,
}

/// Creates what was asked for.
pub fn run(options: Options) -> Result<(), Failure> {
    let directory = options.directory;
    issue(&directory, &options.cluster, options.node.as_deref())?;
    println!("{}", directory.display());
    Ok(())
}

/// Creates the authority in `directory` unless it is there, and a node's certificate from it.
pub fn issue(directory: &Path, cluster: &str, node: Option<&str>) -> anyhow::Result<()> {
    anyhow::bail!("not wired yet: {} {cluster} {node:?}", directory.display())
}
