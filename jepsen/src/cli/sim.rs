//! `jepsen sim`: simulated clusters under many seeds, or one seed again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::matrix;
use crate::simulator::{self, Coverage, Outcome};
use crate::workloads;

/// From this many seeds on, everything that should happen must have happened.
const ALL_MUST_HAPPEN: usize = 500;
/// What an idle node may send in a second.
const IDLE_BYTES: f64 = 20_000.0;
/// Failing seeds that are shown whole.
const SHOWN: usize = 10;

/// Runs simulated clusters.
#[derive(Debug, Args)]
pub(super) struct Sim {
    /// Seeds, the first and the last: `1..1000`.
    #[arg(long, default_value = "1..100", value_parser = parse_seeds, conflicts_with = "seed")]
    seeds: (u64, u64),
    /// One seed, run twice: shows what it found, and that it repeats itself.
    #[arg(long)]
    seed: Option<u64>,
    /// Worlds whose regions have councils, and whose nodes come and go.
    #[arg(long)]
    councils: bool,
    /// Listens to an idle cluster instead: regions times nodes, `5x20`.
    #[arg(long, value_parser = parse_idle, conflicts_with_all = ["seed", "seeds"])]
    idle: Option<(usize, usize)>,
    /// Replaces so many pods instead, and prints what is left of them: what R9 bounds.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "idle"])]
    replacements: Option<u64>,
    /// Creates and deletes so many entities instead, and prints what is left of them.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "idle", "replacements"])]
    cycles: Option<u64>,
    /// The workload; without it each seed takes its turn of all.
    #[arg(long, value_parser = parse_workload)]
    workload: Option<&'static str>,
    /// Threads; by default as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Where to write the history of `--seed`.
    #[arg(long, requires = "seed")]
    history: Option<PathBuf>,
    /// What to log of `--seed`, with simulated times, on stderr: `info`, or `atoll_sharding=debug`.
    #[arg(long, requires = "seed")]
    log: Option<String>,
    /// Writes what it prints into a page: docs/testing.md, or another.
    #[arg(long, conflicts_with = "seed", num_args = 0..=1, default_missing_value = matrix::PAGE)]
    record: Option<PathBuf>,
}

fn parse_seeds(text: &str) -> Result<(u64, u64)> {
    let (first, last) = text.split_once("..").context("seeds are `first..last`: 1..1000")?;
    let (first, last) = (first.parse()?, last.trim_start_matches('=').parse()?);
    ensure!(first <= last, "the first seed comes before the last: 1..1000");
    Ok((first, last))
}

fn parse_idle(text: &str) -> Result<(usize, usize)> {
    let (regions, nodes) = text.split_once('x').context("regions times nodes: 5x20")?;
    let (regions, nodes) = (regions.parse()?, nodes.parse()?);
    ensure!((1..=8).contains(&regions), "1 to 8 regions: 5x20");
    ensure!((1..=200).contains(&(regions * nodes)), "1 to 200 nodes in all: 5x20");
    Ok((regions, nodes))
}

pub(super) fn parse_workload(name: &str) -> Result<&'static str> {
    let known = workloads::ALL.iter().map(|(known, _)| *known);
    let names = || workloads::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    known.into_iter().find(|known| *known == name).with_context(|| format!("one of: {}", names()))
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    runs: usize,
    simulated_ms: u64,
    events: u64,
    messages: u64,
    operations: usize,
    by_workload: BTreeMap<&'static str, usize>,
    coverage: Coverage,
    failed: BTreeMap<u64, (&'static str, Vec<String>)>,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.simulated_ms += outcome.simulated_ms;
        self.events += outcome.events;
        self.messages += outcome.messages;
        self.operations += outcome.history.pairs().len();
        *self.by_workload.entry(outcome.workload).or_default() += 1;
        self.coverage.add(&outcome.coverage);
        if !outcome.violations.is_empty() {
            // At once, as a long sweep may be broken off.
            eprintln!("seed {} fails", outcome.seed);
            self.failed.insert(outcome.seed, (outcome.workload, outcome.violations));
        }
    }
}

impl Sim {
    /// Whether all is well.
    pub(super) fn run(self) -> Result<bool> {
        if let Some(count) = self.replacements {
            return Ok(wear(&simulator::replacements(count), |wear| wear.vectors + wear.items));
        }
        if let Some(count) = self.cycles {
            return Ok(wear(&simulator::cycles(count), |wear| wear.records));
        }
        match (self.idle, self.seed) {
            (Some((regions, nodes)), _) => Ok(listen(regions, nodes)),
            (None, Some(seed)) => self.replay(seed),
            (None, None) => self.sweep(),
        }
    }

    fn world(&self) -> fn(u64, Option<&'static str>) -> Outcome {
        if self.councils { simulator::run_councils } else { simulator::run }
    }

