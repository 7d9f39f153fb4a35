//! The servers under measurement: child processes in a temporary directory.
//!
//! Invariant: they end with the value that holds them, and so with this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use tempfile::TempDir;

use super::Plan;
use crate::cli::{Failure, cert};
use crate::client::Client;
use crate::config::Config;
use crate::demo::{Child, ready};

/// Members that the largest set of a measurement may have.
const SET_MEMBERS: u64 = 1_000_000;

/// A server of some kind.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    child: Child,
    _directory: TempDir,
}

impl Server {
    /// A node alone.
    pub(super) async fn node(plan: &Plan) -> Result<Server, Failure> {
        let mut nodes = Server::nodes(plan, &["local"]).await?;
        Ok(nodes.remove(0))
    }

    /// A node in each of the regions, next to each other; several in one that is named so often.
    pub(super) async fn nodes(plan: &Plan, regions: &[&str]) -> Result<Vec<Server>, Failure> {
        let authority = directory()?;
        let addresses: Vec<SocketAddr> = free(regions.len())?;
        let mut servers = Vec::new();
        for (place, (region, address)) in regions.iter().zip(&addresses).enumerate() {
            let directory = directory()?;
            let before = regions[..place].iter().filter(|other| *other == region).count();
            let name = format!("{region}-{}", before + 1);
            let certificates = directory.path().join("certificates");
            cert::issue(authority.path(), "bench", &certificates, &name)?;
            let mut config = Config::default();
            config.cluster.founder = format!("{region}-1");
            config.node.name = name;
            config.node.region = (*region).into();
            config.node.data = directory.path().join("data");
            config.http.listen = *address;
            config.replication.listen = *address;
            let others = addresses.iter().filter(|other| *other != address);
            config.replication.seeds = others.map(SocketAddr::to_string).collect();
            config.replication.certificates = certificates;
            config.limits.set_members = SET_MEMBERS;
            config.log.level = "warn".into();
            let file = directory.path().join("atoll.toml");
            std::fs::write(&file, config.to_toml()).map_err(Failure::of(file.display()))?;
            let file = file.display().to_string();
            let arguments = ["serve", "--config", &file, "--exit-with-stdin"];
            servers.push(Server::start(&plan.program, &arguments, *address, directory)?);
        }
        for server in &servers {
            server.ready().await?;
        }
        Ok(servers)
    }

    /// A baseline that answers `answer`.
    pub(super) async fn baseline(answer: &[u8]) -> Result<Server, Failure> {
        let program = std::env::current_exe().map_err(Failure::of("this program's path"))?;
        let directory = directory()?;
        let (file, log) = (directory.path().join("answer"), directory.path().join("appended"));
        std::fs::write(&file, answer).map_err(Failure::of(file.display()))?;
        let address = free(1)?.remove(0);
        let (listen, file) = (address.to_string(), file.display().to_string());
        let log = log.display().to_string();
        let arguments = ["bench-baseline", "--listen", &listen, "--answer", &file, "--log", &log];
        let server = Server::start(&program, &arguments, address, directory)?;
        server.ready().await?;
        Ok(server)
    }

    /// Its address for clients.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of it.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.url())?)
    }

    /// Ends it in order.
    pub(super) async fn end(self) {
        self.child.terminate().await;
    }

    fn start(
        program: &Path,
        arguments: &[&str],
        address: SocketAddr,
        directory: TempDir,
    ) -> Result<Server, Failure> {
        let child = Child::start(program, arguments, &directory.path().join("log"))?;
        Ok(Server { address, child, _directory: directory })
    }

    async fn ready(&self) -> Result<(), Failure> {
        ready(&self.child, &self.url(), &self._directory.path().join("log")).await
    }
}

/// In the working directory, not in the system's temporary one, which may be memory: there an
/// fdatasync would cost nothing.
fn directory() -> Result<TempDir, Failure> {
    let directory = tempfile::Builder::new().prefix(".atoll-bench-").tempdir_in(".");
    directory.map_err(Failure::of("a directory for the measured data, here"))
}

/// Addresses that nobody uses, for TCP and UDP. They are kept only until here: a rare clash with
/// another process shows as a server that does not start.
fn free(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let mut held = Vec::new();
    while held.len() < count {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Failure::of("a port"))?;
        let address = tcp.local_addr().map_err(Failure::of("a port"))?;
        if let Ok(udp) = UdpSocket::bind(address) {
            held.push((address, tcp, udp));
        }
    }
    Ok(held.into_iter().map(|(address, ..)| address).collect())
}
