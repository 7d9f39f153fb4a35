//! Maelstrom's workloads as entities: what a request writes, and what a read shows.
//!
//! Maelstrom does not tell a node which workload it runs, and two of them share a `read`: so
//! each has an entity of its own, and a read shows the one that something was written to.
//!
//! Left out: elements other than integers, texts and booleans. Maelstrom adds integers only, and
//! the canonical form of other numbers is known to the product's surface, not here.

use serde_json::{Value, json};

use atoll_store::command::{Command, View};
use atoll_store::name::{EntityKey, Kind};

use super::protocol::{Code, Message, Problem};

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// Values that reach all nodes.
    Broadcast,
    /// A set that grows.
    GSet,
    /// A counter, of increments only or of both: the same to us.
    Counter,
}

impl Workload {
    /// All of them.
    pub(super) const ALL: [Workload; 3] = [Workload::Broadcast, Workload::GSet, Workload::Counter];

    /// The kind of its entity.
    pub(super) fn kind(self) -> Kind {
        match self {
            Workload::Broadcast | Workload::GSet => Kind::Sets,
            Workload::Counter => Kind::Counters,
        }
    }

    /// Its entity.
    pub(super) fn key(self) -> EntityKey {
        let id = match self {
            Workload::Broadcast => "broadcast",
            Workload::GSet => "g-set",
            Workload::Counter => "counter",
        };
        EntityKey::parse(self.kind(), "maelstrom", id).expect("these names are valid")
    }

    /// The fields of an answer to `read`; none for an entity that is absent.
    pub(super) fn shown(self, view: Option<&View>) -> Result<Value, Problem> {
        let name = if self == Workload::Broadcast { "messages" } else { "value" };
        let value = match (self, view) {
            (Workload::Counter, None) => json!(0),
            (Workload::Counter, Some(View::Counter(sum))) => {
                let too_large = Problem::new(Code::Abort, "the sum is no integer of 64 bits");
                i64::try_from(*sum).map_err(|_| too_large)?.into()
            }
            (_, None) => json!([]),
            (_, Some(View::Set(members))) => {
                let member = |bytes| serde_json::from_slice::<Value>(bytes);
                let members = members.iter().map(|bytes| member(bytes));
                let damaged = |e| Problem::new(Code::Crash, format!("a member is no JSON: {e}"));
                Value::Array(members.collect::<Result<_, _>>().map_err(damaged)?)
            }
            (_, Some(other)) => {
                return Err(Problem::new(Code::Crash, format!("{other:?} is another kind")));
            }
        };
        Ok(json!({name: value}))
    }
}

/// What a request writes.
pub(super) fn write(request: &Message) -> Result<(Workload, Command), Problem> {
    let body = &request.body;
    match request.kind() {
        "broadcast" => Ok((Workload::Broadcast, member(&body["message"])?)),
        "add" if !body["element"].is_null() => Ok((Workload::GSet, member(&body["element"])?)),
        "add" => Ok((Workload::Counter, count(&body["delta"])?)),
        other => Err(Problem::new(Code::NotSupported, format!("no {other:?} here"))),
    }
}

fn member(element: &Value) -> Result<Command, Problem> {
    let known = element.is_i64() || element.is_u64() || element.is_string() || element.is_boolean();
    if !known {
        let text = format!("{element} is no integer, text or boolean");
        return Err(Problem::new(Code::MalformedRequest, text));
    }
    Ok(Command::Members { add: vec![element.to_string().into()], remove: Vec::new() })
}

fn count(delta: &Value) -> Result<Command, Problem> {
    let Some(delta) = delta.as_i64() else {
        let text = format!("{delta} is no integer of 64 bits");
        return Err(Problem::new(Code::MalformedRequest, text));
    };
    let by = u128::from(delta.unsigned_abs());
    Ok(match delta < 0 {
        true => Command::Count { plus: 0, minus: by },
        false => Command::Count { plus: by, minus: 0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(body: Value) -> Result<(Workload, Command), Code> {
        let message = Message { src: "c1".into(), dest: "n1".into(), body };
        write(&message).map_err(|problem| problem.code)
    }

    fn added(element: &'static str) -> Command {
        Command::Members { add: vec![element.into()], remove: Vec::new() }
    }

    #[test]
    fn requests_become_commands() {
        let broadcast = written(json!({"type": "broadcast", "message": 7}));
        assert_eq!(broadcast, Ok((Workload::Broadcast, added("7"))));
        let add = written(json!({"type": "add", "element": "a"}));
        assert_eq!(add, Ok((Workload::GSet, added("\"a\""))));
        let minus = Command::Count { plus: 0, minus: 3 };
        assert_eq!(written(json!({"type": "add", "delta": -3})), Ok((Workload::Counter, minus)));
        for body in [json!({"type": "add"}), json!({"type": "broadcast", "message": 1.5})] {
            assert_eq!(written(body), Err(Code::MalformedRequest));
        }
        assert_eq!(written(json!({"type": "cas"})), Err(Code::NotSupported));
    }

    #[test]
    fn reads_have_the_fields_of_their_workload() {
        let shown = |workload: Workload, view: Option<View>| workload.shown(view.as_ref());
        let set = || Some(View::Set(vec!["1".into(), "\"a\"".into()]));
        assert_eq!(shown(Workload::Broadcast, set()), Ok(json!({"messages": [1, "a"]})));
        assert_eq!(shown(Workload::GSet, set()), Ok(json!({"value": [1, "a"]})));
        assert_eq!(shown(Workload::GSet, None), Ok(json!({"value": []})));
        assert_eq!(shown(Workload::Counter, None), Ok(json!({"value": 0})));
        let sum = Some(View::Counter(-4));
        assert_eq!(shown(Workload::Counter, sum), Ok(json!({"value": -4})));
    }
}
