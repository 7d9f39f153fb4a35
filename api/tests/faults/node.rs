//! One `atoll serve` process with a home of its own, which cannot outlive the test.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jepsen::http::{Client, Response};
use jepsen::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
const ATOLL: &str = env!("CARGO_BIN_EXE_atoll");
/// How long a node may take to be ready, to end, or to agree with others.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a request may take before it counts as lost.
pub(crate) const REQUEST: Duration = Duration::from_secs(10);
/// Ports from the first that this process takes.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A cluster's authority, and the homes of its nodes.
pub(crate) struct Site {
    directory: TempDir,
    cluster: &'static str,
}

impl Site {
    /// An empty one; only nodes of one cluster talk to each other.
    pub(crate) fn new(cluster: &'static str) -> Result<Site> {
        Ok(Site { directory: tempfile::tempdir()?, cluster })
    }

    /// A node with a certificate, in a region of its own; not started.
    pub(crate) fn node(&self, name: &str) -> Result<Node> {
        let home = self.directory.path().join(name);
        let mut command = Command::new(ATOLL);
        command.args(["cert", "--cluster", self.cluster, "--node", name, "--authority"]);
        command.arg(self.directory.path().join("authority"));
        command.arg("--directory").arg(home.join("certificates"));
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "atoll cert: {output:?}");
        let (port, apart) = (free_port().context("ports")?, free_port().context("ports")?);
        let (name, data) = (name.to_owned(), home.join("data"));
        let options = Vec::new();
        Ok(Node { name, home, data, port, apart, options, child: None })
    }

    /// Three nodes that know each other, ready.
    pub(crate) fn three(&self) -> Result<[Node; 3]> {
        let mut nodes = [self.node("eu-1")?, self.node("us-1")?, self.node("ap-1")?];
        start_all(&mut nodes)?;
        Ok(nodes)
    }

    /// Two nodes that know each other, ready.
    pub(crate) fn two(&self) -> Result<[Node; 2]> {
        let mut nodes = [self.node("eu-1")?, self.node("us-1")?];
        start_all(&mut nodes)?;
        Ok(nodes)
    }
}

/// Starts nodes that all know each other, and waits until they have met.
pub(crate) fn start_all(nodes: &mut [Node]) -> Result<()> {
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    nodes.iter_mut().try_for_each(|node| node.spawn(&ports))?;
    nodes.iter_mut().try_for_each(Node::await_ready)?;
    nodes.iter().try_for_each(|node| node.await_peers(ports.len() - 1))
}

/// A node: its home on disk, and its process while it runs.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) port: u16,
    /// Where the data is; elsewhere if a test says so before the start.
    pub(crate) data: PathBuf,
    /// Further configuration, as environment variables.
    pub(crate) options: Vec<(String, String)>,
    home: PathBuf,
    /// A UDP port at which no peer looks.
    apart: u16,
    child: Option<Child>,
}

impl Node {
    /// Starts the node with peers at `seeds` (itself is left out), and waits until it is ready.
    pub(crate) fn start(&mut self, seeds: &[u16]) -> Result<()> {
        self.spawn(seeds)?;
        self.await_ready()
    }

    /// Starts the node where no peer can reach it, and with none to reach.
    pub(crate) fn start_alone(&mut self) -> Result<()> {
        let listen = ("ATOLL__REPLICATION__LISTEN".to_owned(), format!("127.0.0.1:{}", self.apart));
        self.options.push(listen);
        let started = self.start(&[]);
        self.options.pop();
        started
    }

