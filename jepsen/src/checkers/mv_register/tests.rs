//! Histories of multi-value registers by hand. Each process has a node of its own.

use serde_json::{Value, json};

use super::check;
use crate::checkers::testing::expect;
use crate::history::Type::{self, Info, Invoke, Ok};

type Line = (u64, Type, &'static str, Value);

fn write(process: u64, kind: Type, value: u64, seen: Value) -> [Line; 2] {
    let line = |kind| (process, kind, "write", json!(["k", {"value": value, "seen": seen}]));
    [line(Invoke), line(kind)]
}

fn read(process: u64, f: &'static str, shows: Value) -> [Line; 2] {
    [(process, Invoke, f, json!(["k", null])), (process, Ok, f, json!(["k", shows]))]
}

/// Writes, then a final read of this.
fn ends(writes: &[[Line; 2]], shows: Value, violations: &[&str]) {
    let lines = [writes.concat(), read(9, "final-read", shows).to_vec()].concat();
    expect(check, &lines, violations);
}

#[test]
fn exactly_the_writes_that_none_has_named_stay() {
    let writes =
        [write(0, Ok, 1, json!([])), write(1, Ok, 2, json!([])), write(2, Ok, 3, json!([1]))];
    ends(&writes, json!([2, 3]), &[]);
    let back = "operation 7: k: 1 was removed, and is back";
    ends(&writes, json!([1, 2, 3]), &[back]);
    let lost = "operation 7: k: 2 was acknowledged, and is lost";
    ends(&writes, json!([3]), &[lost]);
    let both = ["operation 7: k: 1 was removed, and is back", lost];
    ends(&writes, json!([1, 3]), &both);
}

#[test]
fn a_blind_write_may_have_seen_what_others_wrote_and_has_seen_what_its_node_did() {
    let elsewhere = [write(0, Ok, 1, json!([])), write(1, Ok, 2, Value::Null)];
    ends(&elsewhere, json!([1, 2]), &[]);
    ends(&elsewhere, json!([2]), &[]);
    let here = [write(1, Ok, 1, json!([])), write(1, Ok, 2, Value::Null)];
    ends(&here, json!([1, 2]), &["operation 5: k: 1 was removed, and is back"]);
    let before = [write(1, Ok, 2, Value::Null), write(0, Ok, 1, json!([]))];
    ends(&before, json!([2]), &["operation 5: k: 1 was acknowledged, and is lost"]);
}

#[test]
fn an_unknown_write_is_in_or_out_with_all_that_it_does() {
    let writes = [write(0, Ok, 1, json!([])), write(1, Info, 2, json!([1]))];
    ends(&writes, json!([1]), &[]);
    ends(&writes, json!([2]), &[]);
    ends(&writes, json!([]), &["operation 5: k: 1 was acknowledged, and is lost"]);
    ends(&writes, json!([1, 2]), &["operation 5: k: 1 was removed, and is back"]);
    let chain = [&writes[..], &[write(2, Info, 3, json!([2]))]].concat();
    ends(&chain, json!([3]), &[]);
    ends(&chain, json!([1, 3]), &[]);
    ends(&chain, json!([]), &["operation 7: k: 1 was acknowledged, and is lost"]);
}

#[test]
fn a_lagging_read_is_legal_and_a_phantom_or_duplicate_is_not() {
    let lines = [
        write(0, Ok, 1, json!([])),
        write(0, Ok, 2, json!([1])),
        read(1, "read", json!([1])),
        read(2, "read", Value::Null),
        read(0, "read", json!([2, 2])),
        read(0, "read", json!([1])),
        read(2, "read", json!([7])),
        read(0, "final-read", json!([2])),
    ];
    expect(
        check,
        &lines.concat(),
        &[
            "operation 9: k: 2 was read twice",
            "operation 11: k: 1 was removed, and is back",
            "operation 11: k: 2 was here, and is lost",
            "operation 13: k: 7 was read, and not added",
        ],
    );
}
