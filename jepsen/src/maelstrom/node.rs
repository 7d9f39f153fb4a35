//! A node without its streams: messages and the time go in, messages come out.
//!
//! Invariants:
//! 1. A write is answered after its commit; a read shows what is committed here.
//! 2. Between nodes the network may drop, delay and reorder: connections are taken to be up from
//!    `init` on, and what is lost is asked for by the core when vectors are compared.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use atoll_replication::core::{Effects, Event, Identity, Reply, Ticket};
use atoll_replication::level::{Demand, Unmet};
use atoll_replication::transport::NodeId;
use atoll_store::command::{Change, Refusal};
use atoll_store::dot::{Millis, Origin};

use super::protocol::{Asked, Code, Message, Problem};
use super::replica::Replica;
use super::workload::{Workload, write};

/// The type of a message between nodes: a frame of the core, in base64.
const FRAME: &str = "atoll";
/// Nodes of a region, so that operations are also passed on inside regions.
const REGION_NODES: usize = 2;

/// A node, from `init` on.
pub struct Node {
    name: String,
    peers: BTreeMap<NodeId, String>,
    replica: Replica,
    pending: BTreeMap<Ticket, Asked>,
    reads: BTreeMap<Ticket, Read>,
    tickets: Ticket,
    workload: Option<Workload>,
}

/// A read: of one workload, or of whatever there is; the last one answers.
struct Read {
    workload: Workload,
    asked: Asked,
    last: bool,
}

impl Node {
    /// The node that an `init` message makes, and what it sends first. `origin` is random.
    pub fn init(request: &Message, origin: u64, now: Millis) -> Result<(Node, Vec<Message>)> {
        let name = request.body["node_id"].as_str().unwrap_or_default().to_owned();
        let all = request.body["node_ids"].as_array().map(Vec::as_slice).unwrap_or_default();
        let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
        let Some(place) = all.iter().position(|other| *other == name) else {
            bail!("init names no node_id among its node_ids: {}", request.body);
        };
        let peers: BTreeMap<NodeId, String> =
            all.iter().filter(|o| **o != name).map(|o| (id(o), (*o).to_owned())).collect();
        let identity = Identity {
            node: id(&name),
            name: name.clone(),
            region: format!("r{}", place / REGION_NODES),
            zone: String::new(),
            address: name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            origin: Origin(origin),
            seeds: peers.len(),
            council: false,
            disk: None,
        };
        let replica = Replica::start(identity, now)?;
        let (pending, reads) = (BTreeMap::new(), BTreeMap::new());
        let mut node = Node { name, peers, replica, pending, reads, tickets: 0, workload: None };
        let mut out = vec![Asked::by(request).answer(&node.name, Ok(json!({})))];
        let connected = node.peers.keys().map(|peer| Event::Connected(*peer)).collect();
        out.extend(node.step(now, connected)?);
        Ok((node, out))
    }

    /// When [`Node::tick`] is due.
    pub fn deadline(&self) -> Millis {
        self.replica.deadline()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) -> Result<Vec<Message>> {
        self.step(now, vec![Event::Tick])
    }

