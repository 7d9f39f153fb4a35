//! Owners: a shard has one owner a term, and its log is one line of events.
//!
//! Lines of the nemesis: `owner` with `{"shard", "term", "node"}`: who acted as owner.
//! Clients' operations: `events` with `[log, [{"sequence", "term", ..}, ..]]`.
//! 1. No two nodes own a shard in the same term.
//! 2. The sequence numbers of a log are dense from 1, and its terms never fall.
//! 3. Of every two reads of a log one is a prefix of the other, wherever and whenever.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Verdict;
use super::keyed::{Keys, Operation, partition};
use crate::history::{History, Process};

/// Judges a history of owners and logs.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    owners(history, &mut verdict);
    for (key, reads) in partition(history, &["events"], Keys::Many, &mut verdict) {
        let mut logs: Vec<(&Operation<'_>, &[Value])> = Vec::new();
        for read in &reads {
            let Some(result) = read.result else { continue };
            verdict.judged += 1;
            match result.as_array() {
                Some(events) => {
                    order(&key, read, events, &mut verdict);
                    logs.push((read, events));
                }
                None => verdict.blame(&read.pair, format!("{key}is no array")),
            }
        }
        prefixes(&key, logs, &mut verdict);
    }
    verdict
}

fn owners(history: &History, verdict: &mut Verdict) {
    let mut known: BTreeMap<(String, u64), (&str, u64)> = BTreeMap::new();
    let lines = history.ops().iter().filter(|op| op.process == Process::Nemesis);
    for line in lines.filter(|op| op.f == "owner") {
        verdict.judged += 1;
        let (shard, index) = (line.value["shard"].to_string(), line.index);
        let (term, node) = (line.value["term"].as_u64(), line.value["node"].as_str());
        let (Some(term), Some(node)) = (term, node) else {
            verdict.violations.push(format!("operation {index}: names no term and node"));
            continue;
        };
        let (owner, before) = *known.entry((shard.clone(), term)).or_insert((node, index));
        if owner != node {
            verdict.violations.push(format!(
                "operation {index}: {node} owns shard {shard} in term {term}, and {owner} does \
                 (operation {before})"
            ));
        }
    }
}

/// Blames the first event of a read that is out of order.
fn order(key: &str, read: &Operation<'_>, events: &[Value], verdict: &mut Verdict) {
    let mut last = 0;
    for (place, event) in (1_u64..).zip(events) {
        let (sequence, term) = (event["sequence"].as_u64(), event["term"].as_u64());
        let what = match (sequence, term) {
            (Some(sequence), _) if sequence != place => {
                format!("{key}event {sequence} where {place} is due")
            }
            (Some(_), Some(term)) if term >= last => {
                last = term;
                continue;
            }
            (Some(_), Some(term)) => format!("{key}event {place} has term {term} after {last}"),
            _ => format!("{key}event {place} has no sequence and term"),
        };
        return verdict.blame(&read.pair, what);
    }
}

/// Blames reads that are no prefix of the longest: then all are of each other.
fn prefixes(key: &str, mut logs: Vec<(&Operation<'_>, &[Value])>, verdict: &mut Verdict) {
    logs.sort_by_key(|(_, events)| std::cmp::Reverse(events.len()));
    let Some((longest, all)) = logs.first().copied() else { return };
    for (read, events) in &logs[1..] {
        if let Some(place) = events.iter().zip(all).position(|(one, other)| one != other) {
            let (sequence, other) = (place + 1, longest.began());
            let what = format!("{key}event {sequence} is another than in operation {other}");
            verdict.blame(&read.pair, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Recorder;
    use crate::history::Type::Ok;
    use serde_json::json;

    fn judge(owners: &[(u64, &str)], reads: &[&[(u64, u64)]], violations: &[&str]) {
        let mut recorder = Recorder::default();
        for (term, node) in owners {
            recorder.nemesis(0, "owner", json!({"shard": "0/7", "term": term, "node": node}));
        }
        for events in reads {
            let event = |(sequence, term): &(u64, u64)| json!({"sequence": sequence, "term": term});
            let events: Vec<Value> = events.iter().map(event).collect();
            recorder.invoke(0, 0, "events", json!(["log", null]), None);
            recorder.end(0, 0, Ok, "events", json!(["log", events]), None, None);
        }
        let verdict = check(&recorder.history());
        assert_eq!(verdict.violations, violations);
        assert_eq!(verdict.judged, owners.len() + reads.len());
    }

    #[test]
    fn owners_follow_each_other_and_logs_grow() {
        judge(
            &[(1, "eu-1"), (2, "us-1"), (1, "eu-1"), (3, "eu-1")],
            &[&[(1, 1), (2, 1)], &[], &[(1, 1), (2, 1), (3, 3)], &[(1, 1)]],
            &[],
        );
    }

    #[test]
    fn two_owners_of_one_term_are_found() {
        let two = "operation 2: us-1 owns shard \"0/7\" in term 1, and eu-1 does (operation 0)";
        judge(&[(1, "eu-1"), (2, "us-1"), (1, "us-1")], &[], &[two]);
    }

    #[test]
    fn gaps_and_falling_terms_are_found() {
        judge(&[], &[&[(1, 1), (3, 1)]], &["operation 1: key \"log\": event 3 where 2 is due"]);
        judge(&[], &[&[(2, 1)]], &["operation 1: key \"log\": event 2 where 1 is due"]);
        let falls = "operation 1: key \"log\": event 2 has term 1 after 2";
        judge(&[], &[&[(1, 2), (2, 1)]], &[falls]);
    }

    #[test]
    fn two_lines_of_events_are_found() {
        let other = "operation 1: key \"log\": event 2 is another than in operation 2";
        judge(&[], &[&[(1, 1), (2, 1)], &[(1, 1), (2, 2), (3, 2)]], &[other]);
    }
}
