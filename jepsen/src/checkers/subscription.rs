//! Subscriptions, by etcd's list: ordered, unique, reliable, resumable, filtered, bookmarked.
//!
//! Operations: `write` of `[id, number]`, where an entity's numbers rise; `poll` and `final-poll`
//! answered with `{"subscriber", "prefix", "node", "since", "reconnect", "records"}`, a record
//! being `{"event", "id", "value", "cursor"}`. A *stream* is what comes between two reconnects: to
//! another node or another run of it, after a poll that failed, or where it says so.
//! 1. Ordered: within a stream, an entity's number never falls.
//! 2. Unique: within a stream, no change comes twice with one cursor; within a snapshot no entity
//!    comes twice. The same state under another cursor is legal: two changes became one.
//! 3. Reliable: after its final poll a subscriber has seen, of every entity under its prefix, the
//!    last acknowledged number or a later one. What it had seen before a `reset`, or before it
//!    asked without a cursor, does not count: the snapshot must bring it, up to `ready`.
//! 4. A snapshot holds what its node had acknowledged before it was asked for.
//! 5. Resumable, bookmarked: a cursor of any record, `progress` too, stands for what was seen up
//!    to it; what it skips is missing in the end (3).
//! 6. Filtered: nothing outside the prefix; and nothing that nobody wrote.
//! 7. Nothing follows an `error`. A stream that is cut off without one is a failed poll: counted.
//!
//! Left out: when something comes; a change that was skipped and then overtaken by a later one of
//! the same entity, which coalescing allows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::faults::Lives;
use super::{Verdict, of};
use crate::history::{History, Pair, Type};

/// The function of polls that must bring everything.
pub const FINAL_POLL: &str = "final-poll";

/// Judges a history of subscribers.
pub fn check(history: &History) -> Verdict {
    let mut judge = Judge { verdict: Verdict::default(), world: World::of(history) };
    judge.verdict.counted = COUNTED.iter().map(|name| ((*name).to_owned(), 0.0)).collect();
    let mut subscribers: BTreeMap<String, Subscriber> = BTreeMap::new();
    for pair in history.pairs() {
        let is_final = pair.invoke.f == FINAL_POLL;
        if !is_final && pair.invoke.f != "poll" {
            continue;
        }
        let subscriber = subscribers.entry(pair.invoke.value["subscriber"].to_string());
        let subscriber = subscriber.or_default();
        match pair.end.filter(|end| end.kind == Type::Ok) {
            // Each node is asked on behalf of each subscriber: they share what was before.
            Some(_) if is_final => judge.last(&mut subscriber.clone(), &pair),
            Some(_) => judge.poll(subscriber, &pair),
            None => {
                subscriber.is_cut = true;
                judge.count("streams cut off");
            }
        }
    }
    if of(history, FINAL_POLL).all(|pair| pair.outcome() != Type::Ok) {
        judge.verdict.violations.push("no final poll was answered".into());
    }
    judge.verdict
}

const COUNTED: [&str; 6] = [
    "changes",
    "resets",
    "resumed here",
    "resumed elsewhere",
    "states told again",
    "streams cut off",
];

/// What was written, and what became of disks and processes.
struct World<'a> {
    writes: BTreeMap<&'a str, BTreeMap<u64, Pair<'a>>>,
    disks: Lives,
    runs: Lives,
}

