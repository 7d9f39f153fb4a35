//! Convergence: copies that have seen the same are the same, and in the end all have.
//!
//! Operations: `digest` and `final-digest`, answered with
//! `{"node": n, "shards": {shard: {"digest": d, "vector": {origin: sequence}, "retired": r}}}`;
//! lines `sample` of the nemesis carry the same as their value, and perhaps more. An origin that
//! ended leaves the vectors once all have everything of it; `r` tells which did: a copy that had
//! nothing of it yet shows the same vector as one that has all of it since it left.
//! 1. At every sample: equal vectors of a shard mean equal digests, at any two nodes and times.
//! 2. Final digests are equal on all nodes that serve a shard: all but those that list it in
//!    `elsewhere`. A shard that is left out is empty.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Verdict;
use crate::history::{History, Op, Pair, Process, Type};

/// The function of samples that whoever runs the test takes by the way.
pub const SAMPLE: &str = "sample";
/// The function of samples that must be equal.
pub const FINAL_DIGEST: &str = "final-digest";

/// Judges a history of digests.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_vector: BTreeMap<(String, String), (String, String)> = BTreeMap::new();
    let mut finals: Vec<Final<'_>> = Vec::new();
    for pair in samples(history) {
        let is_final = pair.invoke.f == FINAL_DIGEST;
        verdict.judged += 1;
        let Some((node, shards)) = sample(&pair) else {
            verdict.blame(&pair, "is no sample of digests".into());
            continue;
        };
        for (shard, state) in shards {
            let vector = state["vector"].to_string() + &text(&state["retired"]);
            let digest = text(&state["digest"]);
            let here = (node.to_owned(), digest);
            let there = by_vector.entry((shard.clone(), vector)).or_insert_with(|| here.clone());
            if there.1 != here.1 {
                let (other, node) = (&there.0, &here.0);
                let what = format!("shard {shard} of {node} and {other} differs at equal vectors");
                verdict.blame(&pair, what);
            }
        }
        if is_final {
            finals.push(Final::of(pair, node, shards));
        }
    }
    if finals.is_empty() {
        verdict.violations.push("no final digest was answered".into());
    }
    compare(&finals, &mut verdict);
    verdict
}

/// What a node shows in the end.
struct Final<'a> {
    pair: Pair<'a>,
    node: &'a str,
    shards: &'a Map<String, Value>,
    elsewhere: BTreeSet<&'a str>,
}

