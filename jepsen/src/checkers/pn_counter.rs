//! A counter of increments and decrements: reads are sums of what may have been counted.
//!
//! Operations: `add` with an integer, `read` and `final-read` with an integer, within 64 bits; or
//! with `[counter, integer]`, where there are several counters, each judged alone.
//! 1. A final read is the sum of all acknowledged adds and of some subset of the unknown ones.
//! 2. Any read is within what the adds invoked before its end could sum to: no more than all the
//!    positive ones, no less than all the negative ones, those that certainly failed left out.
//! 3. Final reads are equal.
//!
//! Subset sums are exact up to [`SUMS_MAX`] distinct ones; beyond, the range between the least
//! and the greatest is accepted, so that the judge may then miss a fault but never invents one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Verdict, answered_reads, of};
use crate::history::{History, Pair, Type};

/// Most distinct sums that are told apart.
pub const SUMS_MAX: usize = 100_000;

/// Judges a history of a counter, or of several.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let mut counters: BTreeMap<String, Counter<'_>> = BTreeMap::new();
    for add in of(history, "add").filter(|pair| pair.outcome() != Type::Fail) {
        let (counter, by) = split(&add.invoke.value);
        let adds = &mut counters.entry(counter).or_default().adds;
        adds.extend(by.as_i64().map(|by| (i128::from(by), add)));
    }
    for (is_final, read) in answered_reads(history) {
        verdict.judged += 1;
        let (counter, sum) = split(read.end.map_or(&Value::Null, |end| &end.value));
        match sum.as_i64() {
            Some(sum) => {
                let reads = &mut counters.entry(counter).or_default().reads;
                reads.push((is_final, i128::from(sum), read));
            }
            None => verdict.blame(&read, "is no integer".into()),
        }
    }
    if counters.is_empty() {
        counters.entry(String::new()).or_default();
    }
    for (name, counter) in &counters {
        counter.judge(name, &mut verdict);
    }
    verdict
}

/// A counter's name, empty for the only one, and what is said of it.
fn split(value: &Value) -> (String, &Value) {
    match value.as_array().map(Vec::as_slice) {
        Some([counter, value]) => (counter.to_string(), value),
        _ => (String::new(), value),
    }
}

/// What was done with one counter.
#[derive(Default)]
struct Counter<'a> {
    adds: Vec<(i128, Pair<'a>)>,
    /// Whether a read is a final one, and its sum.
    reads: Vec<(bool, i128, Pair<'a>)>,
}

impl Counter<'_> {
    fn judge(&self, name: &str, verdict: &mut Verdict) {
        let acceptable = Acceptable::of(&self.adds);
        let mut first = None;
        for (is_final, sum, read) in &self.reads {
            let (least, most) = reach(&self.adds, read);
            if *sum < least || *sum > most {
                verdict.blame(read, format!("{sum} is outside {least} to {most}"));
            }
            if *is_final && !acceptable.contains(*sum) {
                verdict.blame(read, format!("{sum} is no sum of what was counted"));
            }
            if *is_final && *first.get_or_insert(*sum) != *sum {
                verdict.blame(read, "differs from the first final read".into());
            }
        }
        if first.is_none() {
            let of = if name.is_empty() { String::new() } else { format!(" of {name}") };
            verdict.violations.push(format!("no final read{of} was answered"));
        }
    }
}

