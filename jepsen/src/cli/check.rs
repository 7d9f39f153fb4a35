//! `jepsen check`: the judges of a workload over a recorded history.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::history::History;
use crate::workloads;

/// Judges a history.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The workload that made it.
    #[arg(long)]
    workload: String,
    /// `history.edn` or `history.jsonl`.
    file: PathBuf,
}

impl Check {
    /// Whether the history is good.
    pub(super) fn run(self) -> Result<bool> {
        let make = workloads::find(&self.workload).with_context(|| {
            let names: Vec<&str> = workloads::ALL.iter().map(|(name, _)| *name).collect();
            format!("no workload {:?}; there are {}", self.workload, names.join(", "))
        })?;
        let text = std::fs::read_to_string(&self.file)
            .with_context(|| format!("{}", self.file.display()))?;
        let json = self.file.extension().is_some_and(|extension| extension == "jsonl");
        let history = if json { History::from_json_lines(&text) } else { History::from_edn(&text) };
        let verdicts = make(1).judge(&history.with_context(|| format!("{}", self.file.display()))?);
        let mut good = true;
        for (name, verdict) in verdicts {
            good &= verdict.is_good();
            println!("{name}: {}, {} operations judged", verdict.word(), verdict.judged);
            verdict.violations.iter().for_each(|violation| println!("  {violation}"));
            verdict.unknown.iter().for_each(|undecided| println!("  undecided: {undecided}"));
        }
        Ok(good)
    }
}
