//! Clients in a simulated cluster: each does one operation of the workload at a time.
//!
//! Invariants:
//! 1. What a client is told is looked at in the turn in which the node says it, and recorded then.
//! 2. A request that was handed to a node and not answered is lost, never refused.

use std::collections::VecDeque;

use atoll::node::{Cursor, Record as NodeRecord, Selection, Start, Subscription};
use atoll_store::dot::{Dot, Origin};
use atoll_store::name::{Collection, Kind};
use atoll_store::shard::ShardId;
use futures_util::FutureExt;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use serde_json::Value;

use super::ask::{self, Pending, Wrote};
use super::ledger::Place;
use super::world::World;
use crate::history::Type;
use crate::workloads::{Answer, Invocation, Place as At, Record, Request, Step};

/// How long a client waits for an answer.
const TIMEOUT_MS: u64 = 5_000;
/// How long a poll waits for a first record.
const POLL_MS: u64 = 200;
/// Most records of one poll.
const POLL_RECORDS: usize = 256;
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
    deadline: u64,
    asked: Option<Asked>,
    wrote: Vec<Place>,
}

enum Asked {
    /// With the shard and the run of the node that were asked: it may answer and stop in one turn.
    Request(Box<(Pending, ShardId, Origin)>),
    Poll(Vec<Record>, u64),
}

struct Stream {
    at: usize,
    origin: Origin,
    /// What is asked of the node for the next record outlives the turn in which it was asked.
    records: BoxStream<'static, (NodeRecord, Cursor)>,
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
        let open = Open { invocation, process, answers, at, deadline, asked: None, wrote };
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
        let count = self.machines.len();
        match place {
            At::Elsewhere if count > 1 => (home + 1 + self.random.below(count - 1)) % count,
            _ => home,
        }
    }

    fn start_request(
        &mut self,
        client: &mut Client,
        at: usize,
        request: &Request,
    ) -> Result<Asked, String> {
        let Some(running) = &self.machines[at].running else { return Err("unreachable".into()) };
        let (kind, collection, prefix, since, reconnect) = match request {
            Request::Read { entity, .. } | Request::Write { entity, .. } => {
                let shard = running.driver.core().engine().shard_of(&ask::key(entity));
                let pending = ask::ask(&running.node, request);
                return Ok(Asked::Request(Box::new((pending, shard, running.origin))));
            }
            Request::Poll { collection: (kind, collection), prefix, since, reconnect } => {
                (kind, collection, prefix, since, reconnect)
            }
        };
        let same = |stream: &Stream| stream.at == at && stream.origin == running.origin;
        if *reconnect || !client.stream.as_ref().is_some_and(same) {
            let what = Selection::Prefix {
                kind: Kind::parse(kind).expect("a workload names kinds"),
                collection: Collection::parse(collection).expect("a workload names collections"),
                prefix: prefix.clone(),
            };
            let start = match since {
                None => Start::Snapshot,
                Some(cursor) => Start::After(Cursor::parse(cursor).ok_or("bad-request")?),
            };
            let opened = running.node.subscribe(what, start).now_or_never();
            let opened = opened.expect("a stream opens without waiting");
            let records = records(opened.map_err(|error| error.to_string())?);
            client.stream = Some(Stream { at, origin: running.origin, records });
        }
        Ok(Asked::Poll(Vec::new(), self.time + POLL_MS))
    }

    /// The answer to what an operation waits for, if it is there.
    fn advance(&mut self, stream: &mut Option<Stream>, open: &mut Open) -> Option<Answer> {
        let machine = &self.machines[open.at];
        let (time, now, at) = (self.time, machine.wall(self.time), open.at);
        let answer = match open.asked.as_mut()? {
            Asked::Request(asked) => {
                let (pending, shard, origin) = &mut **asked;
                let answered = pending.poll(now);
                if let Some((_, Some(wrote))) = &answered {
                    let wrote = self.places(at, *shard, *origin, *wrote);
                    if self.random.one_in(ANSWERS_LOST) {
                        self.coverage.hit("answer to a write lost");
                        return Some(Answer::Lost("the connection was cut".into()));
                    }
                    open.wrote.extend(wrote);
                }
                answered.map(|(answer, _)| answer)
            }
            Asked::Poll(records, until) => {
                poll(machine, time, now, stream, records);
                let ended = stream.is_none();
                let lost = ended && records.last().is_none_or(|last| last.event != "error");
                let enough = ended || !records.is_empty() || *until <= time;
                match (lost, enough) {
                    (true, _) => Some(Answer::Lost("the stream was cut".into())),
                    (false, true) => Some(Answer::Records(machine.name(), records.split_off(0))),
                    _ => None,
                }
            }
        };
        self.note_answer(answer.as_ref());
        let timeout = || Answer::Lost("timeout".into());
        answer.or_else(|| (open.deadline <= time).then(timeout))
    }

    fn note_answer(&mut self, answer: Option<&Answer>) {
        match answer {
            Some(Answer::Refused(code)) if code == "clock-skew" => {
                self.coverage.hit("clock far ahead refused a write");
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
        let name = self.machines[open.at].name();
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

fn records(subscription: Subscription) -> BoxStream<'static, (NodeRecord, Cursor)> {
    let next = async |mut subscription: Subscription| {
        let record = subscription.next().await;
        Some((record, subscription))
    };
    unfold(subscription, next).boxed()
}

/// Takes what a stream has; a stream that is gone, or has ended, is dropped.
fn poll(
    machine: &super::machine::Machine,
    time: u64,
    now: u64,
    stream: &mut Option<Stream>,
    records: &mut Vec<Record>,
) {
    let origin = machine.running.as_ref().map(|running| running.origin);
    if stream.as_ref().is_some_and(|stream| Some(stream.origin) != origin) {
        *stream = None;
    }
    if !machine.is_up(time) {
        return;
    }
    while records.len() < POLL_RECORDS {
        let Some(open) = stream else { return };
        let Some(Some((record, cursor))) = open.records.next().now_or_never() else { return };
        records.push(ask::record(&record, cursor.as_str().to_owned(), now));
        if records.last().is_some_and(|record| record.event == "error") {
            *stream = None;
        }
    }
}
