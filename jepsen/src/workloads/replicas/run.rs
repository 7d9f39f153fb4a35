//! Runs of a workload against the replicas, with clients that overlap and answers that get lost.

use serde_json::Value;

use super::{Bug, Cluster};
use crate::history::{History, Recorder, Type};
use crate::random::Random;
use crate::workloads::{Answer, Invocation, Request, Step, Workload, find};

/// How a run goes.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) clients: u64,
    /// Whether requests are refused, and answers lost.
    pub(super) faults: bool,
    pub(super) bug: Option<Bug>,
}

/// One client, one operation at a time.
pub(super) const ALONE: Plan = Plan { nodes: 1, clients: 1, faults: false, bug: None };
/// Clients at three nodes, with faults.
pub(super) const MANY: Plan = Plan { nodes: 3, clients: 7, faults: true, bug: None };

/// Turns of clients and of deliveries in a run.
const TURNS: usize = 600;

struct Run {
    workload: Box<dyn Workload>,
    cluster: Cluster,
    recorder: Recorder,
    random: Random,
    plan: Plan,
    /// By client: what it is in, with the answers so far.
    open: Vec<Option<(Invocation, Vec<Answer>)>>,
    /// Requests that take effect after their client gave up.
    late: Vec<(usize, Request)>,
    turn: u64,
}

/// The workload and the history of a run.
pub(super) fn run(name: &str, seed: u64, plan: Plan) -> (Box<dyn Workload>, History) {
    let make = find(name).expect("the workload is listed");
    let mut run = Run {
        workload: make(plan.nodes),
        cluster: Cluster::new(plan.nodes, plan.bug),
        recorder: Recorder::default(),
        random: Random::new(seed),
        plan,
        open: vec![None; plan.clients as usize],
        late: Vec::new(),
        turn: 0,
    };
    for _ in 0..TURNS {
        run.turn();
    }
    run.finish();
    (run.workload, run.recorder.history())
}

fn name(node: usize) -> String {
    format!("r{node}-1")
}

impl Run {
    fn turn(&mut self) {
        self.turn += 1;
        let client = self.random.below(self.open.len());
        self.act(client, false);
        let (to, from) = (self.random.below(self.plan.nodes), self.random.below(self.plan.nodes));
        if self.random.one_in(3) {
            self.cluster.deliver(&mut self.random, to, from);
        }
        if !self.late.is_empty() && self.random.one_in(10) {
            let (node, request) = self.late.remove(0);
            self.cluster.ask(&mut self.random, node, &request);
        }
    }

    /// A client begins an operation, asks, or ends one.
    fn act(&mut self, client: usize, only_open: bool) {
        let node = client % self.plan.nodes;
        let Some((invocation, mut answers)) = self.open[client].take() else {
            if !only_open {
                let process = self.recorder.process(client as u64);
                let invocation = self.workload.next(&mut self.random, process);
                self.begin(client, node, invocation);
            }
            return;
        };
        let process = self.recorder.process(client as u64);
        let (kind, value) = match self.workload.step(process, &invocation, &answers) {
            Step::Ask(_, request) => {
                answers.push(self.ask(node, request));
                self.open[client] = Some((invocation, answers));
                return;
            }
            Step::Ok(value) => (Type::Ok, value),
            Step::Fail(_) => (Type::Fail, invocation.value.clone()),
            Step::Info(_) => (Type::Info, invocation.value.clone()),
        };
        self.end(client, node, kind, invocation.f, value);
    }

    fn begin(&mut self, client: usize, node: usize, invocation: Invocation) {
        let (f, value) = (invocation.f, invocation.value.clone());
        self.recorder.invoke(self.turn, client as u64, f, value, Some(&name(node)));
        self.open[client] = Some((invocation, Vec::new()));
    }

    fn end(&mut self, client: usize, node: usize, kind: Type, f: &str, value: Value) {
        let node = name(node);
        self.recorder.end(self.turn, client as u64, kind, f, value, None, Some(&node));
    }

    fn ask(&mut self, node: usize, request: Request) -> Answer {
        let fate = if self.plan.faults { self.random.below(20) } else { 20 };
        match fate {
            0 => Answer::Refused("overloaded".into()),
            1 => Answer::Lost("never arrived".into()),
            2 => {
                self.cluster.ask(&mut self.random, node, &request);
                Answer::Lost("the answer never arrived".into())
            }
            3 => {
                self.late.push((node, request));
                Answer::Lost("timeout".into())
            }
            _ => self.cluster.ask(&mut self.random, node, &request),
        }
    }

    /// All that is under way arrives, and every node is read.
    fn finish(&mut self) {
        self.plan.faults = false;
        for (node, request) in std::mem::take(&mut self.late) {
            self.cluster.ask(&mut self.random, node, &request);
        }
        for client in 0..self.open.len() {
            while self.open[client].is_some() {
                self.act(client, true);
            }
        }
        self.settle();
        for node in 0..self.plan.nodes {
            for invocation in self.workload.finals() {
                self.begin(node, node, invocation);
                while self.open[node].is_some() {
                    self.act(node, true);
                }
            }
        }
    }

    fn settle(&mut self) {
        let nodes = self.plan.nodes;
        let pairs: Vec<(usize, usize)> =
            (0..nodes).flat_map(|to| (0..nodes).map(move |from| (to, from))).collect();
        loop {
            let mut moved = false;
            for (to, from) in &pairs {
                moved |= self.cluster.deliver(&mut self.random, *to, *from);
            }
            if !moved {
                return;
            }
        }
    }
}
