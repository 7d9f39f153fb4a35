//! Clients in a simulated cluster: each does one operation of the workload at a time.
//!
//! Invariants:
//! 1. What a client is told is looked at in the turn in which the node says it, and recorded then.
//! 2. A request that was handed to a node and not answered is lost, never refused.

use std::collections::VecDeque;

use atoll::node::Selection;
use atoll_store::dot::{Dot, Origin};
use atoll_store::name::{Collection, Kind};
use atoll_store::shard::ShardId;
use serde_json::Value;

use super::ask::Wrote;
use super::ledger::Place;
use super::routes::{self, Look};
use super::streams::Stream;
use super::world::World;
use crate::history::Type;
use crate::workloads::{Answer, Invocation, Place as At, Record, Request, Step};

/// How long a client waits for an answer.
const TIMEOUT_MS: u64 = 5_000;
/// How long a poll waits for a first record.
const POLL_MS: u64 = 200;
/// Between two tries of an operation that must be answered in the end.
const AGAIN_MS: u64 = 500;
/// One in so many answers to a write is lost on its way.
const ANSWERS_LOST: usize = 50;
/// Numbers of clients that do the final operations.
pub(super) const FINAL_CLIENTS: u64 = 10_000;

/// A client, bound to a machine.
pub(super) struct Client {
    number: u64,
    pub(super) home: usize,
    next_at: u64,
    open: Option<Open>,
    stream: Option<Stream>,
    /// What it does instead of drawing from the workload.
    script: Option<VecDeque<Invocation>>,
    /// Its node's disk went back: it goes on as another process.
    pub(super) renew: bool,
}

struct Open {
    invocation: Invocation,
    process: u64,
    answers: Vec<Answer>,
    at: usize,
    /// The node that does it, for the history.
    server: String,
    deadline: u64,
    asked: Option<Asked>,
    wrote: Vec<Place>,
}

enum Asked {
    Request(Box<routes::Asked>),
    Poll(Vec<Record>, u64),
}

impl Client {
    /// A client that draws from the workload.
    pub(super) fn new(number: u64, home: usize, next_at: u64) -> Client {
        let (open, stream, script) = (None, None, None);
        Client { number, home, next_at, open, stream, script, renew: false }
    }

    /// One that does these, until each is answered.
    pub(super) fn scripted(home: usize, next_at: u64, script: Vec<Invocation>) -> Client {
        let mut client = Client::new(FINAL_CLIENTS + home as u64, home, next_at);
        client.script = Some(script.into());
        client
    }

    /// Whether its script, if it has one, is done, and nothing is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.script.as_ref().is_none_or(VecDeque::is_empty)
    }

    /// When it does something by itself.
    pub(super) fn next_at(&self, issuing: bool) -> Option<u64> {
        match &self.open {
            Some(Open { asked: Some(Asked::Poll(_, until)), .. }) => Some(*until),
            Some(Open { asked: Some(Asked::Request(asked)), deadline, .. }) => {
                Some(asked.next_at().map_or(*deadline, |at| at.min(*deadline)))
            }
            Some(open) => Some(open.deadline),
            None if issuing || !self.is_idle() => Some(self.next_at),
            None => None,
        }
    }
}

impl World {
    /// Lets every client do what it can do now.
    pub(super) fn serve_clients(&mut self, issuing: bool) {
        let mut clients = std::mem::take(&mut self.clients);
        for client in &mut clients {
            self.serve(client, issuing);
        }
        self.clients = clients;
    }

    fn serve(&mut self, client: &mut Client, issuing: bool) {
        if client.open.is_none() && !self.begin(client, issuing) {
            return;
        }
        while let Some(mut open) = client.open.take() {
            match self.advance(&mut client.stream, &mut open) {
                Some(answer) => {
                    open.asked = None;
                    open.answers.push(answer);
                    self.step_operation(client, open);
                }
                None => {
                    client.open = Some(open);
                    return;
                }
            }
        }
    }

