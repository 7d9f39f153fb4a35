//! The matrix of `docs/testing.md`: what was run, what was found.
//!
//! Results of runs become rows, one for each workload under each set of faults; rows become the
//! table of a page, between two markers.
//!
//! Invariant: numbers of runs are summed, latencies are the worst of any run: a row never looks
//! better than its worst run.
//!
//! The runs themselves are made by [`Series`], each in a process of its own.

mod document;
mod series;
mod tables;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use document::replace;
pub use series::{Cell, Series};
pub use tables::{mutants, runs};

use crate::real::Fault;
use crate::report::{self, Judged, RESULTS, Results};

/// Where the tables are, from the root of the workspace.
pub const PAGE: &str = "docs/testing.md";

/// Runs of a workload under a set of faults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The workload's name.
    pub workload: String,
    /// Names of the faults; `none` without.
    pub nemesis: String,
    /// How many runs.
    pub runs: u64,
    /// Clients' operations in all of them.
    pub operations: u64,
    /// Faults in all of them.
    pub faults: u64,
    /// Violations in all of them.
    pub violations: u64,
    /// Acknowledged operations that were not promised, in all of them.
    pub excused: u64,
    /// The worst of any run, if any measured it.
    pub stable_latency_p99_ms: Option<f64>,
    /// What else is to be known, such as runs that prove nothing.
    pub note: String,
}

/// How a deliberate bug was caught.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MutantRow {
    /// The bug's name.
    pub mutant: String,
    /// The rule that it breaks, if it has a number.
    pub rule: String,
    /// The workload that caught it.
    pub workload: String,
    /// Seeds until it was caught; `None` if it never was.
    pub median_seeds: Option<u64>,
    /// In how many trials it was caught.
    pub caught: u64,
    /// The judges of clients' histories that caught it; empty if none did.
    pub judges: String,
    /// Seeds until one of them did.
    pub median_judged: Option<u64>,
    /// In how many trials one of them did.
    pub judged: u64,
    /// The check inside of the simulator that caught it most often; empty if none did.
    pub inside: String,
    /// Of how many.
    pub trials: u64,
}

