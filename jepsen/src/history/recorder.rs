//! A history while it is made.
//!
//! Invariant: whatever is recorded in whatever order of processes, the result is a valid history:
//! a client whose operation ends as `:info` is given a new process number.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{History, Op, Process, Type};

/// Takes operations as they happen. Clients are numbered by whoever records; each acts under a
/// process number of its own, and gets another after `:info`.
#[derive(Debug, Default)]
pub struct Recorder {
    ops: Vec<Op>,
    processes: BTreeMap<u64, u64>,
    next_process: u64,
}

impl Recorder {
    /// The process under which a client acts now.
    pub fn process(&mut self, client: u64) -> u64 {
        let next = &mut self.next_process;
        *self.processes.entry(client).or_insert_with(|| {
            *next += 1;
            *next - 1
        })
    }

    /// A client begins an operation at a node.
    pub fn invoke(&mut self, time: u64, client: u64, f: &str, value: Value, node: Option<&str>) {
        let process = Process::Client(self.process(client));
        self.push(time, process, Type::Invoke, f, value, None, node);
    }

    /// It ends; after `:info` the client is a new process.
    #[allow(clippy::too_many_arguments, reason = "the fields of a line")]
    pub fn end(
        &mut self,
        time: u64,
        client: u64,
        kind: Type,
        f: &str,
        value: Value,
        error: Option<Value>,
        node: Option<&str>,
    ) {
        let process = Process::Client(self.process(client));
        self.push(time, process, kind, f, value, error, node);
        if kind == Type::Info {
            self.processes.remove(&client);
        }
    }

    /// The client's session is over: it goes on as a new process.
    pub fn renew(&mut self, client: u64) {
        self.processes.remove(&client);
    }

    /// A fault, its end, or a sample of the nodes.
    pub fn nemesis(&mut self, time: u64, f: &str, value: Value) {
        self.push(time, Process::Nemesis, Type::Info, f, value, None, None);
    }

    /// Lines so far.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The history so far.
    pub fn history(&self) -> History {
        History::new(self.ops.clone()).expect("a recorder makes valid histories")
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a line")]
    fn push(
        &mut self,
        time: u64,
        process: Process,
        kind: Type,
        f: &str,
        value: Value,
        error: Option<Value>,
        node: Option<&str>,
    ) {
        // Threads may take their times in another order than their places.
        let time = time.max(self.ops.last().map_or(0, |op| op.time));
        let (index, f, node) = (self.ops.len() as u64, f.to_owned(), node.map(str::to_owned));
        self.ops.push(Op { index, time, process, kind, f, value, error, node });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_client_whose_fate_is_unknown_goes_on_as_another_process() {
        let mut recorder = Recorder::default();
        for kind in [Type::Ok, Type::Info, Type::Ok] {
            recorder.invoke(1, 4, "add", json!(1), Some("eu-1"));
            recorder.invoke(0, 5, "add", json!(2), None);
            recorder.end(2, 4, kind, "add", json!(1), None, Some("eu-1"));
            recorder.end(2, 5, Type::Ok, "add", json!(2), None, None);
        }
        recorder.nemesis(9, "heal", Value::Null);
        let history = recorder.history();
        let processes: Vec<Process> = history.ops().iter().map(|op| op.process).collect();
        let client = Process::Client;
        assert_eq!(processes[0..2], [client(0), client(1)]);
        assert_eq!(processes[8..10], [client(2), client(1)]);
        assert_eq!((history.ops().len(), history.pairs().len()), (13, 6));
    }
}
