//! Scripts of the core: events in, `---`, every frame and answer that came out.
//!
//! `UPDATE_GOLDEN=1 cargo test -p atoll-replication --test golden` writes them anew.
//!
//! ```text
//! start <node> <region> <origin>     starts a node on its disk, or on a new one
//! connect | disconnect <node> <node>
//! write <node> <set> add|remove <member> [key]
//! write-at | read-at <node> <level> <set> [<member>]
//! deliver | drop <from> <to>         what is under way
//! record <node> <region> <number> <nodes> [<next nodes>]   a council's record, told to a node
//! forge <node> <set> <sequence> add <member> | remove <member> <sequence>   of origin 99
//! wait <ms>                          time passes, and all is delivered
//! quiet <ms>                         the same, told only by what it leads to
//! damage <node>                      flips a bit in every record of an entity
//! snapshot | restore <node>          the disk
//! small-logs                         nodes that start later trim early
//! ```
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use atoll_replication::core::Event;
use atoll_replication::core::message::{Message, Vectors};
use atoll_replication::core::{Reply, Written};
use atoll_replication::level::{Demand, Level};
use atoll_replication::placement::Version;
use atoll_store::backend::memory::Snapshot;
use atoll_store::command::View;
use atoll_store::dot::{Dot, Hlc, Origin, VersionVector};
use atoll_store::name::Kind;
use atoll_store::operation::{Effect, Leaf, Operation, Part, Path, Payload};
use bytes::Bytes;
use common::group::Group;
use common::{Released, add, change, key, keyed, node_id, record, remove, value};

struct Script {
    group: Group,
    snapshots: BTreeMap<u8, Snapshot>,
    seen: usize,
    out: String,
}

fn dots(operations: &[Bytes]) -> String {
    let dot = |bytes: &Bytes| {
        let dot = Operation::peek(bytes).unwrap().0;
        format!("{}:{}", dot.origin.0, dot.sequence)
    };
    operations.iter().map(dot).collect::<Vec<_>>().join(" ")
}

fn vector(vector: &VersionVector) -> String {
    let each: Vec<String> = vector.iter().map(|(o, seq)| format!("{}:{seq}", o.0)).collect();
    format!("[{}]", each.join(" "))
}

fn records(versions: &[(String, Version)]) -> String {
    let each: Vec<String> =
        versions.iter().map(|(region, v)| format!("{region} {}", v.number)).collect();
    each.join(", ")
}

fn text(message: &Message) -> String {
    match message {
        Message::Hello(hello) => format!("hello {} of {}", hello.name, hello.region),
        Message::Operations { relay, answer, batches } => {
            let how = if *answer { " in answer" } else { "" };
            let relay = if *relay { ", pass them on" } else { "" };
            let all: Vec<String> = batches.iter().map(|(_, bytes)| dots(bytes)).collect();
            format!("operations{how} {}{relay}", all.join(" "))
        }
        Message::Acknowledge(seen) => {
            let each = seen.iter().flat_map(|seen| &seen.sequences);
            let each: Vec<String> = each.map(|(o, seq)| format!("{}:{seq}", o.0)).collect();
            let counts = seen.iter().all(|seen| seen.standing.is_some());
            let counts = if counts { "" } else { ", does not count" };
            format!("durable {}{counts}", each.join(" "))
        }
        Message::Await { dot, .. } => format!("waits for {}:{}", dot.origin.0, dot.sequence),
        Message::Ask { vector: at, .. } => format!("what do you have? I have {}", vector(at)),
        Message::Told { standing, vector: at, .. } => {
            format!("counts in set {standing}, has {}", vector(at))
        }
        Message::Vectors(told) => {
            let Vectors { number, whole, issued, shards, .. } = &**told;
            let whole = if *whole { " whole" } else { "" };
            let each: Vec<String> = shards.iter().map(|state| vector(&state.vector)).collect();
            let issued = issued.iter().map(|(_, last)| format!(", issued up to {last}"));
            format!("vectors #{number}{whole} {}{}", each.join(" "), issued.collect::<String>())
        }
        Message::Request(wants) | Message::Answered(wants) => {
            let what = if matches!(message, Message::Request(_)) { "request" } else { "answered" };
            let from = |dot: &Dot| format!("{}:{}..", dot.origin.0, dot.sequence);
            let each: Vec<String> = wants.iter().map(|want| from(&want.from)).collect();
            format!("{what} {}", each.join(" "))
        }
        Message::StateRequest { transfer, number, .. } => {
            format!("state request {transfer}, chunk {number}")
        }
        Message::StateChunk { transfer, number, chunk, .. } => {
            let (entities, at) = (chunk.states.len(), vector(&chunk.vector));
            format!("state {transfer}, chunk {number}: {entities} entities at {at}")
        }
        Message::Sums { sums, .. } => format!("sums of {} entities", sums.len()),
        Message::Repair { state, removed, .. } => {
            let (items, removed) = (state.items.len(), removed.len());
            format!("repair {}: {items} items, {removed} removed", state.key)
        }
        Message::EntityRequest { key, .. } => format!("request of {key}"),
        Message::EntityReply { state, .. } => {
            format!("copy of {}: {} items", state.key, state.items.len())
        }
        Message::Records(versions) => format!("records {}", records(versions)),
        Message::NewerRecords(versions) => format!("newer records {}", records(versions)),
        Message::RecordsRequest(regions) => format!("request of records: {}", regions.join(", ")),
        Message::Record(record) => format!("record {} {}", record.region, record.version.number),
        Message::Follow { epoch, .. } => format!("follows the move of {epoch}: what do you have?"),
        Message::Followed { epoch, vector: at, .. } => {
            format!("knows the move of {epoch}, has {}", vector(at))
        }
        Message::Roll(entries) => {
            let each: Vec<String> = entries.iter().map(|e| e.origin.0.to_string()).collect();
            format!("retired are {}", each.join(" "))
        }
        Message::Trimmed(_) => "trimmed".to_owned(),
        Message::Unknown { operations, .. } => format!("unknown: {} operations", operations.len()),
        Message::Rewritten { dots, .. } => format!("written again: {} operations", dots.len()),
        Message::Ping { .. } => "ping".to_owned(),
        Message::Pong { .. } => "pong".to_owned(),
        Message::Who => "who are you?".to_owned(),
    }
}

