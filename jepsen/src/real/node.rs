//! One `atoll serve` process with a home of its own, which cannot outlive this one.
//!
//! Invariants:
//! 1. A node keeps its name, certificate, ports and home over restarts.
//! 2. Its standard input is ours: when we die, it ends. It has a process group of its own, which
//!    we leave an orphan then: so it goes on, and ends, even if it was stopped.
//!
//! Left out: reading what a node prints, but to explain a failure.

use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http::{Client, Response};
use crate::wait::until;

/// How long a node may take to be ready, to end, or to agree with others.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a request may take before it counts as lost.
pub const REQUEST: Duration = Duration::from_secs(10);
/// Ports from the first that this process takes.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// How the product is run.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
}

impl Program {
    /// This executable, if it is `jepsen`: the product is its hidden subcommand.
    pub fn within(jepsen: impl Into<PathBuf>) -> Program {
        Program { path: jepsen.into(), arguments: vec!["atoll".into()] }
    }

    /// The binary `atoll`.
    pub fn at(path: impl Into<PathBuf>) -> Program {
        Program { path: path.into(), arguments: Vec::new() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}

/// A cluster's authority, and the homes of its nodes.
#[derive(Debug)]
pub struct Site {
    directory: PathBuf,
    program: Program,
    cluster: String,
}

impl Site {
    /// A site in a directory; only nodes of one cluster talk to each other.
    pub fn new(directory: &Path, program: Program, cluster: &str) -> Site {
        Site { directory: directory.into(), program, cluster: cluster.into() }
    }

    /// A node with a certificate, named `<region>-<anything>`; not started.
    pub fn node(&self, name: &str) -> Result<Node> {
        let home = self.directory.join(name);
        self.certify(name, &home)?;
        let (port, apart) = (free_port().context("ports")?, free_port().context("ports")?);
        let (name, data, program) = (name.to_owned(), home.join("data"), self.program.clone());
        let options = Vec::new();
        Ok(Node { name, home, data, port, apart, options, program, child: None })
    }
}

impl Site {
    /// Gives a node that does not run a new key: it is another node then, of the same name. It
    /// forms no region, even if the one before it did.
    pub fn renew(&self, node: &mut Node) -> Result<()> {
        ensure!(node.child.is_none(), "{} runs", node.name);
        std::fs::remove_dir_all(node.home.join("certificates"))?;
        self.certify(&node.name, &node.home)?;
        if let Some(region) = node.name.strip_suffix("-1") {
            let founder = ("ATOLL__CLUSTER__FOUNDER".to_owned(), format!("{region}-2"));
            node.options.retain(|option| option.0 != founder.0);
            node.options.push(founder);
        }
        Ok(())
    }

    fn certify(&self, name: &str, home: &Path) -> Result<()> {
        let mut command = self.program.command();
        command.args(["cert", "--cluster", &self.cluster, "--node", name, "--authority"]);
        command.arg(self.directory.join("authority"));
        command.arg("--directory").arg(home.join("certificates"));
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "atoll cert: {output:?}");
        Ok(())
    }
}

/// Starts nodes that all know each other, and waits until they have met.
pub fn start_all(nodes: &mut [Node]) -> Result<()> {
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    nodes.iter_mut().try_for_each(|node| node.spawn(&ports))?;
    nodes.iter_mut().try_for_each(Node::await_ready)?;
    nodes.iter().try_for_each(|node| node.await_peers(ports.len() - 1))
}

/// A node: its home on disk, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    /// `<region>-<anything>`.
    pub name: String,
    /// TCP port of HTTP, UDP port of QUIC.
    pub port: u16,
    /// Where the data is; elsewhere if a test says so before the start.
    pub data: PathBuf,
    /// Further configuration, as environment variables.
    pub options: Vec<(String, String)>,
    /// Certificates, configuration and log.
    pub home: PathBuf,
    program: Program,
    /// A UDP port at which no peer looks.
    apart: u16,
    child: Option<Child>,
}

