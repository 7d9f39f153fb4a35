//! A grow-only set: what was added stays, what was not is not there, nothing is there twice.
//!
//! Operations: `add` with an element (each is added once), `read` and `final-read` with an array.
//! 1. Every final read holds every element whose add was acknowledged.
//! 2. No read holds an element that no add, invoked before the read ended, could have put there:
//!    one that was never added, was added later only, or whose add certainly failed.
//! 3. No read holds an element twice.
//! 4. Final reads are equal: an unknown add has happened everywhere or nowhere.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verdict, answered_reads, of};
use crate::history::{History, Pair, Type};

/// Judges a history of a set.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let adds: BTreeMap<String, Pair<'_>> =
        of(history, "add").map(|pair| (pair.invoke.value.to_string(), pair)).collect();
    let mut finals: Option<BTreeSet<String>> = None;
    for (is_final, read) in answered_reads(history) {
        verdict.judged += 1;
        let Some(seen) = elements(&read, &mut verdict) else { continue };
        for phantom in seen.iter().filter(|element| !possible(adds.get(*element), &read)) {
            verdict.blame(&read, format!("{phantom} was read, and not added"));
        }
        if !is_final {
            continue;
        }
        let acknowledged = adds.iter().filter(|(_, add)| add.outcome() == Type::Ok);
        for (lost, _) in acknowledged.filter(|(element, _)| !seen.contains(*element)) {
            verdict.blame(&read, format!("{lost} was acknowledged, and is lost"));
        }
        if finals.as_ref().is_some_and(|first| *first != seen) {
            verdict.blame(&read, "differs from the first final read".into());
        }
        finals.get_or_insert(seen);
    }
    if finals.is_none() {
        verdict.violations.push("no final read was answered".into());
    }
    verdict
}

/// The elements of a read, each as its JSON text.
fn elements(read: &Pair<'_>, verdict: &mut Verdict) -> Option<BTreeSet<String>> {
    let Some(items) = read.end.and_then(|end| end.value.as_array()) else {
        verdict.blame(read, "is no array".into());
        return None;
    };
    let mut seen = BTreeSet::new();
    for element in items.iter().map(ToString::to_string) {
        if seen.contains(&element) {
            verdict.blame(read, format!("{element} was read twice"));
        }
        seen.insert(element);
    }
    Some(seen)
}

/// Whether an add can be seen by a read.
fn possible(add: Option<&Pair<'_>>, read: &Pair<'_>) -> bool {
    add.is_some_and(|add| {
        let before = read.end.is_none_or(|end| add.invoke.index < end.index);
        before && add.outcome() != Type::Fail
    })
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::checkers::testing::{expect, history};
    use crate::history::Type::{Fail, Info, Invoke, Ok};
    use serde_json::json;

    #[test]
    fn a_good_history_has_stale_reads_and_unknown_adds() {
        let lines = [
            (0, Invoke, "add", json!(1)),
            (0, Ok, "add", json!(1)),
            (1, Invoke, "add", json!(2)),
            (1, Info, "add", json!(2)),
            (2, Invoke, "add", json!("x")),
            (2, Fail, "add", json!("x")),
            (3, Invoke, "read", json!(null)),
            (3, Ok, "read", json!([])),
            (3, Invoke, "final-read", json!(null)),
            (3, Ok, "final-read", json!([1, 2])),
            (4, Invoke, "final-read", json!(null)),
            (4, Ok, "final-read", json!([2, 1])),
        ];
        expect(check, &lines, &[]);
        assert!(check(&history(&lines)).is_good());
    }

    #[test]
    fn an_unknown_add_may_show_up_late_but_everywhere() {
        let lines = [
            (0, Invoke, "add", json!(1)),
            (0, Info, "add", json!(1)),
            (1, Invoke, "read", json!(null)),
            (1, Ok, "read", json!([])),
            (1, Invoke, "read", json!(null)),
            (1, Ok, "read", json!([1])),
            (1, Invoke, "final-read", json!(null)),
            (1, Ok, "final-read", json!([1])),
            (2, Invoke, "final-read", json!(null)),
            (2, Ok, "final-read", json!([])),
        ];
        expect(check, &lines[..8], &[]);
        expect(check, &lines, &["operation 9: differs from the first final read"]);
    }

    #[test]
    fn a_lost_add_is_found() {
        let lines = [
            (0, Invoke, "add", json!(1)),
            (0, Ok, "add", json!(1)),
            (0, Invoke, "final-read", json!(null)),
            (0, Ok, "final-read", json!([])),
        ];
        expect(check, &lines, &["operation 3: 1 was acknowledged, and is lost"]);
    }

    #[test]
    fn phantoms_are_found_in_any_read() {
        let lines = [
            (0, Invoke, "read", json!(null)),
            (0, Ok, "read", json!([7])),
            (1, Invoke, "add", json!(7)),
            (1, Fail, "add", json!(7)),
            (0, Invoke, "final-read", json!(null)),
            (0, Ok, "final-read", json!([7, 8])),
        ];
        expect(
            check,
            &lines,
            &[
                "operation 1: 7 was read, and not added",
                "operation 5: 7 was read, and not added",
                "operation 5: 8 was read, and not added",
            ],
        );
    }

    #[test]
    fn a_duplicate_is_found() {
        let lines = [
            (0, Invoke, "add", json!(1)),
            (0, Ok, "add", json!(1)),
            (0, Invoke, "final-read", json!(null)),
            (0, Ok, "final-read", json!([1, 1])),
        ];
        expect(check, &lines, &["operation 3: 1 was read twice"]);
    }

    #[test]
    fn no_final_read_is_no_proof() {
        expect(check, &[], &["no final read was answered"]);
    }
}