impl<'a> World<'a> {
    fn of(history: &'a History) -> World<'a> {
        let mut writes: BTreeMap<&str, BTreeMap<u64, Pair<'_>>> = BTreeMap::new();
        for write in of(history, "write") {
            let (id, number) = (&write.invoke.value[0], &write.invoke.value[1]);
            if let (Some(id), Some(number)) = (id.as_str(), number.as_u64()) {
                writes.entry(id).or_default().insert(number, write);
            }
        }
        World { writes, disks: Lives::of_disks(history), runs: Lives::of_processes(history) }
    }

    /// The last acknowledged number of each entity under a prefix, of those that `counts`.
    fn acknowledged(
        &self,
        prefix: &str,
        counts: impl Fn(&Pair<'_>) -> bool,
    ) -> BTreeMap<String, u64> {
        let mine = self.writes.iter().filter(|(id, _)| id.starts_with(prefix));
        let last = |(id, writes): (&&str, &BTreeMap<u64, Pair<'_>>)| {
            let ok = |write: &&Pair<'_>| write.outcome() == Type::Ok && counts(write);
            let number = writes.iter().rev().find(|(_, write)| ok(write)).map(|(n, _)| *n);
            number.map(|number| ((*id).to_owned(), number))
        };
        mine.filter_map(last).collect()
    }

    /// What a node had acknowledged before an operation, and has still on its disk.
    fn held(&self, prefix: &str, node: &str, pair: &Pair<'_>) -> BTreeMap<String, u64> {
        let life = |pair: &Pair<'_>| {
            let end = pair.end.map_or(u64::MAX, |end| end.index);
            [pair.invoke.index, end].map(|index| self.disks.at(Some(node), index))
        };
        self.acknowledged(prefix, |write| {
            let end = write.end.filter(|end| end.index < pair.invoke.index);
            end.is_some_and(|end| end.node.as_deref() == Some(node)) && life(write) == life(pair)
        })
    }

    /// Whether an entity may show a number at the end of a poll.
    fn is_possible(&self, id: &str, number: u64, poll: &Pair<'_>) -> bool {
        let write = self.writes.get(id).and_then(|writes| writes.get(&number));
        write.is_some_and(|write| {
            let before = poll.end.is_none_or(|end| write.invoke.index < end.index);
            before && write.outcome() != Type::Fail
        })
    }
}

/// What a subscriber knows.
#[derive(Clone, Default)]
struct Subscriber {
    node: Option<String>,
    /// Which run of the node.
    run: usize,
    is_cut: bool,
    stream: Stream,
    /// The highest number of each entity, since it last began from nothing.
    seen: BTreeMap<String, u64>,
}

/// What came since the last reconnect.
#[derive(Clone, Default)]
struct Stream {
    since: Option<String>,
    latest: BTreeMap<String, u64>,
    /// Changes: id, number, cursor.
    told: BTreeSet<(String, u64, String)>,
    /// The entities of the snapshot that is under way.
    snapshot: Option<BTreeSet<String>>,
    /// What that must hold.
    expected: BTreeMap<String, u64>,
    has_ended: bool,
}

struct Judge<'a> {
    verdict: Verdict,
    world: World<'a>,
}

