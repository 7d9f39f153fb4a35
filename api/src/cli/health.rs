//! `atoll health`: what `/readyz` and `/livez` say, as an exit code.
//!
//! For containers whose image has no shell and no `curl`, and for nodes that listen on loopback
//! only, where nothing outside of the container can ask.

use clap::Args;

use super::{Common, Failure};
use crate::client::Call;

/// Arguments of `health`.
#[derive(Debug, Args)]
pub struct Options {
    /// Ask only whether it is alive: also while it recovers, joins or drains.
    #[arg(long)]
    live: bool,
}

/// Asks and prints.
pub async fn run(common: &Common, options: Options) -> Result<(), Failure> {
    let path = if options.live { "/livez" } else { "/readyz" };
    let client = common.client()?;
    println!("{}", common.call(&client, Call::get(path)).await?.body);
    Ok(())
}
