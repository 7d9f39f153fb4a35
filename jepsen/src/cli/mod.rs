//! The command line.
//!
//! Exit codes: 0 all good, 1 something is wrong with what was tested, 2 usage.

mod check;
mod matrix;
#[cfg(feature = "mutants")]
mod mutants;
mod report;
mod scale;
mod sim;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Checks that Atoll keeps its promises: simulated clusters, real ones, and judges.
#[derive(Debug, Parser)]
#[command(name = "jepsen", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judges a history that was recorded before.
    Check(check::Check),
    /// Runs whole clusters in one thread, under seeds.
    Sim(sim::Sim),
    /// Runs every workload under every set of faults, and writes the table of docs/testing.md.
    Matrix(matrix::Matrix),
    /// Looks for deliberate bugs: each must be caught.
    #[cfg(feature = "mutants")]
    Mutants(mutants::Mutants),
    /// Makes a run's page again.
    Report(report::Report),
    /// Runs real nodes under faults, and judges what clients saw.
    Test(test::Test),
    /// The product itself, for runs of real processes.
    #[command(hide = true, disable_help_flag = true)]
    Atoll {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Runs what the arguments say.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Check(check) => check.run(),
        Command::Sim(sim) => sim.run(),
        Command::Matrix(matrix) => matrix.run(),
        #[cfg(feature = "mutants")]
        Command::Mutants(mutants) => mutants.run(),
        Command::Report(report) => report.run(),
        Command::Test(test) => test.run(),
        Command::Atoll { arguments } => return atoll::cli::main_with(arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}
