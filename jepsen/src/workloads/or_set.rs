//! Observed-remove sets: few elements, added again and removed again by everyone.

use serde_json::{Value, json};

use super::keyed::{finals, key_of, on, some_key};
use super::{Answer, Invocation, Method, Request, Step, Workload, single};
use crate::checkers::{Verdict, or_set};
use crate::history::History;
use crate::random::Random;

/// Of the elements that are drawn again, how far back they go.
const RECENT: u64 = 8;

/// Adds new elements and recent ones, removes recent ones, and seldom all.
#[derive(Debug, Default)]
pub struct OrSet {
    added: u64,
}

impl OrSet {
    /// An element that some client added lately, or soon will.
    fn recent(&self, random: &mut Random) -> u64 {
        random.between(self.added.saturating_sub(RECENT) + 1, self.added + 1)
    }
}

impl Workload for OrSet {
    fn next(&mut self, random: &mut Random, _process: u64) -> Invocation {
        let key = some_key(random);
        match random.below(40) {
            0..=12 => on(&key, "read", Value::Null),
            13..=22 => {
                self.added += 1;
                on(&key, "add", self.added.into())
            }
            23..=28 => on(&key, "add", self.recent(random).into()),
            29..=38 => on(&key, "remove", self.recent(random).into()),
            _ => on(&key, "clear", Value::Null),
        }
    }

    fn step(&mut self, _process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let entity = ("sets", "jepsen-or-set".into(), key_of(invocation));
        let element = &invocation.value[1];
        let (method, body) = match invocation.f {
            "add" => (Method::Post, json!({ "add": [element] })),
            "remove" => (Method::Post, json!({ "remove": [element] })),
            "clear" => (Method::Delete, Value::Null),
            _ => return read(entity, invocation, answers),
        };
        let request = Request::write(entity, method, body);
        single(request, invocation, answers)
    }

    fn finals(&self) -> Vec<Invocation> {
        finals()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("or-set", or_set::check(history))]
    }
}

/// A read, whose result goes with its key.
pub(super) fn read(
    entity: (&'static str, String, String),
    invocation: &Invocation,
    answers: &[Answer],
) -> Step {
    match single(Request::Read { entity, session: None }, invocation, answers) {
        Step::Ok(value) => Step::Ok(json!([invocation.value[0], value])),
        step => step,
    }
}
