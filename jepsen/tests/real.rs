//! A short run of real processes through a kill and a partition; that it can find a fault, and
//! that it leaves nothing behind.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jepsen::checkers::FINAL_READ;
use jepsen::history::{History, Type};
use jepsen::real::node::{PATIENCE, Program};
use jepsen::real::{Fault, Outcome, Plan, run};
use jepsen::wait::until;
use jepsen::workloads;

const WORKLOAD: &str = "g-set";

#[test]
fn a_short_run_is_good_and_a_lost_write_in_it_is_found() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let plan = Plan {
        workload: WORKLOAD.into(),
        faults: vec![Fault::PartitionHalves, Fault::Kill],
        regions: 3,
        nodes: 3,
        time_limit: Duration::from_secs(5),
        rate: 50.0,
        concurrency: 4,
        seed: 3,
        quiet: Duration::from_secs(1),
        directory: directory.path().join("run"),
        program: Program::within(env!("CARGO_BIN_EXE_jepsen")),
        options: Vec::new(),
    };
    let mut outcome = run(&plan)?;
    ensure!(outcome.is_good(), "{:#?}", outcome.verdicts);
    ensure!(outcome.faults.keys().eq(["kill", "partition-halves"]), "{:?}", outcome.faults);
    for file in ["history.edn", "results.json", "report.html", "nemesis.log", "nodes/eu-1/log"] {
        ensure!(plan.directory.join(file).exists(), "no {file}");
    }
    lose_a_write(&mut outcome)?;
    let make = workloads::find(WORKLOAD).context("no workload")?;
    outcome.judge(&*make(plan.nodes));
    let found = outcome.verdicts.iter().flat_map(|(_, verdict)| &verdict.violations);
    ensure!(found.clone().any(|what| what.contains("is lost")), "{:#?}", outcome.verdicts);
    ensure!(!outcome.is_good(), "a lost write passed");
    Ok(())
}

#[test]
fn a_region_whose_nodes_change_loses_nothing() -> Result<()> {
    let outcome = in_one_region(vec![Fault::Join, Fault::Leave])?;
    ensure!(outcome.faults.keys().eq(["join", "leave"]), "{:?}", outcome.faults);
    Ok(())
}

#[test]
fn a_region_whose_nodes_restart_in_turn_loses_nothing() -> Result<()> {
    let outcome = in_one_region(vec![Fault::Rolling])?;
    // All three, however short the run was to be.
    ensure!(outcome.faults["rolling"] >= 3, "{:?}", outcome.faults);
    Ok(())
}

/// A short run in one region of three nodes, in which no process is killed.
fn in_one_region(faults: Vec<Fault>) -> Result<Outcome> {
    let directory = tempfile::tempdir()?;
    let plan = Plan {
        workload: "pubsub".into(),
        faults,
        regions: 1,
        nodes: 3,
        time_limit: Duration::from_secs(4),
        rate: 40.0,
        concurrency: 4,
        seed: 1,
        quiet: Duration::from_secs(1),
        directory: directory.path().join("run"),
        program: Program::within(env!("CARGO_BIN_EXE_jepsen")),
        options: Vec::new(),
    };
    let outcome = run(&plan)?;
    ensure!(outcome.is_good(), "{:#?}", outcome.verdicts);
    ensure!(outcome.excused == 0, "nothing was lost that could be excused");
    Ok(outcome)
}

#[test]
fn no_node_outlives_a_run_that_is_killed_not_even_a_stopped_one() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command.args(["test", "--nemesis=pause", "--nodes=3", "--time-limit=60", "--out"]).arg(&run);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let paused = until(PATIENCE * 4, || is_one_stopped(&run).then_some(()));
    let addresses = paused.context("nothing was stopped").and_then(|()| addresses(&run));
    child.kill()?;
    child.wait()?;
    let addresses = addresses?;
    ensure!(addresses.len() == 3, "{addresses:?}");
    // What is stopped still takes connections, as many as its kernel keeps for it.
    let has_ended = |address: &SocketAddr| {
        let tried = TcpStream::connect_timeout(address, Duration::from_secs(1));
        tried.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    let ended = until(PATIENCE, || addresses.iter().all(has_ended).then_some(()));
    ended.context("a node goes on")
}

/// Whether a node of this run stands still: the log of faults says so a moment before.
fn is_one_stopped(run: &Path) -> bool {
    let run = run.as_os_str().as_encoded_bytes();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.map(|process| process.path()).any(|process| {
        let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        status.contains("(stopped)") && command.windows(run.len()).any(|part| part == run)
    })
}

/// Where a run's nodes listen.
fn addresses(run: &Path) -> Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for home in std::fs::read_dir(run.join("nodes"))? {
        let Ok(text) = std::fs::read_to_string(home?.path().join("atoll.toml")) else { continue };
        let listens = text.lines().find_map(|line| line.strip_prefix("listen = "));
        addresses.push(listens.context("no address")?.trim_matches('"').parse()?);
    }
    Ok(addresses)
}

/// Takes an acknowledged element out of one final read.
fn lose_a_write(outcome: &mut Outcome) -> Result<()> {
    let mut ops = outcome.history.ops().to_vec();
    let added = ops.iter().find(|op| op.f == "add" && op.kind == Type::Ok);
    let added = added.context("nothing was added")?.value.clone();
    let read = ops.iter_mut().find(|op| op.f == FINAL_READ && op.kind == Type::Ok);
    let elements = read.and_then(|op| op.value.as_array_mut()).context("no final read")?;
    elements.retain(|element| *element != added);
    outcome.history = History::new(ops)?;
    Ok(())
}
