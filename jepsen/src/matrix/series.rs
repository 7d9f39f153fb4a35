//! The runs of a matrix: each in a process of its own, several at a time.
//!
//! Invariants:
//! 1. A run is a `jepsen test` that anyone can repeat: what it was called with is the first line
//!    of its `run.txt`.
//! 2. Every run leaves results in its folder. One that broke off, or took longer than it may, has
//!    results that say so, and is not valid.
//! 3. Runs side by side have folders and ports of their own.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::real::Fault;
use crate::report::{Judged, RESULTS, Results, read_results};
use crate::wait::until;

/// What a run prints, in its folder.
const PRINTED: &str = "run.txt";
/// Ports of those that run at a time: the first, and how many for each.
const PORTS: (u16, u16) = (20_000, 400);
/// What a run takes besides its time limit and its quiet: usually, and at most.
const BESIDES: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(300));

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The workload's name.
    pub workload: String,
    /// A list of faults, as on the command line.
    pub nemesis: String,
    /// What it is drawn from.
    pub seed: u64,
}

/// Runs to make.
#[derive(Clone, Debug)]
pub struct Series {
    /// This program.
    pub program: PathBuf,
    /// Arguments of every run.
    pub arguments: Vec<String>,
    /// What to run.
    pub cells: Vec<Cell>,
    /// How many at a time.
    pub jobs: usize,
    /// Time limit and quiet of a run.
    pub length: Duration,
    /// Where the folders of runs go.
    pub directory: PathBuf,
    /// Runs whose folders have results already are not made again.
    pub resume: bool,
}

impl Cell {
    /// The name of its folder.
    fn name(&self) -> String {
        format!("{}-{}-{}", self.workload, self.nemesis.replace(',', "+"), self.seed)
    }
}

impl Series {
    /// The folder of a run.
    pub fn folder(&self, cell: &Cell) -> PathBuf {
        self.directory.join(cell.name())
    }

    /// How long all runs take, and how long they may take at most.
    pub fn lengths(&self) -> (Duration, Duration) {
        let rounds = self.cells.len().div_ceil(self.jobs.max(1)) as u32;
        ((self.length + BESIDES.0) * rounds, (self.length + BESIDES.1) * rounds)
    }

    /// Makes all runs; `tell` hears of each as it ends: how many have ended, and how this did.
    pub fn run(&self, tell: impl Fn(usize, &Cell, &Results) + Sync) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let (next, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |slot: usize| -> io::Result<()> {
            while let Some(cell) = self.cells.get(next.fetch_add(1, Ordering::SeqCst)) {
                let results = self.results(cell, slot)?;
                tell(ended.fetch_add(1, Ordering::SeqCst) + 1, cell, &results);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let jobs: Vec<_> =
                (0..self.jobs.max(1)).map(|slot| scope.spawn(move || work(slot))).collect();
            jobs.into_iter().try_for_each(|job| job.join().expect("a job only reports errors"))
        })
    }

    /// What came of one run: made now, or before.
    fn results(&self, cell: &Cell, slot: usize) -> io::Result<Results> {
        let folder = self.folder(cell);
        if !self.resume || !folder.join(RESULTS).is_file() {
            let problem = self.make(cell, &folder, slot)?;
            let silent = || "it ended without results".to_owned();
            let missing = || (!folder.join(RESULTS).is_file()).then(silent);
            if let Some(what) = problem.or_else(missing) {
                write(&folder, &broken(cell, what))?;
            }
        }
        read_results(&folder)
    }

