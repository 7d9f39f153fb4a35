//! What `atoll export` writes, `atoll import` takes: values, and the types of a map's fields.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use common::Surface;

/// Runs the command line against a server; answers what it printed.
fn atoll(url: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_atoll"))
        .args(["--url", url])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_of_an_export_has_the_same_values_and_types() {
    let surface = Surface::start().await;
    let fields = json!({"n": {"set": 3}, "c": {"increment": "9007199254740993"},
        "t": {"add": ["x"]}, "f": {"disable": true}, "r": {"set": [1]}});
    surface.post("/v1/maps/old/a", json!({"update": fields})).await;
    surface.post("/v1/counters/old/a", json!({"decrement": 7})).await;
    surface.post("/v1/sets/old/a", json!({"add": ["b", "a"]})).await;
    let url = surface.base.clone();
    let moved = tokio::task::spawn_blocking(move || {
        let exported = atoll(&url, &["export"], "");
        let moved = exported.replace("\"collection\":\"old\"", "\"collection\":\"new\"");
        atoll(&url, &["import", "-"], &moved);
        moved
    });
    assert_eq!(moved.await.expect("no panic").lines().count(), 3);
    for kind in ["maps", "counters", "sets"] {
        let old = surface.get(&format!("/v1/{kind}/old/a")).await.json();
        let new = surface.get(&format!("/v1/{kind}/new/a")).await.json();
        assert_eq!(old["value"], new["value"], "{kind}");
    }
    // A register that holds a number is still a register.
    let again = surface.post("/v1/maps/new/a", json!({"update": {"n": {"set": 4}}})).await;
    assert_eq!(again.status, 200, "{}", again.text);
}
