//! Many entities, most written once, and subscribers that disconnect and resume, elsewhere too.
//!
//! A `write` is `[id, number]`: a register, written by one process only, with rising numbers; some
//! ids are outside of every subscriber's prefix. An entity is given up once nobody knows what
//! became of a write of it, so that a late one cannot come after a later one. A `poll` continues a
//! subscriber's stream or resumes it from its last cursor. Its value when answered:
//! `{"subscriber", "prefix", "node", "since", "reconnect", "records": [{"event", "id", "value",
//! "cursor"}, ...]}`. A `final-poll` resumes, and asks until it is told that it has caught up.
//!
//! Subscribers outlive processes: when one ends, another takes its subscriber over. In the end
//! there is one more, which starts from nothing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, Invocation, Method, Place, Record, Request, Step, Workload, single};
use crate::checkers::Verdict;
use crate::checkers::subscription::{self, FINAL_POLL};
use crate::history::History;
use crate::random::Random;

/// Subscribers of a run, without the late one.
const SUBSCRIBERS: usize = 12;
/// Most polls of a final one: it ends with what it has.
const POLLS_MAX: usize = 2_000;

/// Writes registers, and follows them.
#[derive(Debug, Default)]
pub struct PubSub {
    entities: u64,
    /// The entities of each process, with the last number of each.
    written: BTreeMap<u64, Vec<(String, u64)>>,
    subscribers: Vec<Subscriber>,
    /// Whose subscriber is whose, and which nobody has.
    slots: BTreeMap<u64, usize>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Subscriber {
    since: Option<String>,
    /// The next poll opens a stream: the last one is elsewhere, ended, or cut off.
    reconnects: bool,
}

/// What a subscriber follows.
fn prefix(subscriber: usize) -> &'static str {
    if subscriber % 3 == 2 { "in-1" } else { "in-" }
}

impl PubSub {
    /// The subscriber of a process, if there is one left for it.
    fn slot(&mut self, process: u64) -> Option<usize> {
        if let Some(slot) = self.slots.get(&process) {
            return Some(*slot);
        }
        if self.free.is_empty() && self.subscribers.len() < SUBSCRIBERS {
            self.free.push(self.subscribers.len());
            self.subscribers.push(Subscriber::default());
        }
        let slot = self.free.pop()?;
        // What the process before had open is not this one's.
        self.subscribers[slot].reconnects = true;
        self.slots.insert(process, slot);
        Some(slot)
    }

    fn write(&mut self, random: &mut Random, process: u64) -> Invocation {
        let mine = self.written.entry(process).or_default();
        if !mine.is_empty() && random.one_in(4) {
            let place = random.below(mine.len());
            let (id, number) = &mut mine[place];
            *number += 1;
            return Invocation { f: "write", value: json!([id, number]) };
        }
        self.entities += 1;
        let side = if random.one_in(5) { "out" } else { "in" };
        let id = format!("{side}-{}", self.entities);
        mine.push((id.clone(), 1));
        Invocation { f: "write", value: json!([id, 1]) }
    }

    fn written(&mut self, process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let id = invocation.value[0].as_str().unwrap_or_default().to_owned();
        let entity = ("registers", "jepsen".into(), id);
        let request = Request::write(entity, Method::Put, invocation.value[1].clone());
        let step = single(request, invocation, answers);
        if matches!(step, Step::Info(_)) {
            self.written.remove(&process);
            self.free.extend(self.slots.remove(&process));
        }
        step
    }

    fn polled(&mut self, invocation: &Invocation, answers: &[Answer]) -> Step {
        let value = &invocation.value;
        let slot = value["subscriber"].as_u64().unwrap_or_default() as usize;
        let reconnect = value["reconnect"] == json!(true);
        let elsewhere = value["elsewhere"] == json!(true);
        let since = value["since"].as_str().map(str::to_owned);
        let subscriber = &mut self.subscribers[slot];
        subscriber.reconnects = true;
        match answers.last() {
            None => {
                let place = if elsewhere { Place::Elsewhere } else { Place::Home };
                Step::Ask(place, poll(slot, since, reconnect))
            }
            Some(Answer::Records(node, records)) => {
                subscriber.reconnects = elsewhere || ends(records);
                if let Some(last) = records.last() {
                    subscriber.since = Some(last.cursor.clone());
                }
                Step::Ok(told(value, node, records.iter()))
            }
            // Whatever it was: a poll changes nothing.
            Some(Answer::Refused(why) | Answer::Lost(why)) => Step::Fail(why.clone()),
            Some(Answer::Done { .. }) => Step::Fail("no records".into()),
        }
    }
}