impl Script {
    fn released(&mut self, number: u8, released: &Released) {
        for (_, reply) in &released.replies {
            if let Reply::Read(Ok(image)) = reply {
                let shown = image.view(Kind::Sets, self.group.now);
                writeln!(self.out, "{number} shows: {shown:?}").unwrap();
            }
            let Reply::Written(written) = reply else { continue };
            let answer = match &written[0] {
                Ok(Written { replayed: true, .. }) => "done before".to_owned(),
                Ok(_) => "done".to_owned(),
                Err(refusal) => format!("refused: {refusal}"),
            };
            writeln!(self.out, "{number} answers: {answer}").unwrap();
        }
        for (_, epoch) in &released.caught_up {
            writeln!(self.out, "{number} has caught up at {epoch}").unwrap();
        }
        for (peer, why) in &released.rejects {
            writeln!(self.out, "{number} rejects {}: {why}", peer.0[0]).unwrap();
        }
        self.frames();
    }

    /// Tells the frames that are new under way.
    fn frames(&mut self) {
        let fresh = self.group.wire.split_off(self.seen.min(self.group.wire.len()));
        for (from, to, frame) in fresh {
            let message = Message::decode(&frame).unwrap();
            writeln!(self.out, "{from} -> {to} {}", text(&message)).unwrap();
            self.group.wire.push((from, to, frame));
        }
        self.seen = self.group.wire.len();
    }

    fn wait(&mut self, ms: u64, tell: bool) {
        let end = self.group.now + ms;
        while self.group.now < end {
            self.group.now += 100;
            for number in self.group.nodes.keys().copied().collect::<Vec<_>>() {
                if self.group.nodes[&number].core.deadline() <= self.group.now {
                    self.event(number, Event::Tick, tell);
                }
            }
            while let Some((from, to, _)) = self.group.wire.first().cloned() {
                self.deliver(from, to, tell);
            }
        }
    }

    fn deliver(&mut self, from: u8, to: u8, tell: bool) {
        for frame in self.group.take(from, to) {
            self.seen = self.group.wire.len();
            self.event(to, Event::Received(node_id(from), frame), tell);
        }
    }

