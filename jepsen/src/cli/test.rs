//! `jepsen test`: a run of real processes under faults.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::real::node::Program;
use crate::real::{Fault, Machine, Outcome, Plan, can_mount, run};
use crate::report::Operations;
use crate::workloads;

/// Runs real nodes under faults, and judges what clients saw.
#[derive(Debug, Args)]
#[command(after_help = format!("Nemeses:\n{}", Fault::help()))]
pub(super) struct Test {
    /// What clients do
    #[arg(long, default_value = "g-set")]
    workload: String,
    /// Which faults are made: names by commas, none, or all that this machine allows
    #[arg(long, default_value = "none")]
    nemesis: String,
    /// Regions over which the nodes are dealt out
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    regions: u8,
    /// Nodes in all
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=25))]
    nodes: u8,
    /// Seconds that clients work and faults are made
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time_limit: u64,
    /// Operations a second, of all clients
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Clients
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    concurrency: u16,
    /// What operations and faults are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of quiet before nodes are compared
    #[arg(long, default_value_t = 10)]
    quiet_seconds: u64,
    /// Folder of the run; target/jepsen/<workload>-<nemesis>-<seed> without it
    #[arg(long)]
    out: Option<PathBuf>,
    /// A binary of the product; this program's own copy without it
    #[arg(long)]
    atoll: Option<PathBuf>,
}

impl Test {
    /// Whether the run was good.
    pub(super) fn run(self) -> Result<bool> {
        let plan = self.plan()?;
        let outcome = run(&plan)?;
        print(&plan, &outcome);
        Ok(outcome.is_good())
    }

    fn plan(self) -> Result<Plan> {
        let names: Vec<&str> = workloads::ALL.iter().map(|(name, _)| *name).collect();
        ensure!(
            names.contains(&self.workload.as_str()),
            "no workload {:?}; there are {}",
            self.workload,
            names.join(", ")
        );
        ensure!(self.rate > 0.0 && self.rate.is_finite(), "--rate must be above 0");
        let (nodes, regions) = (usize::from(self.nodes), usize::from(self.regions));
        ensure!(regions <= nodes, "{regions} regions need as many nodes: give more by --nodes");
        let mounts = can_mount();
        let faults = Fault::parse_list(&self.nemesis, &Machine { mounts, nodes, regions })?;
        let (workload, seed) = (self.workload, self.seed);
        let named = format!("{workload}-{}-{seed}", self.nemesis.replace(',', "+"));
        let program = match self.atoll {
            Some(path) => Program::at(path),
            None => Program::within(std::env::current_exe().context("this program's path")?),
        };
        Ok(Plan {
            workload,
            faults,
            regions,
            nodes,
            time_limit: Duration::from_secs(self.time_limit),
            rate: self.rate,
            concurrency: usize::from(self.concurrency),
            seed,
            quiet: Duration::from_secs(self.quiet_seconds),
            directory: self.out.unwrap_or_else(|| PathBuf::from("target/jepsen").join(named)),
            program,
        })
    }
}

/// One screen of what came out.
fn print(plan: &Plan, outcome: &Outcome) {
    let Operations { ok, fail, info } = outcome.operations;
    println!("{} with seed {}: {ok} ok, {fail} failed, {info} unknown", plan.workload, plan.seed);
    let faults: Vec<String> =
        outcome.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let faults = if faults.is_empty() { "none".into() } else { faults.join(", ") };
    println!("faults: {faults}; excused: {}", outcome.excused);
    for (name, verdict) in &outcome.verdicts {
        let word = if verdict.is_good() { "good" } else { "BAD" };
        println!("{name}: {word}, {} judged", verdict.judged);
        verdict.violations.iter().take(10).for_each(|violation| println!("  {violation}"));
        let more = verdict.violations.len().saturating_sub(10);
        if more > 0 {
            println!("  and {more} more");
        }
    }
    println!("{}", plan.directory.display());
}
