//! `jepsen matrix`: every workload under every set of faults, and the table of what came out.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::scale::Scale;
use crate::matrix::{self, Cell, SETS, Series};
use crate::report::Results;
use crate::workloads;

/// Runs every workload under every set of faults, and writes the table into a page.
#[derive(Debug, Args)]
pub(super) struct Matrix {
    /// Makes no runs, but the table of those in these folders, or in folders in these
    #[arg(long, num_args = 1.., value_name = "DIR")]
    from: Vec<PathBuf>,
    /// Only this workload; may be given again
    #[arg(long)]
    workload: Vec<String>,
    /// Only this set of faults: names by commas, as for a test; may be given again
    #[arg(long)]
    nemesis: Vec<String>,
    /// Runs of each, with one seed after another
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Runs at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: u8,
    #[command(flatten)]
    scale: Scale,
    /// Where the folders of runs go
    #[arg(long, default_value = "target/jepsen/matrix")]
    out: PathBuf,
    /// Leaves out what has results there already: goes on after a break
    #[arg(long)]
    resume: bool,
    /// The page, with the markers between which the table goes
    #[arg(long, default_value = matrix::PAGE)]
    page: PathBuf,
}

impl Matrix {
    /// Whether all runs were good.
    pub(super) fn run(self) -> Result<bool> {
        let from = match self.from.is_empty() {
            true => self.make()?,
            false => self.from,
        };
        let rows = matrix::read(&from)?;
        matrix::record(&self.page, &rows)?;
        print!("{}", matrix::runs(&rows));
        Ok(rows.iter().all(|row| row.violations == 0 && row.note.is_empty()))
    }

    /// Makes the runs; answers their folders.
    fn make(&self) -> Result<Vec<PathBuf>> {
        let seconds = self.scale.time_limit + self.scale.quiet_seconds;
        let series = Series {
            program: std::env::current_exe().context("this program's path")?,
            arguments: self.scale.arguments(),
            cells: self.cells()?,
            jobs: self.jobs.into(),
            length: Duration::from_secs(seconds),
            directory: self.out.clone(),
            resume: self.resume,
        };
        let (all, (usual, most)) = (series.cells.len(), series.lengths());
        let minutes = |length: Duration| length.as_secs().div_ceil(60);
        println!(
            "{all} runs, {} at a time: about {} minutes, {} at most",
            self.jobs,
            minutes(usual),
            minutes(most)
        );
        let start = Instant::now();
        series.run(|ended, cell, results| {
            let head = format!("{} [{ended}/{all}]", clock(start));
            println!("{head} {} under {}: {}", cell.workload, cell.nemesis, summary(results));
            if !results.valid {
                println!("    {}", series.folder(cell).display());
            }
        })?;
        Ok(series.cells.iter().map(|cell| series.folder(cell)).collect())
    }

    fn cells(&self) -> Result<Vec<Cell>> {
        let known = || workloads::ALL.iter().map(|(name, _)| *name);
        for name in &self.workload {
            let names = || known().collect::<Vec<_>>().join(", ");
            ensure!(known().any(|one| one == name), "no workload {name:?}; there are {}", names());
        }
        let all = |given: &[String], all: &mut dyn Iterator<Item = &str>| match given.is_empty() {
            true => all.map(str::to_owned).collect(),
            false => given.to_vec(),
        };
        let workloads = all(&self.workload, &mut known());
        // What needs several nodes in each region is left to whoever asks for it.
        let mut usual = SETS.iter().copied().filter(|set| !matrix::needs_more_nodes(set));
        let sets = all(&self.nemesis, &mut usual);
        let mut cells = Vec::new();
        for seed in (0..self.runs).map(|run| self.scale.seed + run) {
            for (nemesis, workload) in
                sets.iter().flat_map(|set| workloads.iter().map(move |workload| (set, workload)))
            {
                if matrix::is_run(workload, nemesis) {
                    let (workload, nemesis) = (workload.clone(), nemesis.clone());
                    cells.push(Cell { workload, nemesis, seed });
                }
            }
        }
        Ok(cells)
    }
}

/// How a run went, in a few words.
fn summary(results: &Results) -> String {
    let faults: u64 = results.faults.values().sum();
    let bad = results.verdicts.iter().filter(|verdict| !verdict.good);
    let bad: Vec<&str> = bad.map(|verdict| verdict.name.as_str()).collect();
    let word = match results.valid {
        true => "good".to_owned(),
        false => format!("BAD: {}", bad.join(", ")),
    };
    format!("{word}; {} operations, {faults} faults", results.operations.total())
}

/// Minutes and seconds since then.
fn clock(since: Instant) -> String {
    let seconds = since.elapsed().as_secs();
    format!("{:3}:{:02}", seconds / 60, seconds % 60)
}