impl<'a> Final<'a> {
    fn of(pair: Pair<'a>, node: &'a str, shards: &'a Map<String, Value>) -> Final<'a> {
        let elsewhere = pair.end.and_then(|end| end.value["elsewhere"].as_array());
        let elsewhere = elsewhere.into_iter().flatten().filter_map(Value::as_str).collect();
        Final { pair, node, shards, elsewhere }
    }
}

/// Blames whoever shows a shard otherwise than the first who serves it.
fn compare(finals: &[Final<'_>], verdict: &mut Verdict) {
    let shards: BTreeSet<&String> = finals.iter().flat_map(|each| each.shards.keys()).collect();
    for each in finals {
        for shard in &shards {
            let serve = |other: &&Final<'_>| !other.elsewhere.contains(shard.as_str());
            let Some(first) = finals.iter().find(serve).filter(|_| serve(&each)) else { continue };
            let digest = |of: &Final<'_>| of.shards.get(*shard).map(|state| text(&state["digest"]));
            if digest(first) != digest(each) {
                let (node, other) = (each.node, first.node);
                let what = format!("shard {shard} of {node} and {other} did not converge");
                verdict.blame(&each.pair, what);
            }
        }
    }
}

/// All samples, in order; a line of the nemesis is its own invocation.
fn samples(history: &History) -> Vec<Pair<'_>> {
    let is_digest = |pair: &Pair<'_>| [FINAL_DIGEST, "digest"].contains(&pair.invoke.f.as_str());
    let asked = history.pairs().into_iter().filter(|p| is_digest(p) && p.outcome() == Type::Ok);
    let is_sample = |op: &&Op| op.process == Process::Nemesis && op.f == SAMPLE;
    let by_the_way = history.ops().iter().filter(is_sample);
    let mut all: Vec<Pair<'_>> =
        asked.chain(by_the_way.map(|op| Pair { invoke: op, end: Some(op) })).collect();
    all.sort_by_key(|pair| pair.end.map(|end| end.index));
    all
}

fn sample<'a>(pair: &Pair<'a>) -> Option<(&'a str, &'a Map<String, Value>)> {
    let value = &pair.end?.value;
    Some((value["node"].as_str()?, value["shards"].as_object()?))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::checkers::testing::expect;
    use crate::history::Type::{self, Invoke, Ok};
    use serde_json::{Value, json};

    type Line = (u64, Type, &'static str, Value);

    /// A sample of one shard of one node.
    fn sampled(f: &'static str, node: &str, digest: &str, sequence: u64) -> [Line; 2] {
        let state = json!({"digest": digest, "vector": {"a": sequence}});
        let value = json!({"node": node, "shards": {"0/7": state}});
        [(0, Invoke, f, json!(null)), (0, Ok, f, value)]
    }

    fn judge(samples: &[(&'static str, &str, &str, u64)], violations: &[&str]) {
        let lines = samples.iter().flat_map(|(f, node, digest, n)| sampled(f, node, digest, *n));
        expect(check, &lines.collect::<Vec<_>>(), violations);
    }

    #[test]
    fn a_lagging_replica_is_legal_until_the_end() {
        judge(
            &[
                ("digest", "eu-1", "d2", 2),
                ("digest", "us-1", "d1", 1),
                ("final-digest", "eu-1", "d2", 2),
                ("final-digest", "us-1", "d2", 2),
            ],
            &[],
        );
    }

    #[test]
    fn equal_vectors_with_unequal_digests_are_found_at_once() {
        judge(
            &[
                ("digest", "eu-1", "d1", 1),
                ("digest", "us-1", "dx", 1),
                ("final-digest", "eu-1", "d2", 2),
            ],
            &["operation 3: shard 0/7 of us-1 and eu-1 differs at equal vectors"],
        );
    }

    #[test]
    fn samples_by_the_way_count_as_well() {
        let mut recorder = crate::history::Recorder::default();
        for (node, digest) in [("eu-1", "d1"), ("us-1", "dx")] {
            let state = json!({"digest": digest, "vector": {"a": 1}});
            recorder.nemesis(1, "sample", json!({"node": node, "shards": {"0/7": state}}));
        }
        let violations = check(&recorder.history()).violations;
        let differs = "operation 1: shard 0/7 of us-1 and eu-1 differs at equal vectors";
        assert_eq!(violations, [differs, "no final digest was answered"]);
    }

    #[test]
    fn what_did_not_converge_is_found() {
        judge(
            &[("final-digest", "eu-1", "d2", 2), ("final-digest", "us-1", "d1", 1)],
            &["operation 3: shard 0/7 of us-1 and eu-1 did not converge"],
        );
        judge(&[("digest", "eu-1", "d2", 2)], &["no final digest was answered"]);
    }

    #[test]
    fn a_shard_that_one_node_lacks_did_not_converge() {
        let mut lines = sampled("final-digest", "eu-1", "d2", 2).to_vec();
        lines.push((0, Invoke, "final-digest", json!(null)));
        lines.push((0, Ok, "final-digest", json!({"node": "us-1", "shards": {}})));
        expect(check, &lines, &["operation 3: shard 0/7 of us-1 and eu-1 did not converge"]);
    }

    #[test]
    fn a_shard_that_others_serve_is_not_compared() {
        let lines = |elsewhere: Value| {
            let mut lines = sampled("final-digest", "eu-1", "d2", 2).to_vec();
            let value = json!({"node": "us-1", "shards": {}, "elsewhere": elsewhere});
            lines.push((0, Invoke, "final-digest", json!(null)));
            lines.push((0, Ok, "final-digest", value));
            lines
        };
        expect(check, &lines(json!(["0/7"])), &[]);
        let unlike = "operation 3: shard 0/7 of us-1 and eu-1 did not converge";
        expect(check, &lines(json!(["0/8"])), &[unlike]);
    }

    #[test]
    fn vectors_are_equal_only_if_the_same_origins_left_them() {
        let of = |digest: &str, retired: &str| {
            let state = json!({"digest": digest, "vector": {"a": 3}, "retired": retired});
            (0, Ok, "digest", json!({"node": "eu-1", "shards": {"0/7": state}}))
        };
        let lines = |second: Line| {
            let ask = |f| (0, Invoke, f, json!(null));
            let (first, mut last) = (of("d1", "0"), second.clone());
            last.2 = "final-digest";
            [ask("digest"), first, ask("digest"), second, ask("final-digest"), last]
        };
        expect(check, &lines(of("d2", "b")), &[]);
        let blamed = |operation: u8| {
            format!("operation {operation}: shard 0/7 of eu-1 and eu-1 differs at equal vectors")
        };
        expect(check, &lines(of("d2", "0")), &[&*blamed(3), &*blamed(5)]);
    }

    #[test]
    fn what_is_no_sample_is_blamed() {
        let lines = [(0, Invoke, "digest", json!(null)), (0, Ok, "digest", json!(7))];
        let missing = "no final digest was answered";
        expect(check, &lines, &["operation 1: is no sample of digests", missing]);
    }
}
