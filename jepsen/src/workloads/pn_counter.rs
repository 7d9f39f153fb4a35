//! Counters that go up and down, with retries that must count once.
//!
//! Values are `[counter, by]`. Half of the adds carry an `Idempotency-Key`: such a one is repeated,
//! here and elsewhere by turns, when nobody knows what became of it. Amounts stay small, so that
//! the sums of many unknown adds remain few; several counters share the unknown among them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, Invocation, Method, Place, Request, Step, Workload, single};
use crate::checkers::{FINAL_READ, Verdict, pn_counter};
use crate::history::History;
use crate::random::Random;

/// Counters of a run.
const COUNTERS: usize = 16;
/// Largest amount, up or down.
const AMOUNT_MAX: u64 = 1_000;
/// How often an add with a key is repeated.
const RETRIES_MAX: usize = 3;

/// Adds amounts of either sign to some counters, and reads them.
#[derive(Debug, Default)]
pub struct PnCounter {
    added: u64,
    /// The keys of the adds that are under way, by process.
    keys: BTreeMap<u64, u64>,
}

fn entity(counter: &Value) -> (&'static str, String, String) {
    ("counters", "jepsen".into(), format!("counter-{counter}"))
}

impl Workload for PnCounter {
    fn next(&mut self, random: &mut Random, process: u64) -> Invocation {
        self.keys.remove(&process);
        let counter = random.below(COUNTERS);
        if random.one_in(3) {
            return Invocation { f: "read", value: json!([counter, null]) };
        }
        self.added += 1;
        if random.one_in(2) {
            self.keys.insert(process, self.added);
        }
        let amount = random.between(1, AMOUNT_MAX) as i64;
        let by = if random.one_in(2) { -amount } else { amount };
        Invocation { f: "add", value: json!([counter, by]) }
    }

    fn step(&mut self, process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let counter = &invocation.value[0];
        if invocation.f != "add" {
            return match single(Request::read(entity(counter)), invocation, answers) {
                Step::Ok(Value::Null) => Step::Ok(json!([counter, 0])),
                Step::Ok(sum) => Step::Ok(json!([counter, sum])),
                step => step,
            };
        }
        let by = invocation.value[1].as_i64().unwrap_or_default();
        let word = if by < 0 { "decrement" } else { "increment" };
        let body = json!({ word: by.unsigned_abs() });
        let mut request = Request::write(entity(counter), Method::Post, body);
        let Some(repeated) = self.keys.get(&process).copied() else {
            return single(request, invocation, answers);
        };
        if let Request::Write { key, .. } = &mut request {
            *key = Some(format!("add-{repeated}"));
        }
        let lost = answers.iter().any(|answer| matches!(answer, Answer::Lost(_)));
        match answers.last() {
            // What became of the first attempt, a refusal of the second does not tell.
            Some(Answer::Lost(_) | Answer::Refused(_)) if lost && answers.len() <= RETRIES_MAX => {
                let is_here = (repeated as usize + answers.len()).is_multiple_of(2);
                Step::Ask(if is_here { Place::Home } else { Place::Elsewhere }, request)
            }
            Some(Answer::Refused(code)) if lost => Step::Info(code.clone()),
            _ => single(request, invocation, answers),
        }
    }

    fn finals(&self) -> Vec<Invocation> {
        let read = |counter| Invocation { f: FINAL_READ, value: json!([counter, null]) };
        (0..COUNTERS).map(read).collect()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("pn-counter", pn_counter::check(history))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::with_value;
    use crate::history::Type;
    use crate::workloads::testing::{Model, done};
    use proptest::prelude::*;

    /// A workload whose client 7 is in an add, with a key or without.
    fn adding(keyed: bool) -> (PnCounter, Invocation) {
        let mut random = Random::new(3);
        loop {
            let mut workload = PnCounter::default();
            let invocation = workload.next(&mut random, 7);
            if invocation.f == "add" && workload.keys.contains_key(&7) == keyed {
                return (workload, invocation);
            }
        }
    }

    fn lost() -> Answer {
        Answer::Lost("timeout".into())
    }

    fn refused() -> Answer {
        Answer::Refused("overloaded".into())
    }

    #[test]
    fn an_add_with_a_key_is_repeated_here_and_elsewhere_with_that_key() {
        let (mut workload, add) = adding(true);
        let Step::Ask(Place::Home, first) = workload.step(7, &add, &[]) else { panic!("no ask") };
        let again = workload.step(7, &add, &[lost()]);
        let Step::Ask(place, again) = again else { panic!("no retry") };
        assert_eq!(again, first);
        assert!(matches!(first, Request::Write { key: Some(_), .. }));
        let Step::Ask(next, _) = workload.step(7, &add, &[lost(), refused()]) else {
            panic!("none")
        };
        assert_ne!(place, next);
        let answers = [lost(), lost(), refused()];
        assert_eq!(workload.step(7, &add, &answers), Step::Ask(place, first));
        let unknown = [lost(), lost(), lost(), lost()];
        assert_eq!(workload.step(7, &add, &unknown), Step::Info("timeout".into()));
        let counted = [lost(), done(json!(1))];
        assert_eq!(workload.step(7, &add, &counted), Step::Ok(add.value.clone()));
    }

    #[test]
    fn a_refusal_after_a_lost_answer_leaves_it_unknown() {
        let (mut workload, add) = adding(true);
        assert_eq!(workload.step(7, &add, &[refused()]), Step::Fail("overloaded".into()));
        let answers = [lost(), lost(), lost(), refused()];
        assert_eq!(workload.step(7, &add, &answers), Step::Info("overloaded".into()));
    }

    #[test]
    fn an_add_without_a_key_is_asked_once() {
        let (mut workload, add) = adding(false);
        assert_eq!(workload.step(7, &add, &[lost()]), Step::Info("timeout".into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn one_copy_is_good_and_an_add_that_counts_twice_is_caught(seed: u64) {
            let mut workload = PnCounter::default();
            let history = Model::new(seed).losing().run(&mut workload, 200);
            prop_assert_eq!(&pn_counter::check(&history).violations, &Vec::<String>::new());

            let mut workload = PnCounter::default();
            let history = Model::new(seed).run(&mut workload, 200);
            let ops = history.ops();
            let add = ops.iter().find(|op| op.f == "add" && op.kind == Type::Ok).unwrap();
            let shown = |op: &&crate::history::Op| {
                op.f == FINAL_READ && op.kind == Type::Ok && op.value[0] == add.value[0]
            };
            let end = ops.iter().find(shown).unwrap();
            let sum = end.value[1].as_i64().unwrap() + add.value[1].as_i64().unwrap();
            let twice = with_value(&history, end.index, json!([end.value[0], sum]));
            prop_assert!(!pn_counter::check(&twice).violations.is_empty());
        }
    }
}
