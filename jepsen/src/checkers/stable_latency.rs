//! Stable latency: from the acknowledgement of a write to its being seen on every node.
//!
//! Operations: `probe` with `[node, n]`, n = 1, 2, 3, ... of each node; nemesis lines `seen` with
//! `{"at", "of", "n"}`: at this node, n or more of that one was seen for the first time. The nodes
//! are those that saw anything at all.
//! 1. What was acknowledged before `healed` is seen everywhere in the end.
//!
//! Counted, in milliseconds: `p50`, `p95`, `p99`, `max`; and `unseen`, acknowledged and not seen
//! everywhere, of which those after `healed` may just have come too late.

use std::collections::{BTreeMap, BTreeSet};

use super::faults::{HEALED, lines};
use super::{Verdict, of, quantile};
use crate::history::{History, Type};

/// By watching node and watched one: times, and the most that was seen by then. Both rise.
type Sights<'a> = BTreeMap<(&'a str, &'a str), Vec<(u64, u64)>>;

/// Judges a history of probes.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let (nodes, sights) = sights(history);
    let healed = lines(history).filter(|line| line.f == HEALED).map(|line| line.index).last();
    let (mut latencies, mut unseen) = (Vec::new(), 0);
    for probe in of(history, "probe").filter(|probe| probe.outcome() == Type::Ok) {
        let Some(end) = probe.end else { continue };
        let (node, n) = (&probe.invoke.value[0], &probe.invoke.value[1]);
        let (Some(node), Some(n)) = (node.as_str(), n.as_u64()) else {
            verdict.blame(&probe, "is no probe".into());
            continue;
        };
        verdict.judged += 1;
        let first = |at: &&str| first_sight(sights.get(&(*at, node))?, n);
        let seen: Vec<u64> = nodes.iter().filter_map(first).collect();
        if seen.len() == nodes.len() && !nodes.is_empty() {
            let last = seen.into_iter().max().unwrap_or_default();
            latencies.push(last.saturating_sub(end.time) as f64 / 1e6);
            continue;
        }
        unseen += 1;
        if healed.is_some_and(|healed| end.index < healed) {
            let blind = nodes.iter().filter(|at| first(at).is_none());
            let blind: Vec<&str> = blind.copied().collect();
            verdict.blame(&probe, format!("{n} of {node} was never seen at {blind:?}"));
        }
    }
    latencies.sort_by(f64::total_cmp);
    let shares = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];
    verdict.counted = shares.map(|(name, share)| (name.into(), quantile(&latencies, share))).into();
    verdict.counted.insert("unseen".into(), f64::from(unseen));
    verdict
}

fn sights(history: &History) -> (BTreeSet<&str>, Sights<'_>) {
    let mut nodes = BTreeSet::new();
    let mut sights = Sights::new();
    for line in lines(history).filter(|line| line.f == "seen") {
        let value = &line.value;
        let names = value["at"].as_str().zip(value["of"].as_str());
        let (Some((at, of)), Some(n)) = (names, value["n"].as_u64()) else { continue };
        nodes.insert(at);
        let seen = sights.entry((at, of)).or_default();
        if seen.last().is_none_or(|(_, most)| *most < n) {
            seen.push((line.time, n));
        }
    }
    (nodes, sights)
}

