//! Lines that were acknowledged and are not promised: what only a lost disk held.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, Op, Process, Type};

/// The same history, in which nobody knows whether the operations that these lines acknowledged
/// took effect. Who did them goes on as another process, as after any such operation.
pub fn excuse(history: &History, lines: &BTreeSet<u64>) -> History {
    let clients = history.ops().iter().filter_map(|op| match op.process {
        Process::Client(number) => Some(number),
        Process::Nemesis => None,
    });
    let mut next = clients.max().map_or(0, |last| last + 1);
    let mut renamed: BTreeMap<u64, u64> = BTreeMap::new();
    let mut ops: Vec<Op> = Vec::with_capacity(history.ops().len());
    for op in history.ops() {
        let mut op = op.clone();
        if let Process::Client(number) = op.process {
            op.process = Process::Client(*renamed.get(&number).unwrap_or(&number));
            if op.kind == Type::Ok && lines.contains(&op.index) {
                op.kind = Type::Info;
                op.error = Some("only a lost disk held it".into());
                renamed.insert(number, next);
                next += 1;
            }
        }
        ops.push(op);
    }
    History::new(ops).expect("a process that goes on is another one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::history;
    use serde_json::json;

    #[test]
    fn what_is_excused_is_unknown_and_its_process_goes_on_as_another() {
        use Type::{Info, Invoke, Ok};
        let good = history(&[
            (0, Invoke, "add", json!(1)),
            (1, Invoke, "add", json!(2)),
            (0, Ok, "add", json!(1)),
            (1, Ok, "add", json!(2)),
            (0, Invoke, "add", json!(3)),
            (0, Ok, "add", json!(3)),
        ]);
        let excused = excuse(&good, &BTreeSet::from([2, 5]));
        let kinds: Vec<Type> = excused.ops().iter().map(|op| op.kind).collect();
        assert_eq!(kinds, [Invoke, Invoke, Info, Ok, Invoke, Info]);
        assert_eq!(excused.ops()[4].process, Process::Client(2));
        assert_eq!(excused.ops()[3].process, Process::Client(1));
        assert_eq!(excuse(&good, &BTreeSet::new()), good);
    }
}
