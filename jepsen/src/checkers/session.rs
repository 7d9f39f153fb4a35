//! Sessions over sets that only grow: what a client wrote and saw does not vanish from its sight.
//!
//! Operations: `add` with `[set, element]`, `read` and `final-read` with `[set, [element, ...]]`;
//! a third item says that the request carried a session token. Each set is judged alone. Besides
//! what holds for any such set (nothing lost, no phantom), for every read:
//!
//! | guarantee | a read shows | promised |
//! |---|---|---|
//! | read-your-writes | what its process had added | to who asks the same node, or sent a token |
//! | monotonic reads | what its process had read | to who asks the same node, or sent a token |
//! | monotonic writes | with an add, its process's earlier ones | the same, within a run of it |
//! | writes-follow-reads | with an add, what its process had read before | where there are tokens |
//! | causal | with an add, all that was before it | where there are tokens |
//!
//! *Before* is the transitive closure of the order of a process and of reading what was added,
//! within a set, kept as vector clocks (Fidge, Mattern 1988): adds of a process are numbered, and
//! a clock says how many of each process are in the past. What is missed and was not promised is
//! counted. A session ends with its process, and without a token when its node loses its disk.
//!
//! Invariant: "where there are tokens" is read off the history: any token in it is enough.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::faults::Lives;
use super::keyed_set::{Read, Sets};
use super::{Verdict, answered_reads, of};
use crate::history::{History, Pair, Process, Type};

/// What may be missed, worst first.
const GUARANTEES: [&str; 5] =
    ["read-your-writes", "monotonic-reads", "monotonic-writes", "writes-follow-reads", "causal"];

/// Judges a history of sessions.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let mut sets = Sets::default();
    let adds = of(history, "add");
    adds.for_each(|add| sets.add(add, &add.invoke.value[0], &add.invoke.value[1]));
    for (is_final, pair) in answered_reads(history) {
        let value = pair.end.map_or(&Value::Null, |end| &end.value);
        sets.read(pair, is_final, &value[0], &value[1], &mut verdict);
    }
    sets.judge(&mut verdict);
    let tokens = history.pairs().iter().filter(|pair| sends_token(pair)).count();
    verdict.counted = GUARANTEES.map(|name| (format!("{name} missed, not promised"), 0.0)).into();
    verdict.counted.insert("session tokens".into(), tokens as f64);
    let places = Places {
        disks: Lives::of_disks(history),
        processes: Lives::of_processes(history),
        tokens: tokens > 0,
    };
    for (key, adds) in &sets.adds {
        let reads = sets.reads.iter().filter(|read| read.key == *key);
        Past::new(&places).follow(adds, reads.collect(), &mut verdict);
    }
    verdict
}

fn sends_token(pair: &Pair<'_>) -> bool {
    pair.invoke.value.get(2).is_some()
}

/// Where operations were asked, and whether the history has tokens.
struct Places {
    disks: Lives,
    processes: Lives,
    tokens: bool,
}

/// A node, with its disk and its run when it was asked and when it answered: what changed in
/// between is a place of its own.
#[derive(Clone, Copy, PartialEq)]
struct Place<'a> {
    node: Option<&'a str>,
    disk: [usize; 2],
    run: [usize; 2],
}

impl Place<'_> {
    fn has_same_disk(&self, other: &Place<'_>) -> bool {
        (self.node, self.disk) == (other.node, other.disk)
    }
}

impl Places {
    fn of<'a>(&self, pair: &Pair<'a>) -> Place<'a> {
        let node = pair.end.and_then(|end| end.node.as_deref()).or(pair.invoke.node.as_deref());
        let bounds = [pair.invoke.index, pair.end.map_or(u64::MAX, |end| end.index)];
        let disk = bounds.map(|index| self.disks.at(node, index));
        Place { node, disk, run: bounds.map(|index| self.processes.at(node, index)) }
    }
}

/// How many adds of each process are in the past.
type Clock = BTreeMap<Process, usize>;

/// An add with its past.
struct Add<'a> {
    element: &'a str,
    process: Process,
    /// Its number among its process's adds, from 1.
    number: usize,
    place: Place<'a>,
    token: bool,
    /// What its process had read.
    read: BTreeSet<usize>,
    /// Itself included.
    clock: Clock,
}

