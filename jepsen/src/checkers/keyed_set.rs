//! Sets that only grow, by key: the ground that other judges stand on.
//!
//! 1. No read shows an element that no add, invoked before the read ended, could have put there.
//! 2. No read shows an element twice.
//! 3. Every final read shows every element of its key whose add was acknowledged.
//! 4. Final reads of a key are equal.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Verdict;
use crate::history::{Pair, Type};

/// A read of one key.
pub(super) struct Read<'a> {
    pub(super) pair: Pair<'a>,
    pub(super) is_final: bool,
    pub(super) key: String,
    /// Each as its JSON text.
    pub(super) elements: BTreeSet<String>,
}

/// Adds, by key and element, and reads.
#[derive(Default)]
pub(super) struct Sets<'a> {
    pub(super) adds: BTreeMap<String, BTreeMap<String, Pair<'a>>>,
    pub(super) reads: Vec<Read<'a>>,
}

impl<'a> Sets<'a> {
    /// Takes an add.
    pub(super) fn add(&mut self, pair: Pair<'a>, key: &Value, element: &Value) {
        self.adds.entry(key.to_string()).or_default().insert(element.to_string(), pair);
    }

    /// Takes a read of one key.
    pub(super) fn read(
        &mut self,
        pair: Pair<'a>,
        is_final: bool,
        key: &Value,
        elements: &Value,
        verdict: &mut Verdict,
    ) {
        verdict.judged += 1;
        let Some(items) = elements.as_array() else {
            verdict.blame(&pair, "is no array".into());
            return;
        };
        let mut seen = BTreeSet::new();
        for element in items.iter().map(ToString::to_string) {
            if seen.contains(&element) {
                verdict.blame(&pair, format!("{element} was read twice"));
            }
            seen.insert(element);
        }
        self.reads.push(Read { pair, is_final, key: key.to_string(), elements: seen });
    }

    /// Judges the reads.
    pub(super) fn judge(&self, verdict: &mut Verdict) {
        let mut finals: BTreeMap<&str, &BTreeSet<String>> = BTreeMap::new();
        let none = BTreeMap::new();
        for read in &self.reads {
            let adds = self.adds.get(&read.key).unwrap_or(&none);
            let possible = |element: &&String| adds.get(*element).is_some_and(|a| may(a, read));
            for phantom in read.elements.iter().filter(|element| !possible(element)) {
                verdict.blame(&read.pair, format!("{phantom} was read, and not added"));
            }
            if !read.is_final {
                continue;
            }
            let acknowledged = adds.iter().filter(|(_, add)| add.outcome() == Type::Ok);
            for (lost, _) in acknowledged.filter(|(one, _)| !read.elements.contains(*one)) {
                verdict.blame(&read.pair, format!("{lost} was acknowledged, and is lost"));
            }
            if *finals.entry(&read.key).or_insert(&read.elements) != &read.elements {
                verdict.blame(&read.pair, "differs from the first final read".into());
            }
        }
        for key in self.adds.keys().filter(|key| !finals.contains_key(key.as_str())) {
            verdict.violations.push(format!("no final read of {key} was answered"));
        }
    }
}

/// Whether an add can be seen by a read.
fn may(add: &Pair<'_>, read: &Read<'_>) -> bool {
    let before = read.pair.end.is_none_or(|end| add.invoke.index < end.index);
    before && add.outcome() != Type::Fail
}
