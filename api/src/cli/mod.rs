//! The command line: arguments in, exit code out.
//!
//! Invariants:
//! 1. Results go to standard output, everything else to standard error.
//! 2. Exit codes: 0 done, 1 the request failed, 2 usage, 3 unreachable, 4 not found, 5 `check`
//!    found a difference.
//!
//! Left out: a shell with history; `curl` and a real shell do that, and `--trace` shows how.

pub mod cert;
pub mod check;
pub mod cluster;
pub mod edit;
pub mod entity;
pub mod export;
pub mod failure;
pub mod health;
pub mod import;
pub mod output;
pub mod serve;
pub mod settings;
pub mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use entity::Entity;
pub use failure::Failure;

use crate::client::{Answer, Call, Client, curl};

/// Atoll: a geo-replicated store of CRDTs. Write and read the nearest region; the regions
/// converge by themselves.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The server to ask; for `check`, repeatedly: the servers to compare.
    #[arg(long, global = true, env = "ATOLL_URL", default_value = "http://127.0.0.1:7401")]
    pub url: Vec<String>,
    /// Form of the results.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Output,
    /// Print the equivalent curl command on standard error before each request.
    #[arg(long, global = true)]
    pub trace: bool,
}

/// Form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON value.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve(serve::Options),
    /// Run three regions on this machine, and cut, kill and mend them.
    Demo(crate::demo::Options),
    /// Print an entity's value.
    Get(edit::Get),
    /// Assign a register, multi-register, flag or document, or fields of a map.
    Set(edit::Set),
    /// Add to a counter (a negative number subtracts).
    Incr(edit::Incr),
    /// Add members to a set.
    Add(edit::Members),
    /// Remove members from a set.
    Remove(edit::Members),
    /// Print an entity's or a collection's changes as they happen.
    Watch(watch::Options),
    /// Run a command at an owned entity.
    #[command(name = "command")]
    Owned(edit::Owned),
    /// Look at the cluster.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Is the server ready? Exit code 1, with its reasons, if not; for health checks.
    Health(health::Options),
    /// Do all nodes hold the same data? Exit code 5 if not.
    Check(check::Options),
    /// Write everything the server holds as NDJSON.
    Export(export::Options),
    /// Apply NDJSON records written by `export`, or records with operations.
    Import(import::Options),
    /// Measure this machine against bare baselines.
    Bench(crate::bench::Options),
    /// Create the cluster's authority, or a node's certificate.
    Cert(cert::Options),
    /// Look at a configuration.
    #[command(subcommand)]
    Config(settings::Command),
    /// One of the benchmark's baselines.
    #[command(hide = true)]
    BenchBaseline(crate::bench::BaselineOptions),
}

/// Reads the arguments, does what they say, and reports how it went.
pub fn main() -> ExitCode {
    main_with(std::env::args_os().skip(1))
}

/// As `main`, with these arguments behind the program's name.
pub fn main_with(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> ExitCode {
    let arguments = arguments.into_iter().map(Into::into);
    let cli = match Cli::try_parse_from([OsString::from("atoll")].into_iter().chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap too, with exit code 0.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    // Servers use all cores, an import parses beside its requests; the rest is one client.
    let mut builder = match cli.command {
        Command::Serve(_) | Command::BenchBaseline(_) | Command::Import(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().map_err(|e| Failure::failed(e.to_string()))?;
    let result = runtime.block_on(run(cli));
    // A reader of standard input may still wait for it.
    runtime.shutdown_background();
    result
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let common = cli.common;
    match cli.command {
        Command::Serve(options) => serve::run(options).await,
        Command::Demo(options) => crate::demo::run(options, common.output).await,
        Command::Get(what) => edit::get(&common, what).await,
        Command::Set(what) => edit::set(&common, what).await,
        Command::Incr(what) => edit::incr(&common, what).await,
        Command::Add(what) => edit::members(&common, what, "add").await,
        Command::Remove(what) => edit::members(&common, what, "remove").await,
        Command::Watch(options) => watch::run(&common, options).await,
        Command::Owned(what) => edit::command(&common, what).await,
        Command::Cluster(command) => cluster::run(&common, command).await,
        Command::Health(options) => health::run(&common, options).await,
        Command::Check(options) => check::run(&common, options).await,
        Command::Export(options) => export::run(&common, options).await,
        Command::Import(options) => import::run(&common, options).await,
        Command::Bench(options) => crate::bench::run(options, common.output).await,
        Command::Cert(options) => cert::run(options),
        Command::Config(command) => settings::run(command, common.output),
        Command::BenchBaseline(options) => crate::bench::baseline(options).await,
    }
}

impl Common {
    /// A client of the server.
    pub fn client(&self) -> Result<Client, Failure> {
        let url = self.url.last().expect("there is a default");
        Ok(Client::new(url)?)
    }

    /// Shows the call if that was asked for.
    pub fn show(&self, client: &Client, call: &Call) {
        if self.trace {
            eprintln!("{}", curl(client.url(), call));
        }
    }

    /// Shows and sends.
    pub async fn call(&self, client: &Client, call: Call) -> Result<Answer, Failure> {
        self.show(client, &call);
        Ok(client.call(&call).await?)
    }
}

/// A file to read or write; `-` or none is standard input or output.
fn file(path: &Option<PathBuf>) -> Option<&PathBuf> {
    path.as_ref().filter(|path| path.as_os_str() != "-")
}
