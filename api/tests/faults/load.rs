//! Writers that remember what was acknowledged, and a check that all of it is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jepsen::http::Client;
use jepsen::wait::until;
use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, REQUEST};

/// Members of a set before the next one is begun: sets are read whole to be checked.
const MEMBERS: usize = 100;
/// How long a writer waits for a node that is down before it looks again.
const PAUSE: Duration = Duration::from_millis(200);

/// What one writer had acknowledged, by entity: members, and increments tried and acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    members: BTreeMap<String, Vec<usize>>,
    counted: u64,
    tried: u64,
}

/// A writer of one node; several share a load.
pub(crate) struct Writer {
    name: String,
    address: SocketAddr,
    ledger: Mutex<Ledger>,
    acknowledged: AtomicUsize,
}

/// All writers, and whether they go on.
pub(crate) struct Load {
    pub(crate) writers: Vec<Writer>,
    over: AtomicBool,
}

impl Load {
    /// `count` writers for each node.
    pub(crate) fn of(nodes: &[Node], count: usize) -> Load {
        let writers = nodes.iter().flat_map(|node| {
            (0..count).map(|number| Writer {
                name: format!("{}-{number}", node.name),
                address: node.address(),
                ledger: Mutex::default(),
                acknowledged: AtomicUsize::new(0),
            })
        });
        Load { writers: writers.collect(), over: AtomicBool::new(false) }
    }

    /// Writes until `faults` is done; its result.
    pub(crate) fn during<T>(&self, faults: impl FnOnce() -> Result<T>) -> Result<T> {
        std::thread::scope(|scope| {
            for writer in &self.writers {
                scope.spawn(|| writer.run(&self.over));
            }
            let result = faults();
            self.over.store(true, Ordering::SeqCst);
            result
        })
    }

    /// Waits until each writer of a node has this many more acknowledged.
    pub(crate) fn advance(&self, node: &str, more: usize) -> Result<()> {
        for writer in self.of_node(node) {
            let goal = writer.acknowledged.load(Ordering::SeqCst) + more;
            let reached = || (writer.acknowledged.load(Ordering::SeqCst) >= goal).then_some(());
            until(PATIENCE, reached).with_context(|| format!("{} stands still", writer.name))?;
        }
        Ok(())
    }

    /// What the writers of a node have had acknowledged so far.
    pub(crate) fn ledgers(&self, node: &str) -> Vec<(String, Ledger)> {
        let copy = |writer: &Writer| (writer.name.clone(), lock(&writer.ledger).clone());
        self.of_node(node).map(copy).collect()
    }

    fn of_node(&self, node: &str) -> impl Iterator<Item = &Writer> {
        self.writers.iter().filter(move |writer| writer.name.starts_with(node))
    }

    /// Checks a node against everything that was acknowledged anywhere, exactly.
    pub(crate) fn check(&self, node: &Node) -> Result<()> {
        for writer in &self.writers {
            let ledger = lock(&writer.ledger);
            let counted = check(node, &writer.name, &ledger)?;
            ensure!(counted <= ledger.tried, "{}: {counted} of {}", writer.name, ledger.tried);
        }
        Ok(())
    }
}

fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().expect("no writer panics while it holds this")
}

impl Writer {
    fn run(&self, over: &AtomicBool) {
        let mut client = Client::new(self.address, REQUEST);
        let mut number = 0;
        while !over.load(Ordering::SeqCst) {
            let set = format!("{}-{}", self.name, number / MEMBERS);
            let added = self.send(&mut client, "sets", &set, &json!({"add": [number]}));
            lock(&self.ledger).tried += 1;
            let counted = self.send(&mut client, "counters", &self.name, &json!({"increment": 1}));
            let mut ledger = lock(&self.ledger);
            ledger.counted += u64::from(counted);
            if added {
                ledger.members.entry(set).or_default().push(number);
            }
            drop(ledger);
            if added && counted {
                self.acknowledged.fetch_add(1, Ordering::SeqCst);
            } else {
                let up = || client.fetch("/readyz").ok().filter(|answer| answer.status == 200);
                let _ = until(PAUSE, up);
            }
            number += 1;
        }
    }

    fn send(&self, client: &mut Client, kind: &str, id: &str, body: &Value) -> bool {
        let path = format!("/v1/{kind}/load/{id}");
        let headers = [("content-type", "application/json")];
        let answer = client.send("POST", &path, &headers, body.to_string().as_bytes());
        answer.is_ok_and(|answer| answer.status == 200)
    }
}

/// Everything of a ledger is at the node, and maybe more; the value of the writer's counter.
pub(crate) fn check(node: &Node, writer: &str, ledger: &Ledger) -> Result<u64> {
    for (set, acknowledged) in &ledger.members {
        let path = format!("/v1/sets/load/{set}");
        let body = node.get(&path)?;
        let members = body["value"].as_array().context("no set")?;
        for member in acknowledged {
            let there = members.contains(&Value::from(*member));
            ensure!(there, "{}: {path} lost acknowledged {member}: {body}", node.name);
        }
    }
    if ledger.counted == 0 {
        return Ok(0);
    }
    let path = format!("/v1/counters/load/{writer}");
    let value = node.get(&path)?["value"].as_u64().context("no counter")?;
    let counted = ledger.counted;
    ensure!(value >= counted, "{}: {path}: {value} of {counted} acknowledged", node.name);
    Ok(value)
}
