//! Whole clusters in one thread, each run a function of its seed.
//!
//! The nodes are real: core, store, committer's order, journal, subscriptions, and the HTTP
//! surface's reading of requests. Not real are the network, the disk, the clock and the threads:
//! what they do is drawn from the seed. A run is chaos, then healing, then checks:
//!
//! 1. *Safety*: clients work while faults strike. Samples check what must always hold inside.
//! 2. *Liveness*: all is put right; within a bound, every node holds the same and is silent.
//! 3. *Judgement*: every node is read, and the judges of the workload and of convergence look at
//!    the history.
//!
//! What is wrong inside is noted and does not end the run: whether clients could see it, too, is
//! for the judges to say. Only a panic of the product does.
//!
//! Invariants:
//! 1. The same seed and workload give the same trace, bit for bit.
//! 2. Unknown is not failed, and what only a lost disk held was not promised: such lines of the
//!    history are made unknown before they are judged.
//!
//! Left out: torn batches, which the contract of a backend excludes (the engine behind it is
//! tested with power loss); several wire versions, of which there is one.

mod ask;
mod checks;
mod clients;
mod cluster;
mod coverage;
#[cfg(feature = "mutants")]
mod divergence;
mod durable;
mod faults;
mod idle;
mod layout;
mod ledger;
mod losses;
mod machine;
mod mood;
mod noise;
mod placed;
mod pods;
mod routes;
mod samples;
mod streams;
mod wear;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use coverage::{Coverage, SOMETIMES, WITH_COUNCILS};
pub use idle::{Idle, idle};
pub use wear::{Wear, cycles, replacements};

use crate::checkers::{Verdict, convergence};
use crate::history::{History, excuse};
use crate::workloads;
use layout::Kind;
use world::World;

/// Seeds that failed once, with their workloads: they always run.
pub const REGRESSIONS: &[(u64, &str)] = &[
    // A stream went on over what the disk had lost to a trim, and the last status did not tell.
    (24, "pubsub"),
    // A stopping node answered, and what only its replaced disk held was not excused.
    (25, "pn-counter"),
    // The operation that a copy lost would have had no effect, so that nobody noticed.
    (82, "g-set"),
    // The judge let a node learn of removes in another order only if others had made them.
    (197, "mv-register"),
    // A start did not know what the last one had found damaged, and told digests without it.
    (131, "or-set"),
    (138, "multi-entity"),
    (821, "mv-register"),
    // Who resumed read what had changed one entity a turn, and was minutes behind.
    (367, "pubsub"),
    // What a node held was compared with what it showed, while an expiry was being committed.
    (3809, "mv-register"),
    (1023, "pn-counter"),
];

/// The same, of worlds with councils.
pub const COUNCIL_REGRESSIONS: &[(u64, &str)] = &[
    // Another region went on suspecting a node whose own region had started and counted anew.
    (128, "mv-register"),
    // A stale copy was dropped though no peer had all of it; and a node that was given up and came
    // back was believed about its ended start.
    (179, "session"),
    // A state was taken before the earlier copy was swept, and went with it.
    (457, "pubsub"),
    (483, "pn-counter"),
    // What only a copy knew that was given up for good was not handed on.
    (628, "pubsub"),
    // A clock was closed by the word of who counted other shards.
    (638, "session"),
];

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The workload.
    pub workload: &'static str,
    /// Hash of all that was logged and sent, and when.
    pub trace: blake3::Hash,
    /// Simulated time, ms.
    pub simulated_ms: u64,
    /// Steps of cores.
    pub events: u64,
    /// Messages between nodes.
    pub messages: u64,
    /// How many of the violations were found inside; those come first.
    pub complaints: usize,
    /// What must not be; empty if all is well.
    pub violations: Vec<String>,
    /// What happened.
    pub coverage: Coverage,
    /// What clients did; empty if the run broke off.
    pub history: History,
    /// The judges' verdicts.
    pub verdicts: Vec<(&'static str, Verdict)>,
}

/// Runs a seed in a world where every node holds everything; `workload` is a name of
/// [`workloads::ALL`], or the seed chooses.
pub fn run(seed: u64, workload: Option<&'static str>) -> Outcome {
    run_as(Kind::Plain, seed, workload)
}

/// The same in a world whose regions have councils, and whose nodes come and go.
pub fn run_councils(seed: u64, workload: Option<&'static str>) -> Outcome {
    run_as(Kind::Councils, seed, workload)
}

fn run_as(kind: Kind, seed: u64, workload: Option<&'static str>) -> Outcome {
    let chosen = seed as usize % workloads::DRAWN;
    let named = workloads::ALL.iter().find(|(name, _)| Some(*name) == workload);
    let (name, make) = *named.unwrap_or(&workloads::ALL[chosen]);
    let mut world = World::new(seed, kind, make);
    let broke = catch_unwind(AssertUnwindSafe(|| {
        let most = if kind == Kind::Councils { 20_000 } else { 9_000 };
        let chaos = 4_000 + world.random.between(0, most);
        world.run_until(chaos, true);
        world.heal();
        world.settle();
        #[cfg(feature = "mutants")]
        world.diverge();
        world.finish();
        world.record_final_samples();
        world.check_end();
    }));
    let mut violations = std::mem::take(&mut world.ledger.complaints);
    let (mut history, mut verdicts) = (History::default(), Vec::new());
    match broke {
        Err(panic) => violations.push(message(&*panic)),
        Ok(()) => {
            history = excuse(&world.recorder.history(), &world.ledger.excused);
            verdicts = world.workload.judge(&history);
            verdicts.push(("convergence", convergence::check(&history)));
        }
    }
    let complaints = violations.len();
    for (judge, verdict) in &verdicts {
        violations.extend(verdict.violations.iter().map(|what| format!("{judge}: {what}")));
    }
    Outcome {
        seed,
        workload: name,
        trace: world.trace.finalize(),
        simulated_ms: world.time,
        events: world.events,
        messages: world.messages,
        complaints,
        violations,
        coverage: std::mem::take(&mut world.coverage),
        history,
        verdicts,
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
