//! Nodes that are told of no other node, and have no certificate: they make one, and find each
//! other in a real etcd. Without the program `etcd` the test says so and does nothing.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use jepsen::wait::until;
use serde_json::json;
use tempfile::TempDir;

use crate::node::{Node, PATIENCE, Site, await_equal};

struct Etcd {
    process: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    /// `None` where the program is not installed.
    fn start() -> Result<Option<Etcd>> {
        let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
        let (directory, address, peers) = (tempfile::tempdir()?, free()?, free()?);
        let (clients, peers) = (format!("http://{address}"), format!("http://{peers}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(directory.path());
        command.args(["--name", "test", "--initial-cluster", &format!("test={peers}")]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        let Ok(process) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            println!("skipped: no program `etcd` (Debian: etcd-server)");
            return Ok(None);
        };
        let etcd = Etcd { process, address, _directory: directory };
        let listens = until(PATIENCE, || TcpStream::connect(address).is_ok().then_some(()));
        listens.context("etcd does not listen")?;
        Ok(Some(etcd))
    }
}

/// A node without certificate and seeds, which knows an authority and an etcd.
fn bare(site: &Site, etcd: &Etcd, name: &str) -> Result<Node> {
    let mut node = site.node(name)?;
    std::fs::remove_dir_all(node.home.join("certificates"))?;
    let authority = node.home.with_file_name("authority");
    let endpoint = format!("http://{}", etcd.address);
    for (key, value) in [
        ("ATOLL__CLUSTER__FOUNDER", ""),
        ("ATOLL__DISCOVERY__METHOD", "etcd"),
        ("ATOLL__DISCOVERY__ETCD_ENDPOINTS", &endpoint),
        ("ATOLL__REPLICATION__AUTHORITY", &authority.display().to_string()),
    ] {
        node.options.push((key.to_owned(), value.to_owned()));
    }
    Ok(node)
}

#[test]
fn nodes_that_know_nobody_find_each_other() -> Result<()> {
    let Some(etcd) = Etcd::start()? else { return Ok(()) };
    let site = Site::new("atoll")?;
    let mut nodes = [bare(&site, &etcd, "eu-1")?, bare(&site, &etcd, "eu-2")?];
    nodes.iter_mut().try_for_each(|node| node.start(&[]))?;
    nodes.iter().try_for_each(|node| node.await_peers(1))?;
    nodes[0].done("/v1/counters/found/a", &json!({"increment": 1}))?;
    await_equal(&nodes)?;
    // A setting that the region was not formed with.
    let other = &mut nodes[1];
    other.stop()?;
    other.options.push(("ATOLL__CLUSTER__REPLICAS".into(), "5".into()));
    other.spawn(&[])?;
    ensure!(!other.await_end()?.success(), "it was to refuse");
    let said = other.log_tail();
    let wanted = "`cluster.replicas` is 5, but region eu has 3 (etcd key /atoll/regions/eu): set \
                  it to 3";
    ensure!(said.contains(wanted), "{said}");
    Ok(())
}