/// The folders of runs: each of these if it is one, else those in it.
pub fn folders(from: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in from {
        let before = found.len();
        if directory.join(RESULTS).is_file() {
            found.push(directory.clone());
            continue;
        }
        let entries = std::fs::read_dir(directory).map_err(|error| named(directory, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| named(directory, &error))?.path();
            if path.join(RESULTS).is_file() {
                found.push(path);
            }
        }
        found[before..].sort();
        if found.len() == before {
            let what = format!("{}: no run here: no {RESULTS}", directory.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
    }
    // A run that is named twice is still one run.
    found.sort();
    found.dedup();
    Ok(found)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Rows of the runs in these folders.
pub fn read(from: &[PathBuf]) -> io::Result<Vec<Row>> {
    let results: io::Result<Vec<Results>> =
        folders(from)?.iter().map(|directory| report::read_results(directory)).collect();
    Ok(rows(&results?))
}

/// Sets of faults of the matrix, in the order of its rows.
pub const SETS: &[&str] = &[
    "none",
    "partitions",
    "slow",
    "kill",
    "kill-all",
    "pause",
    "restore",
    "power",
    "all",
    "membership",
    "rolling",
];

/// Workloads that are not run where nodes come and go: their judges know a client by the one copy
/// that it asks.
const BOUND: [&str; 3] = ["multi-entity", "mv-register", "session"];

/// Whether a list of faults needs several nodes in each region.
pub fn needs_more_nodes(nemesis: &str) -> bool {
    Fault::any_roams(&Fault::expand(nemesis))
}

/// Whether a workload is run under a list of faults.
pub fn is_run(workload: &str, nemesis: &str) -> bool {
    !needs_more_nodes(nemesis) || !BOUND.contains(&workload)
}

/// Rows of these results, ordered by workload and faults: [`SETS`] first.
pub fn rows(results: &[Results]) -> Vec<Row> {
    let mut rows: BTreeMap<(String, usize, String), Row> = BTreeMap::new();
    for run in results {
        let nemesis = Fault::summary(&run.nemesis);
        let place = SETS.iter().position(|set| *set == nemesis).unwrap_or(SETS.len());
        let row = rows.entry((run.workload.clone(), place, nemesis.clone())).or_default();
        row.workload.clone_from(&run.workload);
        row.nemesis = nemesis;
        row.runs += 1;
        row.operations += run.operations.total();
        row.faults += run.faults.values().sum::<u64>();
        row.violations += run.violations();
        let counted = run.verdicts.iter().filter_map(|verdict| verdict.counted.get("excused"));
        row.excused += counted.sum::<f64>() as u64;
        let p99 = run.stable_latency_ms.map(|quantiles| quantiles.p99);
        row.stable_latency_p99_ms = match (row.stable_latency_p99_ms, p99) {
            (Some(before), Some(now)) => Some(before.max(now)),
            (before, now) => before.or(now),
        };
        if let Some(note) = note(run) {
            row.note.push_str(if row.note.is_empty() { "" } else { "; " });
            row.note.push_str(&note);
        }
    }
    rows.into_values().collect()
}

/// Why a run is not good: its judges, or that there were none.
fn note(run: &Results) -> Option<String> {
    if run.valid {
        return None;
    }
    let bad = run.verdicts.iter().filter(|verdict| !verdict.good);
    let word = |verdict: &Judged| match (verdict.violations_total, verdict.unknown.len()) {
        (0, 0) => "judged nothing",
        (0, _) => "not decided",
        _ => "BAD",
    };
    let bad: Vec<String> =
        bad.map(|verdict| format!("{} {}", verdict.name, word(verdict))).collect();
    let what = if bad.is_empty() { "nothing was judged".into() } else { bad.join(", ") };
    Some(format!("seed {}: {what}", run.seed))
}

/// Writes the table of runs into a page.
pub fn record(page: &Path, rows: &[Row]) -> io::Result<()> {
    write(page, "matrix", &runs(rows))
}

/// Writes the table of deliberate bugs into a page.
pub fn record_mutants(page: &Path, rows: &[MutantRow]) -> io::Result<()> {
    write(page, "mutants", &mutants(rows))
}

/// Writes what the simulator printed into a page.
pub fn record_simulator(page: &Path, text: &str) -> io::Result<()> {
    write(page, "simulator", &tables::block(text))
}

fn write(page: &Path, section: &str, content: &str) -> io::Result<()> {
    let text = std::fs::read_to_string(page).map_err(|error| named(page, &error))?;
    let text = replace(&text, section, content).map_err(|what| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", page.display()))
    })?;
    std::fs::write(page, text).map_err(|error| named(page, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Operations, Quantiles};

    fn result(nemesis: &[&str], seed: u64, violations: u64, p99: Option<f64>) -> Results {
        let good = violations == 0;
        let verdict = Judged {
            name: "set".into(),
            good,
            judged: 9,
            violations_total: violations,
            counted: [("excused".to_owned(), 2.0)].into(),
            ..Judged::default()
        };
        Results {
            valid: good,
            workload: "g-set".into(),
            nemesis: nemesis.iter().map(|name| (*name).to_owned()).collect(),
            seed,
            operations: Operations { ok: 90, fail: 6, info: 4 },
            faults: [("kill".to_owned(), 2), ("pause".to_owned(), 1)].into(),
            stable_latency_ms: p99.map(|p99| Quantiles { p99, ..Quantiles::default() }),
            verdicts: vec![verdict],
            ..Results::default()
        }
    }

    #[test]
    fn a_row_sums_runs_and_keeps_the_worst() {
        let rows = rows(&[
            result(&["kill", "pause"], 1, 0, Some(80.0)),
            result(&[], 1, 0, None),
            result(&["kill", "pause"], 2, 3, Some(120.0)),
            result(&["kill", "pause"], 3, 0, None),
        ]);
        let expected = Row {
            workload: "g-set".into(),
            nemesis: "kill, pause".into(),
            runs: 3,
            operations: 300,
            faults: 9,
            violations: 3,
            excused: 6,
            stable_latency_p99_ms: Some(120.0),
            note: "seed 2: set BAD".into(),
        };
        assert_eq!(rows[1], expected);
        assert_eq!((rows.len(), rows[0].nemesis.as_str()), (2, "none"));
    }

    #[test]
    fn a_run_that_proves_nothing_is_noted() {
        let mut unjudged = result(&[], 4, 0, None);
        (unjudged.valid, unjudged.verdicts[0].good) = (false, false);
        let mut without = result(&[], 5, 0, None);
        (without.valid, without.verdicts) = (false, Vec::new());
        let rows = rows(&[unjudged, without]);
        assert_eq!(rows[0].note, "seed 4: set judged nothing; seed 5: nothing was judged");
    }

    #[test]
    fn folders_of_runs_become_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let all = folder.path().join("runs");
        for seed in [1, 2] {
            report::sample::run(seed, 200).write(&all.join(format!("run-{seed}"))).unwrap();
        }
        let rows = read(&[all.clone(), all.join("run-2")]).unwrap();
        assert_eq!((rows.len(), rows[0].runs, rows[0].violations), (1, 2, 6));
        let page = folder.path().join("page.md");
        std::fs::write(&page, "a\n<!-- matrix -->\nold\n<!-- /matrix -->\nz\n").unwrap();
        record(&page, &rows).unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("a\n<!-- matrix -->\n\n| workload"), "{text}");
        assert!(text.ends_with("\n<!-- /matrix -->\nz\n") && !text.contains("old"), "{text}");
        let error = record_mutants(&page, &[]).unwrap_err().to_string();
        assert!(error.contains("page.md: no line `<!-- mutants -->`"), "{error}");
        let error = read(&[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("no run here"), "{error}");
    }

    #[test]
    fn the_page_of_this_workspace_has_its_markers() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
        let text = std::fs::read_to_string(page).unwrap();
        for section in ["matrix", "mutants", "simulator"] {
            replace(&text, section, "x").unwrap();
        }
    }
}
