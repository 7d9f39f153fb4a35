//! What disks that fail take from what is known.

use serde_json::{Value, json};

use crate::checkers::{mv_register, or_set};
use crate::history::{Recorder, Type};

/// One client of one node adds, removes, and reads what is said; the node's disk fails between the
/// add and the remove, or not.
fn add_remove_read(fault: Option<&str>, shows: &Value) -> Vec<String> {
    let mut recorder = Recorder::default();
    let mut done = |f: &str, value: Value, result: Value| {
        recorder.invoke(0, 0, f, value, Some("eu-1"));
        recorder.end(0, 0, Type::Ok, f, result, None, Some("eu-1"));
        if let Some(fault) = fault.filter(|_| f == "add") {
            recorder.nemesis(0, fault, json!({"phase": "begin", "nodes": ["eu-1"]}));
            recorder.nemesis(0, fault, json!({"phase": "end", "nodes": ["eu-1"]}));
        }
    };
    done("add", json!(["k", 1]), json!(["k", 1]));
    done("remove", json!(["k", 1]), json!(["k", 1]));
    done("final-read", json!(["k", null]), json!(["k", shows]));
    or_set::check(&recorder.history()).violations
}

#[test]
fn a_node_that_kept_its_disk_removes_what_it_added() {
    let back = ["k: 1 was removed, and is back"];
    for fault in [None, Some("kill"), Some("partition")] {
        let found = add_remove_read(fault, &json!([1]));
        assert!(found.len() == 1 && found[0].ends_with(back[0]), "{fault:?}: {found:?}");
        assert_eq!(add_remove_read(fault, &json!([])), [""; 0]);
    }
}

#[test]
fn a_node_whose_disk_was_put_back_may_remove_nothing() {
    assert_eq!(add_remove_read(Some("restore"), &json!([1])), [""; 0]);
    assert_eq!(add_remove_read(Some("restore"), &json!([])), [""; 0]);
}

/// A client of one node reads a value, which a write at another node supersedes; then it writes in
/// the name of that value, which so removes nothing. Its node's disk is replaced, or not, and it
/// reads its own write beside the value: the other write has not come back yet.
fn superseded_twice(replaced: bool) -> Vec<String> {
    let mut recorder = Recorder::default();
    let mut done = |node: &str, f: &str, asked: Value, answered: Value| {
        recorder.invoke(0, 0, f, json!(["k", asked]), Some(node));
        recorder.end(0, 0, Type::Ok, f, json!(["k", answered]), None, Some(node));
        if replaced && asked["value"] == 3 {
            recorder.nemesis(0, "replace", json!({"phase": "begin", "nodes": ["eu-1"]}));
            recorder.nemesis(0, "replace", json!({"phase": "end", "nodes": ["eu-1"]}));
        }
    };
    let write = |value: u64, seen: Value| json!({"value": value, "seen": seen});
    done("eu-1", "write", write(1, json!([])), write(1, json!([])));
    done("us-1", "write", write(2, json!([1])), write(2, json!([1])));
    done("eu-1", "read", Value::Null, json!([2]));
    done("eu-1", "write", write(3, json!([1])), write(3, json!([1])));
    done("eu-1", "read", Value::Null, json!([1, 3]));
    done("eu-1", "final-read", Value::Null, json!([2, 3]));
    mv_register::check(&recorder.history()).violations
}

#[test]
fn a_node_with_a_new_disk_may_learn_of_removes_in_another_order() {
    assert_eq!(superseded_twice(true), [""; 0]);
    let found = superseded_twice(false);
    assert!(found[0].ends_with("k: 1 was removed, and is back"), "{found:?}");
}