/// When n or more was seen first.
fn first_sight(seen: &[(u64, u64)], n: u64) -> Option<u64> {
    seen.get(seen.partition_point(|(_, most)| *most < n)).map(|(time, _)| *time)
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::checkers::Verdict;
    use crate::checkers::testing::{Line, timed};
    use crate::history::Type::{Info, Invoke, Ok};
    use crate::random::Random;
    use proptest::prelude::*;
    use serde_json::json;

    fn probe(at: u64, kind: crate::history::Type, n: u64) -> [Line<'static>; 2] {
        let value = json!(["eu-1", n]);
        let invoked = Line::Client(at, n, Invoke, "probe", value.clone(), "eu-1");
        [invoked, Line::Client(at, n, kind, "probe", value, "eu-1")]
    }

    fn seen(time: u64, at: &str, n: u64) -> [Line<'static>; 1] {
        [Line::Nemesis(time, "seen", json!({"at": at, "of": "eu-1", "n": n}))]
    }

    fn judge<const N: usize>(lines: Vec<Line<'static>>, figures: [(&str, f64); N]) -> Verdict {
        let verdict = check(&timed(&lines));
        for (name, figure) in figures {
            assert_eq!(verdict.counted[name], figure, "{name} of {verdict:?}");
        }
        verdict
    }

    #[test]
    fn the_last_node_counts_and_a_later_number_stands_for_earlier_ones() {
        let mut lines = Vec::new();
        lines.extend(probe(10, Ok, 1));
        lines.extend(seen(10, "eu-1", 1));
        lines.extend(probe(20, Ok, 2));
        lines.extend(seen(21, "eu-1", 2));
        // The first is seen by the second: 40 ms and 30 ms.
        lines.extend(seen(50, "us-1", 2));
        lines.push(Line::Nemesis(60, "healed", json!(null)));
        let figures = [("p50", 30.0), ("p99", 40.0), ("max", 40.0), ("unseen", 0.0)];
        assert!(judge(lines, figures).is_good());
    }

    #[test]
    fn an_unknown_probe_is_not_waited_for_even_if_it_shows_up() {
        let mut lines = Vec::new();
        lines.extend(probe(10, Ok, 1));
        lines.extend(probe(11, Info, 2));
        lines.extend(seen(12, "eu-1", 2));
        lines.extend(seen(13, "us-1", 1));
        lines.push(Line::Nemesis(60, "healed", json!(null)));
        assert_eq!(judge(lines, [("max", 3.0), ("unseen", 0.0)]).judged, 1);
    }

    #[test]
    fn what_a_node_never_saw_is_found_if_it_had_the_time() {
        let lines = |healed: u64| {
            let mut lines = Vec::new();
            lines.extend(probe(10, Ok, 1));
            lines.extend(seen(11, "eu-1", 1));
            lines.extend(seen(12, "us-1", 1));
            let heal = |lines: &mut Vec<_>, at| {
                lines.extend((at == healed).then_some(Line::Nemesis(at, "healed", json!(null))));
            };
            heal(&mut lines, 15);
            lines.extend(probe(20, Ok, 2));
            lines.extend(seen(21, "eu-1", 2));
            heal(&mut lines, 30);
            lines
        };
        assert_eq!(judge(lines(15), [("unseen", 1.0)]).violations, [""; 0]);
        let never = [r#"operation 5: 2 of eu-1 was never seen at ["us-1"]"#];
        assert_eq!(judge(lines(30), [("unseen", 1.0)]).violations, never);
    }

    #[test]
    fn without_watchers_nothing_was_seen() {
        let mut lines = probe(10, Ok, 1).to_vec();
        lines.push(Line::Nemesis(60, "healed", json!(null)));
        assert_eq!(judge(lines, [("unseen", 1.0)]).violations.len(), 1);
        assert!(!check(&timed(&[])).is_good());
    }

    proptest! {
        #[test]
        fn what_is_seen_is_good_and_one_sight_less_is_caught(seed: u64, count in 2u64..20) {
            let mut random = Random::new(seed);
            let mut lines = Vec::new();
            let mut time = 0;
            for n in 1..=count {
                time += random.between(1, 10);
                lines.extend(probe(time, Ok, n));
                for at in ["eu-1", "us-1"] {
                    time += random.between(0, 10);
                    lines.extend(seen(time, at, n));
                }
            }
            lines.push(Line::Nemesis(time, "healed", json!(null)));
            prop_assert!(check(&timed(&lines)).is_good());
            // The last sight, before which there is nothing that stands for it.
            lines.remove(lines.len() - 2);
            prop_assert_eq!(check(&timed(&lines)).violations.len(), 1);
        }
    }
}
