//! One copy of everything, that runs a workload an operation at a time: good histories by
//! construction, for whatever order of nodes is drawn.
//!
//! Left out: concurrency and copies that lag; hand-written histories have those.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Answer, Invocation, Method, Place, Record, Request, Step, Workload};
use crate::history::{History, Recorder, Type};
use crate::random::Random;

/// Its nodes, which are all the same.
const NODES: [&str; 3] = ["eu-1", "us-1", "ap-1"];
/// Its clients.
const CLIENTS: u64 = 6;

/// The one copy.
pub(crate) struct Model {
    random: Random,
    entities: BTreeMap<(&'static str, String, String), Value>,
    keys: BTreeSet<String>,
    /// Registers as they were written: id and value.
    journal: Vec<(String, Value)>,
    losing: bool,
    tokens: bool,
    time: u64,
}

/// A request that was done.
pub(crate) fn done(value: Value) -> Answer {
    Answer::Done { value, version: "v".into(), session: None }
}

impl Model {
    pub(crate) fn new(seed: u64) -> Model {
        Model {
            random: Random::new(seed),
            entities: BTreeMap::new(),
            keys: BTreeSet::new(),
            journal: Vec::new(),
            losing: false,
            tokens: false,
            time: 0,
        }
    }

    /// Some answers are lost or refused, except in the end.
    pub(crate) fn losing(mut self) -> Model {
        self.losing = true;
        self
    }

    /// Every answer carries a session token.
    pub(crate) fn with_tokens(mut self) -> Model {
        self.tokens = true;
        self
    }

    /// So many operations, and the final ones at each node.
    pub(crate) fn run(mut self, workload: &mut dyn Workload, operations: usize) -> History {
        let mut recorder = Recorder::default();
        for _ in 0..operations {
            let client = self.random.below(CLIENTS as usize) as u64;
            let process = recorder.process(client);
            let invocation = workload.next(&mut self.random, process);
            self.operation(workload, &mut recorder, client, &invocation);
        }
        self.losing = false;
        recorder.nemesis(self.time, "healed", Value::Null);
        for invocation in workload.finals() {
            (0..NODES.len() as u64).for_each(|client| {
                self.operation(workload, &mut recorder, client, &invocation);
            });
        }
        recorder.history()
    }

    fn operation(
        &mut self,
        workload: &mut dyn Workload,
        recorder: &mut Recorder,
        client: u64,
        invocation: &Invocation,
    ) {
        let home = client as usize % NODES.len();
        let (f, process) = (invocation.f, recorder.process(client));
        let mut node = NODES[home];
        self.time += 1_000_000;
        recorder.invoke(self.time, client, f, invocation.value.clone(), Some(node));
        let mut answers = Vec::new();
        let (kind, value, error) = loop {
            match workload.step(process, invocation, &answers) {
                Step::Ask(place, request) => {
                    let elsewhere = NODES[(home + 1 + self.random.below(2)) % NODES.len()];
                    node = if place == Place::Home { NODES[home] } else { elsewhere };
                    answers.push(self.answer(node, &request));
                }
                Step::Ok(value) => break (Type::Ok, value, None),
                Step::Fail(why) => break (Type::Fail, invocation.value.clone(), Some(why.into())),
                Step::Info(why) => break (Type::Info, invocation.value.clone(), Some(why.into())),
            }
        };
        self.time += 1_000_000;
        recorder.end(self.time, client, kind, f, value, error, Some(node));
    }

    fn answer(&mut self, node: &str, request: &Request) -> Answer {
        if self.losing && self.random.one_in(10) {
            return Answer::Refused("overloaded".into());
        }
        let lost = self.losing && self.random.one_in(8);
        if lost && self.random.one_in(2) {
            return Answer::Lost("timeout".into());
        }
        let value = match request.bare() {
            Request::At(..) => unreachable!("it has one level"),
            Request::Write { entity, method, body, key, .. } => {
                let fresh = key.as_ref().is_none_or(|key| self.keys.insert(key.clone()));
                if fresh {
                    self.write(entity, *method, body);
                }
                self.entities.get(entity).cloned().unwrap_or_default()
            }
            Request::Read { entity, .. } => self.entities.get(entity).cloned().unwrap_or_default(),
            Request::Poll { prefix, since, .. } if !lost => {
                return Answer::Records(node.into(), self.poll(prefix, since.as_deref()));
            }
            Request::Poll { .. } => Value::Null,
        };
        let session = self.tokens.then(|| format!("t{}", self.time));
        match lost {
            true => Answer::Lost("timeout".into()),
            false => Answer::Done { value, version: "v".into(), session },
        }
    }

    fn write(&mut self, entity: &(&'static str, String, String), method: Method, body: &Value) {
        let state = self.entities.entry(entity.clone()).or_default();
        match (entity.0, method) {
            ("counters", Method::Post) => {
                let up = body["increment"].as_i64().unwrap_or_default();
                let down = body["decrement"].as_i64().unwrap_or_default();
                *state = json!(state.as_i64().unwrap_or_default() + up - down);
            }
            ("sets", Method::Post) => {
                let mut members = state.as_array().cloned().unwrap_or_default();
                members.extend(body["add"].as_array().cloned().unwrap_or_default());
                *state = Value::Array(members);
            }
            ("registers", Method::Put) => {
                *state = body.clone();
                self.journal.push((entity.2.clone(), body.clone()));
            }
            other => panic!("the model has no {other:?}"),
        }
    }

    /// A cursor is the number of journal entries that were told.
    fn poll(&mut self, prefix: &str, since: Option<&str>) -> Vec<Record> {
        let record = |event: &str, id: Option<&String>, value: &Value, at: usize| Record {
            event: event.into(),
            id: id.cloned(),
            value: value.clone(),
            cursor: at.to_string(),
        };
        let end = self.journal.len();
        let known = since.filter(|_| !self.random.one_in(20));
        let Some(from) = known.and_then(|since| since.parse::<usize>().ok()) else {
            let last: BTreeMap<&String, &Value> =
                self.journal.iter().map(|(id, value)| (id, value)).collect();
            let mine = last.into_iter().filter(|(id, _)| id.starts_with(prefix));
            let states = mine.map(|(id, value)| record("snapshot", Some(id), value, 0));
            let reset = since.map(|_| record("reset", None, &Value::Null, 0));
            let ready = [record("ready", None, &Value::Null, end)];
            return reset.into_iter().chain(states).chain(ready).collect();
        };
        // What loses nothing is never idle while there is something to tell.
        let least = usize::from(!self.losing);
        let until = (from + least + self.random.below(5)).min(end);
        if until == from {
            let tells = until == end && self.random.one_in(2);
            return Vec::from_iter(tells.then(|| record("progress", None, &Value::Null, from)));
        }
        let page = &self.journal[from..until];
        let entries = page.iter().enumerate().filter(|(at, (id, _))| {
            // Several changes of one entity become one.
            id.starts_with(prefix) && !page[at + 1..].iter().any(|(later, _)| later == id)
        });
        let changes =
            entries.map(|(at, (id, value))| record("change", Some(id), value, from + at + 1));
        let mut records: Vec<Record> = changes.collect();
        // Whoever resumed is told when it has caught up, and not before.
        records.extend((until == end).then(|| record("progress", None, &Value::Null, until)));
        records
    }
}
