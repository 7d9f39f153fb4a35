//! `jepsen test`: a run of real processes under faults.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::scale::Scale;
use crate::matrix;
use crate::real::node::{self, Program};
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
    #[command(flatten)]
    scale: Scale,
    /// Folder of the run; target/jepsen/<workload>-<nemesis>-<seed> without it
    #[arg(long)]
    out: Option<PathBuf>,
    /// The first of the ports that nodes take; those of runs side by side must be far apart
    #[arg(long, value_parser = clap::value_parser!(u16).range(1_024..=32_000))]
    first_port: Option<u16>,
    /// A deliberate bug that the nodes have, to see that it is caught
    #[cfg(feature = "mutants")]
    #[arg(long, value_parser = super::mutants::parse_mutant)]
    mutant: Option<atoll_store::mutant::Mutant>,
}

impl Test {
    /// Whether the run was good.
    pub(super) fn run(self) -> Result<bool> {
        self.first_port.into_iter().for_each(node::take_ports_from);
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
        let options = self.options();
        let Test { workload, nemesis, scale, out, .. } = self;
        ensure!(scale.rate > 0.0 && scale.rate.is_finite(), "--rate must be above 0");
        let (nodes, regions) = (usize::from(scale.nodes), usize::from(scale.regions));
        ensure!(regions <= nodes, "{regions} regions need as many nodes: give more by --nodes");
        let mounts = can_mount();
        let faults = Fault::parse_list(&nemesis, &Machine { mounts, nodes, regions })?;
        ensure!(
            matrix::is_run(&workload, &nemesis),
            "{workload} knows a client by the one node that it asks, and with {nemesis} nodes come \
             and go: choose another workload, or other faults"
        );
        let named = format!("{workload}-{}-{}", nemesis.replace(',', "+"), scale.seed);
        let program = match scale.atoll {
            Some(path) => Program::at(path),
            None => Program::within(std::env::current_exe().context("this program's path")?),
        };
        Ok(Plan {
            workload,
            faults,
            regions,
            nodes,
            time_limit: Duration::from_secs(scale.time_limit),
            rate: scale.rate,
            concurrency: usize::from(scale.concurrency),
            seed: scale.seed,
            quiet: Duration::from_secs(scale.quiet_seconds),
            directory: out.unwrap_or_else(|| PathBuf::from("target/jepsen").join(named)),
            program,
            options,
        })
    }

    /// Environment of the nodes.
    fn options(&self) -> Vec<(String, String)> {
        #[cfg(feature = "mutants")]
        if let Some(mutant) = self.mutant {
            return vec![("ATOLL_MUTANT".into(), mutant.name().into())];
        }
        Vec::new()
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
