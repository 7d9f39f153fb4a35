//! What clients did and what they were told, in order: Jepsen's operation maps.
//!
//! A history is a list of [`Op`]s, written one a line as EDN ([`edn`]) or as JSON, both readable
//! back. Invariants, checked by [`History::new`]:
//! 1. Indexes are dense from 0; times (nanoseconds from the start of the test) never fall.
//! 2. A client process has one operation open at a time; what ends it names the same `:f`.
//! 3. A client process is never used again after `:info`: its operation may still take effect.
//! 4. What the nemesis does is `:info` only; no process of its is ever open.
//!
//! Unknown is not failed: `:fail` means certainly not applied, `:info` means nobody knows.
//!
//! Left out: keys of an operation map other than those of [`Op`]; readers skip them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub mod edn;
mod excuse;
mod recorder;

pub use excuse::excuse;
pub use recorder::Recorder;

/// What a line of a history says of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// It was sent.
    Invoke,
    /// It took effect.
    Ok,
    /// It certainly took no effect.
    Fail,
    /// Nobody knows; or it is an act of the nemesis.
    Info,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Process {
    /// A client, one operation at a time.
    Client(u64),
    /// Whoever makes faults.
    Nemesis,
}

impl From<Process> for Value {
    fn from(process: Process) -> Value {
        match process {
            Process::Client(number) => number.into(),
            Process::Nemesis => "nemesis".into(),
        }
    }
}

impl TryFrom<Value> for Process {
    type Error = String;

    fn try_from(value: Value) -> Result<Process, String> {
        match (&value, value.as_u64()) {
            (_, Some(number)) => Ok(Process::Client(number)),
            (Value::String(name), _) if name == "nemesis" => Ok(Process::Nemesis),
            _ => Err(format!("a process is a number or \"nemesis\", not {value}")),
        }
    }
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    /// Its place, dense from 0.
    pub index: u64,
    /// Nanoseconds from the start of the test.
    pub time: u64,
    /// Who acts.
    pub process: Process,
    /// What is said of the operation.
    #[serde(rename = "type")]
    pub kind: Type,
    /// The function: `add`, `read`, ...
    pub f: String,
    /// Its argument when invoked; its result when ok.
    #[serde(default)]
    pub value: Value,
    /// Why it failed, or why nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// The node that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Why lines are no history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Invalid {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// A valid history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(Vec<Op>);

/// A client's operation from its invocation to its end.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The invocation.
    pub invoke: &'a Op,
    /// Its end; `None` if the history stops before.
    pub end: Option<&'a Op>,
}

impl Pair<'_> {
    /// How it ended; an operation that never did is `Info`.
    pub fn outcome(&self) -> Type {
        self.end.map_or(Type::Info, |op| op.kind)
    }
}

impl History {
    /// Checks the invariants.
    pub fn new(ops: Vec<Op>) -> Result<History, Invalid> {
        let mut check = Check::default();
        for (place, op) in ops.iter().enumerate() {
            check.step(place, op).map_err(|problem| Invalid { line: place + 1, problem })?;
        }
        Ok(History(ops))
    }

    /// The lines.
    pub fn ops(&self) -> &[Op] {
        &self.0
    }

    /// Clients' operations, in order of their invocations.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let mut pairs: Vec<Pair<'_>> = Vec::new();
        let mut open = BTreeMap::new();
        for op in self.0.iter().filter(|op| op.process != Process::Nemesis) {
            if op.kind == Type::Invoke {
                open.insert(op.process, pairs.len());
                pairs.push(Pair { invoke: op, end: None });
            } else if let Some(place) = open.remove(&op.process) {
                pairs[place].end = Some(op);
            }
        }
        pairs
    }

    /// One EDN map a line.
    pub fn to_edn(&self) -> String {
        self.0.iter().map(|op| edn::op_to_string(op) + "\n").collect()
    }

    /// Reads one EDN map a line; empty lines are skipped.
    pub fn from_edn(text: &str) -> Result<History, Invalid> {
        History::read(text, edn::op_from_str)
    }

    /// One JSON object a line.
    pub fn to_json_lines(&self) -> String {
        let line = |op: &Op| serde_json::to_string(op).expect("an operation has only string keys");
        self.0.iter().map(|op| line(op) + "\n").collect()
    }

    /// Reads one JSON object a line; empty lines are skipped.
    pub fn from_json_lines(text: &str) -> Result<History, Invalid> {
        History::read(text, |line| serde_json::from_str(line).map_err(|e| e.to_string()))
    }

    fn read(text: &str, op: impl Fn(&str) -> Result<Op, String>) -> Result<History, Invalid> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parse = |(place, line): (usize, &str)| {
            op(line).map_err(|problem| Invalid { line: place + 1, problem })
        };
        History::new(lines.map(parse).collect::<Result<_, _>>()?)
    }
}

