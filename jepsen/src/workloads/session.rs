//! Clients that read what they and others wrote, and may hop between nodes with their session.
//!
//! Sets that only grow are registers of history: each add is of a new element, each read shows all
//! that is there. A client whose last answer carried a session token sends it, and then asks any
//! node; one without stays at home.
//!
//! Values are `[set, element]` and `[set, [element, ...]]`; a third item, `"token"`, says that the
//! request carried the token of a session, which is how the judge learns what is promised.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, Invocation, Method, Place, Request, Step, Workload, single};
use crate::checkers::{FINAL_READ, Verdict, session};
use crate::history::History;
use crate::random::Random;

/// Sets that are in use at a time.
const SETS: u64 = 4;
/// Adds to a set, about, before another takes its place: reads stay small.
const ADDS_MAX: u64 = 48;

/// Adds unique elements to some sets, and reads them.
#[derive(Debug, Default)]
pub struct Sessions {
    added: u64,
    /// The token of each process's last answer.
    tokens: BTreeMap<u64, String>,
    /// Whether a process asks elsewhere this time.
    hops: BTreeMap<u64, bool>,
}

fn entity(set: &Value) -> (&'static str, String, String) {
    ("sets", "jepsen".into(), format!("session-{set}"))
}

impl Workload for Sessions {
    fn next(&mut self, random: &mut Random, process: u64) -> Invocation {
        let has_token = self.tokens.contains_key(&process);
        self.hops.insert(process, has_token && !random.one_in(3));
        let set = self.added / (SETS * ADDS_MAX) * SETS + random.below(SETS as usize) as u64;
        let (f, element) = match random.one_in(2) {
            true => ("read", Value::Null),
            false => {
                self.added += 1;
                ("add", self.added.into())
            }
        };
        let value = if has_token { json!([set, element, "token"]) } else { json!([set, element]) };
        Invocation { f, value }
    }

    fn step(&mut self, process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let value = &invocation.value;
        let sends = value.get(2).is_some();
        let session = sends.then(|| self.tokens.get(&process).cloned()).flatten();
        let entity = entity(&value[0]);
        let request = match invocation.f {
            "add" => {
                let body = json!({ "add": [value[1]] });
                Request::Write {
                    entity,
                    method: Method::Post,
                    body,
                    key: None,
                    seen: None,
                    session,
                }
            }
            _ => Request::Read { entity, session },
        };
        let step = single(request, invocation, answers);
        match (answers.last(), &step) {
            (Some(Answer::Done { session: Some(token), .. }), _) => {
                self.tokens.insert(process, token.clone());
            }
            // The client goes on as another process, without a past.
            (_, Step::Info(_)) => {
                self.tokens.remove(&process);
            }
            _ => {}
        }
        match step {
            // Final reads are of the node that they are asked of.
            Step::Ask(_, request) if invocation.f != FINAL_READ && self.hops[&process] => {
                Step::Ask(Place::Elsewhere, request)
            }
            Step::Ok(seen) if invocation.f != "add" => {
                let mut value = value.clone();
                value[1] = if seen.is_null() { json!([]) } else { seen };
                Step::Ok(value)
            }
            step => step,
        }
    }

    fn finals(&self) -> Vec<Invocation> {
        let sets = (self.added / (SETS * ADDS_MAX) + 1) * SETS;
        (0..sets).map(|set| Invocation { f: FINAL_READ, value: json!([set, null]) }).collect()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("session", session::check(history))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::with_value;
    use crate::history::{Op, Type};
    use crate::workloads::testing::{Model, done};
    use proptest::prelude::*;

    #[test]
    fn a_token_is_sent_back_and_one_without_stays_at_home() {
        let mut workload = Sessions::default();
        let mut random = Random::new(1);
        let first = workload.next(&mut random, 0);
        assert!(matches!(workload.step(0, &first, &[]), Step::Ask(Place::Home, _)));
        let Answer::Done { value, version, .. } = done(json!([])) else { panic!("not done") };
        let answer = Answer::Done { value, version, session: Some("t".into()) };
        assert!(matches!(workload.step(0, &first, &[answer]), Step::Ok(_)));
        let mut places = Vec::new();
        for _ in 0..20 {
            let next = workload.next(&mut random, 0);
            assert_eq!(next.value[2], json!("token"));
            let Step::Ask(place, request) = workload.step(0, &next, &[]) else { panic!("no ask") };
            let (Request::Write { session, .. } | Request::Read { session, .. }) = request else {
                panic!("no poll was asked for");
            };
            assert_eq!(session, Some("t".into()));
            places.push(place);
        }
        assert!(places.contains(&Place::Home) && places.contains(&Place::Elsewhere));
        let unknown = Invocation { f: "add", value: json!([0, 9, "token"]) };
        workload.step(0, &unknown, &[Answer::Lost("timeout".into())]);
        assert_eq!(workload.next(&mut random, 0).value.get(2), None);
    }

    /// The first read that shows something that its process had added before, without that.
    fn forget(history: &History) -> Option<History> {
        let mut added: Vec<(&Op, &Value)> = Vec::new();
        for op in history.ops().iter().filter(|op| op.kind == Type::Ok) {
            if op.f == "add" {
                added.push((op, &op.value[1]));
            }
            let own = |(add, _): &&(&Op, &Value)| {
                add.process == op.process && add.value[0] == op.value[0] && add.node == op.node
            };
            let Some((_, gone)) = added.iter().find(own).filter(|_| op.f == "read") else {
                continue;
            };
            let mut value = op.value.clone();
            value[1].as_array_mut().unwrap().retain(|element| element != *gone);
            return Some(with_value(history, op.index, value));
        }
        None
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn one_copy_is_good_and_a_forgotten_write_is_caught(seed: u64, tokens: bool) {
            let model = if tokens { Model::new(seed).with_tokens() } else { Model::new(seed) };
            let history = model.losing().run(&mut Sessions::default(), 300);
            let verdict = session::check(&history);
            prop_assert_eq!(&verdict.violations, &Vec::<String>::new());
            prop_assert_eq!(verdict.counted["session tokens"] > 0.0, tokens);
            if let Some(forgotten) = forget(&history) {
                let violations = session::check(&forgotten).violations;
                prop_assert!(violations.iter().any(|v| v.contains("read-your-writes")));
            }
        }
    }

    #[test]
    fn most_histories_have_something_to_forget() {
        let history = |seed| Model::new(seed).run(&mut Sessions::default(), 300);
        assert!((0..8).all(|seed| forget(&history(seed)).is_some()));
    }
}