    fn event(&mut self, number: u8, event: Event, tell: bool) {
        let released = self.group.run(number, vec![event]);
        if tell {
            self.released(number, &released);
        } else {
            self.seen = self.group.wire.len();
        }
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let node = |at: usize| words[at].parse::<u8>().unwrap();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "small-logs" => {
                self.group.options.log_soft_bytes = 50;
                self.group.options.log_hard_bytes = 100;
                self.group.options.checkpoint_bytes = 50;
            }
            "start" => {
                self.group.start(node(1), words[2], number(3));
                self.frames();
            }
            "connect" => {
                let (one, other) = (node(1), node(2));
                self.event(one, Event::Connected(node_id(other)), true);
                self.event(other, Event::Connected(node_id(one)), true);
            }
            "disconnect" => {
                self.group.disconnect(node(1), node(2));
                self.seen = self.group.wire.len();
            }
            "write" => {
                let command = if words[3] == "add" { add(words[4]) } else { remove(words[4]) };
                let at = key(Kind::Sets, words[2]);
                let asked = match words.get(5) {
                    Some(hash) => keyed(&at, command, hash.parse().unwrap()),
                    None => change(&at, command),
                };
                self.event(node(1), Event::Write(1, vec![asked], Demand::default()), true);
            }
            "write-at" | "read-at" => self.event(node(1), at_level(&words), true),
            "deliver" => self.deliver(node(1), node(2), true),
            "drop" => {
                self.group.take(node(1), node(2));
                self.seen = self.group.wire.len();
            }
            "record" => {
                let set = |at: usize| words.get(at).map(|set| numbers(set)).unwrap_or_default();
                let next = words.get(5).map(|set| numbers(set));
                let record = record(words[2], number(3), &set(4), next.as_deref());
                self.event(node(1), Event::Placed(Box::new(record)), true);
            }
            "forge" => self.forge(&words),
            "wait" => self.wait(number(1), true),
            "quiet" => self.wait(number(1), false),
            "damage" => {
                let memory = self.group.nodes[&node(1)].memory.clone();
                for record in common::entity_records(&memory) {
                    assert!(memory.corrupt(&record, 100));
                }
            }
            "snapshot" => {
                let snapshot = self.group.nodes[&node(1)].memory.snapshot();
                self.snapshots.insert(node(1), snapshot);
            }
            "restore" => {
                self.group.nodes[&node(1)].memory.restore(&self.snapshots[&node(1)]);
            }
            "stop" => self.event(node(1), Event::Stop, true),
            other => panic!("no such word: {other}"),
        }
    }

    /// An operation of an origin that is no node's: forged, both nodes may get another one.
    fn forge(&mut self, words: &[&str]) {
        let dot = |sequence: &str| Dot { origin: Origin(99), sequence: sequence.parse().unwrap() };
        let path = Path { field: None, leaf: Leaf::Member(value(words[5])) };
        let mut effect = Effect::default();
        match words[4] {
            "add" => effect.adds.push((path, Payload::Unit)),
            _ => effect.removes.push((path, vec![dot(words[6])])),
        }
        let parts = vec![Part { key: key(Kind::Sets, words[2]), hash: None, effect }];
        let operation = Operation { dot: dot(words[3]), stamp: Hlc(1), parts };
        let to: u8 = words[1].parse().unwrap();
        let shard = self.group.nodes[&to].core.engine().shard_of(&operation.parts[0].key);
        let batches = vec![(shard, vec![operation.encode()])];
        let message = Message::Operations { relay: false, answer: false, batches };
        let from = *self.group.nodes.keys().find(|number| **number != to).unwrap();
        self.event(to, Event::Received(node_id(from), message.encode()), true);
    }

    /// What each node holds at the end.
    fn end(&mut self) {
        for number in self.group.nodes.keys().copied().collect::<Vec<_>>() {
            let now = self.group.now;
            let node = self.group.nodes.get_mut(&number).unwrap();
            let shown = match node.image(now, &key(Kind::Sets, "a")) {
                None => "damaged".to_owned(),
                Some(image) => match image.view(Kind::Sets, now) {
                    Some(View::Set(members)) => format!("{:?}", members),
                    _ => "absent".to_owned(),
                },
            };
            let shard = node.core.engine().shards().next();
            let at = shard.map(|shard| vector(&node.core.engine().vector(shard)));
            writeln!(self.out, "{number} holds {shown} at {}", at.unwrap_or_default()).unwrap();
        }
    }
}

fn numbers(set: &str) -> Vec<u8> {
    set.split(',').map(|number| number.parse().unwrap()).collect()
}

/// A write or a read at a level.
fn at_level(words: &[&str]) -> Event {
    let demand = Demand { level: Level::parse(words[2]).unwrap(), timeout_ms: 2_000 };
    let at = key(Kind::Sets, words[3]);
    match words.get(4) {
        Some(member) => Event::Write(1, vec![change(&at, add(member))], demand),
        None => Event::Read(1, at, demand),
    }
}

/// Each line of a script with what came out of it, and the end.
fn play(input: &str) -> String {
    let (snapshots, out) = (BTreeMap::new(), String::new());
    let mut script = Script { group: Group::new(), snapshots, seen: 0, out };
    for line in input.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        writeln!(script.out, "> {line}").unwrap();
        script.run(line);
    }
    writeln!(script.out, "> end").unwrap();
    script.end();
    script.out
}

#[test]
fn scripts_play_as_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "{paths:?}");
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        let input = script.split("---\n").next().unwrap();
        let played = format!("{input}---\n{}", play(input));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, played).unwrap();
        } else {
            assert!(script == played, "{}:\n{played}", path.display());
        }
    }
}
