//! Commands with ids, tried again until they are answered: each takes effect once.
//!
//! Operations: `command` with `{"id": id, ..}`, once for each try; acknowledged with
//! `{"id": id, "reply": reply}`. `read` and `final-read` with the ids in the entity's log, in
//! order. For each key:
//! 1. Every final read holds each id of which any try was acknowledged.
//! 2. No read holds an id twice, however often it was tried.
//! 3. No read holds an id that was not tried before the read ended, or whose tries all failed.
//! 4. All acknowledged tries of an id had the same reply.
//! 5. Final reads are equal: an unknown command has taken effect everywhere or nowhere.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::keyed::{Keys, Operation, partition};
use super::{FINAL_READ, Verdict};
use crate::history::{History, Type};

/// Judges a history of commands.
pub fn check(history: &History, keys: Keys) -> Verdict {
    let mut verdict = Verdict::default();
    let mut finals = 0;
    let functions = ["command", "read", FINAL_READ];
    for (key, operations) in partition(history, &functions, keys, &mut verdict) {
        let tries = tries(&key, &operations, &mut verdict);
        let mut first: Option<&Value> = None;
        for read in operations.iter().filter(|operation| operation.f() != "command") {
            let Some(shown) = read.result else { continue };
            verdict.judged += 1;
            log(&key, read, shown, &tries, &mut verdict);
            if read.f() == FINAL_READ && *first.get_or_insert(shown) != shown {
                verdict.blame(&read.pair, format!("{key}differs from the first final read"));
            }
        }
        finals += usize::from(first.is_some());
    }
    if finals == 0 {
        verdict.violations.push("no final read was answered".into());
    }
    verdict
}

/// What is known of one id.
struct Tries {
    /// The line of the first try that did not fail.
    began: Option<u64>,
    /// The reply of the first acknowledged try.
    reply: Option<Value>,
}

/// The tries by id; replies that differ are blamed.
fn tries(
    key: &str,
    operations: &[Operation<'_>],
    verdict: &mut Verdict,
) -> BTreeMap<String, Tries> {
    let mut all: BTreeMap<String, Tries> = BTreeMap::new();
    for command in operations.iter().filter(|operation| operation.f() == "command") {
        verdict.judged += 1;
        let id = command.argument["id"].to_string();
        if command.result.is_some_and(|result| result["id"] != command.argument["id"]) {
            verdict.blame(&command.pair, format!("{key}{id} is answered as another id"));
        }
        let known = all.entry(id.clone()).or_insert(Tries { began: None, reply: None });
        if command.outcome() != Type::Fail {
            known.began.get_or_insert(command.began());
        }
        let Some(reply) = command.result.map(|result| &result["reply"]) else { continue };
        let first = known.reply.get_or_insert_with(|| reply.clone());
        if first != reply {
            let what = format!("{key}{id} is answered {reply}, and was answered {first}");
            verdict.blame(&command.pair, what);
        }
    }
    all
}

/// Judges one read of the log.
fn log(
    key: &str,
    read: &Operation<'_>,
    shown: &Value,
    tries: &BTreeMap<String, Tries>,
    verdict: &mut Verdict,
) {
    let mut blame = |what: String| verdict.blame(&read.pair, format!("{key}{what}"));
    let none = Vec::new();
    let Some(shown) = shown.as_array().or(shown.is_null().then_some(&none)) else {
        return blame("is no array".into());
    };
    let end = read.acknowledged().unwrap_or(u64::MAX);
    let mut seen = BTreeSet::new();
    for id in shown.iter().map(Value::to_string) {
        let began = tries.get(&id).and_then(|known| known.began);
        if seen.contains(&id) {
            blame(format!("{id} took effect twice"));
        } else if began.is_none_or(|began| began > end) {
            blame(format!("{id} took effect, and was not asked for or failed"));
        }
        seen.insert(id);
    }
    if read.f() == FINAL_READ {
        let acknowledged = tries.iter().filter(|(_, known)| known.reply.is_some());
        for (lost, _) in acknowledged.filter(|(id, _)| !seen.contains(*id)) {
            blame(format!("{lost} was acknowledged, and is lost"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::history;
    use crate::history::Type::{Fail, Info, Invoke, Ok};
    use serde_json::json;

    type Line = (u64, Type, &'static str, Value);

    fn tried(process: u64, kind: Type, id: &str, reply: u64) -> [Line; 2] {
        let result = json!({"id": id, "reply": reply});
        let (f, asked) = ("command", json!({"id": id}));
        [
            (process, Invoke, f, asked.clone()),
            (process, kind, f, if kind == Ok { result } else { asked }),
        ]
    }

    fn read(f: &'static str, shown: Value) -> [Line; 2] {
        [(9, Invoke, f, json!(null)), (9, Ok, f, shown)]
    }

    fn judge(operations: &[[Line; 2]], violations: &[&str]) {
        let verdict = check(&history(&operations.concat()), Keys::One);
        assert_eq!(verdict.violations, violations);
        assert_eq!(verdict.judged, operations.len());
    }

    #[test]
    fn a_command_that_was_tried_again_is_there_once() {
        let all = [
            tried(0, Info, "a", 0),
            tried(1, Ok, "a", 7),
            tried(1, Ok, "a", 7),
            tried(2, Info, "b", 0),
            tried(3, Fail, "c", 0),
            read("read", json!(null)),
            read("final-read", json!(["b", "a"])),
            read("final-read", json!(["b", "a"])),
        ];
        judge(&all, &[]);
        judge(&all[..6], &["no final read was answered"]);
    }

    #[test]
    fn twice_lost_and_phantom_commands_are_found() {
        let all = [
            tried(0, Info, "a", 0),
            tried(1, Ok, "a", 7),
            tried(1, Ok, "b", 8),
            tried(1, Fail, "c", 0),
            read("read", json!(["c", "d"])),
            tried(1, Info, "d", 0),
            read("final-read", json!(["a", "d", "a"])),
        ];
        judge(
            &all,
            &[
                "operation 9: \"c\" took effect, and was not asked for or failed",
                "operation 9: \"d\" took effect, and was not asked for or failed",
                "operation 13: \"a\" took effect twice",
                "operation 13: \"b\" was acknowledged, and is lost",
            ],
        );
    }

    #[test]
    fn replies_to_tries_of_one_command_are_equal() {
        let end = read("final-read", json!(["a"]));
        let other = "operation 3: \"a\" is answered 8, and was answered 7";
        judge(&[tried(0, Ok, "a", 7), tried(0, Ok, "a", 8), end], &[other]);
    }

    #[test]
    fn final_reads_agree_on_what_was_unknown() {
        let all = [
            tried(0, Info, "a", 0),
            read("final-read", json!(["a"])),
            read("final-read", json!([])),
            read("read", json!(5)),
        ];
        judge(
            &all,
            &["operation 5: differs from the first final read", "operation 7: is no array"],
        );
    }
}
