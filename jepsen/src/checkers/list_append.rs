//! Lists that are appended to: every element has one place, and all clients see it there.
//!
//! Operations: `append` with an element (each is appended once to a list), `read` and
//! `final-read` with an array, null if there is none. For each key:
//! 1. Reads are prefixes of one order, and hold no element twice.
//! 2. No read holds an element whose append failed (an aborted read, Adya's G1a), that was never
//!    appended, or that was appended after the read.
//! 3. Real time: what ended before another began has a place before it. So no acknowledged append
//!    is missed by a later read, no read shows less than one before it.
//!
//! The order of elements is taken from the longest read, as in Elle (Kingsbury, Alvaro 2020). One
//! list has no more anomalies than these; those between several keys are not looked for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::keyed::{Keys, Operation, partition};
use super::{FINAL_READ, Verdict};
use crate::history::{History, Type};

/// Judges a history of lists.
pub fn check(history: &History, keys: Keys) -> Verdict {
    let mut verdict = Verdict::default();
    let mut finals = 0;
    let functions = ["append", "read", FINAL_READ];
    for (key, operations) in partition(history, &functions, keys, &mut verdict) {
        let list = List::new(&key, operations, &mut verdict);
        finals += list.reads.iter().filter(|(read, _)| read.f() == FINAL_READ).count();
        verdict.judged += list.reads.len();
        if list.contents(&mut verdict) & list.prefixes(&mut verdict) {
            list.real_time(&mut verdict);
        }
    }
    if finals == 0 {
        verdict.violations.push("no final read was answered".into());
    }
    verdict
}

/// One list.
struct List<'a> {
    key: &'a str,
    appends: BTreeMap<String, Operation<'a>>,
    /// Answered reads with their elements.
    reads: Vec<(Operation<'a>, Vec<String>)>,
    longest: Vec<String>,
}

impl<'a> List<'a> {
    fn new(key: &'a str, operations: Vec<Operation<'a>>, verdict: &mut Verdict) -> Self {
        let mut list = List { key, appends: BTreeMap::new(), reads: vec![], longest: vec![] };
        for operation in operations {
            if operation.f() == "append" {
                let element = operation.argument.to_string();
                let again = list.appends.insert(element.clone(), operation).is_some();
                if again {
                    let what =
                        format!("{key}{element} is appended twice: nothing tells them apart");
                    verdict.blame(&operation.pair, what);
                }
                continue;
            }
            match operation.result {
                None => {}
                Some(Value::Null) => list.reads.push((operation, Vec::new())),
                Some(Value::Array(shown)) => {
                    list.reads.push((operation, shown.iter().map(Value::to_string).collect()));
                }
                Some(_) => verdict.blame(&operation.pair, format!("{key}is no array")),
            }
        }
        for (_, shown) in &list.reads {
            if shown.len() > list.longest.len() {
                list.longest = shown.clone();
            }
        }
        list
    }

    /// Whether every read holds each element once, and only what may have been appended.
    fn contents(&self, verdict: &mut Verdict) -> bool {
        let before = verdict.violations.len();
        for (read, shown) in &self.reads {
            let end = read.acknowledged().unwrap_or(u64::MAX);
            let mut seen = BTreeSet::new();
            for element in shown {
                let problem = match self.appends.get(element) {
                    _ if !seen.insert(element) => "was read twice",
                    None => "was read, and not appended",
                    Some(append) if append.began() > end => "was read before it was appended",
                    Some(append) if append.outcome() == Type::Fail => "was read, and failed",
                    Some(_) => continue,
                };
                verdict.blame(&read.pair, format!("{}{element} {problem}", self.key));
            }
        }
        verdict.violations.len() == before
    }

    /// Whether every read is a prefix of the longest.
    fn prefixes(&self, verdict: &mut Verdict) -> bool {
        let before = verdict.violations.len();
        for (read, shown) in &self.reads {
            let differs = shown.iter().zip(&self.longest).position(|(one, other)| one != other);
            if let Some(place) = differs {
                let (one, other) = (&shown[place], &self.longest[place]);
                let what = format!("{}{one} where another read has {other}", self.key);
                verdict.blame(&read.pair, what);
            }
        }
        verdict.violations.len() == before
    }

    /// The place of every operation that took effect: twice the length before it, and one more
    /// for an append; acknowledged appends that no read shows come last.
    fn places(&self) -> Vec<(u64, Operation<'a>)> {
        let order: BTreeMap<&String, u64> = self.longest.iter().zip(0..).collect();
        let place = |(element, append): (&String, &Operation<'a>)| {
            let shown = order.get(element).map(|place| 2 * place + 1);
            let place = shown.or(append.acknowledged().map(|_| u64::MAX))?;
            Some((place, *append))
        };
        let appends = self.appends.iter().filter_map(place);
        let reads = self.reads.iter().map(|(read, shown)| (2 * shown.len() as u64, *read));
        appends.chain(reads).collect()
    }

