//! Histories of sets by hand. Each process has a node of its own.

use serde_json::{Value, json};

use super::check;
use crate::checkers::testing::expect;
use crate::history::Type::{self, Fail, Info, Invoke, Ok};

type Line = (u64, Type, &'static str, Value);

/// An operation on `k`, from its begin to its end.
fn done(process: u64, kind: Type, f: &'static str, value: Value) -> [Line; 2] {
    [(process, Invoke, f, json!(["k", value])), (process, kind, f, json!(["k", value]))]
}

fn read(process: u64, f: &'static str, shows: Value) -> [Line; 2] {
    [(process, Invoke, f, json!(["k", null])), (process, Ok, f, json!(["k", shows]))]
}

fn judge(lines: &[[Line; 2]], violations: &[&str]) {
    expect(check, &lines.concat(), violations);
}

#[test]
fn an_add_wins_over_a_remove_that_has_not_seen_it() {
    let add = || done(0, Ok, "add", json!(1));
    let remove = || done(1, Ok, "remove", json!(1));
    judge(&[add(), remove(), read(0, "final-read", json!([1]))], &[]);
    judge(&[add(), remove(), read(0, "final-read", json!([]))], &[]);
    judge(&[add(), remove(), read(0, "final-read", Value::Null)], &[]);
}

#[test]
fn what_a_node_removed_of_its_own_does_not_come_back() {
    let back = "operation 5: k: 1 was removed, and is back";
    let mut lines = vec![done(0, Ok, "add", json!(1)), done(0, Ok, "remove", json!(1))];
    lines.push(read(2, "final-read", json!([1])));
    judge(&lines, &[back]);
    lines[1] = done(0, Info, "remove", json!(1));
    judge(&lines, &[]);
    lines[1] = done(0, Ok, "clear", Value::Null);
    judge(&lines, &[back]);
    lines.insert(0, done(1, Info, "add", json!(1)));
    judge(&lines, &[]);
}

#[test]
fn what_a_node_read_before_it_removed_does_not_come_back() {
    let lines = [
        done(0, Ok, "add", json!(1)),
        read(1, "read", json!([1])),
        done(1, Ok, "remove", json!(1)),
        read(2, "final-read", json!([1])),
    ];
    judge(&lines, &["operation 7: k: 1 was removed, and is back"]);
}

#[test]
fn what_was_gone_at_a_node_does_not_come_back_there() {
    let lines = [
        done(0, Ok, "add", json!(1)),
        done(1, Ok, "remove", json!(1)),
        read(0, "read", json!([])),
        read(1, "read", json!([1])),
        read(0, "read", json!([1])),
        read(0, "final-read", json!([])),
    ];
    judge(&lines, &["operation 9: k: 1 was removed, and is back"]);
}

#[test]
fn an_element_that_is_added_again_stays() {
    let lines = [
        done(0, Ok, "add", json!(1)),
        done(0, Ok, "remove", json!(1)),
        done(0, Ok, "add", json!(1)),
        read(0, "final-read", json!([1])),
    ];
    judge(&lines, &[]);
    let mut lost = lines.clone();
    lost[3] = read(0, "final-read", json!([]));
    judge(&lost, &["operation 7: k: 1 was acknowledged, and is lost"]);
}

#[test]
fn a_lagging_replica_is_legal_until_the_end_and_a_node_that_loses_its_own_is_not() {
    let add = || done(0, Ok, "add", json!(1));
    let end = || read(0, "final-read", json!([1]));
    judge(&[add(), read(1, "read", json!([])), end()], &[]);
    let lost = "operation 3: k: 1 was here, and is lost";
    judge(&[add(), read(0, "read", json!([])), end()], &[lost]);
    let final_loss = "operation 3: k: 1 was acknowledged, and is lost";
    judge(&[add(), read(1, "final-read", json!([]))], &[final_loss]);
}

#[test]
fn an_unknown_add_shows_up_late_or_never_but_stays() {
    let add = || done(0, Info, "add", json!(1));
    let late = || [add(), read(1, "read", json!([])), read(1, "read", json!([1]))].to_vec();
    judge(&[late(), vec![read(2, "final-read", json!([1]))]].concat(), &[]);
    judge(&[add(), read(2, "final-read", json!([]))], &[]);
    let lost = "operation 7: k: 1 was here, and is lost";
    judge(&[late(), vec![read(2, "final-read", json!([]))]].concat(), &[lost]);
}

#[test]
fn phantoms_duplicates_and_disagreement_are_found() {
    let lines = [
        done(0, Fail, "add", json!(1)),
        done(0, Ok, "add", json!(2)),
        done(1, Info, "add", json!(3)),
        read(0, "read", json!([1, 2, 2])),
        read(0, "final-read", json!([2, 3])),
        read(2, "final-read", json!([2])),
    ];
    judge(
        &lines,
        &[
            "operation 7: k: 2 was read twice",
            "operation 7: k: 1 was read, and not added",
            "operation 11: k: differs from the first final read",
            "operation 11: k: 3 was here, and is lost",
        ],
    );
}
