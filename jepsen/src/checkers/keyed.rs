//! Operations by key: what judges of single entities look at, one entity at a time.
//!
//! Invariant: an operation is given to exactly one key, or blamed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Verdict;
use crate::history::{History, Pair, Type};

/// Whether a history is of one entity or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Of one: values are as they are.
    One,
    /// Of several: every value, of invocations and results, is `[key, value]`.
    Many,
}

/// A client's operation on one entity.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Its lines.
    pub pair: Pair<'a>,
    /// What was asked, without the key.
    pub argument: &'a Value,
    /// What was answered, without the key; only if it was acknowledged.
    pub result: Option<&'a Value>,
}

impl<'a> Operation<'a> {
    /// The function.
    pub fn f(&self) -> &'a str {
        &self.pair.invoke.f
    }

    /// How it ended.
    pub fn outcome(&self) -> Type {
        self.pair.outcome()
    }

    /// The line of its invocation.
    pub fn began(&self) -> u64 {
        self.pair.invoke.index
    }

    /// The line of its acknowledgement, if there is one.
    pub fn acknowledged(&self) -> Option<u64> {
        self.pair.end.filter(|end| end.kind == Type::Ok).map(|end| end.index)
    }

    /// What it was, for people: of a read what it showed, else what was asked.
    pub fn describe(&self) -> String {
        let shown = self.result.filter(|_| self.argument.is_null());
        let value = shown.unwrap_or(self.argument);
        format!("{} {value} (operation {})", self.f(), self.began())
    }
}

/// The operations with one of these functions by key, in order of their invocations. The key of a
/// history of one entity is empty.
pub fn partition<'a>(
    history: &'a History,
    functions: &[&str],
    keys: Keys,
    verdict: &mut Verdict,
) -> BTreeMap<String, Vec<Operation<'a>>> {
    let mut found: BTreeMap<String, Vec<Operation<'a>>> = BTreeMap::new();
    for pair in history.pairs() {
        if !functions.contains(&pair.invoke.f.as_str()) {
            continue;
        }
        match split(pair, keys) {
            Some((key, operation)) => found.entry(key).or_default().push(operation),
            None => verdict.blame(&pair, "is not [key, value], or changes its key".into()),
        }
    }
    found
}

fn split(pair: Pair<'_>, keys: Keys) -> Option<(String, Operation<'_>)> {
    let result = pair.end.filter(|end| end.kind == Type::Ok).map(|end| &end.value);
    if keys == Keys::One {
        return Some((String::new(), Operation { pair, argument: &pair.invoke.value, result }));
    }
    let (key, argument) = keyed(&pair.invoke.value)?;
    let result = match result {
        None => None,
        Some(value) => {
            let (same, result) = keyed(value)?;
            (same == key).then_some(())?;
            Some(result)
        }
    };
    Some((format!("key {key}: "), Operation { pair, argument, result }))
}

fn keyed(value: &Value) -> Option<(&Value, &Value)> {
    match value.as_array()?.as_slice() {
        [key, value] => Some((key, value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::history;
    use crate::history::Type::{Info, Invoke, Ok};
    use serde_json::json;

    #[test]
    fn every_operation_has_one_key_or_is_blamed() {
        let history = history(&[
            (0, Invoke, "write", json!([1, 5])),
            (1, Invoke, "write", json!([2, [6, 7]])),
            (0, Ok, "write", json!([1, 5])),
            (1, Info, "write", json!([2, [6, 7]])),
            (2, Invoke, "read", json!([1, null])),
            (2, Ok, "read", json!([2, 5])),
            (2, Invoke, "read", json!(1)),
            (3, Invoke, "probe", json!(1)),
        ]);
        let mut verdict = Verdict::default();
        let found = partition(&history, &["write", "read"], Keys::Many, &mut verdict);
        let shown: Vec<(&str, String)> =
            found.iter().flat_map(|(k, o)| o.iter().map(|o| (k.as_str(), o.describe()))).collect();
        let one = ("key 1: ", "write 5 (operation 0)".to_owned());
        assert_eq!(shown, [one, ("key 2: ", "write [6,7] (operation 1)".to_owned())]);
        assert_eq!(verdict.violations.len(), 2);
        let found = partition(&history, &["read"], Keys::One, &mut verdict);
        assert_eq!(found[""].len(), 2);
    }
}