    /// Blames what began after something with a later place had ended.
    fn real_time(&self, verdict: &mut Verdict) {
        let places = self.places();
        let mut lines: BTreeMap<u64, (bool, usize)> = BTreeMap::new();
        for (which, (_, operation)) in places.iter().enumerate() {
            lines.insert(operation.began(), (true, which));
            lines.extend(operation.acknowledged().map(|end| (end, (false, which))));
        }
        let mut last: Option<usize> = None;
        for (begins, which) in lines.into_values() {
            let is_before = |last: usize| places[which].0 < places[last].0;
            match last {
                Some(last) if begins && is_before(last) => {
                    let (late, early) = (&places[which].1, &places[last].1);
                    let (key, one, other) = (self.key, late.describe(), early.describe());
                    let what = format!("{key}{one} comes before {other}, which had ended");
                    verdict.blame(&late.pair, what);
                }
                Some(last) if begins || is_before(last) => {}
                _ if begins => {}
                _ => last = Some(which),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::history;
    use crate::history::Type::{Fail, Info, Invoke, Ok};
    use serde_json::json;

    type Line = (u64, Type, &'static str, Value);

    fn did(process: u64, kind: Type, f: &'static str, argument: Value, result: Value) -> [Line; 2] {
        [(process, Invoke, f, argument), (process, kind, f, result)]
    }

    fn append(process: u64, kind: Type, element: u64) -> [Line; 2] {
        did(process, kind, "append", json!(element), json!(element))
    }

    fn read(f: &'static str, shown: Value) -> [Line; 2] {
        did(9, Ok, f, json!(null), shown)
    }

    fn judge(operations: &[[Line; 2]], violations: &[&str]) {
        let verdict = check(&history(&operations.concat()), Keys::One);
        assert_eq!(verdict.violations, violations);
    }

    #[test]
    fn a_good_list_may_hold_unknown_appends_even_late() {
        let all = [
            append(0, Info, 1),
            append(1, Ok, 2),
            read("read", json!([2])),
            append(1, Fail, 3),
            read("final-read", json!([2, 1])),
        ];
        judge(&all, &[]);
        judge(&all[..3], &["no final read was answered"]);
    }

    #[test]
    fn duplicates_phantoms_and_aborted_reads_are_found() {
        let all = [
            append(0, Ok, 1),
            append(0, Fail, 2),
            read("read", json!([1, 1])),
            read("read", json!([1, 2])),
            read("read", json!([1, 3])),
            append(0, Ok, 3),
            read("read", json!([7])),
            read("final-read", json!("none")),
            read("final-read", json!([1, 3])),
        ];
        judge(
            &all,
            &[
                "operation 15: is no array",
                "operation 5: 1 was read twice",
                "operation 7: 2 was read, and failed",
                "operation 9: 3 was read before it was appended",
                "operation 13: 7 was read, and not appended",
                "operation 7: 2 where another read has 1",
                "operation 9: 3 where another read has 1",
                "operation 13: 7 where another read has 1",
                "operation 17: 3 where another read has 1",
            ],
        );
    }

    #[test]
    fn a_lost_append_and_a_stale_read_are_found() {
        let lost = "operation 5: final-read [1] (operation 4) comes before append 2 (operation 2), \
                    which had ended";
        judge(&[append(0, Ok, 1), append(0, Ok, 2), read("final-read", json!([1]))], &[lost]);
        let stale = "operation 5: read null (operation 4) comes before read [1] (operation 2), \
                     which had ended";
        let end = read("final-read", json!([1]));
        let seen = read("read", json!([1]));
        judge(&[append(0, Info, 1), seen, read("read", json!(null)), end], &[stale]);
    }

    #[test]
    fn appends_keep_real_time() {
        let order = "operation 3: append 2 (operation 2) comes before append 1 (operation 0), \
                     which had ended";
        judge(&[append(0, Ok, 1), append(0, Ok, 2), read("final-read", json!([2, 1]))], &[order]);
    }

    #[test]
    fn two_orders_are_found() {
        let lines = [
            (0, Invoke, "append", json!([5, 1])),
            (1, Invoke, "append", json!([5, 2])),
            (2, Invoke, "read", json!([5, null])),
            (2, Ok, "read", json!([5, [1]])),
            (3, Invoke, "final-read", json!([5, null])),
            (3, Ok, "final-read", json!([5, [2, 1]])),
        ];
        let verdict = check(&history(&lines), Keys::Many);
        assert_eq!(verdict.violations, ["operation 3: key 5: 1 where another read has 2"]);
        assert_eq!(verdict.judged, 2);
    }
}