impl Judge<'_> {
    fn count(&mut self, name: &str) {
        *self.verdict.counted.entry(name.into()).or_default() += 1.0;
    }

    fn last(&mut self, subscriber: &mut Subscriber, pair: &Pair<'_>) {
        subscriber.is_cut = true;
        self.poll(subscriber, pair);
        if subscriber.stream.snapshot.is_some() {
            self.verdict.blame(pair, "ends within a snapshot".into());
        }
        let prefix = prefix(pair);
        for (id, number) in self.world.acknowledged(prefix, |_| true) {
            let seen = subscriber.seen.get(&id).copied();
            if seen.is_none_or(|seen| seen < number) {
                let seen = seen.map_or("nothing".into(), |seen| seen.to_string());
                let what = format!("{id} is {number}, and the subscriber was told {seen}");
                self.verdict.blame(pair, what);
            }
        }
    }

    /// Takes a poll that was answered.
    fn poll(&mut self, subscriber: &mut Subscriber, pair: &Pair<'_>) {
        self.verdict.judged += 1;
        let Some(value) = pair.end.map(|end| &end.value) else { return };
        let (Some(node), Some(records)) = (value["node"].as_str(), value["records"].as_array())
        else {
            return self.verdict.blame(pair, "is no answer to a poll".into());
        };
        // Whoever polls may have found the node started again, and resumed by itself.
        let run = self.world.runs.at(Some(node), pair.end.map_or(u64::MAX, |end| end.index));
        let moved = subscriber.node.as_deref() != Some(node) || subscriber.run != run;
        subscriber.run = run;
        let opens = moved || subscriber.is_cut || value["reconnect"] == Value::Bool(true);
        if opens {
            self.open(subscriber, pair, value["since"].as_str(), node);
        }
        for record in records {
            let event = record["event"].as_str().unwrap_or_default();
            if subscriber.stream.has_ended {
                self.verdict.blame(pair, format!("{event} follows an error"));
            }
            match event {
                "snapshot" | "change" => self.state(subscriber, pair, event, record),
                "reset" => {
                    self.count("resets");
                    self.begin(subscriber, pair, opens.then_some(node));
                }
                "ready" => self.ready(subscriber, pair),
                "progress" => {}
                "error" => subscriber.stream.has_ended = true,
                other => self.verdict.blame(pair, format!("{other} of what nobody deleted")),
            }
        }
    }

    fn open(&mut self, it: &mut Subscriber, pair: &Pair<'_>, since: Option<&str>, node: &str) {
        let here = it.node.as_deref() == Some(node);
        it.stream = Stream { since: since.map(str::to_owned), ..Stream::default() };
        it.is_cut = false;
        match since {
            Some(_) if here => self.count("resumed here"),
            Some(_) => self.count("resumed elsewhere"),
            None => self.begin(it, pair, Some(node)),
        }
        it.node = Some(node.into());
    }

    /// From nothing: a snapshot follows. Its node is known to have been asked only now, or not.
    fn begin(&mut self, it: &mut Subscriber, pair: &Pair<'_>, node: Option<&str>) {
        it.seen.clear();
        it.stream.latest.clear();
        it.stream.told.clear();
        it.stream.snapshot = Some(BTreeSet::new());
        let held = node.map(|node| self.world.held(prefix(pair), node, pair));
        it.stream.expected = held.unwrap_or_default();
    }

    fn ready(&mut self, it: &mut Subscriber, pair: &Pair<'_>) {
        if it.stream.snapshot.take().is_none() {
            self.verdict.blame(pair, "ready without a snapshot".into());
        }
        for (id, number) in std::mem::take(&mut it.stream.expected) {
            if it.seen.get(&id).is_none_or(|seen| *seen < number) {
                self.verdict.blame(pair, format!("{id} of {number} is missing in a snapshot"));
            }
        }
    }

    /// A record with the state of an entity.
    fn state(&mut self, it: &mut Subscriber, pair: &Pair<'_>, event: &str, record: &Value) {
        let (Some(id), Some(number)) = (record["id"].as_str(), record["value"].as_u64()) else {
            return self.verdict.blame(pair, format!("{event} of no entity or number"));
        };
        if !id.starts_with(prefix(pair)) {
            self.verdict.blame(pair, format!("{id} is outside {:?}", prefix(pair)));
        }
        if !self.world.is_possible(id, number, pair) {
            self.verdict.blame(pair, format!("{id} of {number} was told, and not written"));
        }
        let stream = &mut it.stream;
        let latest = stream.latest.insert(id.into(), number);
        if let Some(latest) = latest.filter(|latest| *latest > number) {
            self.verdict.blame(pair, format!("{id} went back from {latest} to {number}"));
        }
        let cursor = record["cursor"].as_str().unwrap_or_default();
        let is_new = match (event, &mut stream.snapshot) {
            ("snapshot", Some(snapshot)) => snapshot.insert(id.into()),
            ("snapshot", None) => {
                self.verdict.blame(pair, format!("{id} of a snapshot that has not begun"));
                true
            }
            // What is replayed for another journal's cursor keeps that cursor.
            _ if stream.since.as_deref() == Some(cursor) => true,
            _ => stream.told.insert((id.into(), number, cursor.into())),
        };
        if !is_new {
            self.verdict.blame(pair, format!("{id} of {number} came twice"));
        }
        if event == "change" {
            self.count("changes");
            if latest == Some(number) {
                self.count("states told again");
            }
        }
        let seen = it.seen.entry(id.into()).or_default();
        *seen = (*seen).max(number);
    }
}

fn prefix<'a>(pair: &Pair<'a>) -> &'a str {
    pair.invoke.value["prefix"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
