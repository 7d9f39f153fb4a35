//! A set that only grows: every element is added once, by one client.

use serde_json::{Value, json};

use super::{Answer, Invocation, Method, Request, Step, Workload, single};
use crate::checkers::{FINAL_READ, Verdict, set};
use crate::history::History;
use crate::random::Random;

/// Adds 1, 2, 3, ... to one set, and reads it.
#[derive(Debug, Default)]
pub struct GSet {
    added: u64,
}

fn entity() -> (&'static str, String, String) {
    ("sets", "jepsen".into(), "g-set".into())
}

impl Workload for GSet {
    fn next(&mut self, random: &mut Random, _process: u64) -> Invocation {
        if random.one_in(3) {
            return Invocation { f: "read", value: Value::Null };
        }
        self.added += 1;
        Invocation { f: "add", value: self.added.into() }
    }

    fn step(&mut self, _process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let request = match invocation.f {
            "add" => Request::write(entity(), Method::Post, json!({ "add": [invocation.value] })),
            _ => Request::read(entity()),
        };
        match single(request, invocation, answers) {
            Step::Ok(Value::Null) => Step::Ok(json!([])),
            step => step,
        }
    }

    fn finals(&self) -> Vec<Invocation> {
        vec![Invocation { f: FINAL_READ, value: Value::Null }]
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("set", set::check(history))]
    }
}
