//! `atoll config check`: the effective configuration, or what is wrong with it.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, Output};
use crate::config::Config;

/// Subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the effective configuration (defaults, file, environment), or its first error.
    Check {
        /// Configuration file, TOML; without it, defaults and environment alone.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

/// Checks and prints.
pub fn run(command: Command, output: Output) -> Result<(), Failure> {
    let Command::Check { config } = command;
    let config = Config::load(config.as_deref())?;
    match output {
        Output::Table => print!("{}", config.to_toml()),
        Output::Json => {
            let json = serde_json::to_value(&config).map_err(|e| Failure::failed(e.to_string()))?;
            println!("{json}");
        }
    }
    Ok(())
}
