//! Multi-value registers: reads show exactly the writes that no other write has seen.
//!
//! Operations, on `[key, value]`: `write` with `{"value": v, "seen": [...]}`, where `seen` are the
//! values in the context that the write named, or null if it named none and so supersedes what
//! its node held; `read` and `final-read` with an array or, where nothing was written, null. Each
//! value is written once. What is judged is in `super::observed`; beyond it:
//! 1. No read holds a value twice.
//! 2. Final reads are equal.

use super::Verdict;
use super::entity::argument;
use super::observed::{Effect, Element, Pattern};
use super::or_set::check_members;
use crate::history::{History, Pair};

/// Judges a history of multi-value registers.
pub fn check(history: &History) -> Verdict {
    check_members(history, &["write"], effect)
}

fn effect(write: &Pair<'_>) -> Effect {
    let argument = argument(write);
    let adds = [Element::member(&argument["value"])].into();
    let named = argument["seen"].as_array();
    let one = |value| Pattern::One(Element::member(value));
    let removes = named.map_or(vec![Pattern::All], |seen| seen.iter().map(one).collect());
    Effect { adds, removes, by_name: named.is_some(), supersedes: Vec::new() }
}

#[cfg(test)]
mod tests;
