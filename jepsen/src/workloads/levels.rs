//! A set that only grows, added to and read at all levels of consistency.

use serde_json::{Value, json};

use super::{Answer, Invocation, Method, Request, Step, Workload, single};
use crate::checkers::{FINAL_READ, Verdict, levels};
use crate::history::History;
use crate::random::Random;

/// The levels, those of which most is promised more often.
const LEVELS: [&str; 8] =
    ["quorum", "local_quorum", "quorum", "local_quorum", "quorum", "each_quorum", "all", "one"];

/// Adds 1, 2, 3, ... to one set at some level, and reads it at some level.
#[derive(Debug, Default)]
pub struct Levels {
    added: u64,
}

fn entity() -> (&'static str, String, String) {
    ("sets", "jepsen".into(), "levels".into())
}

fn at(level: &Value, request: Request) -> Request {
    let known = LEVELS.into_iter().find(|known| level == known);
    Request::At(known.unwrap_or("one"), Box::new(request))
}

impl Workload for Levels {
    fn next(&mut self, random: &mut Random, _process: u64) -> Invocation {
        let level = *random.pick(&LEVELS);
        if random.one_in(2) {
            return Invocation { f: "read", value: level.into() };
        }
        self.added += 1;
        Invocation { f: "add", value: json!([level, self.added]) }
    }

    fn step(&mut self, _process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let value = &invocation.value;
        let request = match invocation.f {
            "add" => {
                let add = json!({ "add": [value[1]] });
                at(&value[0], Request::write(entity(), Method::Post, add))
            }
            _ => at(value, Request::read(entity())),
        };
        match single(request, invocation, answers) {
            Step::Ok(Value::Null) => Step::Ok(json!([])),
            step => step,
        }
    }

    fn finals(&self) -> Vec<Invocation> {
        vec![Invocation { f: FINAL_READ, value: "quorum".into() }]
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("levels", levels::check(history))]
    }
}