impl Workload for PubSub {
    fn next(&mut self, random: &mut Random, process: u64) -> Invocation {
        let slot = self.slot(process).filter(|_| random.one_in(2));
        let Some(slot) = slot else { return self.write(random, process) };
        let subscriber = &self.subscribers[slot];
        let elsewhere = random.one_in(6);
        let value = json!({
            "subscriber": slot,
            "prefix": prefix(slot),
            "since": subscriber.since,
            "elsewhere": elsewhere,
            "reconnect": subscriber.reconnects || elsewhere || random.one_in(8),
        });
        Invocation { f: "poll", value }
    }

    fn step(&mut self, process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        match invocation.f {
            "write" => self.written(process, invocation, answers),
            "poll" => self.polled(invocation, answers),
            _ => drained(&invocation.value, answers),
        }
    }

    fn finals(&self) -> Vec<Invocation> {
        let known = self.subscribers.iter().map(|subscriber| subscriber.since.clone());
        let all = known.chain([None]).enumerate();
        let invocation = |(slot, since): (usize, Option<String>)| {
            let value = json!({
                "subscriber": slot, "prefix": prefix(slot), "since": since, "reconnect": true,
            });
            Invocation { f: FINAL_POLL, value }
        };
        all.map(invocation).collect()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("subscription", subscription::check(history))]
    }
}

fn poll(slot: usize, since: Option<String>, reconnect: bool) -> Request {
    let collection = ("registers", "jepsen".into());
    Request::Poll { collection, prefix: prefix(slot).into(), since, reconnect }
}

fn ends(records: &[Record]) -> bool {
    records.iter().any(|record| record.event == "error")
}

/// A poll's value when it was answered.
fn told<'a>(asked: &Value, node: &str, records: impl Iterator<Item = &'a Record>) -> Value {
    let record = |record: &Record| {
        json!({
            "event": record.event,
            "id": record.id,
            "value": record.value,
            "cursor": record.cursor,
        })
    };
    let mut value = asked.clone();
    value["node"] = node.into();
    value["records"] = records.map(record).collect();
    value
}

