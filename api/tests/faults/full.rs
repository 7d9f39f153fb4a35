//! A full disk: writes are refused beforehand, all else goes on, and space ends it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use jepsen::wait::until;
use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, Site, Stream, await_equal};

/// A disk of a test's own, unmounted with it.
struct Disk(PathBuf);

impl Disk {
    /// A tmpfs; `None` where nothing may be mounted.
    fn mount(path: &Path, megabytes: u64) -> Result<Option<Disk>> {
        std::fs::create_dir_all(path)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(path);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let mounted = status.is_ok_and(|status| status.success());
        Ok(mounted.then(|| Disk(path.to_owned())))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = [site.node("eu-1")?, site.node("us-1")?];
    let data = nodes[0].data.clone();
    let Some(_disk) = Disk::mount(&data, 128)? else {
        eprintln!("skipped: nothing can be mounted here");
        return Ok(());
    };
    crate::node::start_all(&mut nodes)?;
    let ports = nodes.each_ref().map(|node| node.port);
    let [full, other] = &mut nodes;
    full.done("/v1/counters/full/a", &json!({"increment": 1}))?;
    let mut stream = Stream::open(full, "/v1/counters/full?prefix=")?;
    stream.expect("\"ready\"")?;
    let filler = data.join("filler");
    std::fs::write(&filler, vec![1u8; 100 << 20])?;
    await_write(full, 507)?;
    refuses(full)?;
    // Its peer goes on, and what it sends waits for space.
    let before = full.get("/v1/counters/full/a")?["value"].take();
    for _ in 0..20 {
        other.done("/v1/counters/full/b", &json!({"increment": 1}))?;
    }
    ensure!(full.ask("/v1/counters/full/b")?.status == 404, "replicated onto a full disk");
    ensure!(full.get("/v1/counters/full/a")?["value"] == before, "a refused write was applied");
    // To the last byte, so that these writes end with errors; a peer's new start is no write.
    let rest = data.join("rest");
    ensure!(std::fs::write(&rest, vec![1u8; 64 << 20]).is_err(), "there is space left");
    let start = other.origin()?;
    other.kill()?;
    other.start(&ports)?;
    let met = || (full.peer_origin(&other.name).ok()?? != start).then_some(());
    until(PATIENCE, met).context("they do not meet again")?;
    other.done("/v1/counters/full/b", &json!({"increment": 1}))?;
    refuses(full)?;
    std::fs::remove_file(&rest)?;
    std::fs::remove_file(&filler)?;
    await_write(full, 200)?;
    await_equal(&nodes)?;
    ensure!(nodes[0].get("/v1/counters/full/b")?["value"] == 21, "not all came");
    stream.expect("full/b")
}

#[test]
fn a_node_starts_on_a_full_disk_and_reads() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut node = site.node("eu-1")?;
    let Some(_disk) = Disk::mount(&node.data, 128)? else {
        eprintln!("skipped: nothing can be mounted here");
        return Ok(());
    };
    node.start_alone()?;
    node.done("/v1/counters/full/a", &json!({"increment": 1}))?;
    node.kill()?;
    let filler = node.data.join("filler");
    std::fs::write(&filler, vec![1u8; 110 << 20])?;
    node.start_alone()?;
    await_write(&node, 507)?;
    refuses(&node)?;
    node.stop()?;
    std::fs::remove_file(&filler)?;
    node.start_alone()?;
    await_write(&node, 200)
}

#[test]
fn a_reserve_above_what_is_free_refuses_writes() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut node = site.node("eu-1")?;
    node.start_alone()?;
    node.done("/v1/counters/full/a", &json!({"increment": 1}))?;
    node.stop()?;
    let reserve = ("ATOLL__STORE__DISK_RESERVE_MB".to_owned(), "1048576".to_owned());
    node.options.push(reserve);
    node.start_alone()?;
    refuses(&node)?;
    node.stop()
}

/// Tries to write until the answer is this.
fn await_write(node: &Node, wanted: u16) -> Result<()> {
    let mut last = None;
    let reached = until(PATIENCE, || {
        last = node.post("/v1/counters/full/a", &json!({"increment": 1})).ok();
        last.as_ref().filter(|answer| answer.status == wanted).map(drop)
    });
    reached.with_context(|| format!("no {wanted}: {last:?} {}", node.log_tail()))
}

/// Writes are refused in the words of the contract; reads, lists, streams and readiness go on.
fn refuses(node: &Node) -> Result<()> {
    let answer = node.post("/v1/counters/full/a", &json!({"increment": 1}))?;
    let problem: Value = answer.json()?;
    ensure!(answer.status == 507, "{answer:?}");
    ensure!(problem["code"] == "disk-full" && problem["outcome"] == "not-applied", "{problem}");
    node.get("/v1/counters/full/a")?;
    ensure!(node.get("/v1/counters/full")?["items"].as_array().is_some_and(|i| !i.is_empty()));
    ensure!(node.ask("/readyz")?.status == 200, "not ready");
    ensure!(node.ask("/livez")?.status == 200, "not live");
    Stream::open(node, "/v1/counters/full/a")?.expect("\"ready\"")
}
