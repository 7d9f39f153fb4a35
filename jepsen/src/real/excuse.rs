//! What was not promised: writes that only one disk held when that disk was lost. Pure.
//!
//! A write at `one` is on one disk. When that disk is put back to an older copy, replaced or
//! damaged, what no other node had is gone, and nobody promised otherwise. Samples of vectors tell
//! from when on that may be: what a node had acknowledged before a sample of it was asked for is
//! in that sample, and safe if another node's vectors contain it.
//!
//! Invariants:
//! 1. Only operations acknowledged by the node that lost its disk are excused, between the last
//!    sample that was safe and the loss. All that ended before is judged in full.
//! 2. A poll is not excused: its records are what a subscriber was told, which its cursor stands
//!    for from then on, whatever became of the disk.
//! 3. The result is a valid history: a process goes on under another number after `:info`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::history::{History, Op, Process, Type};

/// Shard to origin to sequence.
pub(crate) type Vectors = BTreeMap<String, BTreeMap<String, u64>>;

/// What a node held.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The node's place.
    pub(crate) node: usize,
    /// When it was asked, nanoseconds.
    pub(crate) asked: u64,
    /// When it had answered.
    pub(crate) answered: u64,
    pub(crate) vectors: Vectors,
    /// Every shard has a digest: nothing is known to be damaged.
    pub(crate) complete: bool,
}

/// A disk that was lost, in part or whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The node's place.
    pub(crate) node: usize,
    /// When its process had ended, nanoseconds.
    pub(crate) at: u64,
}

/// Whether one node has all that another has.
pub(crate) fn contains(whole: &Vectors, part: &Vectors) -> bool {
    let has = |shard: &String, origin: &String, sequence: u64| {
        whole.get(shard).and_then(|vector| vector.get(origin)).is_some_and(|n| *n >= sequence)
    };
    part.iter().all(|(shard, vector)| {
        vector.iter().all(|(origin, sequence)| *sequence == 0 || has(shard, origin, *sequence))
    })
}

/// Until when what a node acknowledged was on another disk as well.
pub(crate) fn safe_until(samples: &[Sample], losses: &[Loss], loss: Loss) -> u64 {
    let intact = |sample: &Sample| {
        let lost = |other: &Loss| {
            other.node == sample.node && (sample.asked..=loss.at).contains(&other.at)
        };
        sample.answered <= loss.at && sample.complete && !losses.iter().any(lost)
    };
    let others: Vec<&Sample> =
        samples.iter().filter(|s| s.node != loss.node && intact(s)).collect();
    let own = samples.iter().filter(|s| s.node == loss.node && s.answered <= loss.at);
    // Shard by shard: where replicas are spread, no node has all that another has.
    let has = |shard: (&String, &BTreeMap<String, u64>)| {
        let shard = Vectors::from([(shard.0.clone(), shard.1.clone())]);
        others.iter().any(|other| contains(&other.vectors, &shard))
    };
    let safe = own.filter(|sample| sample.vectors.iter().all(has));
    safe.map(|sample| sample.asked).max().unwrap_or(0)
}

/// Turns what was not promised from `:ok` to `:info`; says how many operations.
pub(crate) fn excuse(
    history: &History,
    samples: &[Sample],
    losses: &[Loss],
    names: &[&str],
) -> (History, usize) {
    let window = |loss: &Loss| (names[loss.node], safe_until(samples, losses, *loss), loss.at);
    let windows: Vec<(&str, u64, u64)> = losses.iter().map(window).collect();
    let excused = |op: &Op| {
        let inside = |(name, from, to): &(&str, u64, u64)| {
            op.node.as_deref() == Some(name) && (*from..=*to).contains(&op.time)
        };
        matches!(op.process, Process::Client(_))
            && op.kind == Type::Ok
            && op.f != "poll"
            && windows.iter().any(inside)
    };
    let mut ops = history.ops().to_vec();
    let mut numbers = Renumbered::of(&ops);
    let mut count = 0;
    for op in &mut ops {
        let Process::Client(process) = op.process else { continue };
        op.process = Process::Client(numbers.now(process));
        if excused(op) {
            op.kind = Type::Info;
            op.error = Some(json!("the only disk that had it was lost"));
            numbers.renew(process);
            count += 1;
        }
    }
    (History::new(ops).expect("each excused process goes on as a new one"), count)
}

/// Numbers of processes after some were given up.
struct Renumbered {
    now: BTreeMap<u64, u64>,
    next: u64,
}

impl Renumbered {
    fn of(ops: &[Op]) -> Renumbered {
        let number = |op: &Op| match op.process {
            Process::Client(number) => Some(number),
            Process::Nemesis => None,
        };
        let used: BTreeSet<u64> = ops.iter().filter_map(number).collect();
        Renumbered { now: BTreeMap::new(), next: used.last().map_or(0, |last| last + 1) }
    }

    fn now(&self, process: u64) -> u64 {
        self.now.get(&process).copied().unwrap_or(process)
    }

