//! `atoll bench`: this machine's figures, beside those of bare baselines measured in the same
//! call by the same client.
//!
//! Invariants:
//! 1. Product and baseline are processes of their own, loaded by the same generator with the same
//!    requests, in turns (A B A B), so that a machine that slows down slows both.
//! 2. A measurement with an error in it is reported as failed, not as a figure.
//!
//! Left out: comparing machines. A ratio travels; a rate belongs to its machine.

mod baseline;
mod events;
mod idle;
mod imports;
mod levels;
mod load;
mod rates;
mod report;
mod servers;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub use baseline::{Options as BaselineOptions, run as baseline};

use crate::cli::{Failure, Output};
use report::{Report, Row};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only these measurements, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Name>,
    /// Seconds of load for each figure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Program to measure; this one without it
    #[arg(long, hide = true)]
    program: Option<PathBuf>,
}

/// The measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Reads of one counter on 50 connections, against a handler that answers from memory
    Read,
    /// Durable increments of 10,000 counters on 256 connections, against a handler that appends
    /// to a file and waits for a shared fdatasync
    Write,
    /// Durable increments of one counter, against the same
    HotKey,
    /// Increments at three nodes of a region, acknowledged by two disks, against by one
    Levels,
    /// Adding to a set of 100,000 members, against adding to small sets
    LargeSet,
    /// From a commit in one region to an event at a subscriber in another, 200 writes a second
    Event,
    /// Import of 10,000 records
    Import,
    /// Processor time and memory of a demo that does nothing
    Idle,
}

/// What every measurement needs to know.
struct Plan {
    program: PathBuf,
    /// Length of a figure's load.
    length: Duration,
}

/// Measures and reports.
pub async fn run(options: Options, output: Output) -> Result<(), Failure> {
    let program = match options.program {
        Some(program) => program,
        None => std::env::current_exe().map_err(Failure::of("this program's path"))?,
    };
    let length = Duration::from_secs(options.seconds.into());
    let plan = Plan { program, length };
    let mut report = Report::new();
    for name in Name::value_variants() {
        if !options.only.is_empty() && !options.only.contains(name) {
            continue;
        }
        let label = name.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default();
        eprintln!("measuring {label}");
        match measure(*name, &plan).await {
            Ok(rows) => report.rows.extend(rows),
            Err(failure) => report.failures.push((label, failure.to_string())),
        }
    }
    report.print(output);
    match report.failures.len() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!("{failed} measurements failed"))),
    }
}

async fn measure(name: Name, plan: &Plan) -> Result<Vec<Row>, Failure> {
    match name {
        Name::Read => rates::read(plan).await,
        Name::Write => rates::write(plan).await,
        Name::HotKey => rates::hot_key(plan).await,
        Name::Levels => levels::measure(plan).await,
        Name::LargeSet => rates::large_set(plan).await,
        Name::Event => events::measure(plan).await,
        Name::Import => imports::measure(plan).await,
        Name::Idle => idle::measure(plan).await,
    }
}