    fn replay(self, seed: u64) -> Result<bool> {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(
                self.log.as_deref().unwrap_or("off"),
            ))
            .with_writer(std::io::stderr)
            .without_time()
            .finish();
        let run = || self.world()(seed, self.workload);
        let outcome = tracing::subscriber::with_default(subscriber, run);
        let again = self.world()(seed, self.workload);
        println!("seed {seed}, {}: trace {}", outcome.workload, outcome.trace);
        if let Some(path) = &self.history {
            std::fs::write(path, outcome.history.to_edn())
                .with_context(|| format!("{}", path.display()))?;
        }
        for (judge, verdict) in &outcome.verdicts {
            println!("{judge}: {} judged, {:?}", verdict.judged, verdict.counted);
        }
        outcome.violations.iter().for_each(|violation| println!("VIOLATION {violation}"));
        let repeats = outcome.trace == again.trace;
        println!("{}", if repeats { "repeats itself" } else { "DIFFERS when it is run again" });
        Ok(repeats && outcome.violations.is_empty())
    }

    fn sweep(self) -> Result<bool> {
        let threads = match self.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let (first, last) = self.seeds;
        let next = AtomicUsize::new(0);
        let sum = Mutex::new(Sum::default());
        // A seed that breaks off says so itself.
        std::panic::set_hook(Box::new(|_| {}));
        let (start, world) = (Instant::now(), self.world());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = first + next.fetch_add(1, Ordering::Relaxed) as u64;
                        if seed > last {
                            return;
                        }
                        let outcome = world(seed, self.workload);
                        sum.lock().expect("nothing panics under it").add(outcome);
                    }
                });
            }
        });
        drop(std::panic::take_hook());
        let sum = sum.into_inner().expect("nothing panics under it");
        let summary = sum.summary(threads, start.elapsed().as_secs_f64(), self.councils);
        print!("{summary}");
        if let Some(page) = &self.record {
            let what = format!("{} of {} seeds failed", sum.failed.len(), sum.runs);
            matrix::record_simulator(page, &format!("{summary}\n{what}"))?;
        }
        Ok(report(&sum, self.councils, self.workload))
    }
}

/// Prints what a node held in the course of a run; whether it is flat: at the end no more than
/// twice of what it was after a fifth.
fn wear(looks: &[simulator::Wear], what: fn(&simulator::Wear) -> u64) -> bool {
    println!("     done       disk  records  vectors  origins    items  retired");
    for look in looks {
        let simulator::Wear { done, disk, records, vectors, origins, items, retired } = look;
        println!(
            "{done:>9} {disk:>10} {records:>8} {vectors:>8} {origins:>8} {items:>8} {retired:>8}"
        );
    }
    let fifth = looks.get(looks.len() / 5).map_or(0, what);
    looks.last().is_some_and(|last| what(last) <= 2 * fifth)
}

/// Prints what an idle cluster says; whether it is as it should be, and within its bound.
fn listen(regions: usize, nodes: usize) -> bool {
    let idle = simulator::idle(regions, nodes);
    println!("{} nodes in {regions} regions, idle; a node sends in a second:", idle.nodes);
    for (kind, (packets, bytes)) in &idle.kinds {
        println!("{kind:>12} {packets:>8.2} frames and datagrams {bytes:>10.0} bytes");
    }
    println!("{:>12} {:>41.0} bytes, with what packets cost", "all", idle.bytes_sent);
    idle.unsettled.iter().for_each(|what| println!("NOT AT REST: {what}"));
    idle.unsettled.is_none() && idle.bytes_sent < IDLE_BYTES
}

impl Sum {
    fn summary(&self, threads: usize, seconds: f64, councils: bool) -> String {
        let hours = self.simulated_ms as f64 / 3_600_000.0;
        let mut text = format!(
            "{} seeds in {seconds:.1} s on {threads} threads: {hours:.1} simulated hours ({:.0} an \
             hour),\n{} operations, {} steps ({:.0} a second), {} messages\n",
            self.runs,
            hours / (seconds / 3600.0),
            self.operations,
            self.events,
            self.events as f64 / seconds,
            self.messages,
        );
        let each = self.by_workload.iter().map(|(name, n)| format!("{name} {n}"));
        text += &format!("workloads: {}\n\n", each.collect::<Vec<_>>().join(", "));
        for what in labels(councils) {
            let count = self.coverage.0.get(what).copied().unwrap_or(0);
            text += &format!("{count:>9}  {what}\n");
        }
        text
    }
}

/// What is to happen over many seeds.
fn labels(councils: bool) -> Vec<&'static str> {
    let more = if councils { simulator::WITH_COUNCILS } else { &[] };
    simulator::SOMETIMES.iter().chain(more).copied().collect()
}

/// Tells which seeds failed and what never happened; answers whether all is well.
fn report(sum: &Sum, councils: bool, workload: Option<&str>) -> bool {
    for (seed, (name, violations)) in sum.failed.iter().take(SHOWN) {
        let councils = if councils { "--councils " } else { "" };
        println!("\nFAILED seed {seed}: cargo sim {councils}--seed {seed} --workload {name}");
        violations.iter().take(3).for_each(|violation| println!("  {violation}"));
    }
    let missing = sum.coverage.missing(&labels(councils));
    let enough = sum.runs < ALL_MUST_HAPPEN || workload.is_some() || missing.is_empty();
    if !enough {
        println!("\nNEVER happened: {}", missing.join(", "));
    }
    println!("\n{} of {} seeds failed", sum.failed.len(), sum.runs);
    sum.failed.is_empty() && enough
}
