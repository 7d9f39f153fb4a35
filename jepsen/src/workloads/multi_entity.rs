//! Writes to several entities and reads of several: what may be seen of one and not of another.
//!
//! Entities are sets that only grow, in groups. A write adds unique elements to one or two of a
//! group, a read reads all of a group, one request after the other. Values: a write's is
//! `[[entity, element], ...]`, a read's `[[entity, null], ...]`, and `[[entity, [...]], ...]` when
//! answered. Nothing across entities is promised: what is odd is counted.

use serde_json::{Value, json};

use super::{Answer, Invocation, Method, Place, Request, Step, Workload};
use crate::checkers::{FINAL_READ, Verdict, multi_entity};
use crate::history::History;
use crate::random::Random;

/// Entities of a group.
const GROUP: usize = 3;
/// Writes to a group, before another takes its place: reads stay small and few.
const WRITES_MAX: u64 = 24;

/// Adds unique elements to some sets at a time, and reads some.
#[derive(Debug, Default)]
pub struct MultiEntity {
    writes: u64,
    added: u64,
}

fn entity(name: &Value) -> (&'static str, String, String) {
    ("sets", "jepsen".into(), name.as_str().unwrap_or_default().into())
}

fn reads(group: u64) -> Value {
    (0..GROUP).map(|place| json!([format!("multi-{group}-{place}"), null])).collect()
}

impl Workload for MultiEntity {
    fn next(&mut self, random: &mut Random, _process: u64) -> Invocation {
        let group = self.writes / WRITES_MAX;
        if random.one_in(2) {
            // Of the one before too: late changes arrive there.
            let group = group.saturating_sub(u64::from(random.one_in(4)));
            return Invocation { f: "read", value: reads(group) };
        }
        self.writes += 1;
        let first = random.below(GROUP);
        let places = [first, (first + 1) % GROUP];
        let count = if random.one_in(3) { 2 } else { 1 };
        let add = |place: &usize| {
            self.added += 1;
            json!([format!("multi-{group}-{place}"), self.added])
        };
        Invocation { f: "write", value: places[..count].iter().map(add).collect() }
    }

    fn step(&mut self, _process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let writes = invocation.f == "write";
        match answers.last() {
            // Of a write of several, some took effect, for all that one knows.
            Some(Answer::Refused(code)) if writes && answers.len() > 1 => {
                return Step::Info(code.clone());
            }
            Some(Answer::Lost(why)) if writes => return Step::Info(why.clone()),
            Some(Answer::Refused(why) | Answer::Lost(why)) => return Step::Fail(why.clone()),
            _ => {}
        }
        let Some(next) = invocation.value.get(answers.len()) else {
            return Step::Ok(ended(&invocation.value, writes, answers));
        };
        let request = match writes {
            true => Request::write(entity(&next[0]), Method::Post, json!({ "add": [next[1]] })),
            false => Request::read(entity(&next[0])),
        };
        Step::Ask(Place::Home, request)
    }

    fn finals(&self) -> Vec<Invocation> {
        let groups = 0..=self.writes / WRITES_MAX;
        groups.map(|group| Invocation { f: FINAL_READ, value: reads(group) }).collect()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("multi-entity", multi_entity::check(history))]
    }
}

/// The result of an operation that had all its answers.
fn ended(asked: &Value, writes: bool, answers: &[Answer]) -> Value {
    if writes {
        return asked.clone();
    }
    let shown = |(place, answer): (usize, &Answer)| match answer {
        Answer::Done { value, .. } if !value.is_null() => json!([asked[place][0], value]),
        _ => json!([asked[place][0], []]),
    };
    answers.iter().enumerate().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::with_value;
    use crate::history::{Op, Type};
    use crate::workloads::testing::{Model, done};
    use proptest::prelude::*;

    #[test]
    fn a_write_of_two_that_stops_half_way_is_unknown() {
        let mut workload = MultiEntity::default();
        let write = Invocation { f: "write", value: json!([["a", 1], ["b", 2]]) };
        let refused = || Answer::Refused("overloaded".into());
        let fail = Step::Fail("overloaded".into());
        assert_eq!(workload.step(0, &write, &[refused()]), fail);
        assert!(matches!(workload.step(0, &write, &[done(json!([1]))]), Step::Ask(..)));
        let info = Step::Info("overloaded".into());
        assert_eq!(workload.step(0, &write, &[done(json!([1])), refused()]), info);
        let both = [done(json!([1])), done(json!([2]))];
        assert_eq!(workload.step(0, &write, &both), Step::Ok(write.value.clone()));
        let read = Invocation { f: "read", value: json!([["a", null], ["b", null]]) };
        let shown = workload.step(0, &read, &[done(json!([1])), done(Value::Null)]);
        assert_eq!(shown, Step::Ok(json!([["a", [1]], ["b", []]])));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn one_copy_is_good_and_a_lost_write_is_caught(seed: u64) {
            let history = Model::new(seed).losing().run(&mut MultiEntity::default(), 200);
            let verdict = multi_entity::check(&history);
            prop_assert_eq!(&verdict.violations, &Vec::<String>::new());
            prop_assert_eq!(verdict.counted["causal-reverse"], 0.0);
            prop_assert_eq!(verdict.counted["long-fork"], 0.0);

            let mut ops = history.ops().iter();
            let acknowledged = |op: &&Op| op.f == "write" && op.kind == Type::Ok;
            let add = &ops.find(acknowledged).unwrap().value[0];
            let shows = |op: &Op, place: usize| op.value[place][0] == add[0];
            let shown = |op: &&Op| op.f == FINAL_READ && op.kind == Type::Ok && shows(op, 0);
            if let Some(end) = ops.find(shown) {
                let mut value = end.value.clone();
                value[0][1].as_array_mut().unwrap().retain(|element| *element != add[1]);
                let lost = with_value(&history, end.index, value);
                prop_assert!(!multi_entity::check(&lost).violations.is_empty());
            }
        }
    }
}