impl Node {
    /// Starts the node with peers at `seeds` (itself is left out), and waits until it is ready.
    pub fn start(&mut self, seeds: &[u16]) -> Result<()> {
        self.spawn(seeds)?;
        self.await_ready()
    }

    /// Starts the node where no peer can reach it, and with none to reach.
    pub fn start_alone(&mut self) -> Result<()> {
        let listen = ("ATOLL__REPLICATION__LISTEN".to_owned(), format!("127.0.0.1:{}", self.apart));
        self.options.push(listen);
        let started = self.start(&[]);
        self.options.pop();
        started
    }

    /// Starts the process; it may fail to become ready.
    pub fn spawn(&mut self, seeds: &[u16]) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let seeds: Vec<String> = seeds
            .iter()
            .filter(|port| **port != self.port)
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let region = self.name.split('-').next().unwrap_or_default();
        let (address, data) = (self.address(), self.data.display());
        let certificates = self.home.join("certificates");
        let certificates = certificates.display();
        let config = self.home.join("atoll.toml");
        let text = format!(
            "[node]\nname = {:?}\nregion = {region:?}\ndata = \"{data}\"\n\
             [http]\nlisten = \"{address}\"\n\
             [replication]\nlisten = \"{address}\"\nseeds = {seeds:?}\n\
             certificates = \"{certificates}\"\n\
             [cluster]\nfounder = \"{region}-1\"\n\
             [store]\ncache_mb = 64\ndisk_reserve_mb = 64\n",
            self.name
        );
        std::fs::write(&config, text)?;
        let log = OpenOptions::new().create(true).append(true).open(self.home.join("log"))?;
        let mut command = self.program.command();
        command.args(["serve", "--exit-with-stdin", "--config"]).arg(config);
        command.envs(self.options.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.child = Some(command.spawn().with_context(|| format!("{:?}", self.program))?);
        Ok(())
    }

    /// Waits until it answers that it is ready.
    pub fn await_ready(&mut self) -> Result<()> {
        self.await_ready_for(PATIENCE)
    }

    /// Waits so long, at most, until it answers that it is ready.
    pub fn await_ready_for(&mut self, patience: Duration) -> Result<()> {
        let mut client = self.client();
        let child = self.child.as_mut().context("not started")?;
        let ready = until(patience, || match child.try_wait() {
            Ok(None) => client.fetch("/readyz").ok().filter(|a| a.status == 200).map(|_| Ok(())),
            ended => Some(Err(anyhow::anyhow!("it ended: {ended:?}"))),
        });
        let ready = ready.unwrap_or_else(|| bail!("not ready after {patience:?}"));
        ready.with_context(|| format!("{}: {}", self.name, self.log_tail()))
    }

    /// Waits until it is connected to so many others.
    pub fn await_peers(&self, count: usize) -> Result<()> {
        let met = until(PATIENCE, || (self.peers_up().ok()? >= count).then_some(()));
        met.with_context(|| format!("{} has not met {count} peers", self.name))
    }

    /// How many other nodes it is connected to.
    pub fn peers_up(&self) -> Result<usize> {
        let view = self.get("/v1/cluster")?;
        let nodes = view["nodes"].as_array().context("no nodes")?;
        let up = nodes.iter().filter(|node| node["name"] != *self.name && node["state"] == "up");
        Ok(up.count())
    }

    /// The origin of its current start.
    pub fn origin(&self) -> Result<String> {
        self.peer_origin(&self.name)?.context("no incarnation")
    }

    /// The origin of a node's start, as this one knows it.
    pub fn peer_origin(&self, name: &str) -> Result<Option<String>> {
        let view = self.get("/v1/cluster")?;
        let nodes = view["nodes"].as_array().context("no nodes")?;
        let node = nodes.iter().find(|node| node["name"] == *name);
        Ok(node.and_then(|node| node["incarnation"].as_str()).map(str::to_owned))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM; the process runs on for a while.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGSTOP: it stands still, its connections open.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("not running")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Whether its process was started and did not end.
    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && matches!(self.try_end(), Ok(None))
    }