/// What a process did so far.
#[derive(Default)]
struct Session<'a> {
    added: Vec<usize>,
    /// What it saw, and where it saw that last.
    read: BTreeMap<usize, Place<'a>>,
    clock: Clock,
}

/// One set, followed from the beginning.
struct Past<'a> {
    places: &'a Places,
    adds: Vec<Add<'a>>,
    by_element: BTreeMap<&'a str, usize>,
    sessions: BTreeMap<Process, Session<'a>>,
}

/// What happened, at its place in the history.
enum Event<'a> {
    Added(&'a str, Pair<'a>),
    Read(&'a Read<'a>),
}

impl<'a> Past<'a> {
    fn new(places: &'a Places) -> Past<'a> {
        let (adds, by_element, sessions) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Past { places, adds, by_element, sessions }
    }

    /// Adds count from their invocation, reads from their answer.
    fn follow(
        mut self,
        adds: &'a BTreeMap<String, Pair<'a>>,
        reads: Vec<&'a Read<'a>>,
        verdict: &mut Verdict,
    ) {
        let applied = adds.iter().filter(|(_, add)| add.outcome() != Type::Fail);
        let added = applied.map(|(one, add)| (add.invoke.index, Event::Added(one, *add)));
        let end = |read: &Read<'_>| read.pair.end.map_or(u64::MAX, |end| end.index);
        let seen = reads.into_iter().map(|read| (end(read), Event::Read(read)));
        let mut events: Vec<(u64, Event<'_>)> = added.chain(seen).collect();
        events.sort_by_key(|(index, _)| *index);
        for (_, event) in events {
            match event {
                Event::Added(element, pair) => self.add(element, &pair),
                Event::Read(read) => self.read(read, verdict),
            }
        }
    }

    fn add(&mut self, element: &'a str, pair: &Pair<'a>) {
        let process = pair.invoke.process;
        let session = self.sessions.entry(process).or_default();
        let number = session.added.len() + 1;
        session.clock.insert(process, number);
        self.by_element.insert(element, self.adds.len());
        session.added.push(self.adds.len());
        self.adds.push(Add {
            element,
            process,
            number,
            place: self.places.of(pair),
            token: sends_token(pair),
            read: session.read.keys().copied().collect(),
            clock: session.clock.clone(),
        });
    }

    fn read(&mut self, read: &'a Read<'a>, verdict: &mut Verdict) {
        let found = read.elements.iter().filter_map(|one| self.by_element.get(one.as_str()));
        let seen: BTreeSet<usize> = found.copied().collect();
        for gone in (0..self.adds.len()).filter(|add| !seen.contains(add)) {
            let Some((guarantee, promised)) = self.missed(gone, &seen, read) else { continue };
            if promised {
                let element = self.adds[gone].element;
                verdict.blame(&read.pair, format!("{element} is missing: {guarantee}"));
            } else {
                let name = format!("{guarantee} missed, not promised");
                *verdict.counted.entry(name).or_default() += 1.0;
            }
        }
        let here = self.places.of(&read.pair);
        let session = self.sessions.entry(read.pair.invoke.process).or_default();
        for add in seen {
            session.read.insert(add, here);
            for (process, number) in &self.adds[add].clock {
                let known = session.clock.entry(*process).or_default();
                *known = (*known).max(*number);
            }
        }
    }

    /// The guarantee that an absent element breaks, a promised one before others, and whether it
    /// is promised; `None` if it may be absent.
    fn missed(
        &self,
        gone: usize,
        seen: &BTreeSet<usize>,
        read: &Read<'_>,
    ) -> Option<(&'static str, bool)> {
        let (here, token) = (self.places.of(&read.pair), sends_token(&read.pair));
        let absent = &self.adds[gone];
        let process = read.pair.invoke.process;
        let mut found = Vec::new();
        if absent.process == process {
            found.push((0, token || absent.place.has_same_disk(&here)));
        }
        let before = self.sessions.get(&process).and_then(|session| session.read.get(&gone));
        if let Some(there) = before {
            found.push((1, token || there.has_same_disk(&here)));
        }
        for add in seen.iter().map(|add| &self.adds[*add]) {
            if add.process == absent.process && absent.number < add.number {
                found.push((2, add.token || absent.place == add.place));
            }
            if add.read.contains(&gone) {
                found.push((3, self.places.tokens));
            }
            if add.clock.get(&absent.process).is_some_and(|known| *known >= absent.number) {
                found.push((4, self.places.tokens));
            }
        }
        let worst = found.into_iter().min_by_key(|(guarantee, promised)| (!promised, *guarantee));
        worst.map(|(guarantee, promised)| (GUARANTEES[guarantee], promised))
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::checkers::Verdict;
    use crate::checkers::testing::{Line, timed};
    use crate::history::Type::{Fail, Info, Invoke, Ok};
    use serde_json::{Value, json};

    /// An operation of a process at a node: `+n` adds, `-` reads what is listed.
    struct Did(u64, &'static str, Value);

    /// Judges acts one after the other; a token goes with each where `token` says so.
    fn judge(token: bool, acts: &[Did], faults: &[(usize, &str, &str)]) -> Verdict {
        let tokened = |mut value: Value| {
            if token {
                value.as_array_mut().unwrap().push(json!("token"));
            }
            value
        };
        let mut lines = Vec::new();
        for (at, Did(process, node, value)) in acts.iter().enumerate() {
            for (_, f, hit) in faults.iter().filter(|(before, ..)| *before == at) {
                lines.push(Line::Nemesis(0, f, json!({"phase": "begin", "nodes": [hit]})));
            }
            let f = if value.is_array() { "read" } else { "add" };
            let asked = if value.is_array() { Value::Null } else { value.clone() };
            let ended = tokened(json!([0, value]));
            lines.push(Line::Client(0, *process, Invoke, f, tokened(json!([0, asked])), node));
            lines.push(Line::Client(0, *process, Ok, f, ended, node));
        }
        let all: Vec<Value> =
            acts.iter().filter(|did| !did.2.is_array()).map(|did| did.2.clone()).collect();
        let last = json!([0, all]);
        lines.push(Line::Client(0, 99, Invoke, "final-read", json!([0, null]), "eu-1"));
        lines.push(Line::Client(0, 99, Ok, "final-read", last, "eu-1"));
        check(&timed(&lines))
    }

    fn counted(verdict: &Verdict) -> Vec<&str> {
        let missed = verdict.counted.iter().filter(|(name, n)| name.contains("missed") && **n > 0.);
        missed.map(|(name, _)| name.split(' ').next().unwrap()).collect()
    }

    /// Expects one violation of this guarantee.
    fn broken(verdict: &Verdict, guarantee: &str) {
        assert_eq!(verdict.violations.len(), 1, "{verdict:?}");
        assert!(verdict.violations[0].ends_with(guarantee), "{verdict:?}");
    }

    fn fine(verdict: &Verdict, missed: &[&str]) {
        assert_eq!(verdict.violations, Vec::<String>::new());
        assert_eq!(counted(verdict), missed);
    }

    #[test]
    fn a_stale_read_of_another_process_is_legal() {
        let acts =
            [Did(0, "eu-1", json!(1)), Did(1, "us-1", json!([])), Did(1, "us-1", json!([1]))];
        fine(&judge(false, &acts, &[]), &[]);
        fine(&judge(true, &acts, &[]), &[]);
    }

    #[test]
    fn own_writes_are_read() {
        let acts = |node| [Did(0, "eu-1", json!(1)), Did(0, node, json!([]))];
        broken(&judge(false, &acts("eu-1"), &[]), "1 is missing: read-your-writes");
        // Elsewhere only a token brings them along.
        fine(&judge(false, &acts("us-1"), &[]), &["read-your-writes"]);
        broken(&judge(true, &acts("us-1"), &[]), "1 is missing: read-your-writes");
    }

    #[test]
    fn reads_do_not_go_back() {
        let acts = |node| {
            [
                Did(0, "eu-1", json!(1)),
                Did(1, "us-1", json!([1])),
                Did(1, node, json!([])),
                Did(1, "us-1", json!([1])),
            ]
        };
        broken(&judge(false, &acts("us-1"), &[]), "1 is missing: monotonic-reads");
        fine(&judge(false, &acts("eu-1"), &[]), &["monotonic-reads"]);
        broken(&judge(true, &acts("eu-1"), &[]), "1 is missing: monotonic-reads");
    }

    #[test]
    fn a_restart_forgets_nothing_and_an_older_disk_may() {
        let acts = [Did(0, "eu-1", json!(1)), Did(0, "eu-1", json!([]))];
        let guarantee = "1 is missing: read-your-writes";
        broken(&judge(false, &acts, &[(1, "kill", "eu-1")]), guarantee);
        broken(&judge(false, &acts, &[(1, "power", "eu-1")]), guarantee);
        broken(&judge(false, &acts, &[(1, "restore", "us-1")]), guarantee);
        fine(&judge(false, &acts, &[(1, "restore", "eu-1")]), &["read-your-writes"]);
    }

    #[test]
    fn writes_of_a_process_are_seen_in_order() {
        let acts = [Did(0, "eu-1", json!(1)), Did(0, "eu-1", json!(2)), Did(1, "us-1", json!([2]))];
        broken(&judge(false, &acts, &[]), "1 is missing: monotonic-writes");
        // Another run of the node is another author: peers may hear of it first.
        fine(&judge(false, &acts, &[(1, "kill", "eu-1")]), &["monotonic-writes"]);
        broken(&judge(true, &acts, &[(1, "kill", "eu-1")]), "1 is missing: monotonic-writes");
    }

    #[test]
    fn what_was_read_is_seen_with_what_was_then_written() {
        let acts = [
            Did(0, "eu-1", json!(1)),
            Did(1, "us-1", json!([1])),
            Did(1, "us-1", json!(2)),
            Did(2, "ap-1", json!([2])),
        ];
        fine(&judge(false, &acts, &[]), &["writes-follow-reads"]);
        broken(&judge(true, &acts, &[]), "1 is missing: writes-follow-reads");
    }

    #[test]
    fn the_past_of_the_past_is_seen_too() {
        let acts = |last: Value| {
            [
                Did(0, "eu-1", json!(1)),
                Did(1, "us-1", json!([1])),
                Did(1, "us-1", json!(2)),
                // It saw 2, and by that, though not in its own reads, 1.
                Did(2, "ap-1", json!([2, 1])),
                Did(2, "ap-1", json!(3)),
                Did(3, "ap-2", last),
            ]
        };
        fine(&judge(true, &acts(json!([1, 2, 3])), &[]), &[]);
        let both = judge(true, &acts(json!([3])), &[]).violations;
        assert_eq!(both.len(), 2, "{both:?}");
        let chain = [
            Did(0, "eu-1", json!(1)),
            Did(0, "eu-1", json!(2)),
            Did(1, "us-1", json!([2])),
            Did(1, "us-1", json!(3)),
            Did(2, "ap-1", json!([3])),
        ];
        let found = judge(true, &chain, &[]).violations;
        let ends = |what: &str| found.iter().filter(|v| v.ends_with(what)).count();
        assert_eq!(ends("1 is missing: causal"), 1, "{found:?}");
        assert_eq!(ends("2 is missing: writes-follow-reads"), 1, "{found:?}");
        assert_eq!(ends("1 is missing: monotonic-writes"), 1, "{found:?}");
    }

    /// An add that ended like this, a read of another set's worth, and the final read.
    fn ended(kind: crate::history::Type, shown: &Value) -> Verdict {
        check(&timed(&[
            Line::Client(0, 0, Invoke, "add", json!([0, 1]), "eu-1"),
            Line::Client(0, 0, kind, "add", json!([0, 1]), "eu-1"),
            Line::Client(0, 1, Invoke, "read", json!([0, null]), "eu-1"),
            Line::Client(0, 1, Ok, "read", json!([0, []]), "eu-1"),
            Line::Client(0, 1, Invoke, "final-read", json!([0, null]), "eu-1"),
            Line::Client(0, 1, Ok, "final-read", json!([0, shown]), "eu-1"),
        ]))
    }

    #[test]
    fn an_unknown_add_may_show_up_later_and_an_acknowledged_one_must() {
        fine(&ended(Info, &json!([1])), &[]);
        fine(&ended(Info, &json!([])), &[]);
        fine(&ended(Ok, &json!([1])), &[]);
        let lost = ["operation 5: 1 was acknowledged, and is lost"];
        assert_eq!(ended(Ok, &json!([])).violations, lost);
        let phantom = ["operation 5: 1 was read, and not added"];
        assert_eq!(ended(Fail, &json!([1])).violations, phantom);
        let twice = ["operation 5: 1 was read twice"];
        assert_eq!(ended(Ok, &json!([1, 1])).violations, twice);
    }
}
