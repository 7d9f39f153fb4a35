//! A running `atoll demo`, as a child process that cannot outlive the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use jepsen::http::Client;
use jepsen::wait;
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
const ATOLL: &str = env!("CARGO_BIN_EXE_atoll");
/// How long the demo may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a request may take before it counts as lost.
const REQUEST: Duration = Duration::from_secs(10);
/// Ports from the base that a demo of three nodes uses, with room.
const PORTS: u16 = 10;

/// A demo of one node in each of three regions.
pub(crate) struct Demo {
    child: Child,
    base_port: u16,
    directory: TempDir,
    processes: BTreeSet<u64>,
    stopped: bool,
}

impl Demo {
    /// Starts a demo without added latency and waits until its nodes are ready.
    pub(crate) fn start() -> Result<Demo> {
        let directory = tempfile::tempdir()?;
        let base_port = free_ports().context("no free block of ports")?;
        let log = File::create(directory.path().join("output.log"))?;
        let mut command = Command::new(ATOLL);
        command.args(["demo", "--latency", "none", "--base-port", &base_port.to_string()]);
        command.arg("--data").arg(directory.path().join("data"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context(ATOLL)?;
        let processes = BTreeSet::new();
        let mut demo = Demo { child, base_port, directory, processes, stopped: false };
        demo.await_ready()?;
        Ok(demo)
    }

    fn await_ready(&mut self) -> Result<()> {
        let ready = wait::until(PATIENCE, || match self.child.try_wait() {
            Ok(None) => self.remember_processes().ok().map(Ok),
            ended => Some(Err(anyhow!("the demo ended by itself: {ended:?}"))),
        });
        let ready = ready.unwrap_or_else(|| bail!("no demo.json after {PATIENCE:?}"));
        ready.with_context(|| self.output())
    }

    /// Runs `atoll demo <words>` on this demo.
    pub(crate) fn command(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(ATOLL);
        command.arg("demo").args(words).args(["--base-port", &self.base_port.to_string()]);
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{words:?}: {output:?}\n{}", self.output());
        Ok(())
    }

    /// Notes the processes of the nodes as they are now, to look for at the end.
    pub(crate) fn remember_processes(&mut self) -> Result<()> {
        for node in self.nodes()? {
            self.processes.insert(node["pid"].as_u64().context("a node without pid")?);
        }
        Ok(())
    }

    fn nodes(&self) -> Result<Vec<Value>> {
        let text = std::fs::read(self.directory.path().join("data/demo.json"))?;
        let mut file: Value = serde_json::from_slice(&text)?;
        let nodes = file["nodes"].as_array_mut().map(std::mem::take).unwrap_or_default();
        ensure!(nodes.len() == 3, "{} nodes in demo.json", nodes.len());
        Ok(nodes)
    }

    /// The HTTP address of each region's node.
    pub(crate) fn addresses(&self) -> Result<BTreeMap<String, SocketAddr>> {
        let address = |node: Value| {
            let region = node["region"].as_str().context("a node without region")?;
            let url = node["http"].as_str().and_then(|url| url.strip_prefix("http://"));
            let address = url.context("a node without http address")?.trim_end_matches('/');
            Ok((region.to_owned(), address.parse().context("http address")?))
        };
        let addresses: BTreeMap<_, _> =
            self.nodes()?.into_iter().map(address).collect::<Result<_>>()?;
        ensure!(addresses.keys().eq(["ap", "eu", "us"]), "regions {:?}", addresses.keys());
        Ok(addresses)
    }

    /// A client for each region.
    pub(crate) fn clients(&self) -> Result<BTreeMap<String, Client>> {
        let client = |(region, address)| (region, Client::new(address, REQUEST));
        Ok(self.addresses()?.into_iter().map(client).collect())
    }

    /// The digests of a region's shards.
    pub(crate) fn digest(&self, region: &str) -> Result<Value> {
        let mut clients = self.clients()?;
        let client = clients.get_mut(region).context("no such region")?;
        let answer = client.fetch("/v1/cluster/digest")?;
        ensure!(answer.status == 200, "digest of {region}: {answer:?}");
        Ok(answer.json()?["shards"].take())
    }

    /// Ends the demo and checks that nothing of it is left.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.remember_processes()?;
        self.command(&["stop"])?;
        let status = wait::until(PATIENCE, || self.child.try_wait().transpose());
        let status = status.with_context(|| format!("the demo runs on: {}", self.output()))??;
        self.stopped = true;
        ensure!(status.success(), "the demo ended with {status}: {}", self.output());
        let gone =
            wait::until(PATIENCE, || (!self.processes.iter().any(|p| lives(*p))).then_some(()));
        gone.with_context(|| format!("some of the processes {:?} are left", self.processes))
    }

    /// What the demo has printed, to explain a failure.
    fn output(&self) -> String {
        read_tail(&self.directory.path().join("output.log"))
    }
}

impl Drop for Demo {
    /// After a failure: asks the demo to end, then ends what is left of it.
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        eprintln!("output of the demo:\n{}", self.output());
        let asked = self.command(&["stop"]).is_ok();
        let _ = self.remember_processes();
        let limit = if asked { Duration::from_secs(10) } else { Duration::ZERO };
        if wait::until(limit, || self.child.try_wait().ok().flatten()).is_none() {
            for process in &self.processes {
                signal("-KILL", *process);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The last lines of a file.
fn read_tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Whether a process is there.
fn lives(process: u64) -> bool {
    signal("-0", process)
}

/// Sends a signal to a process; false if it is not there.
fn signal(name: &str, process: u64) -> bool {
    let mut command = Command::new("kill");
    command.args([name, &process.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A base port with enough free ports above it, below those that systems give to clients.
fn free_ports() -> Option<u16> {
    let first = 20_000 + (std::process::id() % 1_000) as u16 * PORTS;
    let all_free = |base: &u16| {
        (*base..base + PORTS).all(|port| {
            let address = ("127.0.0.1", port);
            TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
        })
    };
    (first..32_000).step_by(usize::from(PORTS)).find(all_free)
}
