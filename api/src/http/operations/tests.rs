//! Tests of operations: what is taken, what is refused and how.

use super::*;
use crate::http::json::parse;
use crate::http::problem::Code;
use proptest::prelude::*;

fn ask(kind: Kind, body: &str) -> Result<Vec<Command>, Problem> {
    operations(kind, &parse(body.as_bytes(), 80)?, None, &Limits::default())
}

fn one(kind: Kind, body: &str) -> Command {
    ask(kind, body).expect(body).remove(0)
}

fn refused(kind: Kind, body: &str, names: &[&str]) {
    let problem = ask(kind, body).expect_err(body);
    let text = format!("{problem:?}");
    assert_eq!(problem.code, Code::BadRequest, "{body}");
    for name in names {
        assert!(text.contains(name), "{body}: {text} does not name {name}");
    }
}

proptest! {
    #[test]
    fn no_body_panics(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..12)) {
        let body = tokens.concat();
        for kind in Kind::ALL {
            let _ = ask(kind, &body);
        }
    }
}

const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"increment\":",
    "\"add\":",
    "\"update\":",
    "\"remove\":",
    "\"set\":",
    "{\"a\":",
    "[1]",
    "1e300",
    "-1",
    "null",
    "true",
    "\"-9\"",
    "{}",
    "[]",
];

