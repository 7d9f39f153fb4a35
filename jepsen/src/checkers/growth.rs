//! Growth: what a store keeps about its entities does not grow while nobody writes.
//!
//! Nemesis lines `sample`, whose value may carry `"metadata": {node: {"origins", "log_bytes",
//! "retries", "entities"}}`, all numbers, each optional but `entities`.
//! 1. Of each node, each figure per entity is no greater in the last sample than in the first
//!    quiet one.
//!
//! It is quiet after a nemesis line `quiet` (all nodes hold the same), or without one [`SETTLED`]
//! after `healed`; and after the last client's operation that may have written something. Counted:
//! each figure per entity in the end, the most of any node. Nothing is judged without two samples.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Verdict;
use super::faults::{HEALED, lines};
use crate::history::{History, Op, Process};

/// Nanoseconds that nodes have to settle after the healing, where nobody says that they did.
pub const SETTLED: u64 = 10_000_000_000;
/// What is compared.
const FIGURES: [&str; 3] = ["origins", "log_bytes", "retries"];
/// Operations that change nothing.
const READS: [&str; 6] = ["read", "final-read", "poll", "final-poll", "digest", "final-digest"];

/// Judges the samples of a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(quiet) = quiet(history) else { return verdict };
    let samples = lines(history).filter(|line| line.f == "sample" && line.time >= quiet);
    let mut first: BTreeMap<&str, (&Op, &Map<String, Value>)> = BTreeMap::new();
    let mut last = BTreeMap::new();
    for sample in samples {
        for (node, state) in sample.value["metadata"].as_object().into_iter().flatten() {
            let Some(figures) = state.as_object() else { continue };
            match first.contains_key(node.as_str()) {
                true => last.insert(node.as_str(), (sample, figures)),
                false => first.insert(node.as_str(), (sample, figures)),
            };
        }
    }
    for (node, (line, after)) in last {
        verdict.judged += 1;
        for figure in FIGURES {
            let Some(now) = per_entity(after, figure) else { continue };
            let most = verdict.counted.entry(format!("{figure} per entity")).or_default();
            *most = most.max(now);
            let before = first.get(node).and_then(|(_, figures)| per_entity(figures, figure));
            if let Some(before) = before.filter(|before| now > *before) {
                let index = line.index;
                let what = format!("{figure} per entity of {node} grew from {before} to {now}");
                verdict.violations.push(format!("operation {index}: {what}"));
            }
        }
    }
    verdict
}

/// From when on nothing may grow.
fn quiet(history: &History) -> Option<u64> {
    let when = |f: &str| lines(history).filter(|line| line.f == f).map(|line| line.time).last();
    let settled = when("quiet").or_else(|| when(HEALED).map(|time| time + SETTLED))?;
    let writes = |op: &&Op| op.process != Process::Nemesis && !READS.contains(&op.f.as_str());
    let written = history.ops().iter().rfind(writes).map_or(0, |op| op.time);
    Some(settled.max(written))
}

/// A figure, divided by the number of entities; a node without entities counts as one.
fn per_entity(figures: &Map<String, Value>, figure: &str) -> Option<f64> {
    let entities = figures.get("entities")?.as_f64()?;
    Some(figures.get(figure)?.as_f64()? / entities.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::checkers::testing::{Line, timed};
    use crate::history::Type::{Invoke, Ok};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn sample(at: u64, log_bytes: u64, entities: u64) -> Line<'static> {
        let state = json!({"origins": 3, "log_bytes": log_bytes, "entities": entities});
        Line::Nemesis(at, "sample", json!({"metadata": {"eu-1": state}}))
    }

    fn expect(lines: &[Line<'_>], judged: usize, violations: &[&str]) {
        let verdict = check(&timed(lines));
        assert_eq!((verdict.judged, &verdict.violations[..]), (judged, &to_owned(violations)[..]));
    }

    fn to_owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn marker(at: u64, f: &'static str) -> Line<'static> {
        Line::Nemesis(at, f, Value::Null)
    }

    #[test]
    fn what_grows_under_load_and_while_nodes_catch_up_is_legal() {
        let lines = [
            sample(0, 10, 1),
            marker(1_000, "healed"),
            sample(2_000, 99, 1),
            sample(20_000, 120, 2),
            sample(21_000, 110, 2),
        ];
        expect(&lines, 1, &[]);
    }

    #[test]
    fn what_grows_in_the_quiet_is_found() {
        let grew = "log_bytes per entity of eu-1 grew from 50 to 60";
        let settled = [marker(1, "healed"), sample(20_000, 100, 2), sample(21_000, 120, 2)];
        expect(&settled, 1, &[&format!("operation 2: {grew}")]);
        let told = [marker(1, "quiet"), sample(2, 100, 2), sample(3, 0, 2), sample(4, 120, 2)];
        expect(&told, 1, &[&format!("operation 3: {grew}")]);
    }

    #[test]
    fn more_entities_may_have_more() {
        expect(&[marker(1, "quiet"), sample(2, 100, 1), sample(3, 190, 2)], 1, &[]);
    }

    #[test]
    fn writers_that_go_on_are_not_quiet() {
        let line = |at, kind| Line::Client(at, 0, kind, "probe", json!(["eu-1", 1]), "eu-1");
        let lines = [
            marker(1, "quiet"),
            sample(2, 100, 1),
            line(3, Invoke),
            line(4, Ok),
            sample(5, 140, 1),
            sample(6, 130, 1),
        ];
        expect(&lines, 1, &[]);
    }

    #[test]
    fn one_sample_proves_nothing() {
        expect(&[marker(1, "quiet"), sample(2, 100, 1)], 0, &[]);
        expect(&[sample(2, 100, 1), sample(3, 200, 1)], 0, &[]);
    }

    proptest! {
        #[test]
        fn what_stays_or_shrinks_is_good_and_a_byte_more_is_caught(
            first in 1u64..1_000,
            less in prop::collection::vec(0u64..1_000, 1..8),
        ) {
            let mut lines = vec![marker(1, "quiet"), sample(2, first, 1)];
            let later = less.iter().zip(3..);
            lines.extend(later.map(|(less, at)| sample(at, first.saturating_sub(*less), 1)));
            prop_assert!(check(&timed(&lines)).is_good());
            lines.push(sample(20, first + 1, 1));
            prop_assert_eq!(check(&timed(&lines)).violations.len(), 1);
        }
    }
}
