//! Consistency levels: what enough replicas acknowledged, or a read showed, later reads show.
//!
//! Operations: `add` with `[level, element]` (each element once), `read` and `final-read` with a
//! level, answered with an array. Who did it is `region-number`. Acts of the nemesis that count:
//! `formed` (every node knows the replicas of every region; nothing is judged before), and `lose`
//! with `{"region", "of"}`: a disk was lost, or a replica given up, where sets have so many. Where
//! `formed` names no regions nobody tells that: then every fault of a disk may be a majority's.
//! 1. An element whose add was acknowledged before a read began is in it, where the level of the
//!    add and that of the read have a replica in common.
//! 2. The same of an element that an earlier read showed, at the level of that read.
//!
//! Not judged is what was not promised: where more than a minority of a region's set was lost
//! between the beginning of the one and the end of the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{FINAL_READ, Verdict};
use crate::history::{History, Pair, Process, Type};

/// What is lost is told a little later than it happens: in nanoseconds.
const TOLD_LATE: u64 = 200_000_000;

/// Faults that lose what is on a disk, or who holds it, as real runs name them.
const OF_DISKS: [&str; 7] =
    ["restore", "corrupt", "truncate", "replace", "replace-node", "leave", "full-disk"];

/// Judges a history of adds and reads at levels.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let losses = Losses::of(history);
    let known = Known::of(history, &losses);
    for (place, read) in known.iter().enumerate().filter(|(_, one)| one.is_read) {
        verdict.judged += 1;
        for earlier in known.iter().take_while(|one| one.began <= read.ended) {
            if earlier.ended >= read.began || !have_common(earlier, read) {
                continue;
            }
            let missing = earlier.elements.difference(&read.elements).next();
            if let Some(missing) = missing
                && !losses.broke(earlier, read)
            {
                let what = if earlier.is_read { "shown" } else { "acknowledged" };
                let (before, level) = (&earlier.level, &read.level);
                let what = format!("{missing} was {what} at {before}, and {level} does not see it");
                verdict.blame(&known[place].pair, what);
            }
        }
    }
    verdict
}

/// An operation that was answered.
struct Known<'a> {
    pair: Pair<'a>,
    is_read: bool,
    level: String,
    region: &'a str,
    began: u64,
    ended: u64,
    elements: BTreeSet<String>,
}

