//! Subscribers by hand: at node eu-1 or us-1, under the prefix `in-`.

use super::check;
use crate::checkers::Verdict;
use crate::checkers::testing::{Line, timed};
use crate::history::Type::{self, Fail, Info, Invoke, Ok};
use serde_json::{Value, json};

/// A record: event, id and number of an entity, cursor.
type Told = (&'static str, &'static str, u64, &'static str);

fn wrote(kind: Type, id: &str, number: u64) -> Vec<Line<'static>> {
    let value = json!([id, number]);
    let invoked = Line::Client(0, number, Invoke, "write", value.clone(), "eu-1");
    vec![invoked, Line::Client(0, number, kind, "write", value, "eu-1")]
}

fn asked(f: &'static str, node: &'static str, since: Option<&str>, told: &[Told]) -> [Value; 2] {
    let fields = json!({
        "subscriber": 0, "prefix": "in-", "since": since, "reconnect": f != "poll on",
    });
    let record = |(event, id, number, cursor): &Told| match id.is_empty() {
        true => json!({"event": event, "id": null, "value": null, "cursor": cursor}),
        false => json!({"event": event, "id": id, "value": number, "cursor": cursor}),
    };
    let mut answer = fields.clone();
    answer["node"] = node.into();
    answer["records"] = told.iter().map(record).collect();
    [fields, answer]
}

/// A poll; `poll on` goes on with the stream that is open.
fn poll(
    f: &'static str,
    node: &'static str,
    since: Option<&str>,
    told: &[Told],
) -> Vec<Line<'static>> {
    let [fields, answer] = asked(f, node, since, told);
    let f = f.trim_end_matches(" on");
    vec![Line::Client(0, 50, Invoke, f, fields, node), Line::Client(0, 50, Ok, f, answer, node)]
}

fn judge(parts: Vec<Vec<Line<'_>>>) -> Verdict {
    check(&timed(&parts.into_iter().flatten().collect::<Vec<_>>()))
}

/// in-1 is 1, then 2; a subscriber saw 1 in a snapshot, its cursor is `a`; then what is given.
fn after_one(rest: Vec<Vec<Line<'static>>>) -> Verdict {
    let first: &[Told] = &[("snapshot", "in-1", 1, "nowhere"), ("ready", "", 0, "a")];
    let begin = vec![wrote(Ok, "in-1", 1), poll("poll", "eu-1", None, first), wrote(Ok, "in-1", 2)];
    judge(begin.into_iter().chain(rest).collect())
}

fn expect(verdict: &Verdict, violations: &[&str]) {
    let what = |violation: &String| violation.split_once(": ").map_or("", |(_, what)| what).into();
    let found: Vec<String> = verdict.violations.iter().map(what).collect();
    assert_eq!(found, violations);
}

const TWO: Told = ("change", "in-1", 2, "b");

#[test]
fn resuming_here_or_elsewhere_brings_what_is_next() {
    for node in ["eu-1", "us-1"] {
        expect(&after_one(vec![poll("final-poll", node, Some("a"), &[TWO])]), &[]);
    }
    // Elsewhere some come again; and no change that was combined is missed.
    let again: &[Told] = &[("change", "in-1", 1, "a"), TWO];
    expect(&after_one(vec![poll("final-poll", "us-1", Some("a"), again)]), &[]);
    let combined = after_one(vec![
        poll("poll on", "eu-1", Some("a"), &[TWO, ("change", "in-1", 2, "c")]),
        poll("final-poll", "eu-1", Some("c"), &[]),
    ]);
    expect(&combined, &[]);
    assert_eq!(combined.counted["states told again"], 1.0);
}

#[test]
fn a_lagging_replica_is_legal_until_the_end() {
    let stale = poll("poll", "us-1", Some("a"), &[]);
    expect(&after_one(vec![stale, poll("final-poll", "us-1", Some("a"), &[TWO])]), &[]);
    let missed = "in-1 is 2, and the subscriber was told 1";
    expect(&after_one(vec![poll("final-poll", "us-1", Some("a"), &[])]), &[missed]);
}

#[test]
fn a_cursor_of_progress_misses_nothing_later() {
    let moved = || poll("poll on", "eu-1", Some("a"), &[("progress", "", 0, "p")]);
    expect(&after_one(vec![moved(), poll("final-poll", "eu-1", Some("p"), &[TWO])]), &[]);
    let missed = "in-1 is 2, and the subscriber was told 1";
    expect(&after_one(vec![moved(), poll("final-poll", "eu-1", Some("p"), &[])]), &[missed]);
}

#[test]
fn after_a_reset_the_snapshot_brings_everything() {
    let reset = |told: &[Told]| {
        let all = [&[("reset", "", 0, "nowhere")], told, &[("ready", "", 0, "r")]].concat();
        after_one(vec![poll("final-poll", "us-1", Some("a"), &all)])
    };
    expect(&reset(&[("snapshot", "in-1", 2, "nowhere")]), &[]);
    expect(&reset(&[]), &["in-1 is 2, and the subscriber was told nothing"]);
    let twice = [("snapshot", "in-1", 2, "nowhere"), ("snapshot", "in-1", 2, "nowhere")];
    expect(&reset(&twice), &["in-1 of 2 came twice"]);
    let cut = [("reset", "", 0, "nowhere"), ("snapshot", "in-1", 2, "nowhere")];
    let cut = after_one(vec![poll("final-poll", "us-1", Some("a"), &cut)]);
    expect(&cut, &["ends within a snapshot"]);
}

