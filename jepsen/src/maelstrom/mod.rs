//! A node for Maelstrom: its test networks drive our replication core.
//!
//! Maelstrom starts a process for each node and gives it one JSON message a line; what the node
//! writes, Maelstrom carries, drops and delays. The core is the one that real nodes run, with a
//! store in memory; the frames between cores travel as messages of a type of our own.
//!
//! Invariants:
//! 1. Only messages are written to standard output; everything else goes to standard error.
//! 2. The process ends when its input does, and at no other time but for a failure.
//!
//! Left out: `lin-kv`, `unique-ids`, `kafka`, `txn-list-append`, which need owned entities; and
//! crashes, which Maelstrom does not make: memory is a disk that never loses power.

mod node;
mod protocol;
mod replica;
mod workload;

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use atoll_store::dot::Millis;

pub use node::Node;
pub use protocol::{Code, Message};

/// Lines that are read ahead.
const LINES_AHEAD: usize = 1_024;

/// The wall clock at the start, and from then on time that only passes.
struct Clock {
    start: Instant,
    wall: Millis,
}

impl Clock {
    fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |since| since.as_millis() as Millis);
        Clock { start: Instant::now(), wall }
    }

    fn now(&self) -> Millis {
        self.wall + self.start.elapsed().as_millis() as Millis
    }
}

/// Runs a node on standard input and output until the input ends.
pub fn main() -> Result<()> {
    let (sender, lines) = sync_channel(LINES_AHEAD);
    std::thread::spawn(move || read_lines(&sender));
    run(&lines, &mut std::io::stdout().lock())
}

/// Hands on what comes in, until it ends or nobody listens.
fn read_lines(sender: &SyncSender<Result<String>>) {
    for line in std::io::stdin().lock().lines() {
        if sender.send(line.context("reading standard input")).is_err() {
            return;
        }
    }
}

fn run(lines: &Receiver<Result<String>>, out: &mut impl Write) -> Result<()> {
    let clock = Clock::start();
    let mut node: Option<Node> = None;
    loop {
        let due = node.as_ref().map_or(1_000, |node| node.deadline().saturating_sub(clock.now()));
        let messages = match lines.recv_timeout(Duration::from_millis(due)) {
            Ok(line) => take(&mut node, &line?, clock.now())?,
            Err(RecvTimeoutError::Timeout) => match &mut node {
                Some(node) => node.tick(clock.now())?,
                None => Vec::new(),
            },
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        for message in &messages {
            writeln!(out, "{}", serde_json::to_string(message)?).context("writing a message")?;
        }
        out.flush().context("writing a message")?;
    }
}

/// One line. A node that hears anything before `init` does not know who it is, and waits.
fn take(node: &mut Option<Node>, line: &str, now: Millis) -> Result<Vec<Message>> {
    let message: Message =
        serde_json::from_str(line).with_context(|| format!("no message: {line}"))?;
    match node {
        Some(node) => node.receive(now, &message),
        None if message.kind() == "init" => {
            let origin = getrandom::u64().context("drawing an origin")?;
            let (made, first) = Node::init(&message, origin, now)?;
            *node = Some(made);
            Ok(first)
        }
        None => Ok(Vec::new()),
    }
}
