//! `jepsen report`: a run's page, made again from its folder.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::report;

/// Writes report.html again, from results.json and history.jsonl.
#[derive(Debug, Args)]
pub(super) struct Report {
    /// The folder of a run.
    directory: PathBuf,
}

impl Report {
    /// True: it is about the page, not about the run.
    pub(super) fn run(self) -> Result<bool> {
        report::rewrite(&self.directory)?;
        println!("{}", self.directory.join("report.html").display());
        Ok(true)
    }
}
