//! Last-writer-wins registers: all nodes agree on one order of the writes, and it never turns.
//!
//! Operations, on `[key, value]`: `write`, `read` and `final-read`, with a value or null. Each
//! value is written once. Every write has a stamp, later than that of any write that its node had
//! seen, and a node shows the latest that it holds. So a node that acknowledged or showed `a`, and
//! then acknowledges or shows `b`, tells that `b` is later than `a`.
//! 1. What is read was written by a write that had begun and did not fail; or nothing was.
//! 2. No read shows a value earlier than one that its node had acknowledged or shown before: as far
//!    as all nodes together told the order until then.
//! 3. A final read shows nothing earlier than an acknowledged write, or than what any node showed.
//! 4. Final reads are equal.
//!
//! Left out: the order of writes that no node told; a wrong winner among these is missed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Verdict;
use super::entity::{
    Agreement, Entity, Event, acknowledged, argument, end, entities, is_final, shown,
};
use super::memory::{Memory, node_of};
use crate::history::{History, Pair};

/// Judges a history of registers.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let memory = Memory::of(history);
    for entity in entities(history, &["write"], &mut verdict) {
        let written = entity.writes.iter().map(|write| Some(argument(write))).collect();
        let seen: Vec<&Value> = entity.reads.iter().map(shown).collect();
        judge(&entity, &entity.key, &memory, written, &seen, &mut verdict);
        let mut finals = Agreement::default();
        for read in entity.reads.iter().filter(|read| is_final(read)) {
            finals.expect(&entity.key, read, shown(read), &mut verdict);
        }
    }
    verdict
}

/// Judges one register of an entity: what each write writes to it, if anything, and what each
/// read shows.
pub(super) fn judge(
    entity: &Entity<'_>,
    name: &str,
    memory: &Memory,
    written: Vec<Option<&Value>>,
    seen: &[&Value],
    verdict: &mut Verdict,
) {
    let text = |value: Option<&Value>| value.map(ToString::to_string);
    let written: Vec<Option<String>> = written.into_iter().map(text).collect();
    let mut order = Order::new(entity, name, memory, &written);
    for event in entity.events() {
        match event {
            Event::WriteBegins(write) => {
                if let Some(value) = &written[write] {
                    order.write(&entity.writes[write], value);
                }
            }
            Event::WriteEnds(write) => {
                if let Some(value) = &written[write] {
                    order.tell(&entity.writes[write], value);
                }
            }
            Event::ReadBegins(read) => order.begin(&entity.reads[read]),
            Event::ReadEnds(place) => {
                let read = &entity.reads[place];
                let value = Some(seen[place]).filter(|value| !value.is_null());
                let value = value.map(ToString::to_string);
                order.read(read, value.as_deref(), verdict);
            }
        }
    }
}

/// What a node told last, and when.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    value: String,
    from: u64,
    to: u64,
}

/// The order of the writes of one register, as far as it was told.
struct Order<'a> {
    name: &'a str,
    memory: &'a Memory,
    written: BTreeMap<String, Pair<'a>>,
    later: BTreeMap<String, BTreeSet<String>>,
    /// By node: what it told, without what it told to be earlier.
    told: BTreeMap<String, Vec<Told>>,
    /// By invocation: what its node had told before it.
    before: BTreeMap<u64, Vec<Told>>,
}

impl<'a> Order<'a> {
    fn new(
        entity: &Entity<'a>,
        name: &'a str,
        memory: &'a Memory,
        written: &[Option<String>],
    ) -> Order<'a> {
        let pairs = written.iter().zip(&entity.writes);
        let pairs = pairs.filter_map(|(value, pair)| Some((value.clone()?, *pair)));
        let (later, told, before) = Default::default();
        Order { name, memory, written: pairs.collect(), later, told, before }
    }

    /// What comes later than all that its node had told, if the node forgets nothing until then.
    fn write(&mut self, write: &Pair<'a>, value: &str) {
        self.begin(write);
        for told in self.kept(write, end(write)) {
            self.follow(&told.value, value);
        }
    }

    /// An operation begins: what its node had told is earlier than, or is, what it will tell.
    fn begin(&mut self, pair: &Pair<'a>) {
        let told = self.told.get(&node_of(pair)).cloned().unwrap_or_default();
        self.before.insert(pair.invoke.index, told);
    }

    fn kept(&self, pair: &Pair<'a>, to: u64) -> Vec<Told> {
        let node = node_of(pair);
        let told = self.before.get(&pair.invoke.index).into_iter().flatten();
        told.filter(|told| self.memory.keeps(&node, told.from, to)).cloned().collect()
    }

    fn follow(&mut self, earlier: &str, later: &str) {
        if earlier != later {
            self.later.entry(earlier.to_owned()).or_default().insert(later.to_owned());
        }
    }

    /// A node tells a value that is later than all that it had told before the operation began.
    fn tell(&mut self, pair: &Pair<'a>, value: &str) {
        let before = self.before.remove(&pair.invoke.index).unwrap_or_default();
        let told = self.told.entry(node_of(pair)).or_default();
        told.retain(|told| !before.contains(told));
        told.push(Told { value: value.to_owned(), from: pair.invoke.index, to: end(pair) });
    }

    fn read(&mut self, read: &Pair<'a>, value: Option<&str>, verdict: &mut Verdict) {
        let name = self.name;
        let write = value.and_then(|value| self.written.get(value));
        if let Some(value) = value
            && write.is_none_or(|write| write.invoke.index > end(read))
        {
            verdict.blame(read, format!("{name}: {value} was read, and not written"));
            return;
        }
        let later = value.map(|value| self.all_later(value));
        let is_later = |other: &str| later.as_ref().is_none_or(|later| later.contains(other));
        let before = self.kept(read, end(read));
        let shown = value.unwrap_or("nothing");
        if let Some(told) = before.iter().find(|told| is_later(&told.value)) {
            let what = format!("{name}: {shown} was read, after {} which is later", told.value);
            verdict.blame(read, what);
            return;
        }
        if is_final(read)
            && let Some(lost) = self.due(read).into_iter().find(|due| is_later(due))
        {
            verdict.blame(read, format!("{name}: {shown} is final, and {lost} is later"));
            return;
        }
        if let Some(value) = value {
            before.iter().for_each(|told| self.follow(&told.value, value));
            self.tell(read, value);
        }
    }

    /// All that is known to be later than a value.
    fn all_later<'s>(&'s self, value: &'s str) -> BTreeSet<&'s str> {
        let mut found = BTreeSet::new();
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let next = self.later.get(value).into_iter().flatten();
            open.extend(next.map(String::as_str).filter(|next| found.insert(*next)));
        }
        found
    }

    /// What a final read must show, or something later: what any node told and kept.
    fn due(&self, read: &Pair<'a>) -> Vec<&str> {
        let (from, to) = (read.invoke.index, end(read));
        let in_time = |(_, write): &(_, &Pair<'_>)| acknowledged(write) && end(write) < from;
        let mut due: Vec<&str> =
            self.written.iter().filter(in_time).map(|(value, _)| value.as_str()).collect();
        for (node, told) in &self.told {
            let kept = told.iter().filter(|told| told.to < from);
            let kept = kept.filter(|told| self.memory.keeps(node, told.from, to));
            due.extend(kept.map(|told| told.value.as_str()));
        }
        due
    }
}

#[cfg(test)]
mod tests;
