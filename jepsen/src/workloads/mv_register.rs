//! Multi-value registers: writes name what their client read, or supersede what their node holds.
//!
//! Invariant: the context that an operation tells the judge is that of the version it sends.
//!
//! Left out: a register that was not there when it was read has no context to name; the client's
//! next write names none.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::keyed::{finals, key_of, on, some_key};
use super::or_set::read;
use super::{Answer, Invocation, Method, Request, Step, Workload, single};
use crate::checkers::{Verdict, mv_register};
use crate::history::History;
use crate::random::Random;

/// Registers that are only written with a context, once there is one: where any write may have
/// superseded what its node held, little is certain.
const NAMED: [&str; 2] = ["k1", "k2"];

/// Writes 1, 2, 3, ... to any of the registers, mostly with the context of the last read.
#[derive(Debug, Default)]
pub struct MvRegister {
    written: u64,
    /// What each process read last of each register: values and version.
    read: BTreeMap<(u64, String), (Value, String)>,
    /// The versions that writes under way name, by value.
    named: BTreeMap<u64, String>,
}

impl Workload for MvRegister {
    fn next(&mut self, random: &mut Random, process: u64) -> Invocation {
        let key = some_key(random);
        if random.one_in(2) {
            return on(&key, "read", Value::Null);
        }
        let context = self.read.get(&(process, key.clone()));
        let context = if NAMED.contains(&key.as_str()) {
            let Some(context) = context else { return on(&key, "read", Value::Null) };
            Some(context).filter(|(values, _)| values.is_array())
        } else {
            let blind = random.one_in(3);
            context.filter(|(values, _)| values.is_array() && !blind)
        };
        self.written += 1;
        let seen = context.map_or(Value::Null, |(values, _)| values.clone());
        if let Some((_, version)) = context {
            self.named.insert(self.written, version.clone());
        }
        on(&key, "write", json!({ "value": self.written, "seen": seen }))
    }

    fn step(&mut self, process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let key = key_of(invocation);
        let entity = ("multi-registers", "jepsen-mv-register".into(), key.clone());
        if invocation.f != "write" {
            if let Some(Answer::Done { value, version, .. }) = answers.last() {
                let context = (value.clone(), version.clone());
                self.read.insert((process, key), context);
            }
            return read(entity, invocation, answers);
        }
        let value = &invocation.value[1]["value"];
        let seen = value.as_u64().and_then(|value| self.named.get(&value)).cloned();
        let body = json!({ "set": value });
        let request =
            Request::Write { entity, method: Method::Post, body, key: None, seen, session: None };
        single(request, invocation, answers)
    }

    fn finals(&self) -> Vec<Invocation> {
        finals()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("mv-register", mv_register::check(history))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_names_the_version_of_the_values_that_it_tells() {
        let mut workload = MvRegister::default();
        let mut random = Random::new(1);
        let (mut named, mut blind) = (0, 0);
        for round in 0..200 {
            let invocation = workload.next(&mut random, 7);
            if invocation.f == "read" {
                let version = format!("v{round}");
                let value = json!([round]);
                let done = Answer::Done { value, version, session: None };
                workload.step(7, &invocation, &[done]);
                continue;
            }
            let Step::Ask(_, Request::Write { seen, .. }) = workload.step(7, &invocation, &[])
            else {
                panic!("a write asks for one")
            };
            let told = invocation.value[1]["seen"][0].as_u64();
            assert_eq!(seen, told.map(|round| format!("v{round}")));
            named += usize::from(seen.is_some());
            blind += usize::from(seen.is_none());
        }
        assert!(named > 20 && blind > 10, "{named} {blind}");
    }
}