#[test]
fn counters_take_integers_of_any_size() {
    let count = |body: &str| match one(Kind::Counters, body) {
        Command::Count { plus, minus } => (plus, minus),
        other => panic!("{other:?}"),
    };
    assert_eq!(count(r#"{"increment": 5}"#), (5, 0));
    assert_eq!(count(r#"{"increment": -3}"#), (0, 3));
    assert_eq!(count(r#"{"decrement": 2}"#), (0, 2));
    assert_eq!(count(r#"{"decrement": "-2"}"#), (2, 0));
    assert_eq!(count(r#"{"increment": 1e3}"#), (1000, 0));
    let (max, min) = (i128::MAX, i128::MIN);
    assert_eq!(count(&format!(r#"{{"increment": {max}}}"#)), (max.unsigned_abs(), 0));
    assert_eq!(count(&format!(r#"{{"increment": "{min}"}}"#)), (0, min.unsigned_abs()));
}

#[test]
fn counters_refuse_the_rest_by_name() {
    for amount in ["1.5", "\"+1\"", "\"\"", "\"1e3\"", "\" 1\"", "null", "[]", "1e30", "true"] {
        refused(Kind::Counters, &format!(r#"{{"increment": {amount}}}"#), &["increment"]);
    }
    let above = "170141183460469231731687303715884105728";
    refused(Kind::Counters, &format!(r#"{{"decrement": {above}}}"#), &["decrement"]);
    refused(Kind::Counters, r#"{"incr": 1}"#, &["incr", "increment", "decrement"]);
    refused(Kind::Counters, r#"{"increment": 1, "decrement": 1}"#, &["exactly one"]);
    refused(Kind::Counters, "{}", &["increment"]);
    refused(Kind::Counters, "[]", &["at least one"]);
    refused(Kind::Counters, "5", &["object"]);
    refused(Kind::Counters, r#"[{"increment": 1}, {"increment": "x"}]"#, &["[1]", "increment"]);
}

#[test]
fn values_come_out_canonical() {
    let set = Command::Set(Value::from_static(br#"{"a":1,"b":[]}"#));
    assert_eq!(one(Kind::Registers, r#"{"set": {"b": [], "a": 1.0}}"#), set);
    let members = Command::Members {
        add: vec![Value::from_static(b"1"), Value::from_static(b"\"x\"")],
        remove: vec![],
    };
    assert_eq!(one(Kind::Sets, r#"{"add": [1.0, "x"]}"#), members);
    refused(Kind::Sets, r#"{"add": 1}"#, &["add", "array"]);
    refused(Kind::Sets, r#"{"put": [1]}"#, &["put", "add", "remove"]);
}

#[test]
fn flags_switch_by_true_only() {
    assert_eq!(one(Kind::Flags, r#"{"enable": true}"#), Command::Enable(true));
    assert_eq!(one(Kind::Flags, r#"{"disable": true}"#), Command::Enable(false));
    refused(Kind::Flags, r#"{"enable": false}"#, &["enable", "true"]);
    refused(Kind::Flags, r#"{"enable": true, "disable": true}"#, &["exactly one"]);
}

#[test]
fn maps_take_typed_fields() {
    let body = r#"{"update": {"likes": {"increment": 1}, "tags": {"add": ["x"]},
        "title": {"set": "A"}, "seen": {"enable": true}}, "remove": ["old"]}"#;
    let Command::Fields { update, remove } = one(Kind::Maps, body) else { panic!("not fields") };
    let types: Vec<_> =
        update.iter().map(|(name, c)| (name.as_str(), c.field_type().as_str())).collect();
    assert_eq!(
        types,
        [("likes", "counter"), ("seen", "flag"), ("tags", "set"), ("title", "register")]
    );
    assert_eq!(remove, ["old"]);
    refused(Kind::Maps, r#"{"update": {"a": {"inc": 1}}}"#, &["update.a", "inc", "increment"]);
    refused(Kind::Maps, r#"{"update": {"a": {}}}"#, &["update.a", "exactly one"]);
    refused(Kind::Maps, r#"{"update": {"a": {"add": [], "set": 1}}}"#, &["set"]);
    refused(Kind::Maps, r#"{"update": {"": {"set": 1}}}"#, &["empty"]);
    refused(Kind::Maps, r#"{"remove": [1]}"#, &["remove", "names"]);
    refused(Kind::Maps, r#"{"set": 1}"#, &["update", "remove"]);
}

#[test]
fn limits_answer_413() {
    let long = "x".repeat(65 << 10);
    let deep = "[".repeat(65) + &"]".repeat(65);
    let many = format!("[{}]", vec![r#"{"increment":1}"#; 1001].join(","));
    for (kind, body) in [
        (Kind::Sets, format!(r#"{{"add": ["{long}"]}}"#)),
        (Kind::Registers, format!(r#"{{"set": {deep}}}"#)),
        (Kind::Maps, format!(r#"{{"remove": ["{}"]}}"#, &long[..257])),
        (Kind::Counters, many),
    ] {
        assert_eq!(ask(kind, &body).expect_err("too large").code, Code::TooLarge, "{kind}");
    }
    assert!(ask(Kind::Registers, &format!(r#"{{"set": {}}}"#, &deep[1..129])).is_ok());
}

#[test]
fn a_multi_register_supersedes_what_was_seen() {
    let limits = Limits::default();
    let json = parse(br#"{"set": 1}"#, 9).expect("JSON");
    let seen = Some(vec![Dot::MIN]);
    let commands = operations(Kind::MultiRegisters, &json, seen.clone(), &limits).expect("valid");
    assert_eq!(commands, [Command::SetSeen(Value::from_static(b"1"), vec![Dot::MIN])]);
    let put = assignment(Kind::MultiRegisters, &Json::Null, seen.clone(), &limits).expect("valid");
    assert_eq!(put, Some(Command::SetSeen(Value::from_static(b"null"), vec![Dot::MIN])));
    let two = parse(br#"[{"set": 1}, {"set": 2}]"#, 9).expect("JSON");
    assert!(operations(Kind::MultiRegisters, &two, seen, &limits).is_err());
}

#[test]
fn some_kinds_are_assigned() {
    let limits = Limits::default();
    let put = |kind, json: &Json<'_>| assignment(kind, json, None, &limits);
    let flag = put(Kind::Flags, &Json::Bool(true)).expect("valid");
    assert_eq!(flag, Some(Command::Enable(true)));
    assert!(put(Kind::Flags, &Json::Null).is_err());
    assert_eq!(put(Kind::Counters, &Json::Null).expect("valid"), None);
}
