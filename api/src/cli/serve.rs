//! `atoll serve`: a node until it is told to stop.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::Failure;
use crate::config::Config;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct Options {
    /// Configuration file, TOML. ATOLL__SECTION__KEY in the environment wins over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Stop as soon as standard input ends: a child that cannot outlive its parent.
    #[arg(long)]
    exit_with_stdin: bool,
}

/// Runs the node.
pub async fn run(options: Options) -> Result<(), Failure> {
    let config = Config::load(options.config.as_deref())?;
    let filter = tracing_subscriber::EnvFilter::new(&config.log.level);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let shutdown = stopped(options.exit_with_stdin)?;
    Ok(crate::server::run(config, shutdown).await?)
}

/// Done once the process is told to stop: SIGTERM, SIGINT, or the end of standard input.
pub fn stopped(with_stdin: bool) -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::of("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::of("SIGINT"))?;
    let (ended, end) = oneshot::channel();
    // Without standard input the sender lives on unused, or its end would look like the input's.
    let unused = if with_stdin {
        // A thread: reading standard input cannot be cancelled, and the process ends under it.
        std::thread::spawn(move || {
            drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
            // Nobody listens if the process ends for another reason.
            let _ = ended.send(());
        });
        None
    } else {
        Some(ended)
    };
    Ok(async move {
        let _unused = unused;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = end => {}
        }
    })
}
