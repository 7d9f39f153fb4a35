//! One record of an export as operations of a batch.
//!
//! Of the `state` only the types of a map's fields are taken: values do not tell them.
//! Concurrent values of a multi-register become one after the other.

use std::collections::BTreeMap;

use atoll_store::command::{FieldType, View};
use atoll_store::name::Kind;
use atoll_store::transfer::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::cli::Entity;
use crate::cli::entity::known;

/// The batch's operations for one record: one, or several for a multi-register's values; none
/// for a value that is the kind's start (a counter of 0 keeps one, so that it exists).
pub(super) fn operations(record: &Value) -> Result<Vec<Value>, String> {
    let text = |name: &str| {
        record[name].as_str().map(str::to_string).ok_or(format!("`{name}` must be text"))
    };
    let entity = Entity { kind: text("kind")?, collection: text("collection")?, id: text("id")? };
    known(&entity.kind)?;
    let path = entity.path();
    let bodies = match &record["operation"] {
        Value::Null if entity.kind == "maps" => vec![map(&record["value"], &types(record))?],
        Value::Null => from_value(&entity.kind, &record["value"])?,
        operation => vec![operation.clone()],
    };
    let method = |body: &Value| match (entity.kind.as_str(), &record["operation"]) {
        ("documents", Value::Null) => json!({"method": "PUT", "path": path, "body": body}),
        _ => json!({"method": "POST", "path": path, "body": body}),
    };
    Ok(bodies.iter().map(method).collect())
}

fn from_value(kind: &str, value: &Value) -> Result<Vec<Value>, String> {
    let wrong = || format!("{value} is no value of {kind}");
    Ok(match kind {
        "counters" => vec![count(value).ok_or_else(wrong)?],
        "registers" => vec![json!({"set": value})],
        "multi-registers" => {
            value.as_array().ok_or_else(wrong)?.iter().map(|v| json!({"set": v})).collect()
        }
        "flags" => vec![switch(value.as_bool().ok_or_else(wrong)?)],
        "sets" => vec![json!({"add": value.as_array().ok_or_else(wrong)?})],
        "documents" => vec![value.clone()],
        _ => return Err(format!("{kind} cannot be imported by value")),
    })
}

fn map(value: &Value, types: &BTreeMap<String, FieldType>) -> Result<Value, String> {
    let fields = value.as_object().ok_or_else(|| format!("{value} is no value of maps"))?;
    let typed = |name: &String, value: &Value| match types.get(name) {
        Some(FieldType::Register) => json!({"set": value}),
        Some(FieldType::Counter) => count(value).unwrap_or_else(|| field(value)),
        _ => field(value),
    };
    let update: Map<String, Value> =
        fields.iter().map(|(name, value)| (name.clone(), typed(name, value))).collect();
    Ok(json!({"update": update}))
}

/// The types of a map's fields, as its state tells them; none without one.
fn types(record: &Value) -> BTreeMap<String, FieldType> {
    let bytes = record["state"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let state: Option<State> = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok());
    match state.and_then(|state| state.into_entity().1.view(Kind::Maps)) {
        Some(View::Map(fields)) => {
            fields.into_iter().map(|(name, field)| (name, field.shown)).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// A field of unknown type. Values do not tell a counter from a register that holds a number, nor
/// a set from one that holds an array: numbers become counters, arrays sets, as most are.
fn field(value: &Value) -> Value {
    match value {
        Value::Number(_) => count(value).unwrap_or_else(|| json!({"set": value})),
        Value::Bool(on) => switch(*on),
        Value::Array(members) => json!({"add": members}),
        _ => json!({"set": value}),
    }
}

fn switch(on: bool) -> Value {
    if on { json!({"enable": true}) } else { json!({"disable": true}) }
}

/// Numbers, and beyond 2^53 decimal strings, with their sign in the operation's name.
fn count(value: &Value) -> Option<Value> {
    let text = match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        Value::String(text) if text.parse::<i128>().is_ok() => text.clone(),
        _ => return None,
    };
    let (name, digits) = match text.strip_prefix('-') {
        Some(digits) => ("decrement", digits.to_string()),
        None => ("increment", text),
    };
    let amount = match digits.parse::<u64>() {
        Ok(amount) if amount < 1 << 53 => json!(amount),
        _ => json!(digits),
    };
    Some(json!({name: amount}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(record: Value, expected: Value) {
        assert_eq!(operations(&record).map(Value::Array), Ok(expected));
    }

    #[test]
    fn values_become_operations() {
        let record = |kind: &str, value: Value| {
            let (collection, id) = ("c", "a/b");
            json!({"kind": kind, "collection": collection, "id": id, "value": value})
        };
        let post = |kind: &str, body: Value| {
            let path = format!("/v1/{kind}/c/a%2Fb");
            json!([{"method": "POST", "path": path, "body": body}])
        };
        let same =
            |kind: &str, value: Value, body: Value| check(record(kind, value), post(kind, body));
        same("counters", json!(7), json!({"increment": 7}));
        same("counters", json!(-7), json!({"decrement": 7}));
        same("counters", json!("-9007199254740993"), json!({"decrement": "9007199254740993"}));
        same("registers", json!(null), json!({"set": null}));
        same("flags", json!(false), json!({"disable": true}));
        same("sets", json!([]), json!({"add": []}));
        same(
            "maps",
            json!({"n": 1, "t": "x", "s": ["a"], "f": true}),
            json!({"update": {"n": {"increment": 1}, "t": {"set": "x"}, "s": {"add": ["a"]},
                "f": {"enable": true}}}),
        );
        let mut with = record("counters", json!(null));
        with["operation"] = json!({"increment": 2});
        check(with, post("counters", json!({"increment": 2})));
        assert!(operations(&record("counters", json!(1.5))).is_err());
        assert!(operations(&record("things", json!(1))).is_err());
    }
}