    /// Waits for the end of a process that was told to end, or that ends by itself.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        let status = until(PATIENCE, || self.try_end().transpose());
        status.with_context(|| format!("{} does not end", self.name))?
    }

    /// How the process ended, if it has.
    pub fn try_end(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.as_mut().context("not running")?.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// SIGTERM, and waits for a clean end.
    pub fn stop(&mut self) -> Result<()> {
        self.terminate()?;
        let status = self.await_end()?;
        ensure!(status.success(), "{} ended with {status}: {}", self.name, self.log_tail());
        Ok(())
    }

    /// Of HTTP and of QUIC.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A client of its HTTP surface.
    pub fn client(&self) -> Client {
        Client::new(self.address(), REQUEST)
    }

    /// `GET`, whatever the answer.
    pub fn ask(&self, path: &str) -> Result<Response> {
        self.client().fetch(path).with_context(|| format!("{}: {path}", self.name))
    }

    /// `GET` of what is there.
    pub fn get(&self, path: &str) -> Result<Value> {
        let answer = self.ask(path)?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "{}: {path}: {} {text}", self.name, answer.status);
        Ok(answer.json()?)
    }

    /// `POST`, whatever the answer.
    pub fn post(&self, path: &str, body: &Value) -> Result<Response> {
        let headers = [("content-type", "application/json")];
        let body = body.to_string();
        let answer = self.client().send("POST", path, &headers, body.as_bytes());
        answer.with_context(|| format!("{}: {path}", self.name))
    }

    /// `POST` that is done.
    pub fn done(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.post(path, body)?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "{}: {path}: {} {text}", self.name, answer.status);
        Ok(answer.json()?)
    }

    /// A metric, summed over its labels; 0 if it was never counted.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let answer = self.ask("/metrics")?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// What the node has printed last, to explain a failure.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.home.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {}", self.name, self.log_tail());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until all nodes have equal, complete digests.
pub fn await_equal(nodes: &[Node]) -> Result<()> {
    let mut last = String::new();
    let equal = until(PATIENCE, || {
        let digests: Result<Vec<Value>> =
            nodes.iter().map(|node| Ok(node.get("/v1/cluster/digest")?["shards"].take())).collect();
        last = format!("{digests:?}");
        let digests = digests.ok()?;
        let whole = |shards: &Value| {
            let shards = shards.as_object();
            shards.is_some_and(|s| !s.is_empty() && s.values().all(is_digest))
        };
        (digests.iter().all(whole) && digests.iter().all(|d| *d == digests[0])).then_some(())
    });
    equal.with_context(|| format!("digests still differ after {PATIENCE:?}: {last}"))
}

/// Copies a directory tree.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}

/// Takes ports from this one on, instead of from one that differs by process: for runs side by
/// side, each of which is given its own.
pub fn take_ports_from(first: u16) {
    NEXT_PORT.store(first, Ordering::SeqCst);
}

/// A port free for TCP and UDP, below those that systems give to clients.
fn free_port() -> Option<u16> {
    let first = 20_000 + (std::process::id() % 200) as u16 * 60;
    let _ = NEXT_PORT.compare_exchange(0, first, Ordering::SeqCst, Ordering::SeqCst);
    let free = |port: &u16| {
        let address = ("127.0.0.1", *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    (0..1_000).map(|_| NEXT_PORT.fetch_add(1, Ordering::SeqCst)).find(free)
}

/// Whether a shard's digest is one: an incomplete copy says so instead, and equals no other.
pub fn is_digest(digest: &serde_json::Value) -> bool {
    digest.as_str().is_some_and(|text| text.len() == 32)
}
