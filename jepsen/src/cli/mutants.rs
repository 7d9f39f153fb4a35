//! `jepsen mutants`: deliberate bugs, each of which the simulator must catch.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use super::sim::parse_workload;
use crate::matrix;
use crate::mutants::{Effort, Hunt, hunt, workload};
use atoll_store::mutant::Mutant;

/// Runs the simulator with one deliberate bug after another.
#[derive(Debug, Args)]
pub(super) struct Mutants {
    /// Only this one; may be given again.
    #[arg(long, value_parser = parse_mutant)]
    mutant: Vec<Mutant>,
    /// This workload instead of the best for each.
    #[arg(long, value_parser = parse_workload)]
    workload: Option<&'static str>,
    /// How often each is to be caught, by other seeds each time.
    #[arg(long, default_value_t = 9)]
    tries: u64,
    /// Seeds after which it has got away.
    #[arg(long, default_value_t = 200)]
    most_seeds: u64,
    /// Threads; by default as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Writes the table into a page: docs/testing.md, or another.
    #[arg(long, num_args = 0..=1, default_missing_value = matrix::PAGE)]
    record: Option<PathBuf>,
}

pub(super) fn parse_mutant(name: &str) -> Result<Mutant> {
    let names = || Mutant::ALL.iter().map(|mutant| mutant.name()).collect::<Vec<_>>().join(", ");
    Mutant::parse(name).with_context(|| format!("one of: {}", names()))
}

impl Mutants {
    /// Whether all were caught, in every try.
    pub(super) fn run(self) -> Result<bool> {
        let threads = match self.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let effort = Effort { tries: self.tries, most_seeds: self.most_seeds, threads };
        let all = if self.mutant.is_empty() { Mutant::ALL.to_vec() } else { self.mutant };
        // A seed that breaks off says so itself.
        std::panic::set_hook(Box::new(|_| {}));
        println!("{:<19} {:<5} {:<13} {:>6}  caught by", "mutant", "rule", "workload", "median");
        let mut hunts = Vec::with_capacity(all.len());
        for mutant in all {
            let start = Instant::now();
            let hunt = hunt(mutant, self.workload.unwrap_or_else(|| workload(mutant)), effort);
            show(&hunt, start.elapsed().as_secs_f64());
            hunts.push(hunt);
        }
        drop(std::panic::take_hook());
        if let Some(page) = &self.record {
            let rows: Vec<_> = hunts.iter().map(Hunt::row).collect();
            matrix::record_mutants(page, &rows)?;
        }
        let away: Vec<&str> =
            hunts.iter().filter(|hunt| !hunt.is_caught()).map(|hunt| hunt.mutant.name()).collect();
        println!("\n{} of {} caught in every try", hunts.len() - away.len(), hunts.len());
        if !away.is_empty() {
            println!("GOT AWAY: {}", away.join(", "));
        }
        Ok(away.is_empty())
    }
}

fn show(hunt: &Hunt, seconds: f64) {
    let row = hunt.row();
    let median = row.median_seeds.map_or("never".to_owned(), |seeds| seeds.to_string());
    let judged = match row.median_judged {
        Some(seeds) => format!("{} ({} of {}, median {seeds})", row.judges, row.judged, row.trials),
        None => "no judge".to_owned(),
    };
    println!(
        "{:<19} {:<5} {:<13} {median:>6}  {} of {} tries, {seconds:.0} s: {judged}; inside: {}",
        row.mutant, row.rule, row.workload, row.caught, row.trials, row.inside
    );
}
