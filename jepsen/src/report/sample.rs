//! A run that never was, for tests and for the eye: drawn from a seed, with faults and violations.
//!
//! `ATOLL_REPORT_SAMPLE=DIR cargo test -p jepsen report` leaves its folder in `DIR`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Run;
use crate::checkers::Verdict;
use crate::history::{Recorder, Type};
use crate::random::Random;

const NODES: [&str; 5] = ["eu-1", "eu-2", "us-1", "us-2", "ap-1"];
const MS: u64 = 1_000_000;

/// Windows of faults as shares of the run: name, nodes, from, to, in percent.
const FAULTS: [(&str, &[&str], u64, u64); 7] = [
    ("partition-region", &["ap-1"], 8, 20),
    ("kill", &["eu-1"], 15, 19),
    ("slow", &["eu-1", "us-1"], 26, 38),
    ("pause", &["us-2"], 30, 40),
    ("kill", &["us-1"], 46, 50),
    ("kill", &["eu-2"], 48, 53),
    ("partition-halves", &["eu-1", "eu-2"], 58, 76),
];

/// What happens, in the order of its time.
enum Event {
    Begin { client: u64 },
    End { client: u64, kind: Type, f: &'static str, value: Value, error: Option<&'static str> },
    Nemesis { f: &'static str, value: Value },
}

struct Sample {
    random: Random,
    /// By time and the order of being planned.
    events: BTreeMap<(u64, u64), Event>,
    planned: u64,
    span: u64,
}

impl Sample {
    fn plan(&mut self, time: u64, event: Event) {
        self.planned += 1;
        self.events.insert((time, self.planned), event);
    }

    fn is_down(&self, node: &str, time: u64) -> bool {
        let percent = time * 100 / self.span;
        let down = |f: &str| f == "kill" || f == "pause";
        FAULTS.iter().any(|(f, nodes, from, to)| {
            down(f) && nodes.contains(&node) && (*from..*to).contains(&percent)
        })
    }

    fn latency(&mut self, f: &str, time: u64) -> u64 {
        let percent = time * 100 / self.span;
        let base = if f == "add" { 900_000 } else { 260_000 };
        let mut latency = base + self.random.between(0, base);
        for (one_in, factor) in [(7, 2), (40, 6), (300, 20)] {
            latency *= if self.random.one_in(one_in) { factor } else { 1 };
        }
        if (26..38).contains(&percent) { latency * 3 } else { latency }
    }

    fn begin(&mut self, client: u64, time: u64) -> (&'static str, Value) {
        let node = NODES[client as usize % NODES.len()];
        let number = self.planned;
        let (f, value) = match self.random.one_in(3) {
            true => ("read", Value::Null),
            false => ("add", json!(number)),
        };
        let latency = self.latency(f, time);
        let read = || json!([number / 2, number]);
        let ok = if f == "read" { read() } else { value.clone() };
        let (kind, error, after) = match (self.is_down(node, time), self.random.below(3)) {
            (true, 0) => (Type::Info, Some("timed out after 5 s"), 5_000 * MS),
            (true, _) => (Type::Fail, Some("connection refused"), latency / 4),
            (false, _) if self.random.one_in(400) => (Type::Fail, Some("overloaded"), latency),
            (false, _) => (Type::Ok, None, latency),
        };
        let result = if kind == Type::Ok { ok } else { value.clone() };
        let end = Event::End { client, kind, f, value: result, error };
        self.plan(time + after, end);
        (f, value)
    }

    fn nemesis(&mut self) {
        for (f, nodes, from, to) in FAULTS {
            for (phase, percent) in [("begin", from), ("end", to)] {
                let value = json!({"phase": phase, "nodes": nodes});
                self.plan(self.span / 100 * percent, Event::Nemesis { f, value });
            }
        }
        let healed = Event::Nemesis { f: "healed", value: Value::Null };
        self.plan(self.span / 100 * 80, healed);
    }

    fn probes(&mut self, recorder: &mut Recorder, n: u64, time: u64) {
        let value = json!(["eu-1", n]);
        recorder.invoke(time, 1_000, "probe", value.clone(), Some("eu-1"));
        recorder.end(time, 1_000, Type::Ok, "probe", value, None, Some("eu-1"));
        for (at, far_ms) in [("eu-1", 1), ("us-1", 38), ("ap-1", 110)] {
            let late = if self.random.one_in(25) { 8 } else { 1 };
            let delay = (far_ms * MS + self.random.between(0, far_ms * MS / 2)) * late;
            let value = json!({"at": at, "of": "eu-1", "n": n});
            self.plan(time + delay, Event::Nemesis { f: "seen", value });
        }
    }
}

/// A run of about so many operations in 60 seconds.
pub(crate) fn run(seed: u64, operations: u64) -> Run {
    let random = Random::new(seed);
    let span = 60_000 * MS;
    let mut sample = Sample { random, events: BTreeMap::new(), planned: 0, span };
    let mut recorder = Recorder::default();
    let clients = (operations / 1_500).clamp(10, 60);
    sample.nemesis();
    for client in 0..clients {
        let time = sample.random.between(0, 20 * MS);
        sample.plan(time, Event::Begin { client });
    }
    let pause = span * clients / operations;
    let mut probed = 0;
    while let Some(((time, _), event)) = sample.events.pop_first() {
        if time > 200 * MS * (probed + 1) && time < span {
            probed += 1;
            sample.probes(&mut recorder, probed, time);
        }
        match event {
            Event::Begin { client } => {
                let node = Some(NODES[client as usize % NODES.len()]);
                let (f, value) = sample.begin(client, time);
                recorder.invoke(time, client, f, value, node);
            }
            Event::End { client, kind, f, value, error } => {
                let node = Some(NODES[client as usize % NODES.len()]);
                recorder.end(time, client, kind, f, value, error.map(Value::from), node);
                let next = time + sample.random.between(0, 2 * pause).max(1);
                if next < span {
                    sample.plan(next, Event::Begin { client });
                }
            }
            Event::Nemesis { f, value } => recorder.nemesis(time, f, value),
        }
    }
    finish(seed, recorder)
}

fn finish(seed: u64, recorder: Recorder) -> Run {
    let history = recorder.history();
    let ends = history.ops().iter().filter(|op| op.kind == Type::Ok && op.f == "add");
    let ends: Vec<u64> = ends.map(|op| op.index).collect();
    let violation = |share: usize| {
        let index = ends[ends.len() * share / 100];
        format!("operation {index}: {index} was acknowledged, and is lost")
    };
    let bad = Verdict {
        violations: [40, 41, 90].map(violation).to_vec(),
        judged: 412,
        ..Verdict::default()
    };
    let counted = [("p50_ms", 131.4), ("p95_ms", 170.25), ("p99_ms", 913.0), ("never seen", 0.0)];
    let counted = counted.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let good = Verdict { judged: 300, counted, ..Verdict::default() };
    let converged = Verdict { judged: 590, ..Verdict::default() };
    let options = [("rate", "350"), ("concurrency", "10"), ("time-limit", "60")];
    Run {
        workload: "g-set".into(),
        nemesis: ["kill", "pause", "slow", "partition-halves", "partition-region"]
            .map(str::to_owned)
            .to_vec(),
        seed,
        nodes: NODES.map(str::to_owned).to_vec(),
        options: options.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        started: None,
        history,
        verdicts: vec![
            ("stable-latency".into(), good),
            ("set".into(), bad),
            ("convergence".into(), converged),
        ],
    }
}
