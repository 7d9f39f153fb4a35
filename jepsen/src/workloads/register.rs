//! Last-writer-wins registers: every write has a value of its own.

use serde_json::{Value, json};

use super::keyed::{finals, key_of, on, some_key};
use super::or_set::read;
use super::{Answer, Invocation, Method, Request, Step, Workload, single};
use crate::checkers::{Verdict, register};
use crate::history::History;
use crate::random::Random;

/// Writes 1, 2, 3, ... to any of the registers, and reads them.
#[derive(Debug, Default)]
pub struct Register {
    written: u64,
}

impl Workload for Register {
    fn next(&mut self, random: &mut Random, _process: u64) -> Invocation {
        let key = some_key(random);
        if random.one_in(2) {
            return on(&key, "read", Value::Null);
        }
        self.written += 1;
        on(&key, "write", self.written.into())
    }

    fn step(&mut self, _process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let entity = ("registers", "jepsen-register".into(), key_of(invocation));
        if invocation.f != "write" {
            return read(entity, invocation, answers);
        }
        // Both ways to assign are one; a run takes both.
        let value = &invocation.value[1];
        let (method, body) = match value.as_u64() {
            Some(even) if even % 2 == 0 => (Method::Put, value.clone()),
            _ => (Method::Post, json!({ "set": value })),
        };
        let request = Request::write(entity, method, body);
        single(request, invocation, answers)
    }

    fn finals(&self) -> Vec<Invocation> {
        finals()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("register", register::check(history))]
    }
}