    /// Starts the process; it may fail to become ready.
    pub(crate) fn spawn(&mut self, seeds: &[u16]) -> Result<()> {
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
             [store]\ncache_mb = 64\ndisk_reserve_mb = 64\n",
            self.name
        );
        std::fs::write(&config, text)?;
        let log = OpenOptions::new().create(true).append(true).open(self.home.join("log"))?;
        let mut command = Command::new(ATOLL);
        command.args(["serve", "--exit-with-stdin", "--config"]).arg(config);
        command.envs(self.options.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context(ATOLL)?);
        Ok(())
    }

    fn await_ready(&mut self) -> Result<()> {
        let mut client = self.client();
        let child = self.child.as_mut().context("not started")?;
        let ready = until(PATIENCE, || match child.try_wait() {
            Ok(None) => client.fetch("/readyz").ok().filter(|a| a.status == 200).map(|_| Ok(())),
            ended => Some(Err(anyhow::anyhow!("it ended: {ended:?}"))),
        });
        let ready = ready.unwrap_or_else(|| bail!("not ready after {PATIENCE:?}"));
        ready.with_context(|| format!("{}: {}", self.name, self.log_tail()))
    }

    fn await_peers(&self, count: usize) -> Result<()> {
        let met = until(PATIENCE, || (self.peers_up().ok()? >= count).then_some(()));
        met.with_context(|| format!("{} has not met {count} peers", self.name))
    }

    /// How many other nodes it is connected to.
    pub(crate) fn peers_up(&self) -> Result<usize> {
        let view = self.get("/v1/cluster")?;
        let nodes = view["nodes"].as_array().context("no nodes")?;
        let up = nodes.iter().filter(|node| node["name"] != *self.name && node["state"] == "up");
        Ok(up.count())
    }

    /// The origin of its current start.
    pub(crate) fn origin(&self) -> Result<String> {
        self.peer_origin(&self.name)?.context("no incarnation")
    }

    /// The origin of a node's start, as this one knows it.
    pub(crate) fn peer_origin(&self, name: &str) -> Result<Option<String>> {
        let view = self.get("/v1/cluster")?;
        let nodes = view["nodes"].as_array().context("no nodes")?;
        let node = nodes.iter().find(|node| node["name"] == *name);
        Ok(node.and_then(|node| node["incarnation"].as_str()).map(str::to_owned))
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM; the process runs on for a while.
    pub(crate) fn terminate(&self) -> Result<()> {
        let child = self.child.as_ref().context("not running")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Waits for the end of a process that was told to end, or that ends by itself.
    pub(crate) fn await_end(&mut self) -> Result<ExitStatus> {
        let status = until(PATIENCE, || self.try_end().transpose());
        status.with_context(|| format!("{} does not end", self.name))?
    }

    /// How the process ended, if it has.
    pub(crate) fn try_end(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.as_mut().context("not running")?.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.terminate()?;
        let status = self.await_end()?;
        ensure!(status.success(), "{} ended with {status}: {}", self.name, self.log_tail());
        Ok(())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address(), REQUEST)
    }

    /// `GET`, whatever the answer.
    pub(crate) fn ask(&self, path: &str) -> Result<Response> {
        self.client().fetch(path).with_context(|| format!("{}: {path}", self.name))
    }

    /// `GET` of what is there.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let answer = self.ask(path)?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "{}: {path}: {} {text}", self.name, answer.status);
        Ok(answer.json()?)
    }

    /// `POST`, whatever the answer.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Response> {
        let headers = [("content-type", "application/json")];
        let body = body.to_string();
        let answer = self.client().send("POST", path, &headers, body.as_bytes());
        answer.with_context(|| format!("{}: {path}", self.name))
    }

    /// `POST` that is done.
    pub(crate) fn done(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.post(path, body)?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "{}: {path}: {} {text}", self.name, answer.status);
        Ok(answer.json()?)
    }

    /// A metric, summed over its labels; 0 if it was never counted.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let answer = self.ask("/metrics")?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// What the node has printed last, to explain a failure.
    pub(crate) fn log_tail(&self) -> String {
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
pub(crate) fn await_equal(nodes: &[Node]) -> Result<()> {
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

/// A subscription, read line by line as it comes.
pub(crate) struct Stream {
    stream: TcpStream,
    text: String,
}

impl Stream {
    /// Opens a subscription as NDJSON.
    pub(crate) fn open(node: &Node, path: &str) -> Result<Stream> {
        let mut stream = TcpStream::connect_timeout(&node.address(), REQUEST)?;
        stream.set_read_timeout(Some(REQUEST))?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\naccept: application/x-ndjson\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        Ok(Stream { stream, text: String::new() })
    }

    /// Reads on until something was sent.
    pub(crate) fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut buffer = [0; 4096];
        while !self.text.contains(wanted) {
            let n = self.stream.read(&mut buffer).with_context(|| self.text.clone())?;
            ensure!(n > 0, "the stream ended without {wanted:?}: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        Ok(())
    }

    /// The last cursor that was sent.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.text.rsplit("\"cursor\":\"").next()?.split('"').next()
    }
}

/// Copies a directory tree.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
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

/// A port free for TCP and UDP, below those that systems give to clients.
fn free_port() -> Option<u16> {
    let first = 20_000 + (std::process::id() % 1_000) as u16 * 10;
    let _ = NEXT_PORT.compare_exchange(0, first, Ordering::SeqCst, Ordering::SeqCst);
    let free = |port: &u16| {
        let address = ("127.0.0.1", *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    (0..1_000).map(|_| NEXT_PORT.fetch_add(1, Ordering::SeqCst)).find(free)
}

/// Whether a shard's digest is one: an incomplete copy says so instead, and equals no other.
pub(crate) fn is_digest(digest: &serde_json::Value) -> bool {
    digest.as_str().is_some_and(|text| text.len() == 32)
}
