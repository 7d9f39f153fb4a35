//! `jepsen matrix`: the table of runs in `docs/testing.md`, from the folders of runs.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::matrix;

/// Writes the table of runs into a page.
#[derive(Debug, Args)]
pub(super) struct Matrix {
    /// Folders of runs, or folders that hold such folders.
    #[arg(long, required = true, num_args = 1.., value_name = "DIR")]
    from: Vec<PathBuf>,
    /// The page, with the markers between which the table goes.
    #[arg(long, default_value = matrix::PAGE)]
    page: PathBuf,
}

impl Matrix {
    /// Whether all runs were good.
    pub(super) fn run(self) -> Result<bool> {
        let rows = matrix::read(&self.from)?;
        matrix::record(&self.page, &rows)?;
        print!("{}", matrix::runs(&rows));
        Ok(rows.iter().all(|row| row.violations == 0 && row.note.is_empty()))
    }
}
