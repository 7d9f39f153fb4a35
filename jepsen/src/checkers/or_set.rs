//! Observed-remove sets: an add wins over a remove that has not seen it.
//!
//! Operations, on `[key, value]`: `add` and `remove` with an element, `clear` (removes all) with
//! null, `read` and `final-read` with an array or, where there is no set, null. Elements may be
//! added again. What is judged is in `super::observed`; beyond it:
//! 1. No read holds an element twice.
//! 2. Final reads are equal.

use std::collections::BTreeSet;

use super::Verdict;
use super::entity::{Agreement, argument, entities, is_final, shown};
use super::memory::Memory;
use super::observed::{Effect, Element, Pattern, judge};
use crate::history::{History, Pair};

/// Judges a history of sets.
pub fn check(history: &History) -> Verdict {
    check_members(history, &["add", "remove", "clear"], effect)
}

/// Judges what is read as an array of elements, whatever its writes are called.
pub(super) fn check_members(
    history: &History,
    writes: &[&str],
    effect: fn(&Pair<'_>) -> Effect,
) -> Verdict {
    let mut verdict = Verdict::default();
    let memory = Memory::of(history);
    for entity in entities(history, writes, &mut verdict) {
        let effects = entity.writes.iter().map(effect).collect();
        let mut finals = Agreement::default();
        let shown = |read: &Pair<'_>, verdict: &mut Verdict| {
            let seen = members(&entity.key, read, verdict)?;
            if is_final(read) {
                finals.expect(&entity.key, read, seen.clone(), verdict);
            }
            Some(seen)
        };
        judge(&entity, &memory, effects, &mut verdict, shown, |_, _, _| {});
    }
    verdict
}

fn effect(write: &Pair<'_>) -> Effect {
    let element = Element::member(argument(write));
    let one = vec![Pattern::One(element.clone())];
    match write.invoke.f.as_str() {
        "add" => Effect { adds: [element].into(), supersedes: one, ..Effect::default() },
        "remove" => Effect { removes: one, ..Effect::default() },
        _ => Effect { removes: vec![Pattern::All], ..Effect::default() },
    }
}

/// What a read shows; nothing is twice in it.
fn members(key: &str, read: &Pair<'_>, verdict: &mut Verdict) -> Option<BTreeSet<Element>> {
    let value = shown(read);
    let items = value.as_array().map(Vec::as_slice).or_else(|| value.is_null().then_some(&[][..]));
    let Some(items) = items else {
        verdict.blame(read, format!("{key}: is no array"));
        return None;
    };
    let mut seen = BTreeSet::new();
    for element in items.iter().map(Element::member) {
        if !seen.insert(element.clone()) {
            verdict.blame(read, format!("{key}: {element} was read twice"));
        }
    }
    Some(seen)
}

#[cfg(test)]
mod tests;