/// The least and the most that a read could see.
fn reach(adds: &[(i128, Pair<'_>)], read: &Pair<'_>) -> (i128, i128) {
    let end = read.end.map_or(u64::MAX, |end| end.index);
    let before = adds.iter().filter(|(_, add)| add.invoke.index < end).map(|(by, _)| *by);
    before.fold((0, 0), |(least, most), by| (least + by.min(0), most + by.max(0)))
}

/// The sums that a final read may show.
pub(super) enum Acceptable {
    /// Exactly these.
    Sums(BTreeSet<i128>),
    /// Any from the first to the second.
    Between(i128, i128),
}

impl Acceptable {
    fn of(adds: &[(i128, Pair<'_>)]) -> Acceptable {
        let known = adds.iter().filter(|(_, add)| add.outcome() == Type::Ok).map(|(by, _)| *by);
        let unknown = adds.iter().filter(|(_, add)| add.outcome() != Type::Ok).map(|(by, _)| *by);
        let start = Acceptable::Sums(BTreeSet::from([known.sum()]));
        unknown.fold(start, Acceptable::maybe)
    }

    /// The sums with and without one more.
    pub(super) fn maybe(self, by: i128) -> Acceptable {
        match self {
            Acceptable::Sums(sums) if sums.len() * 2 <= SUMS_MAX => {
                Acceptable::Sums(sums.iter().flat_map(|sum| [*sum, sum + by]).collect())
            }
            Acceptable::Sums(sums) => {
                let least = sums.first().copied().unwrap_or(0);
                let most = sums.last().copied().unwrap_or(0);
                Acceptable::Between(least, most).maybe(by)
            }
            Acceptable::Between(least, most) => {
                Acceptable::Between(least + by.min(0), most + by.max(0))
            }
        }
    }

    /// Whether it may be shown.
    pub(super) fn contains(&self, sum: i128) -> bool {
        match self {
            Acceptable::Sums(sums) => sums.contains(&sum),
            Acceptable::Between(least, most) => (*least..=*most).contains(&sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Acceptable, check};
    use crate::checkers::testing::expect;
    use crate::history::Type::{self, Fail, Info, Invoke, Ok};
    use serde_json::{Value, json};

    /// +5 acknowledged, -3 unknown, +100 failed; then a read.
    fn read_shows(f: &'static str, sum: i64) -> Vec<(u64, Type, &'static str, Value)> {
        vec![
            (0, Invoke, "add", json!(5)),
            (0, Ok, "add", json!(5)),
            (1, Invoke, "add", json!(-3)),
            (1, Info, "add", json!(-3)),
            (2, Invoke, "add", json!(100)),
            (2, Fail, "add", json!(100)),
            (3, Invoke, f, json!(null)),
            (3, Ok, f, json!(sum)),
        ]
    }

    #[test]
    fn an_unknown_step_counts_or_does_not() {
        expect(check, &read_shows("final-read", 5), &[]);
        expect(check, &read_shows("final-read", 2), &[]);
        let wrong = "operation 7: 3 is no sum of what was counted";
        expect(check, &read_shows("final-read", 3), &[wrong]);
    }

    #[test]
    fn a_retried_increment_that_counts_twice_is_found() {
        let outside = "operation 7: 10 is outside -3 to 5";
        let no_sum = "operation 7: 10 is no sum of what was counted";
        expect(check, &read_shows("final-read", 10), &[outside, no_sum]);
    }

    #[test]
    fn a_stale_read_is_legal_and_an_impossible_one_is_not() {
        let no_final = "no final read was answered";
        expect(check, &read_shows("read", 0), &[no_final]);
        expect(check, &read_shows("read", -3), &[no_final]);
        let outside = "operation 7: 105 is outside -3 to 5";
        expect(check, &read_shows("read", 105), &[outside, no_final]);
    }

    #[test]
    fn a_read_cannot_see_what_comes_later() {
        let lines = [
            (0, Invoke, "read", json!(null)),
            (0, Ok, "read", json!(1)),
            (1, Invoke, "add", json!(1)),
            (1, Ok, "add", json!(1)),
            (0, Invoke, "final-read", json!(null)),
            (0, Ok, "final-read", json!(1)),
        ];
        expect(check, &lines, &["operation 1: 1 is outside 0 to 0"]);
    }

    #[test]
    fn final_reads_agree_on_the_unknown() {
        let mut lines = read_shows("final-read", 5);
        lines.push((3, Invoke, "final-read", json!(null)));
        lines.push((3, Ok, "final-read", json!(2)));
        expect(check, &lines, &["operation 9: differs from the first final read"]);
    }

    #[test]
    fn counters_are_judged_each_alone() {
        let lines = |other| {
            vec![
                (0, Invoke, "add", json!(["a", 5])),
                (0, Ok, "add", json!(["a", 5])),
                (1, Invoke, "add", json!(["b", 7])),
                (1, Info, "add", json!(["b", 7])),
                (0, Invoke, "final-read", json!(["a", null])),
                (0, Ok, "final-read", json!(["a", 5])),
                (0, Invoke, "final-read", json!(["b", null])),
                (0, Ok, "final-read", json!(["b", other])),
            ]
        };
        expect(check, &lines(0), &[]);
        expect(check, &lines(7), &[]);
        let outside = "operation 7: 12 is outside 0 to 7";
        let no_sum = "operation 7: 12 is no sum of what was counted";
        expect(check, &lines(12), &[outside, no_sum]);
        let missing = [r#"no final read of "b" was answered"#];
        expect(check, &lines(0)[..6], &missing);
    }

    #[test]
    fn too_many_sums_become_a_range() {
        let powers = (0..20).map(|bit| 1i128 << bit);
        let sums = powers.fold(Acceptable::Sums([0].into()), Acceptable::maybe);
        assert!(matches!(sums, Acceptable::Between(0, 1_048_575)));
        assert!(sums.contains(77_777) && !sums.contains(-1) && !sums.contains(1 << 20));
    }
}