/// What must be known of the lines before, to judge the next.
#[derive(Default)]
struct Check<'a> {
    time: u64,
    open: BTreeMap<Process, &'a str>,
    lost: BTreeSet<Process>,
}

impl<'a> Check<'a> {
    fn step(&mut self, place: usize, op: &'a Op) -> Result<(), String> {
        if op.index != place as u64 {
            return Err(format!("index {} where {place} is due", op.index));
        }
        if op.time < self.time {
            return Err(format!("time {} after {}", op.time, self.time));
        }
        self.time = op.time;
        if op.process == Process::Nemesis {
            let info = op.kind == Type::Info;
            return info.then_some(()).ok_or("the nemesis is always :info".into());
        }
        let process = op.process;
        if self.lost.contains(&process) {
            return Err(format!("{process:?} acts again after :info"));
        }
        match (op.kind, self.open.remove(&process)) {
            (Type::Invoke, None) => {
                self.open.insert(process, &op.f);
            }
            (Type::Invoke, Some(f)) => return Err(format!("{process:?} is still in :{f}")),
            (_, None) => return Err(format!("{process:?} ends what it never began")),
            (_, Some(f)) if f != op.f => {
                return Err(format!("{process:?} began :{f} and ends :{}", op.f));
            }
            (Type::Info, Some(_)) => {
                self.lost.insert(process);
            }
            (Type::Ok | Type::Fail, Some(_)) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::history;
    use serde_json::json;

    #[test]
    fn both_forms_round_trip() {
        let mut history = history(&[
            (0, Type::Invoke, "add", json!("a\"\\\n")),
            (1, Type::Invoke, "read", json!(null)),
            (1, Type::Ok, "read", json!([1, -2.5, true, {"k": [], "not a keyword": 3}])),
            (0, Type::Info, "add", json!("a\"\\\n")),
        ]);
        history.0[3].error = Some(json!("timeout"));
        history.0[1].node = Some("eu-1".into());
        history.0.push(Op {
            index: 4,
            time: 9_000_000_000,
            process: Process::Nemesis,
            kind: Type::Info,
            f: "partition".into(),
            value: json!(["eu", "us"]),
            error: None,
            node: None,
        });
        assert_eq!(History::from_edn(&history.to_edn()).unwrap(), history);
        assert_eq!(History::from_json_lines(&history.to_json_lines()).unwrap(), history);
    }

    #[test]
    fn a_line_is_as_jepsen_writes_it() {
        let history = history(&[(3, Type::Invoke, "add", json!(5))]);
        let edn = "{:index 0 :time 0 :process 3 :type :invoke :f :add :value 5}\n";
        assert_eq!(history.to_edn(), edn);
        let theirs = "{:type :invoke, :f :add, :value 5, :process 3, :time 0, :index 0, :more #{}}";
        assert_eq!(History::from_edn(theirs).unwrap(), history);
    }

    /// Reads process, type and f of each line, and expects the problem.
    fn refused(lines: &[(u64, Type, &str)], problem: &str) {
        let op = |(index, (process, kind, f)): (usize, &(u64, Type, &str))| Op {
            index: index as u64,
            time: 0,
            process: Process::Client(*process),
            kind: *kind,
            f: (*f).into(),
            value: Value::Null,
            error: None,
            node: None,
        };
        let error = History::new(lines.iter().enumerate().map(op).collect()).unwrap_err();
        assert_eq!(error, Invalid { line: lines.len(), problem: problem.into() });
    }

    #[test]
    fn what_cannot_have_happened_is_refused() {
        use Type::{Info, Invoke, Ok};
        refused(&[(0, Ok, "add")], "Client(0) ends what it never began");
        refused(&[(0, Invoke, "add"), (0, Invoke, "add")], "Client(0) is still in :add");
        refused(&[(0, Invoke, "add"), (0, Ok, "read")], "Client(0) began :add and ends :read");
        refused(
            &[(0, Invoke, "add"), (0, Info, "add"), (0, Invoke, "read")],
            "Client(0) acts again after :info",
        );
    }

    #[test]
    fn indexes_are_dense_and_time_never_falls() {
        let good = history(&[(0, Type::Invoke, "a", json!(1)), (0, Type::Ok, "a", json!(1))]);
        let mut gap = good.0.clone();
        gap[1].index = 2;
        assert_eq!(History::new(gap).unwrap_err().problem, "index 2 where 1 is due");
        let mut back = good.0.clone();
        back[0].time = 5;
        back[1].time = 4;
        assert_eq!(History::new(back).unwrap_err().problem, "time 4 after 5");
        let mut nemesis = good.0;
        nemesis[0].process = Process::Nemesis;
        assert_eq!(History::new(nemesis).unwrap_err().problem, "the nemesis is always :info");
    }
}
