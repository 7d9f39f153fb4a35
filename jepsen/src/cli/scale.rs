//! How large a run is: what `jepsen test` and `jepsen matrix` have in common.

use std::path::PathBuf;

use clap::Args;

/// How large a run is, and of what.
#[derive(Clone, Debug, Args)]
pub(super) struct Scale {
    /// Regions over which the nodes are dealt out
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(super) regions: u8,
    /// Nodes in all
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=25))]
    pub(super) nodes: u8,
    /// Seconds that clients work and faults are made
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) time_limit: u64,
    /// Operations a second, of all clients
    #[arg(long, default_value_t = 100.0)]
    pub(super) rate: f64,
    /// Clients
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(super) concurrency: u16,
    /// What operations and faults are drawn from
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Seconds of quiet before nodes are compared
    #[arg(long, default_value_t = 10)]
    pub(super) quiet_seconds: u64,
    /// A binary of the product; this program's own copy without it
    #[arg(long)]
    pub(super) atoll: Option<PathBuf>,
}

impl Scale {
    /// The same as arguments; the seed is left to whoever makes several runs.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--regions={}", self.regions),
            format!("--nodes={}", self.nodes),
            format!("--time-limit={}", self.time_limit),
            format!("--rate={}", self.rate),
            format!("--concurrency={}", self.concurrency),
            format!("--quiet-seconds={}", self.quiet_seconds),
        ];
        arguments.extend(self.atoll.iter().map(|path| format!("--atoll={}", path.display())));
        arguments
    }
}