    /// Takes a message, and answers with what is to be sent.
    pub fn receive(&mut self, now: Millis, message: &Message) -> Result<Vec<Message>> {
        let asked = Asked::by(message);
        match message.kind() {
            FRAME => {
                let events = self.frame(message).into_iter().collect();
                self.step(now, events)
            }
            "topology" => {
                self.workload = Some(Workload::Broadcast);
                Ok(vec![asked.answer(&self.name, Ok(json!({})))])
            }
            "read" => {
                let events = self.read(&asked);
                self.step(now, events)
            }
            // Answers to a node that asks nothing are none of its business.
            _ if !message.body["in_reply_to"].is_null() => Ok(Vec::new()),
            _ => match write(message) {
                Ok((workload, command)) => {
                    self.workload = Some(workload);
                    let ticket = self.ticket();
                    self.pending.insert(ticket, asked);
                    let (key, commands) = (workload.key(), vec![command]);
                    let change = Change { key, commands, hash: None, ttl_ms: None };
                    self.step(now, vec![Event::Write(ticket, vec![change], Demand::default())])
                }
                Err(problem) => Ok(vec![asked.answer(&self.name, Err(problem))]),
            },
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    /// A peer's frame; what is none, or is from a stranger, is dropped as if it were lost.
    fn frame(&self, message: &Message) -> Option<Event> {
        let peer = id(&message.src);
        let frame = BASE64_STANDARD.decode(message.body["frame"].as_str()?).ok()?;
        self.peers.contains_key(&peer).then(|| Event::Received(peer, Bytes::from(frame)))
    }

    /// Loads the entity of the workload; of all of them, if it is not known yet.
    fn read(&mut self, asked: &Asked) -> Vec<Event> {
        let known = self.workload;
        let candidates = Workload::ALL.into_iter().filter(|one| known.is_none_or(|w| w == *one));
        let candidates: Vec<Workload> = candidates.collect();
        let mut events = Vec::new();
        for (place, workload) in candidates.iter().enumerate() {
            let ticket = self.ticket();
            let last = place + 1 == candidates.len();
            self.reads.insert(ticket, Read { workload: *workload, asked: asked.clone(), last });
            events.push(Event::Load(ticket, workload.key()));
        }
        events
    }

    fn step(&mut self, now: Millis, events: Vec<Event>) -> Result<Vec<Message>> {
        let Effects { sends, replies, rejects, .. } = self.replica.step(now, events)?;
        let mut out = Vec::new();
        for (to, _, frame) in sends {
            let Some(peer) = self.peers.get(&to) else { continue };
            let body = json!({"type": FRAME, "frame": BASE64_STANDARD.encode(&frame)});
            out.push(Message { src: self.name.clone(), dest: peer.clone(), body });
        }
        for (ticket, reply) in replies {
            out.extend(self.answer(now, ticket, reply));
        }
        match rejects.first() {
            Some((peer, why)) => bail!("{peer} broke the protocol: {why}"),
            None => Ok(out),
        }
    }

    fn answer(&mut self, now: Millis, ticket: Ticket, reply: Reply) -> Option<Message> {
        match reply {
            Reply::Written(written) => {
                let asked = self.pending.remove(&ticket)?;
                let refused = written.into_iter().find_map(Result::err);
                let result = refused.map_or(Ok(json!({})), |refusal| Err(unmet(refusal)));
                Some(asked.answer(&self.name, result))
            }
            Reply::Loaded(image) => {
                let Read { workload, asked, last } = self.reads.remove(&ticket)?;
                let view = match image {
                    Ok(image) => image.view(workload.kind(), now),
                    Err(_) => return Some(asked.answer(&self.name, Err(damaged()))),
                };
                if view.is_none() && self.workload.is_none() {
                    return last.then(|| asked.answer(&self.name, Err(nothing())));
                }
                let own = self.workload.get_or_insert(workload);
                (*own == workload).then(|| asked.answer(&self.name, workload.shown(view.as_ref())))
            }
            Reply::Digests(_) | Reply::Read(_) => None,
        }
    }
}

/// A node's id: the hash of its name.
fn id(name: &str) -> NodeId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
    NodeId(id)
}

fn nothing() -> Problem {
    let text = "nothing was written yet, so it is not known what is to be read";
    Problem::new(Code::TemporarilyUnavailable, text)
}

fn damaged() -> Problem {
    Problem::new(Code::TemporarilyUnavailable, "the state is damaged and waits for repair")
}

/// Nothing is asked of other nodes here: what is not refused is done.
fn unmet(unmet: Unmet) -> Problem {
    match unmet {
        Unmet::Refused(refusal) => problem(&refusal),
        other => Problem::new(Code::TemporarilyUnavailable, other.to_string()),
    }
}

fn problem(refusal: &Refusal) -> Problem {
    let code = match refusal {
        Refusal::Behind
        | Refusal::Elsewhere
        | Refusal::Quarantined
        | Refusal::ClockSkew { .. }
        | Refusal::DiskFull { .. }
        | Refusal::TooManyKeys { .. } => Code::TemporarilyUnavailable,
        Refusal::KindConflict { .. }
        | Refusal::TooLarge { .. }
        | Refusal::KeyReused
        | Refusal::Overflow
        | Refusal::WrongKind(_) => Code::Abort,
    };
    Problem::new(code, refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_000_000;

    fn message(src: &str, dest: &str, body: Value) -> Message {
        Message { src: src.into(), dest: dest.into(), body }
    }

    fn node(name: &str, origin: u64) -> (Node, Vec<Message>) {
        let body = json!({
            "type": "init", "msg_id": 1, "node_id": name, "node_ids": ["n1", "n2"],
        });
        Node::init(&message("c0", name, body), origin, NOW).unwrap()
    }

    /// The body of the one message to a client.
    fn body(out: &[Message]) -> &Value {
        let mut bodies = out.iter().filter(|m| m.dest.starts_with('c')).map(|m| &m.body);
        let body = bodies.next().unwrap();
        assert!(bodies.next().is_none(), "{out:?}");
        body
    }

    fn ask(node: &mut Node, body: Value) -> Vec<Message> {
        node.receive(NOW, &message("c1", "n1", body)).unwrap()
    }

    /// Delivers frames both ways until there are none.
    fn settle(one: &mut Node, other: &mut Node, mut wire: Vec<Message>) {
        while let Some(frame) = wire.pop() {
            let to = if frame.dest == one.name { &mut *one } else { &mut *other };
            wire.extend(to.receive(NOW, &frame).unwrap());
            wire.retain(|message| !message.dest.starts_with('c'));
        }
    }

    #[test]
    fn a_write_is_answered_shipped_and_read_at_the_peer() {
        let ((mut one, hello), (mut other, back)) = (node("n1", 1), node("n2", 2));
        assert_eq!(*body(&hello), json!({"type": "init_ok", "in_reply_to": 1}));
        let frames = |out: Vec<Message>| out.into_iter().filter(|m| m.kind() == FRAME);
        settle(&mut one, &mut other, frames(hello).chain(frames(back)).collect());
        let unknown = ask(&mut other, json!({"type": "read", "msg_id": 2}));
        assert_eq!(body(&unknown)["code"], 11);
        let added = ask(&mut one, json!({"type": "add", "delta": -3, "msg_id": 3}));
        assert_eq!(*body(&added), json!({"type": "add_ok", "in_reply_to": 3}));
        settle(&mut one, &mut other, frames(added).collect());
        // The peer was never asked to add: what came shows which workload it is.
        let read = ask(&mut other, json!({"type": "read", "msg_id": 4}));
        assert_eq!(*body(&read), json!({"type": "read_ok", "in_reply_to": 4, "value": -3}));
    }

    #[test]
    fn a_broadcast_is_known_by_its_topology() {
        let (mut node, _) = node("n1", 1);
        let topology = json!({"type": "topology", "topology": {}, "msg_id": 2});
        assert_eq!(
            *body(&ask(&mut node, topology)),
            json!({"type": "topology_ok", "in_reply_to": 2})
        );
        let read = json!({"type": "read", "msg_id": 3});
        assert_eq!(body(&ask(&mut node, read.clone()))["messages"], json!([]));
        ask(&mut node, json!({"type": "broadcast", "message": 9, "msg_id": 4}));
        assert_eq!(body(&ask(&mut node, read))["messages"], json!([9]));
    }

    #[test]
    fn what_is_not_understood_changes_nothing() {
        let (mut node, _) = node("n1", 1);
        assert_eq!(body(&ask(&mut node, json!({"type": "txn", "msg_id": 2})))["code"], 10);
        assert_eq!(body(&ask(&mut node, json!({"type": "add", "msg_id": 2})))["code"], 12);
        let stray = json!({"type": "read_ok", "in_reply_to": 5});
        assert!(ask(&mut node, stray).is_empty());
        let strange = message("n9", "n1", json!({"type": FRAME, "frame": "AAAA"}));
        assert!(node.receive(NOW, &strange).unwrap().is_empty());
        let garbage = message("n2", "n1", json!({"type": FRAME, "frame": "!"}));
        assert!(node.receive(NOW, &garbage).unwrap().is_empty());
    }

    #[test]
    fn an_init_without_this_node_is_refused() {
        let body = json!({"type": "init", "node_id": "n3", "node_ids": ["n1"]});
        assert!(Node::init(&message("c0", "n3", body), 1, NOW).is_err());
    }
}
