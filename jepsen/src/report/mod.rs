//! What a run leaves behind: a folder with its history, its results and a page to read.
//!
//! - `history.edn`, `history.jsonl`: what happened, line by line;
//! - `results.json`: verdicts and counts, see [`Results`];
//! - `report.html`: the same for people, with charts; one file that needs nothing else.
//!
//! Invariants:
//! 1. The page is a function of the other files: it can be made again from them.
//! 2. Whatever a history holds, the page shows it as text: `markup` is the only place that
//!    writes HTML, and it escapes everything.
//!
//! Left out: clocks. When a run began is said by whoever ran it.

mod distribution;
mod facts;
mod frame;
mod latency;
mod markup;
mod page;
mod rate;
mod results;
#[cfg(test)]
pub(crate) mod sample;
mod scale;
mod stable;
mod timeline;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

pub(crate) use markup::thousands;
pub use results::{Judged, Operations, Results};
pub use stable::Quantiles;

use crate::checkers::Verdict;
use crate::history::History;

/// The file of results in a run's folder.
pub const RESULTS: &str = "results.json";

/// A run that is over.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The workload's name.
    pub workload: String,
    /// Names of the faults that were asked for.
    pub nemesis: Vec<String>,
    /// What the run was drawn from.
    pub seed: u64,
    /// Names of the nodes, each `<region>-<k>`.
    pub nodes: Vec<String>,
    /// With what it was run: shown as they are.
    pub options: BTreeMap<String, String>,
    /// When it began, for people; nothing is computed from it.
    pub started: Option<String>,
    /// What happened.
    pub history: History,
    /// What the judges found, each with its name.
    pub verdicts: Vec<(String, Verdict)>,
}

impl Run {
    /// What came out, as it is written.
    pub fn results(&self) -> Results {
        Results::new(self)
    }

    /// Writes all files; the directory is made if it is missing.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let results = self.results();
        fs::write(directory.join("history.edn"), self.history.to_edn())?;
        fs::write(directory.join("history.jsonl"), self.history.to_json_lines())?;
        let json = serde_json::to_string_pretty(&results).map_err(io::Error::other)?;
        fs::write(directory.join(RESULTS), json + "\n")?;
        fs::write(directory.join("report.html"), page::render(&results, &self.history))
    }
}

/// The results in a run's folder.
pub fn read_results(directory: &Path) -> io::Result<Results> {
    let path = directory.join(RESULTS);
    let invalid = |what: &str| {
        let text = format!("{}: {what}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let text = fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text).map_err(|error| invalid(&error.to_string()))
}

/// Writes `report.html` again, from the results and the history in a run's folder.
pub fn rewrite(directory: &Path) -> io::Result<()> {
    let results = read_results(directory)?;
    let path = directory.join("history.jsonl");
    let named = |what: String| format!("{}: {what}", path.display());
    let text = fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), named(error.to_string())))?;
    let history = History::from_json_lines(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, named(error.to_string())))?;
    fs::write(directory.join("report.html"), page::render(&results, &history))
}

#[cfg(test)]
mod tests;
