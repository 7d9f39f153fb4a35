//! `atoll demo`: three regions on this machine, with real distances between them, to cut, kill
//! and mend.
//!
//! Invariants:
//! 1. Each node is a process of its own that runs `atoll serve`, the same as anywhere else.
//! 2. Packets between regions pass the supervisor's [`shaper`]; packets inside one do not.
//! 3. No child outlives the supervisor: its standard input ends with us.
//!
//! Left out: restarting what died. A dead node stays down until `atoll demo start`.

mod control;
mod files;
pub mod layout;
mod links;
mod member;
mod observe;
mod screen;
pub mod shaper;
mod supervisor;

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::{Failure, Output};
use layout::{Place, REGIONS};
pub(crate) use member::{Child, ready};
use supervisor::Supervisor;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    /// Names the demo: its control listens there, node k of region r at base-port + r + 10 (k-1)
    #[arg(long, global = true, default_value_t = 7400)]
    base_port: u16,
    /// Nodes in each region
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Round trips between regions: eu-us 80, us-ap 150, eu-ap 220 ms, or none
    #[arg(long, value_enum, default_value_t)]
    latency: Latency,
    /// Directory that is kept; without it a temporary one, removed at the end
    #[arg(long)]
    data: Option<PathBuf>,
    /// Program to run as the nodes; this one without it
    #[arg(long, hide = true)]
    program: Option<PathBuf>,
}

/// How far apart the regions are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Latency {
    /// As far as they are on earth.
    #[default]
    Real,
    /// Next to each other.
    None,
}

/// What to do to a running demo.
#[derive(Debug, Subcommand)]
enum Action {
    /// Cut the link between two regions
    Partition {
        /// A region
        a: String,
        /// Another region
        b: String,
    },
    /// Mend all cuts, or the one between two regions
    Heal {
        /// Two regions, or none
        #[arg(num_args = 0..=2)]
        between: Vec<String>,
    },
    /// Kill a node at once (SIGKILL)
    Kill {
        /// For example ap-1
        node: String,
    },
    /// Start a node that is down
    Start {
        /// For example ap-1
        node: String,
    },
    /// Start one more node in a region
    Add {
        /// For example ap
        region: String,
    },
    /// Print nodes, links, and whether all running nodes hold the same data
    Status,
    /// End the demo
    Stop,
}

/// Runs a demo, or acts on a running one.
pub async fn run(options: Options, output: Output) -> Result<(), Failure> {
    match &options.action {
        Some(action) => control::act(options.base_port, action, output).await,
        None => start(options).await,
    }
}

async fn start(options: Options) -> Result<(), Failure> {
    let stopped = crate::cli::serve::stopped(false)?;
    let base = options.base_port;
    let places = layout::places(base, options.nodes).ok_or_else(|| {
        Failure::Usage(format!("--base-port {base} is too high: its nodes need ports above it"))
    })?;
    free(base, &places)?;
    let address = (Ipv4Addr::LOCALHOST, base);
    let listener = tokio::net::TcpListener::bind(address).await.map_err(Failure::of("control"))?;
    let directory = files::Directory::open(options.data.clone())?;
    let program = match options.program {
        Some(program) => program,
        None => std::env::current_exe().map_err(Failure::of("this program's path"))?,
    };
    println!("starting {} nodes in {}", places.len(), directory.path().display());
    let real = options.latency == Latency::Real;
    let supervisor = Supervisor::new(base, program, directory, real);
    let serving = tokio::spawn(control::serve(listener, supervisor.clone()));
    tokio::pin!(stopped);
    let started = tokio::select! {
        started = supervisor.begin(places) => started,
        () = &mut stopped => Err(Failure::failed("stopped while starting")),
    };
    if started.is_ok() {
        print!("{}", screen::welcome(&supervisor));
        tokio::select! {
            () = screen::live(&supervisor) => {}
            () = supervisor.ended() => {}
            () = &mut stopped => {}
        }
        println!("\nstopping");
    }
    supervisor.end().await;
    // Lets an answer to `stop` leave before the process does.
    supervisor.answered().await;
    serving.abort();
    started
}

/// Checks that nobody uses the ports, before anything is started.
fn free(base: u16, places: &[Place]) -> Result<(), Failure> {
    let mut taken = Vec::new();
    if TcpListener::bind((Ipv4Addr::LOCALHOST, base)).is_err() {
        taken.push(format!("{base}/tcp (control)"));
    }
    taken.extend(places.iter().flat_map(taken_of));
    if taken.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "ports in use: {}. Is a demo running? End it with `atoll demo stop --base-port {base}`, or \
         choose another --base-port",
        taken.join(", ")
    )))
}

/// The ports of a place that somebody uses.
fn taken_of(place: &Place) -> Vec<String> {
    let mut taken = Vec::new();
    if TcpListener::bind((Ipv4Addr::LOCALHOST, place.port)).is_err() {
        taken.push(format!("{}/tcp ({})", place.port, place.name()));
    }
    if UdpSocket::bind((Ipv4Addr::LOCALHOST, place.port)).is_err() {
        taken.push(format!("{}/udp ({})", place.port, place.name()));
    }
    taken
}

/// Checks that it is one of the regions.
fn region(name: &str) -> Result<&'static str, Failure> {
    REGIONS.into_iter().find(|region| *region == name).ok_or_else(|| {
        Failure::Usage(format!("no region {name:?}; the regions are {}", REGIONS.join(", ")))
    })
}
