//! What workloads over several entities share: values are `[key, value]`.

use serde_json::{Value, json};

use super::Invocation;
use crate::checkers::FINAL_READ;
use crate::random::Random;

/// How many entities a workload writes to: few, so that clients meet.
pub(super) const KEYS: u64 = 4;

/// One of the entities.
pub(super) fn some_key(random: &mut Random) -> String {
    format!("k{}", random.between(1, KEYS))
}

/// An operation on one of them.
pub(super) fn on(key: &str, f: &'static str, value: Value) -> Invocation {
    Invocation { f, value: json!([key, value]) }
}

/// The entity that an operation is on.
pub(super) fn key_of(invocation: &Invocation) -> String {
    invocation.value[0].as_str().unwrap_or_default().to_owned()
}

/// Final reads of all.
pub(super) fn finals() -> Vec<Invocation> {
    (1..=KEYS).map(|key| on(&format!("k{key}"), FINAL_READ, Value::Null)).collect()
}
