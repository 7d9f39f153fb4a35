//! Histories over several entities: values are `[key, value]`, and each key is judged alone.
//!
//! Left out: nothing is said here of what values mean.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{FINAL_READ, Verdict};
use crate::history::{History, Pair, Type};

/// The operations on one entity.
#[derive(Debug, Default)]
pub(super) struct Entity<'a> {
    /// Its name.
    pub(super) key: String,
    /// Writes that may have been applied: those that certainly failed are left out.
    pub(super) writes: Vec<Pair<'a>>,
    /// Reads that were answered.
    pub(super) reads: Vec<Pair<'a>>,
}

/// A line of one entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// That write begins.
    WriteBegins(usize),
    /// That write is acknowledged.
    WriteEnds(usize),
    /// That read begins.
    ReadBegins(usize),
    /// That read is answered.
    ReadEnds(usize),
}

impl<'a> Entity<'a> {
    /// What happened, in order of the lines.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut lines: Vec<(u64, Event)> = Vec::new();
        for (place, write) in self.writes.iter().enumerate() {
            lines.push((write.invoke.index, Event::WriteBegins(place)));
            if acknowledged(write) {
                lines.push((end(write), Event::WriteEnds(place)));
            }
        }
        for (place, read) in self.reads.iter().enumerate() {
            lines.push((read.invoke.index, Event::ReadBegins(place)));
            lines.push((end(read), Event::ReadEnds(place)));
        }
        lines.sort_unstable();
        lines.into_iter().map(|(_, event)| event).collect()
    }
}

/// The entities of a history whose writes have these functions. What is no `[key, value]` is
/// blamed; so are entities that no final read shows.
pub(super) fn entities<'a>(
    history: &'a History,
    writes: &[&str],
    verdict: &mut Verdict,
) -> Vec<Entity<'a>> {
    let mut found: BTreeMap<String, Entity<'a>> = BTreeMap::new();
    for pair in history.pairs() {
        let f = pair.invoke.f.as_str();
        let (reads, ok) = (f == "read" || f == FINAL_READ, pair.outcome() == Type::Ok);
        if !reads && !writes.contains(&f) {
            continue;
        }
        verdict.judged += usize::from(reads && ok);
        let Some(key) = key(&pair).filter(|_| !(reads && ok) || is_answered(&pair)) else {
            verdict.blame(&pair, "is no [key, value]".into());
            continue;
        };
        let entity = found.entry(key.clone()).or_default();
        entity.key = key;
        if reads && ok {
            entity.reads.push(pair);
        } else if !reads && pair.outcome() != Type::Fail {
            entity.writes.push(pair);
        }
    }
    for entity in found.values().filter(|entity| !entity.reads.iter().any(is_final)) {
        verdict.violations.push(format!("no final read of {} was answered", entity.key));
    }
    if found.is_empty() {
        verdict.violations.push("no final read was answered".into());
    }
    found.into_values().collect()
}

fn key(pair: &Pair<'_>) -> Option<String> {
    let items = pair.invoke.value.as_array().filter(|items| items.len() == 2)?;
    Some(items[0].as_str().map_or_else(|| items[0].to_string(), str::to_owned))
}

/// Whether a read was answered about what it asked.
fn is_answered(read: &Pair<'_>) -> bool {
    let value = read.end.and_then(|end| end.value.as_array());
    value.is_some_and(|items| items.len() == 2 && items[0] == read.invoke.value[0])
}

/// What a write writes.
pub(super) fn argument<'a>(write: &Pair<'a>) -> &'a Value {
    &write.invoke.value[1]
}

/// What a read shows.
pub(super) fn shown<'a>(read: &Pair<'a>) -> &'a Value {
    read.end.map_or(&Value::Null, |end| &end.value[1])
}

/// The line that ends an operation; one whose end is unknown may go on for ever.
pub(super) fn end(pair: &Pair<'_>) -> u64 {
    match pair.end {
        Some(op) if op.kind != Type::Info => op.index,
        _ => u64::MAX,
    }
}

/// Whether a write certainly took effect.
pub(super) fn acknowledged(write: &Pair<'_>) -> bool {
    write.outcome() == Type::Ok
}

/// Whether a read must show everything.
pub(super) fn is_final(read: &Pair<'_>) -> bool {
    read.invoke.f == FINAL_READ
}

/// Final reads of one entity, which must be equal.
#[derive(Debug, Default)]
pub(super) struct Agreement<T>(Option<T>);

impl<T: PartialEq> Agreement<T> {
    /// A final read showed this.
    pub(super) fn expect(&mut self, key: &str, read: &Pair<'_>, shown: T, verdict: &mut Verdict) {
        if self.0.as_ref().is_some_and(|first| *first != shown) {
            verdict.blame(read, format!("{key}: differs from the first final read"));
        }
        self.0.get_or_insert(shown);
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, entities};
    use crate::checkers::Verdict;
    use crate::checkers::testing::history;
    use crate::history::Type::{Fail, Info, Invoke, Ok};
    use serde_json::json;

    #[test]
    fn each_key_has_its_own_lines_in_order() {
        let history = history(&[
            (0, Invoke, "add", json!(["a", 1])),
            (1, Invoke, "read", json!(["a", null])),
            (2, Invoke, "add", json!(["b", 1])),
            (2, Fail, "add", json!(["b", 1])),
            (3, Invoke, "add", json!(["a", 2])),
            (3, Info, "add", json!(["a", 2])),
            (0, Ok, "add", json!(["a", 1])),
            (1, Ok, "read", json!(["a", [1]])),
        ]);
        let mut verdict = Verdict::default();
        let entities = entities(&history, &["add"], &mut verdict);
        let sizes = entities.iter().map(|e| (e.key.as_str(), e.writes.len(), e.reads.len()));
        assert_eq!(sizes.collect::<Vec<_>>(), [("a", 2, 1), ("b", 0, 0)]);
        use Event::{ReadBegins, ReadEnds, WriteBegins, WriteEnds};
        let expected = [WriteBegins(0), ReadBegins(0), WriteBegins(1), WriteEnds(0), ReadEnds(0)];
        assert_eq!(entities[0].events(), expected);
        let missing = ["a", "b"].map(|key| format!("no final read of {key} was answered"));
        assert_eq!((verdict.violations.as_slice(), verdict.judged), (&missing[..], 1));
    }

    #[test]
    fn what_has_no_key_is_blamed() {
        let history = history(&[
            (0, Invoke, "add", json!(1)),
            (1, Invoke, "read", json!(["a", null])),
            (1, Ok, "read", json!(["b", [1]])),
        ]);
        let mut verdict = Verdict::default();
        entities(&history, &["add"], &mut verdict);
        let blamed = [0, 2].map(|line| format!("operation {line}: is no [key, value]"));
        let nothing = "no final read was answered".to_owned();
        assert_eq!(verdict.violations, [&blamed[..], &[nothing]].concat());
    }
}
