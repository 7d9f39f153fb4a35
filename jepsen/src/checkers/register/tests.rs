//! Histories of registers by hand. Each process has a node of its own.

use serde_json::{Value, json};

use super::check;
use crate::checkers::testing::expect;
use crate::history::Type::{self, Fail, Info, Invoke, Ok};

type Line = (u64, Type, &'static str, Value);

fn write(process: u64, kind: Type, value: u64) -> [Line; 2] {
    let line = |kind| (process, kind, "write", json!(["k", value]));
    [line(Invoke), line(kind)]
}

fn read(process: u64, shows: Value) -> [Line; 2] {
    [(process, Invoke, "read", json!(["k", null])), (process, Ok, "read", json!(["k", shows]))]
}

/// What happened, then a final read of this.
fn ends(lines: &[[Line; 2]], shows: Value, violations: &[&str]) {
    let [(_, _, _, asked), (_, _, _, shown)] = read(9, shows);
    let end = [(9, Invoke, "final-read", asked), (9, Ok, "final-read", shown)];
    expect(check, &[lines.concat(), end.to_vec()].concat(), violations);
}

#[test]
fn either_of_two_unrelated_writes_may_win() {
    let writes = [write(0, Ok, 1), write(1, Ok, 2)];
    ends(&writes, json!(1), &[]);
    ends(&writes, json!(2), &[]);
    ends(&writes, Value::Null, &["operation 5: k: nothing is final, and 1 is later"]);
}

#[test]
fn a_value_that_its_writer_overwrote_is_not_final() {
    let earlier = "operation 5: k: 1 is final, and 2 is later";
    ends(&[write(0, Ok, 1), write(0, Ok, 2)], json!(1), &[earlier]);
    ends(&[write(0, Ok, 1), write(0, Info, 2)], json!(1), &[]);
    ends(&[write(0, Ok, 1), write(0, Info, 2)], json!(2), &[]);
    ends(&[write(0, Ok, 1), write(0, Fail, 2)], json!(1), &[]);
}

#[test]
fn a_value_that_another_node_read_and_overwrote_is_not_final() {
    let lines = [write(0, Ok, 1), read(1, json!(1)), write(1, Ok, 2), read(2, json!(2))];
    let chain = [&lines[..], &[write(2, Ok, 3)]].concat();
    ends(&chain, json!(3), &[]);
    ends(&chain, json!(1), &["operation 11: k: 1 is final, and 2 is later"]);
}

#[test]
fn reads_of_a_node_never_go_back_and_those_of_others_may_lag() {
    let writes = [write(0, Ok, 1), write(0, Ok, 2)];
    let lag = [read(1, Value::Null), read(1, json!(1)), read(1, json!(2))];
    ends(&[&writes[..], &lag].concat(), json!(2), &[]);
    let back = [read(1, json!(2)), read(1, json!(1))];
    let found = "operation 7: k: 1 was read, after 2 which is later";
    ends(&[&writes[..], &back].concat(), json!(2), &[found]);
    let nothing = "operation 5: k: nothing was read, after 2 which is later";
    ends(&[&writes[..], &[read(0, Value::Null)]].concat(), json!(2), &[nothing]);
}

#[test]
fn two_nodes_do_not_tell_two_orders() {
    let lines = [write(0, Ok, 1), write(1, Ok, 2), read(0, json!(2)), read(1, json!(1))];
    ends(&lines, json!(2), &["operation 7: k: 1 was read, after 2 which is later"]);
}

#[test]
fn an_unknown_write_shows_up_late_and_then_counts() {
    let late = [write(0, Info, 1), read(1, Value::Null), read(1, json!(1))];
    ends(&late, json!(1), &[]);
    ends(&late[..2], Value::Null, &[]);
    ends(&late, Value::Null, &["operation 7: k: nothing is final, and 1 is later"]);
}

#[test]
fn phantoms_and_disagreement_are_found() {
    let lines = [write(0, Fail, 1), read(0, json!(1)), write(0, Ok, 2), read(1, json!(7))];
    let phantoms = [
        "operation 3: k: 1 was read, and not written",
        "operation 7: k: 7 was read, and not written",
    ];
    ends(&lines, json!(2), &phantoms);
    let both = [write(0, Ok, 1), write(1, Ok, 2)].concat();
    let finals = [(0, 1), (1, 2)].map(|(process, value)| {
        let line = |kind, value| (process, kind, "final-read", json!(["k", value]));
        [line(Invoke, None), line(Ok, Some(value))]
    });
    let differs = "operation 7: k: differs from the first final read";
    expect(check, &[both, finals.concat()].concat(), &[differs]);
}
