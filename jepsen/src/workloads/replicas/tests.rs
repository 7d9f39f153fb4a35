//! Judges never blame replicas that do as they should, and catch those that do not.

use serde_json::Value;

use super::Bug;
use super::run::{ALONE, MANY, Plan, run};
use crate::checkers::FINAL_READ;
use crate::history::{History, Type};
use crate::workloads::Workload;

/// Runs of each kind.
const SEEDS: u64 = 12;

fn violations(workload: &dyn Workload, history: &History) -> Vec<String> {
    let verdicts = workload.judge(history).into_iter();
    assert!(history.ops().len() > 100, "a run of some length");
    verdicts
        .flat_map(|(_, verdict)| {
            assert!(verdict.judged > 0);
            verdict.violations
        })
        .collect()
}

fn good(name: &str, plan: Plan) {
    for seed in 0..SEEDS {
        let (workload, history) = run(name, seed, plan);
        let found = violations(&*workload, &history);
        let json = history.to_json_lines();
        assert_eq!(found, [""; 0], "{name}, seed {seed}:\n{}", &json[..json.len().min(40_000)]);
    }
}

/// Every final read of one entity shows what an earlier read did, or what `change` makes of it.
fn with_finals(history: &History, key: &Value, change: impl Fn(&mut Value)) -> History {
    let mut ops = history.ops().to_vec();
    let is_final = |op: &&mut crate::history::Op| op.f == FINAL_READ && op.kind == Type::Ok;
    for op in ops.iter_mut().filter(is_final).filter(|op| op.value[0] == *key) {
        change(&mut op.value[1]);
    }
    History::new(ops).expect("only values have changed")
}

/// Of one copy that one client uses, all is known: whatever else the end shows is wrong.
fn stale_finals_are_found(name: &str) {
    let mut changed = 0;
    for seed in 0..SEEDS {
        let (workload, history) = run(name, seed, ALONE);
        let ok = |f: &str| {
            let f = f.to_owned();
            history.ops().iter().filter(move |op| op.f == f && op.kind == Type::Ok)
        };
        for last in ok(FINAL_READ) {
            let key = &last.value[0];
            let other =
                |value: &Value| *value != last.value[1] && !(is_empty(value, &last.value[1]));
            let mut stale = ok("read").filter(|op| op.value[0] == *key && other(&op.value[1]));
            let Some(stale) = stale.next_back() else { continue };
            let wrong = with_finals(&history, key, |value| *value = stale.value[1].clone());
            let found = violations(&*workload, &wrong);
            assert!(!found.is_empty(), "{name}, seed {seed}: {stale:?} for {last:?}");
            changed += 1;
        }
    }
    assert!(changed > SEEDS, "{changed} histories were changed");
}

/// An empty set and no set are one to a judge.
fn is_empty(one: &Value, other: &Value) -> bool {
    let empty = |value: &Value| value.is_null() || *value == Value::Array(Vec::new());
    empty(one) && empty(other)
}

/// How many of the runs of wrong replicas are caught.
fn caught(name: &str, bug: Bug, at_least: usize) {
    let plan = Plan { bug: Some(bug), ..MANY };
    let runs = (0..SEEDS).map(|seed| run(name, seed, plan));
    let bad = runs.filter(|(workload, history)| !violations(&**workload, history).is_empty());
    let count = bad.count();
    assert!(count >= at_least, "{name}: {bug:?} is caught {count} times of {SEEDS}");
}

#[test]
fn or_sets() {
    good("or-set", ALONE);
    good("or-set", MANY);
    stale_finals_are_found("or-set");
    caught("or-set", Bug::Forgets, 6);
    caught("or-set", Bug::KeepsRemoved, 6);
}

#[test]
fn registers() {
    good("register", ALONE);
    good("register", MANY);
    stale_finals_are_found("register");
    caught("register", Bug::Forgets, 6);
    caught("register", Bug::TrustsClock, 2);
}

#[test]
fn multi_value_registers() {
    good("mv-register", ALONE);
    good("mv-register", MANY);
    stale_finals_are_found("mv-register");
    caught("mv-register", Bug::Forgets, 6);
    caught("mv-register", Bug::KeepsRemoved, 6);
    caught("mv-register", Bug::RemovesUnseen, 3);
}

#[test]
fn maps() {
    good("map", ALONE);
    good("map", MANY);
    stale_finals_are_found("map");
    caught("map", Bug::Forgets, 6);
    caught("map", Bug::KeepsRemoved, 6);
    caught("map", Bug::Tears, 6);
}