#[test]
fn a_snapshot_holds_what_its_node_acknowledged() {
    let told: &[Told] = &[("snapshot", "in-1", 1, "nowhere"), ("ready", "", 0, "r")];
    let snapshot = |node| poll("poll", node, None, told);
    let last = || poll("final-poll", "eu-1", Some("r"), &[TWO]);
    expect(&after_one(vec![snapshot("us-1"), last()]), &[]);
    let missing = "in-1 of 2 is missing in a snapshot";
    expect(&after_one(vec![snapshot("eu-1"), last()]), &[missing]);
    let begin = json!({"phase": "begin", "nodes": ["eu-1"]});
    let restored = vec![Line::Nemesis(0, "restore", begin)];
    expect(&after_one(vec![restored, snapshot("eu-1"), last()]), &[]);
}

#[test]
fn numbers_do_not_fall_within_a_stream() {
    let back = &[TWO, ("change", "in-1", 1, "c")];
    let fell = "in-1 went back from 2 to 1";
    expect(&after_one(vec![poll("final-poll", "eu-1", Some("a"), back)]), &[fell]);
    let (ahead, behind) = (&[TWO], &[("change", "in-1", 1, "z")]);
    let streams = |second| {
        after_one(vec![
            poll("poll on", "eu-1", Some("a"), ahead),
            poll(second, "eu-1", Some("b"), behind),
            poll("final-poll", "eu-1", Some("z"), &[]),
        ])
    };
    expect(&streams("poll on"), &[fell]);
    expect(&streams("poll"), &[]);
}

#[test]
fn a_record_comes_once() {
    let twice = poll("final-poll", "eu-1", Some("a"), &[TWO, TWO]);
    expect(&after_one(vec![twice]), &["in-1 of 2 came twice"]);
    let streams = |second| {
        after_one(vec![
            poll("poll on", "eu-1", Some("a"), &[TWO]),
            poll(second, "eu-1", Some("a"), &[TWO]),
            poll("final-poll", "eu-1", Some("b"), &[]),
        ])
    };
    expect(&streams("poll on"), &["in-1 of 2 came twice"]);
    // Resumed from before it: it comes again, and must.
    expect(&streams("poll"), &[]);
}

#[test]
fn nothing_is_told_that_is_not_asked_for_or_not_written() {
    let last = |told: Told| after_one(vec![poll("final-poll", "eu-1", Some("a"), &[TWO, told])]);
    let phantom = "in-9 of 1 was told, and not written";
    expect(&last(("change", "in-9", 1, "c")), &[phantom]);
    expect(&last(("delete", "in-1", 1, "c")), &["delete of what nobody deleted"]);
    let outside = judge(vec![
        wrote(Ok, "out-1", 1),
        poll("final-poll", "eu-1", Some("a"), &[("change", "out-1", 1, "c")]),
    ]);
    expect(&outside, &["out-1 is outside \"in-\""]);
    let snapshot = "in-1 of a snapshot that has not begun";
    expect(&last(("snapshot", "in-1", 2, "c")), &[snapshot]);
    expect(&last(("ready", "", 0, "c")), &["ready without a snapshot"]);
}

#[test]
fn an_unknown_write_may_show_up_and_a_failed_one_may_not() {
    let told = |kind| {
        let told = &[TWO, ("change", "in-1", 3, "c")];
        after_one(vec![wrote(kind, "in-1", 3), poll("final-poll", "eu-1", Some("a"), told)])
    };
    expect(&told(Info), &[]);
    expect(&told(Fail), &["in-1 of 3 was told, and not written"]);
    let absent = poll("final-poll", "eu-1", Some("a"), &[TWO]);
    expect(&after_one(vec![wrote(Info, "in-1", 3), absent]), &[]);
}

#[test]
fn a_stream_ends_with_its_error() {
    let told: &[Told] = &[("error", "", 0, "a"), TWO];
    let last = || poll("final-poll", "eu-1", Some("b"), &[]);
    let on = after_one(vec![poll("poll on", "eu-1", Some("a"), told), last()]);
    expect(&on, &["change follows an error"]);
    let split = after_one(vec![
        poll("poll on", "eu-1", Some("a"), &told[..1]),
        poll("poll", "eu-1", Some("a"), &told[1..]),
        last(),
    ]);
    expect(&split, &[]);
}

#[test]
fn a_stream_that_is_cut_off_is_counted_and_the_next_is_another() {
    let [fields, _] = asked("poll on", "eu-1", Some("a"), &[]);
    let cut = vec![
        Line::Client(0, 50, Invoke, "poll", fields.clone(), "eu-1"),
        Line::Client(0, 50, Fail, "poll", fields, "eu-1"),
    ];
    let verdict = after_one(vec![
        poll("poll on", "eu-1", Some("a"), &[TWO]),
        cut,
        poll("poll on", "eu-1", Some("a"), &[TWO]),
        poll("final-poll", "eu-1", Some("b"), &[]),
    ]);
    expect(&verdict, &[]);
    assert_eq!(verdict.counted["streams cut off"], 1.0);
}

#[test]
fn without_final_polls_nothing_is_proven() {
    let none = ["no final poll was answered"];
    assert_eq!(after_one(vec![]).violations, none);
}