impl<'a> Known<'a> {
    /// Answered operations from when all is known on, in order of their invocations.
    fn of(history: &'a History, losses: &Losses) -> Vec<Known<'a>> {
        let formed = losses.formed.unwrap_or(u64::MAX);
        let pairs = history.pairs().into_iter();
        let late = pairs.filter(|pair| pair.invoke.index > formed && pair.outcome() == Type::Ok);
        late.filter_map(Known::new).collect()
    }

    fn new(pair: Pair<'a>) -> Option<Known<'a>> {
        let (end, asked) = (pair.end?, &pair.invoke.value);
        let is_read = pair.invoke.f == "read" || pair.invoke.f == FINAL_READ;
        let level = if is_read { asked.as_str()? } else { asked[0].as_str()? };
        let elements = match is_read {
            true => end.value.as_array()?.iter().map(ToString::to_string).collect(),
            false => [asked[1].to_string()].into(),
        };
        let region = end.node.as_deref()?.split('-').next()?;
        let (began, ended) = (pair.invoke.index, end.index);
        Some(Known { pair, is_read, level: level.to_owned(), region, began, ended, elements })
    }
}

/// Whether the levels of two operations have a replica in common.
fn have_common(earlier: &Known<'_>, later: &Known<'_>) -> bool {
    let (one, other) = (earlier.level.as_str(), later.level.as_str());
    let global = |level| ["quorum", "each_quorum", "all"].contains(&level);
    let each = |level| ["each_quorum", "all"].contains(&level);
    match (one, other) {
        ("all", _) => true,
        ("local_quorum", "local_quorum") => earlier.region == later.region,
        ("local_quorum", _) => each(other),
        (_, "local_quorum") => each(one),
        _ => global(one) && global(other),
    }
}

/// What was lost, and when.
#[derive(Default)]
struct Losses {
    /// The line from which on all is judged.
    formed: Option<u64>,
    /// Losses are told one by one.
    told: bool,
    /// Times by region, with how many of a set may be lost at once.
    by_region: BTreeMap<String, Vec<(u64, u64)>>,
}

impl Losses {
    fn of(history: &History) -> Losses {
        let mut losses = Losses::default();
        for op in history.ops().iter().filter(|op| op.process == Process::Nemesis) {
            match op.f.as_str() {
                "formed" if losses.formed.is_none() => {
                    (losses.formed, losses.told) = (Some(op.index), op.value.is_array());
                }
                fault if !losses.told && OF_DISKS.contains(&fault) => {
                    losses.by_region.entry(String::new()).or_default().push((op.time, 0));
                }
                "lose" => {
                    let region = op.value["region"].as_str().unwrap_or_default().to_owned();
                    let minority = op.value["of"].as_u64().unwrap_or(0).saturating_sub(1) / 2;
                    losses.by_region.entry(region).or_default().push((op.time, minority));
                }
                _ => {}
            }
        }
        losses
    }

    /// Whether more than a minority of a region was lost between two operations.
    fn broke(&self, earlier: &Known<'_>, later: &Known<'_>) -> bool {
        let from = earlier.pair.invoke.time;
        let to = later.pair.end.map_or(u64::MAX, |end| end.time.saturating_add(TOLD_LATE));
        let local = [&earlier.level, &later.level].into_iter().all(|l| l == "local_quorum");
        let counts = |region: &str| !local || region.is_empty() || region == later.region;
        self.by_region.iter().filter(|(region, _)| counts(region)).any(|(_, losses)| {
            let within = losses.iter().filter(|(time, _)| (from..=to).contains(time));
            let most = within.clone().map(|(_, minority)| *minority).min().unwrap_or(u64::MAX);
            within.count() as u64 > most
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::check;
    use crate::checkers::testing::{Line, timed};
    use crate::history::Type::{Info, Invoke, Ok};

    /// An add of 1 at a level, answered by a node; or unknown.
    fn add<'a>(level: &str, node: &'a str, ok: bool) -> Vec<Line<'a>> {
        let value = json!([level, 1]);
        let end = if ok { Ok } else { Info };
        vec![
            Line::Client(10, 0, Invoke, "add", value.clone(), node),
            Line::Client(20, 0, end, "add", value, node),
        ]
    }

    fn read<'a>(at: u64, level: &str, node: &'a str, seen: Value) -> Vec<Line<'a>> {
        vec![
            Line::Client(at, at, Invoke, "read", json!(level), node),
            Line::Client(at + 10, at, Ok, "read", seen, node),
        ]
    }

    fn violations(parts: &[Vec<Line<'_>>]) -> usize {
        let mut lines = vec![Line::Nemesis(0, "formed", json!(["eu", "us"]))];
        lines.extend(parts.concat());
        check(&timed(&lines)).violations.len()
    }

    #[test]
    fn what_has_a_replica_in_common_is_seen() {
        let cases = [
            ("quorum", "quorum", 1),
            ("quorum", "all", 1),
            ("all", "one", 1),
            ("each_quorum", "local_quorum", 1),
            ("local_quorum", "each_quorum", 1),
            ("local_quorum", "local_quorum", 0),
            ("local_quorum", "quorum", 0),
            ("quorum", "local_quorum", 0),
            ("one", "all", 0),
            ("quorum", "one", 0),
        ];
        for (write, other, expected) in cases {
            let missed = read(30, other, "us-1", json!([]));
            let found = violations(&[add(write, "eu-1", true), missed]);
            assert_eq!(found, expected, "{write}, {other}");
            let seen = read(30, other, "us-1", json!([1]));
            assert_eq!(violations(&[add(write, "eu-1", true), seen]), 0);
        }
        let here = read(30, "local_quorum", "eu-2", json!([]));
        assert_eq!(violations(&[add("local_quorum", "eu-1", true), here]), 1);
    }

    #[test]
    fn what_was_shown_is_seen_from_then_on() {
        let unknown = add("quorum", "eu-1", false);
        let (one, other) =
            (read(30, "quorum", "us-1", json!([1])), read(50, "quorum", "eu-1", json!([])));
        assert_eq!(violations(&[unknown.clone(), one, other.clone()]), 1);
        assert_eq!(violations(&[unknown, other]), 0);
    }

    #[test]
    fn what_overlaps_or_was_before_all_was_known_is_not_judged() {
        let early = read(5, "quorum", "us-1", json!([]));
        let added = add("quorum", "eu-1", true);
        let overlap = [early[..1].to_vec(), added.clone(), early[1..].to_vec()].concat();
        let missed = read(30, "quorum", "us-1", json!([]));
        let mut lines = [added, missed].concat();
        assert_eq!(check(&timed(&lines)).violations.len(), 0, "nothing was formed");
        lines.insert(2, Line::Nemesis(25, "formed", Value::Null));
        assert_eq!(check(&timed(&lines)).violations.len(), 0);
        let overlap: Vec<Line<'_>> = overlap
            .into_iter()
            .enumerate()
            .map(|(at, line)| match line {
                Line::Client(_, process, kind, f, value, node) => {
                    Line::Client(at as u64, process, kind, f, value, node)
                }
                nemesis => nemesis,
            })
            .collect();
        assert_eq!(violations(&[overlap]), 0);
    }

    #[test]
    fn more_than_a_minority_lost_excuses() {
        let lose = |of: u64, times: u64| -> Vec<Line<'static>> {
            let value = json!({"region": "eu", "of": of});
            (0..times).map(|_| Line::Nemesis(25, "lose", value.clone())).collect()
        };
        for (of, times, expected) in [(3, 1, 1), (3, 2, 0), (2, 1, 0), (1, 1, 0), (5, 2, 1)] {
            let parts = [
                add("quorum", "eu-1", true),
                lose(of, times),
                read(30, "quorum", "us-1", json!([])),
            ];
            assert_eq!(violations(&parts), expected, "{times} of {of}");
        }
        let lines = [
            vec![Line::Nemesis(0, "formed", Value::Null)],
            add("quorum", "eu-1", true),
            vec![Line::Nemesis(25, "restore", json!({"phase": "begin"}))],
            read(30, "quorum", "us-1", json!([])),
        ];
        assert_eq!(check(&timed(&lines.concat())).violations.len(), 0, "nobody tells whose");
    }
}
