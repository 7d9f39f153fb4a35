//! Histories of maps by hand. Each process has a node of its own.

use serde_json::{Value, json};

use super::check;
use crate::checkers::testing::expect;
use crate::history::Type::{self, Info, Invoke, Ok};

type Line = (u64, Type, &'static str, Value);

fn update(process: u64, kind: Type, fields: Value) -> [Line; 2] {
    let line = |kind| (process, kind, "update", json!(["k", {"update": fields}]));
    [line(Invoke), line(kind)]
}

fn remove(process: u64, field: &str) -> [Line; 2] {
    let line = |kind| (process, kind, "update", json!(["k", {"remove": [field]}]));
    [line(Invoke), line(Ok)]
}

fn read(f: &'static str, shows: Value) -> [Line; 2] {
    [(9, Invoke, f, json!(["k", null])), (9, Ok, f, json!(["k", shows]))]
}

/// What happened, then a final read of this.
fn ends(lines: &[[Line; 2]], shows: Value, violations: &[&str]) {
    expect(check, &[lines.concat(), read("final-read", shows).to_vec()].concat(), violations);
}

#[test]
fn an_update_is_whole_or_not_there() {
    let add = json!({"tags": {"add": ["a"]}, "flag": {"enable": true}, "n": {"increment": 2}});
    let whole = json!({"tags": ["a"], "flag": true, "n": 2});
    let half = |shows| [update(0, Ok, add.clone()), read("read", shows)];
    ends(&half(json!({})), whole.clone(), &[]);
    ends(&half(whole.clone()), whole.clone(), &[]);
    let missing = [
        "operation 3: k: flag enabled is not there, and the rest of operation 0 is",
        "operation 3: k: field n is not there, and the rest of operation 0 is",
    ];
    ends(&half(json!({"tags": ["a"], "flag": false})), whole.clone(), &missing);
    let unsummed = "operation 3: k: n = 0 is no sum of what may be counted";
    ends(&half(json!({"tags": ["a"], "flag": true, "n": 0})), whole.clone(), &[unsummed]);
    let mut removed = half(json!({"tags": ["a"], "flag": true})).to_vec();
    removed.insert(1, remove(1, "n"));
    ends(&removed, json!({"tags": ["a"], "flag": true}), &[]);
}

#[test]
fn an_update_wins_over_a_remove_that_has_not_seen_it() {
    let lines = [update(0, Ok, json!({"n": {"increment": 2}})), remove(1, "n")];
    ends(&lines, json!({"n": 2}), &[]);
    ends(&lines, json!({}), &[]);
    let seen = [update(0, Ok, json!({"n": {"increment": 2}})), remove(0, "n")];
    let found = [
        "operation 5: k: field n was removed, and is back",
        "operation 5: k: n = 2 is no sum of what may be counted",
    ];
    ends(&seen, json!({"n": 2}), &found);
    ends(&seen, Value::Null, &[]);
}

#[test]
fn a_counter_that_is_removed_starts_again() {
    let lines = [
        update(0, Ok, json!({"n": {"increment": 2}})),
        remove(0, "n"),
        update(0, Ok, json!({"n": {"increment": 5}})),
        update(1, Info, json!({"n": {"decrement": 1}})),
    ];
    ends(&lines, json!({"n": 5}), &[]);
    ends(&lines, json!({"n": 4}), &[]);
    ends(&lines, json!({"n": 7}), &["operation 9: k: n = 7 is no sum of what may be counted"]);
}

#[test]
fn a_register_in_a_map_keeps_to_its_order_until_it_is_removed() {
    let set = |process, value: u64| update(process, Ok, json!({"name": {"set": value}}));
    let lines = [set(0, 1), set(0, 2)];
    ends(&lines, json!({"name": 2}), &[]);
    let found = [
        "operation 5: k: name: 1 is final, and 2 is later",
        "operation 5: k: name = 1 was removed, and is back",
    ];
    ends(&lines, json!({"name": 1}), &found);
    let removed = [set(0, 2), set(1, 1), remove(0, "name")];
    ends(&removed, json!({"name": 1}), &[]);
    ends(&removed, json!({"name": 2}), &["operation 7: k: name = 2 was removed, and is back"]);
}

#[test]
fn lost_members_phantoms_and_wrong_types_are_found() {
    let lines = [update(0, Ok, json!({"tags": {"add": [1, 2]}})), remove(0, "other")];
    let lost = "operation 5: k: 2 in tags was acknowledged, and is lost";
    ends(&lines, json!({"tags": [1]}), &[lost]);
    let twice = "operation 5: k: 2 in tags was read twice";
    ends(&lines, json!({"tags": [1, 2, 2]}), &[twice]);
    let phantoms = [
        "operation 5: k: 3 in tags was read, and not added",
        "operation 5: k: field x was read, and not added",
    ];
    ends(&lines, json!({"tags": [1, 2, 3], "x": 1}), &phantoms);
    let untyped = [
        "operation 5: k: tags is no Set: 7",
        "operation 5: k: 1 in tags was acknowledged, and is lost",
        lost,
    ];
    ends(&lines, json!({"tags": 7}), &untyped);
}
