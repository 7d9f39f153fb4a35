//! A little Maelstrom: real processes of `maelstrom-node`, and a network between them that
//! delays, reorders, loses and is cut, by a seed. What they answer is judged as any history.
//!
//! Invariants: every wait ends by a condition or by a deadline that fails the test; processes end
//! when their input does.
//!
//! Left out: the same interleaving for a seed. Real processes answer when they do; the seed fixes
//! what is asked, what is lost and who is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use jepsen::checkers::{FINAL_READ, Verdict, pn_counter, set};
use jepsen::history::{History, Op, Process, Recorder, Type};
use jepsen::maelstrom::{Code, Message};
use jepsen::random::Random;
use jepsen::wait::until;
use serde_json::{Value, json};

/// Operations of a run; the network is cut from a quarter to three quarters of them.
const OPERATIONS: u64 = 240;
/// Between operations, for the network to run.
const PAUSE: Duration = Duration::from_millis(5);
/// What never takes so long.
const DEADLINE: Duration = Duration::from_secs(60);
/// The longest delay of a message between nodes.
const DELAY_MAX_MS: u64 = 20;

/// A process, ended by closing its input, or by its handle if a test fails.
struct Node {
    child: Child,
    input: Option<ChildStdin>,
}

impl Node {
    fn start(name: &str, lines: Sender<String>) -> Node {
        let mut child = Command::new(env!("CARGO_BIN_EXE_maelstrom-node"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        let output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        std::thread::spawn(move || {
            let whole = output.lines().map_while(Result::ok);
            whole.for_each(|line| drop(lines.send(line)));
        });
        let input = child.stdin.take();
        Node { child, input }
    }

    fn end(mut self) {
        drop(self.input.take());
        let status = until(DEADLINE, || self.child.try_wait().expect("it was not awaited before"));
        assert!(status.is_some_and(|status| status.success()), "ended with {status:?}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes, and what is under way between them.
struct Network {
    random: Random,
    nodes: BTreeMap<String, Node>,
    lines: Receiver<String>,
    due: BTreeMap<(Instant, u64), Message>,
    sent: u64,
    lossy: bool,
    /// One side of a partition.
    cut: BTreeSet<String>,
    /// Messages that were lost by chance, and at the cut.
    lost: (u64, u64),
}

impl Network {
    fn start(mut random: Random) -> Network {
        let (sender, lines) = channel();
        let names: Vec<String> = (1..=random.between(3, 5)).map(|n| format!("n{n}")).collect();
        let start = |name: &String| (name.clone(), Node::start(name, sender.clone()));
        let nodes = names.iter().map(start).collect();
        let (due, cut) = (BTreeMap::new(), BTreeSet::new());
        let mut network =
            Network { random, nodes, lines, due, sent: 0, lossy: true, cut, lost: (0, 0) };
        for name in &names {
            let body =
                json!({"type": "init", "msg_id": 0, "node_id": name, "node_ids": names.clone()});
            network.deliver(&Message { src: "c0".into(), dest: name.clone(), body });
        }
        for _ in &names {
            assert_eq!(network.answer().kind(), "init_ok");
        }
        network
    }

    /// Writes a message into its destination's input.
    fn deliver(&mut self, message: &Message) {
        let node = self.nodes.get_mut(&message.dest).expect("nodes write to nodes of the test");
        let line = serde_json::to_string(message).expect("a message has only string keys") + "\n";
        let input = node.input.as_mut().expect("open until the end");
        input.write_all(line.as_bytes()).unwrap_or_else(|e| panic!("{} ended: {e}", message.dest));
    }

    /// A node's message: to a client it goes at once; to a node it takes time, or is lost.
    fn route(&mut self, message: Message) -> Option<Message> {
        if !self.nodes.contains_key(&message.dest) {
            return Some(message);
        }
        self.sent += 1;
        if self.cut.contains(&message.src) != self.cut.contains(&message.dest) {
            self.lost.1 += 1;
        } else if self.lossy && self.random.one_in(8) {
            self.lost.0 += 1;
        } else {
            let delay = Duration::from_millis(self.random.between(0, DELAY_MAX_MS));
            self.due.insert((Instant::now() + delay, self.sent), message);
        }
        None
    }

    /// Runs the network until a client has a message, or until `end`.
    fn run(&mut self, end: Instant) -> Option<Message> {
        loop {
            let now = Instant::now();
            while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
                let message = entry.remove();
                self.deliver(&message);
            }
            let next = self.due.first_key_value().map_or(end, |((at, _), _)| (*at).min(end));
            match self.lines.recv_timeout(next.saturating_duration_since(now)) {
                Ok(line) => {
                    let message = serde_json::from_str(&line);
                    let message = message.unwrap_or_else(|e| panic!("{line} is no message: {e}"));
                    if let Some(answer) = self.route(message) {
                        return Some(answer);
                    }
                }
                Err(_) if now >= end => return None,
                Err(_) => {}
            }
        }
    }

    /// The next message to a client; it must come.
    fn answer(&mut self) -> Message {
        self.run(Instant::now() + DEADLINE).expect("a node that is asked answers")
    }

    fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }
}

/// A workload of Maelstrom, as our judges see it.
struct Workload {
    /// The body of a write.
    write: fn(&Value) -> Value,
    /// The field of a read's answer.
    shown: &'static str,
    /// What is written, from the number of the write.
    value: fn(&mut Random, u64) -> i64,
    judge: fn(&History) -> Verdict,
}

/// Clients, each bound to a node.
struct Run {
    workload: Workload,
    network: Network,
    recorder: Recorder,
    start: Instant,
    /// Requests under way by number: client, function, value, node.
    open: BTreeMap<u64, (u64, &'static str, Value, String)>,
    requests: u64,
}

impl Run {
    fn start(workload: Workload, seed: u64) -> Run {
        let network = Network::start(Random::new(seed));
        let (recorder, start) = (Recorder::default(), Instant::now());
        Run { workload, network, recorder, start, open: BTreeMap::new(), requests: 0 }
    }

    fn time(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn ask(&mut self, node: &str, mut body: Value) -> u64 {
        self.requests += 1;
        body["msg_id"] = self.requests.into();
        let (src, dest) = ("c1".into(), node.to_owned());
        self.network.deliver(&Message { src, dest, body });
        self.requests
    }

    /// A client does something; now and then its request or its answer is lost.
    fn operate(&mut self, number: u64, names: &[String]) {
        let random = &mut self.network.random;
        let client = random.below(names.len() * 2) as u64;
        let reads = random.one_in(3);
        let (lost_request, lost_answer) = (random.one_in(16), random.one_in(16));
        let by = (self.workload.value)(random, number);
        while self.open.values().any(|(busy, ..)| *busy == client) {
            let answer = self.network.answer();
            self.take(&answer);
        }
        let node = names[client as usize % names.len()].clone();
        let (f, value) = if reads { ("read", Value::Null) } else { ("add", json!(by)) };
        self.recorder.invoke(self.time(), client, f, value.clone(), Some(&node));
        let body = if reads { json!({"type": "read"}) } else { (self.workload.write)(&value) };
        if lost_request {
            let lost = Some(json!("request lost"));
            return self.end(client, Type::Info, f, value, lost, &node);
        }
        let request = self.ask(&node, body);
        if lost_answer {
            let lost = Some(json!("answer lost"));
            return self.end(client, Type::Info, f, value, lost, &node);
        }
        self.open.insert(request, (client, f, value, node));
    }

    fn end(
        &mut self,
        client: u64,
        kind: Type,
        f: &str,
        value: Value,
        error: Option<Value>,
        node: &str,
    ) {
        self.recorder.end(self.time(), client, kind, f, value, error, Some(node));
    }

    /// A node's answer; one to a request whose answer counts as lost is dropped.
    fn take(&mut self, answer: &Message) {
        let request = answer.body["in_reply_to"].as_u64().expect("answers say to what");
        let Some((client, f, value, node)) = self.open.remove(&request) else { return };
        if answer.kind() == "error" {
            let definite = answer.body["code"].as_u64().is_some_and(Code::is_definite);
            let kind = if definite { Type::Fail } else { Type::Info };
            return self.end(client, kind, f, value, Some(answer.body.clone()), &node);
        }
        let read = f == "read";
        let value = if read { answer.body[self.workload.shown].clone() } else { value };
        self.end(client, Type::Ok, f, value, None, &node);
    }

    /// Operations under loss and a partition; then what is under way is awaited.
    fn disturb(&mut self) {
        let names = self.network.names();
        for number in 0..OPERATIONS {
            if number == OPERATIONS / 4 {
                let mut shuffled = names.clone();
                self.network.random.shuffle(&mut shuffled);
                self.network.cut = shuffled.into_iter().take(names.len() / 2).collect();
                let cut: Vec<&String> = self.network.cut.iter().collect();
                let value = json!({"phase": "begin", "nodes": cut});
                self.recorder.nemesis(self.time(), "partition", value);
            }
            if number == OPERATIONS * 3 / 4 {
                self.network.cut.clear();
                self.recorder.nemesis(self.time(), "partition", json!({"phase": "end"}));
            }
            self.operate(number, &names);
            let end = Instant::now() + PAUSE;
            while let Some(answer) = self.network.run(end) {
                self.take(&answer);
            }
        }
        while !self.open.is_empty() {
            let answer = self.network.answer();
            self.take(&answer);
        }
        self.network.lossy = false;
        self.recorder.nemesis(self.time(), "healed", Value::Null);
    }

    /// What every node shows now.
    fn reads(&mut self) -> BTreeMap<String, Value> {
        let names = self.network.names();
        let asked: BTreeMap<u64, String> = names
            .into_iter()
            .map(|name| (self.ask(&name, json!({"type": "read"})), name))
            .collect();
        let mut shown = BTreeMap::new();
        while shown.len() < asked.len() {
            let answer = self.network.answer();
            let request = answer.body["in_reply_to"].as_u64().expect("answers say to what");
            if let Some(name) = asked.get(&request) {
                shown.insert(name.clone(), answer.body[self.workload.shown].clone());
            }
        }
        shown
    }

    /// The history with these as the final reads.
    fn finished(&self, shown: &BTreeMap<String, Value>) -> History {
        let mut ops = self.recorder.history().ops().to_vec();
        let time = self.time();
        for (client, (node, value)) in (1_000_000..).zip(shown) {
            for (kind, value) in [(Type::Invoke, Value::Null), (Type::Ok, value.clone())] {
                let (index, process) = (ops.len() as u64, Process::Client(client));
                let (f, node) = (FINAL_READ.to_owned(), Some(node.clone()));
                ops.push(Op { index, time, process, kind, f, value, error: None, node });
            }
        }
        History::new(ops).expect("new clients begin and end one read each")
    }

    /// Lets the nodes talk until what they show is good, and judges what they show then.
    fn settle(&mut self) -> Verdict {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let shown = self.reads();
            let good = (self.workload.judge)(&self.finished(&shown)).is_good();
            if good || Instant::now() > deadline {
                break;
            }
            let next = Instant::now() + PAUSE * 10;
            while self.network.run(next).is_some() {}
        }
        let shown = self.reads();
        (self.workload.judge)(&self.finished(&shown))
    }
}

/// Runs a workload through loss and a partition; in the end all is there, everywhere.
fn check(workload: Workload, seed: u64) {
    let mut run = Run::start(workload, seed);
    run.disturb();
    let verdict = run.settle();
    assert!(verdict.is_good(), "seed {seed}: {:#?}", verdict.violations);
    let (by_chance, at_the_cut) = run.network.lost;
    assert!(by_chance > 0 && at_the_cut > 0, "seed {seed}: nothing was lost");
    assert!(verdict.judged > 20, "seed {seed}: {} operations judged", verdict.judged);
    for node in std::mem::take(&mut run.network.nodes).into_values() {
        node.end();
    }
}

#[test]
fn broadcast() {
    let write = |value: &Value| json!({"type": "broadcast", "message": value});
    let value = |_: &mut Random, number| number as i64;
    check(Workload { write, shown: "messages", value, judge: set::check }, 1);
}

#[test]
fn g_set() {
    let write = |value: &Value| json!({"type": "add", "element": value});
    let value = |_: &mut Random, number| number as i64;
    check(Workload { write, shown: "value", value, judge: set::check }, 2);
}

#[test]
fn g_counter() {
    let write = |value: &Value| json!({"type": "add", "delta": value});
    let value = |random: &mut Random, _| random.between(0, 9) as i64;
    check(Workload { write, shown: "value", value, judge: pn_counter::check }, 3);
}

#[test]
fn pn_counter() {
    let write = |value: &Value| json!({"type": "add", "delta": value});
    let value = |random: &mut Random, _| random.between(0, 18) as i64 - 9;
    check(Workload { write, shown: "value", value, judge: pn_counter::check }, 4);
}
