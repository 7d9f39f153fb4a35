//! `atoll serve`: one node from its configuration to its end.

use std::future::Future;

use crate::config::Config;

/// Runs a node until `shutdown` is done, then drains it.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    drop((config, shutdown));
    anyhow::bail!("not wired yet")
}