/// A final poll: everything that comes until the stream says that this was all: `ready` after a
/// snapshot, `progress` after a resume. It holds no state but its answers, so that several nodes
/// may be asked for one subscriber.
fn drained(asked: &Value, answers: &[Answer]) -> Step {
    let mut polls: Vec<(&String, &Vec<Record>)> = Vec::new();
    for answer in answers {
        match answer {
            Answer::Records(_, records) if ends(records) => {
                return Step::Fail("the stream ended".into());
            }
            Answer::Records(node, records) => polls.push((node, records)),
            Answer::Refused(why) | Answer::Lost(why) => return Step::Fail(why.clone()),
            Answer::Done { .. } => return Step::Fail("no records".into()),
        }
    }
    let all = || polls.iter().flat_map(|(_, records)| records.iter());
    let marks = |record: &&Record| !matches!(&*record.event, "snapshot" | "change");
    let is_whole = all().rfind(marks);
    let is_whole = is_whole.is_some_and(|record| matches!(&*record.event, "ready" | "progress"));
    match polls.last() {
        Some((node, _)) if is_whole || polls.len() >= POLLS_MAX => {
            Step::Ok(told(asked, node, all()))
        }
        latest => {
            let slot = asked["subscriber"].as_u64().unwrap_or_default() as usize;
            let last = all().next_back().map(|record| record.cursor.clone());
            let since = last.or_else(|| asked["since"].as_str().map(str::to_owned));
            Step::Ask(Place::Home, poll(slot, since, latest.is_none()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::with_value;
    use crate::history::{Op, Type};
    use crate::workloads::testing::Model;
    use proptest::prelude::*;

    fn records(events: &[&str]) -> Answer {
        let record = |event: &&str| Record {
            event: (*event).into(),
            id: None,
            value: Value::Null,
            cursor: format!("after-{event}"),
        };
        Answer::Records("eu-1".into(), events.iter().map(record).collect())
    }

    fn asks(step: &Step) -> (Place, Option<&str>, bool) {
        match step {
            Step::Ask(place, Request::Poll { since, reconnect, .. }) => {
                (*place, since.as_deref(), *reconnect)
            }
            other => panic!("no poll: {other:?}"),
        }
    }

    /// The next poll of process 0.
    fn next_poll(workload: &mut PubSub, random: &mut Random) -> Invocation {
        loop {
            let next = workload.next(random, 0);
            if next.f == "poll" && next.value["elsewhere"] == json!(false) {
                return next;
            }
        }
    }

    #[test]
    fn a_subscriber_resumes_from_its_last_cursor() {
        let (mut workload, mut random) = (PubSub::default(), Random::new(5));
        let first = next_poll(&mut workload, &mut random);
        assert_eq!(asks(&workload.step(0, &first, &[])), (Place::Home, None, true));
        workload.step(0, &first, &[records(&["ready", "change"])]);
        let next = next_poll(&mut workload, &mut random);
        assert_eq!(asks(&workload.step(0, &next, &[])).1, Some("after-change"));
        let lost = Answer::Lost("stream ended without a word".into());
        assert!(matches!(workload.step(0, &next, &[lost]), Step::Fail(_)));
        // A stream that broke, or ended, is opened again.
        let again = next_poll(&mut workload, &mut random);
        let asked = workload.step(0, &again, &[]);
        assert_eq!(asks(&asked), (Place::Home, Some("after-change"), true));
        workload.step(0, &again, &[records(&["error"])]);
        let after = next_poll(&mut workload, &mut random);
        let asked = workload.step(0, &after, &[]);
        assert_eq!(asks(&asked), (Place::Home, Some("after-error"), true));
    }

    #[test]
    fn a_final_poll_asks_until_it_has_caught_up_or_has_a_whole_snapshot() {
        let value = json!({"subscriber": 0, "since": "c"});
        let first = drained(&value, &[]);
        assert_eq!(asks(&first), (Place::Home, Some("c"), true));
        let more = [records(&[]), records(&["change"]), records(&[])];
        assert_eq!(asks(&drained(&value, &more)), (Place::Home, Some("after-change"), false));
        let done = [records(&["change"]), records(&["progress"])];
        assert!(matches!(drained(&value, &done), Step::Ok(_)));
        let cut = [records(&["change", "error"])];
        assert_eq!(drained(&value, &cut), Step::Fail("the stream ended".into()));
        let within = [records(&["reset", "snapshot"]), records(&[])];
        assert_eq!(asks(&drained(&value, &within)).1, Some("after-snapshot"));
        let whole = [records(&["reset", "snapshot"]), records(&["ready"])];
        assert!(matches!(drained(&value, &whole), Step::Ok(_)));
    }

    #[test]
    fn an_entity_is_given_up_once_a_write_is_unknown_and_its_subscriber_lives_on() {
        let (mut workload, mut random) = (PubSub::default(), Random::new(5));
        let write = loop {
            let next = workload.next(&mut random, 0);
            if next.f == "write" {
                break next;
            }
        };
        workload.step(0, &write, &[Answer::Lost("timeout".into())]);
        assert!(workload.written.is_empty());
        assert_eq!((workload.slot(8), workload.subscribers.len()), (Some(0), 1));
    }

    /// The final poll of the late subscriber, which has a snapshot of at least one.
    fn late(history: &History) -> &Op {
        let last = |op: &&Op| op.f == FINAL_POLL && op.kind == Type::Ok;
        history.ops().iter().rfind(last).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn one_copy_is_good_and_what_was_missed_or_told_twice_is_caught(seed: u64) {
            let history = Model::new(seed).losing().run(&mut PubSub::default(), 300);
            let verdict = subscription::check(&history);
            prop_assert_eq!(&verdict.violations, &Vec::<String>::new());
            let poll = late(&history);
            let acknowledged = |record: &&Value| {
                let ok = |op: &&Op| op.f == "write" && op.kind == Type::Ok;
                let same = |op: &Op| op.value == json!([record["id"], record["value"]]);
                history.ops().iter().filter(ok).any(same)
            };
            let records = poll.value["records"].as_array().unwrap();
            let place = records.iter().position(|record| acknowledged(&record)).unwrap();

            let mut missed = poll.value.clone();
            let left = missed["records"].as_array_mut().unwrap();
            left.retain(|record| record["id"] != records[place]["id"]);
            let found = subscription::check(&with_value(&history, poll.index, missed));
            prop_assert!(!found.violations.is_empty());

            let mut twice = poll.value.clone();
            let again = records[place].clone();
            twice["records"].as_array_mut().unwrap().insert(place, again);
            let found = subscription::check(&with_value(&history, poll.index, twice));
            prop_assert!(!found.violations.is_empty());
        }
    }
}