    /// Makes one run; says what was wrong with it as such.
    fn make(&self, cell: &Cell, folder: &Path, slot: usize) -> io::Result<Option<String>> {
        // What an earlier run found is not this one's.
        match std::fs::remove_file(folder.join(RESULTS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(folder)?;
        let mut arguments = vec![
            "test".to_owned(),
            format!("--workload={}", cell.workload),
            format!("--nemesis={}", cell.nemesis),
            format!("--seed={}", cell.seed),
        ];
        arguments.extend(self.arguments.iter().cloned());
        let mut printed = File::create(folder.join(PRINTED))?;
        writeln!(printed, "jepsen {}", arguments.join(" "))?;
        let first = PORTS.0 + PORTS.1 * slot as u16;
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--out").arg(folder).arg(format!("--first-port={first}"));
        command.stdin(Stdio::null()).stdout(printed.try_clone()?).stderr(printed);
        let mut child = command.spawn()?;
        let most = self.length + BESIDES.1;
        let status = match until(most, || child.try_wait().transpose()) {
            Some(status) => status?,
            None => {
                child.kill()?;
                child.wait()?;
                return Ok(Some(format!("it did not end within {} s", most.as_secs())));
            }
        };
        Ok(problem(status))
    }
}

/// What is wrong with how a run ended, if its results do not say it.
fn problem(status: ExitStatus) -> Option<String> {
    let judged = matches!(status.code(), Some(0 | 1));
    (!judged).then(|| format!("it ended with {status}: see {PRINTED}"))
}

/// Results of a run that has none of its own.
fn broken(cell: &Cell, what: String) -> Results {
    let run = Judged {
        name: "run".into(),
        word: "BAD".into(),
        violations_total: 1,
        violations: vec![what],
        ..Judged::default()
    };
    Results {
        workload: cell.workload.clone(),
        nemesis: Fault::expand(&cell.nemesis),
        seed: cell.seed,
        verdicts: vec![run],
        ..Results::default()
    }
}

fn write(folder: &Path, results: &Results) -> io::Result<()> {
    let json = serde_json::to_string_pretty(results).map_err(io::Error::other)?;
    std::fs::write(folder.join(RESULTS), json + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A program that writes results for `g-set` as its last argument but one says where, breaks
    /// off for `map`, and ends without results for the rest.
    fn program(directory: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let results = Results { valid: true, workload: "g-set".into(), ..Results::default() };
        let json = serde_json::to_string(&results).unwrap();
        let text = format!(
            "#!/bin/sh\necho \"$@\"\nwhile [ \"$1\" != --out ]; do case $1 in\n\
             --workload=map) exit 2;; --workload=g-set) good=1;; esac; shift; done\n\
             if [ -n \"$good\" ]; then echo '{json}' > \"$2/{RESULTS}\"; fi\n"
        );
        let path = directory.join("program");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn series(directory: &Path) -> Series {
        let cell = |workload: &str| Cell {
            workload: workload.into(),
            nemesis: "partitions,kill".into(),
            seed: 7,
        };
        Series {
            program: program(directory),
            arguments: vec!["--rate=5".into()],
            cells: ["g-set", "map", "register"].map(cell).into(),
            jobs: 2,
            length: Duration::from_secs(20),
            directory: directory.join("runs"),
            resume: false,
        }
    }

    #[test]
    fn every_run_leaves_results_and_what_broke_off_is_not_valid() {
        let directory = tempfile::tempdir().unwrap();
        let series = series(directory.path());
        let told = Mutex::new(Vec::new());
        let tell = |count: usize, cell: &Cell, results: &Results| {
            told.lock().unwrap().push((count, cell.workload.clone(), results.valid));
        };
        series.run(tell).unwrap();
        let mut told = told.into_inner().unwrap();
        assert_eq!(told.iter().map(|(count, ..)| *count).collect::<Vec<_>>(), [1, 2, 3]);
        told.sort_by(|a, b| a.1.cmp(&b.1));
        assert_eq!(told.iter().map(|(.., valid)| *valid).collect::<Vec<_>>(), [true, false, false]);
        let rows = super::super::read(std::slice::from_ref(&series.directory)).unwrap();
        let bad: Vec<_> = rows
            .iter()
            .map(|row| (row.workload.as_str(), row.nemesis.as_str(), row.violations))
            .collect();
        let faults = "partitions, kill";
        assert_eq!(bad, [("g-set", "none", 0), ("map", faults, 1), ("register", faults, 1)]);
        let printed = series.folder(&series.cells[0]).join(PRINTED);
        let printed = std::fs::read_to_string(printed).unwrap();
        let call = "test --workload=g-set --nemesis=partitions,kill --seed=7 --rate=5";
        assert!(printed.starts_with(&format!("jepsen {call}\n{call} --out ")), "{printed}");
    }

    #[test]
    fn what_has_results_is_not_run_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut series = series(directory.path());
        series.run(|_, _, _| ()).unwrap();
        series.program = directory.path().join("nothing");
        series.resume = true;
        let valid = Mutex::new(Vec::new());
        series.run(|_, _, results| valid.lock().unwrap().push(results.valid)).unwrap();
        valid.lock().unwrap().sort();
        assert_eq!(valid.into_inner().unwrap(), [false, false, true]);
        series.resume = false;
        assert!(series.run(|_, _, _| ()).is_err(), "it is run again");
    }

    #[test]
    fn lengths_count_rounds() {
        let directory = tempfile::tempdir().unwrap();
        let (usual, most) = series(directory.path()).lengths();
        assert_eq!((usual.as_secs(), most.as_secs()), (56, 640));
    }
}