    fn renew(&mut self, process: u64) {
        self.now.insert(process, self.next);
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Recorder;
    use serde_json::Value;

    fn sample(node: usize, time: u64, sequence: u64) -> Sample {
        let vector = BTreeMap::from([("o".to_owned(), sequence)]);
        let vectors = Vectors::from([("0/1".to_owned(), vector)]);
        Sample { node, asked: time, answered: time + 5, vectors, complete: true }
    }

    #[test]
    fn what_another_node_had_is_safe() {
        let loss = Loss { node: 0, at: 100 };
        let until = |samples: &[Sample], losses: &[Loss]| safe_until(samples, losses, loss);
        let both = [sample(0, 10, 3), sample(0, 50, 7), sample(1, 60, 5), sample(1, 90, 7)];
        assert_eq!(until(&both, &[loss]), 50);
        assert_eq!(until(&both[..3], &[loss]), 10, "the last that the other had");
        assert_eq!(until(&both[..2], &[loss]), 0, "nobody had anything");
        let late = [sample(0, 50, 7), sample(1, 98, 7)];
        assert_eq!(until(&late, &[loss]), 0, "answered after the loss");
        let lost = Loss { node: 1, at: 95 };
        assert_eq!(until(&both, &[lost, loss]), 0, "the other lost it too");
        let before = Loss { node: 1, at: 40 };
        assert_eq!(until(&both, &[before, loss]), 50, "it was lost there before");
        let mut damaged = both.to_vec();
        damaged[3].complete = false;
        assert_eq!(until(&damaged, &[loss]), 10);
    }

    #[test]
    fn what_several_others_had_together_is_safe() {
        let shard = |name: &str, n| (name.to_owned(), BTreeMap::from([("o".to_owned(), n)]));
        let of = |node, time, shards: &[(&str, u64)]| Sample {
            vectors: shards.iter().map(|(name, n)| shard(name, *n)).collect(),
            ..sample(node, time, 0)
        };
        let loss = Loss { node: 0, at: 100 };
        let own = of(0, 50, &[("0/1", 3), ("0/2", 4)]);
        let both = [own.clone(), of(1, 60, &[("0/1", 3)]), of(2, 60, &[("0/2", 5)])];
        assert_eq!(safe_until(&both, &[loss], loss), 50);
        let short = [own, of(1, 60, &[("0/1", 3)]), of(2, 60, &[("0/2", 3)])];
        assert_eq!(safe_until(&short, &[loss], loss), 0);
    }

    #[test]
    fn vectors_contain_what_is_not_above_them() {
        let vectors = |n| sample(0, 0, n).vectors;
        assert!(contains(&vectors(7), &vectors(7)) && contains(&vectors(8), &vectors(7)));
        assert!(!contains(&vectors(6), &vectors(7)));
        assert!(!contains(&Vectors::new(), &vectors(1)));
        assert!(contains(&Vectors::new(), &vectors(0)) && contains(&vectors(1), &Vectors::new()));
    }

    #[test]
    fn what_a_subscriber_was_told_stays_told() {
        let mut recorder = Recorder::default();
        for (time, client, f) in [(60, 0, "poll"), (70, 1, "write")] {
            recorder.invoke(time, client, f, Value::Null, Some("eu-1"));
            recorder.end(time, client, Type::Ok, f, Value::Null, None, Some("eu-1"));
        }
        let losses = [Loss { node: 0, at: 100 }];
        let (history, count) = excuse(&recorder.history(), &[], &losses, &["eu-1"]);
        let ends: Vec<Type> = history.pairs().iter().map(|pair| pair.outcome()).collect();
        assert_eq!((count, ends), (1, vec![Type::Ok, Type::Info]));
    }

    #[test]
    fn only_the_window_of_the_lost_node_is_excused() {
        let mut recorder = Recorder::default();
        for (time, client, node) in
            [(40, 0, "eu-1"), (60, 0, "eu-1"), (70, 1, "us-1"), (80, 0, "eu-1"), (120, 0, "eu-1")]
        {
            recorder.invoke(time, client, "add", time.into(), Some(node));
            recorder.end(time, client, Type::Ok, "add", time.into(), None, Some(node));
        }
        let samples = [sample(0, 50, 7), sample(1, 60, 7)];
        let losses = [Loss { node: 0, at: 100 }];
        let (history, count) = excuse(&recorder.history(), &samples, &losses, &["eu-1", "us-1"]);
        assert_eq!(count, 2);
        let ends = history.pairs().into_iter().map(|p| (p.invoke.value.clone(), p.outcome()));
        let ends: Vec<(Value, Type)> = ends.collect();
        let (ok, info) = (Type::Ok, Type::Info);
        assert_eq!(
            ends,
            [(40, ok), (60, info), (70, ok), (80, info), (120, ok)].map(|(n, k)| (json!(n), k))
        );
        let processes: Vec<Process> = history.pairs().iter().map(|p| p.invoke.process).collect();
        assert_eq!(processes, [0, 0, 1, 2, 3].map(Process::Client));
    }
}