    /// Begins an operation if one is due.
    fn begin(&mut self, client: &mut Client, issuing: bool) -> bool {
        if client.next_at > self.time {
            return false;
        }
        if std::mem::take(&mut client.renew) {
            self.recorder.renew(client.number);
            client.stream = None;
        }
        let process = self.recorder.process(client.number);
        let invocation = match &mut client.script {
            Some(script) => script.pop_front(),
            None => issuing.then(|| self.workload.next(&mut self.random, process)),
        };
        let Some(invocation) = invocation else { return false };
        let name = self.machines[client.home].name();
        let (time, value) = (self.nanos(), invocation.value.clone());
        self.recorder.invoke(time, client.number, invocation.f, value, Some(&name));
        let (at, deadline) = (client.home, self.time + TIMEOUT_MS);
        let (answers, wrote) = (Vec::new(), Vec::new());
        let (server, asked) = (name, None);
        let open = Open { invocation, process, answers, at, server, deadline, asked, wrote };
        self.step_operation(client, open);
        true
    }

    /// Asks the workload what comes next in an operation, until something is under way.
    fn step_operation(&mut self, client: &mut Client, mut open: Open) {
        loop {
            match self.workload.step(open.process, &open.invocation, &open.answers) {
                Step::Ask(place, request) => {
                    open.at = self.target(client.home, place);
                    open.deadline = self.time + TIMEOUT_MS;
                    open.server = self.machines[open.at].name();
                    match self.start_request(client, open.at, &request) {
                        Ok(asked) => open.asked = Some(asked),
                        Err(code) => {
                            open.answers.push(Answer::Refused(code));
                            continue;
                        }
                    }
                    client.open = Some(open);
                    return;
                }
                Step::Ok(value) => return self.end(client, open, Type::Ok, value, None),
                Step::Fail(why) => return self.end_badly(client, open, Type::Fail, why),
                Step::Info(why) => return self.end_badly(client, open, Type::Info, why),
            }
        }
    }

    fn target(&mut self, home: usize, place: At) -> usize {
        let (count, living) = (self.machines.len(), self.living().collect::<Vec<_>>());
        let others = (1..count).map(|step| (home + step) % count);
        let others: Vec<usize> = others.filter(|at| living.contains(at)).collect();
        match place {
            At::Elsewhere if !others.is_empty() => *self.random.pick(&others),
            _ => home,
        }
    }

    fn start_request(
        &mut self,
        client: &mut Client,
        at: usize,
        request: &Request,
    ) -> Result<Asked, String> {
        let Request::Poll { collection: (kind, collection), prefix, since, reconnect } = request
        else {
            return Ok(Asked::Request(Box::new(self.request(at, request)?)));
        };
        let Some(running) = &self.machines[at].running else { return Err("unreachable".into()) };
        let origin = running.origin;
        if *reconnect || !client.stream.as_ref().is_some_and(|stream| stream.is_of(at, origin)) {
            let what = Selection::Prefix {
                kind: Kind::parse(kind).expect("a workload names kinds"),
                collection: Collection::parse(collection).expect("a workload names collections"),
                prefix: prefix.clone(),
            };
            client.stream = Some(self.open(at, what, since.as_deref())?);
        }
        Ok(Asked::Poll(Vec::new(), self.time + POLL_MS))
    }

    /// The answer to what an operation waits for, if it is there.
    fn advance(&mut self, stream: &mut Option<Stream>, open: &mut Open) -> Option<Answer> {
        let time = self.time;
        let answer = match open.asked.as_mut()? {
            Asked::Request(asked) => {
                let found = self.look_on(asked, &mut open.wrote);
                open.server = self.machines[asked.at()].name();
                found
            }
            Asked::Poll(records, until) => {
                let name = stream.as_ref().map(|stream| stream.name.clone());
                self.poll(stream, records);
                let ended = stream.is_none();
                let lost = ended && records.last().is_none_or(|last| last.event != "error");
                let enough = ended || !records.is_empty() || *until <= time;
                match (lost, enough) {
                    (true, _) => Some(Answer::Lost("the stream was cut".into())),
                    (false, true) => {
                        Some(Answer::Records(name.unwrap_or_default(), records.split_off(0)))
                    }
                    _ => None,
                }
            }
        };
        self.note_answer(answer.as_ref());
        let timeout = || Answer::Lost("timeout".into());
        answer.or_else(|| (open.deadline <= time).then(timeout))
    }

    /// Looks what became of a request, until there is nothing new.
    fn look_on(&mut self, asked: &mut routes::Asked, wrote: &mut Vec<Place>) -> Option<Answer> {
        loop {
            let before = asked.next_at();
            match self.look(asked) {
                Look::Answered(answer) => return Some(answer),
                Look::Wrote(shard, origin, how) => {
                    let places = self.places(asked.at(), shard, origin, how);
                    if self.random.one_in(ANSWERS_LOST) {
                        self.coverage.hit("answer to a write lost");
                        return Some(Answer::Lost("the connection was cut".into()));
                    }
                    if !asked.is_at_level() {
                        wrote.extend(places);
                    }
                }
                Look::Waits if asked.next_at() == before => return None,
                Look::Waits => {}
            }
        }
    }

    fn note_answer(&mut self, answer: Option<&Answer>) {
        match answer {
            Some(Answer::Refused(code)) if code == "clock-skew" => {
                self.coverage.hit("clock far ahead refused a write");
            }
            Some(Answer::Refused(code)) if code == "not-enough-replicas" => {
                self.coverage.hit("too few replicas could be reached");
            }
            Some(Answer::Lost(code)) if code == "consistency-timeout" => {
                self.coverage.hit("too few replicas answered in time");
            }
            Some(Answer::Refused(code)) if code == "disk-full" => {
                self.coverage.hit("full disk refused a write");
            }
            Some(Answer::Records(_, records)) => {
                if records.iter().any(|record| record.event == "reset") {
                    self.coverage.hit("subscription reset");
                }
                if records.iter().any(|record| record.event == "change") {
                    self.coverage.hit("subscription followed changes");
                }
            }
            _ => {}
        }
    }

    /// The last dots that an acknowledged write can be.
    fn places(&mut self, at: usize, shard: ShardId, origin: Origin, wrote: Wrote) -> Vec<Place> {
        let Some(vector) = self.machines[at].durable.get(&shard) else { return Vec::new() };
        if wrote.replayed {
            self.coverage.hit("retry answered as one");
            let all = vector.iter().map(|(origin, sequence)| (shard, Dot { origin, sequence }));
            return all.collect();
        }
        vec![(shard, Dot { origin, sequence: vector.sequence(origin) })]
    }

    fn end_badly(&mut self, client: &mut Client, open: Open, kind: Type, why: String) {
        if let Some(script) = &mut client.script {
            script.push_front(open.invocation.clone());
        }
        let value = open.invocation.value.clone();
        self.end(client, open, kind, value, Some(why));
    }

    fn end(
        &mut self,
        client: &mut Client,
        open: Open,
        kind: Type,
        value: Value,
        why: Option<String>,
    ) {
        let name = open.server;
        let (f, error) = (open.invocation.f, why.map(Value::from));
        self.recorder.end(self.nanos(), client.number, kind, f, value, error, Some(&name));
        if kind == Type::Ok && !open.wrote.is_empty() {
            self.ledger.acknowledge(self.recorder.len() as u64 - 1, open.wrote);
        }
        let pause = match kind {
            Type::Ok => self.random.between(1, self.mood.think_ms),
            _ => self.random.between(1, AGAIN_MS),
        };
        client.next_at = self.time + pause;
    }
}
