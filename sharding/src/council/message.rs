//! What councils of a region say to each other.
//!
//! ```text
//! frame    format u8 · identity of the council that the sender belongs to · message (postcard)
//! ```
//!
//! Invariants:
//! 1. Every frame says which council, which epoch and which group it speaks of; nothing else of
//!    it is looked at before that was compared.
//! 2. Garbage is `None`, never a panic.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use atoll_replication::placement::{Ending, RegionPlacement};
use atoll_replication::transport::NodeId;

use crate::raft::starts::Hello;
use crate::raft::{Config, Message as GroupMessage};

/// The format that is written, and the only one that is read.
const FORMAT: u8 = 1;

/// Which council, re-formed how often, and which group of voters carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Drawn when the council was formed.
    pub council: u64,
    /// Rises when it is re-formed.
    pub epoch: u64,
    /// Drawn at each forming, so that two at once are not taken for one.
    pub group: u64,
}

/// What a node asks of its council, until the record shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Report {
    /// This node has all of a slot, whose set has this epoch.
    CaughtUp { node: NodeId, slot: u16, epoch: u64 },
    /// This node wants to leave, in this start.
    Leave { node: NodeId, start: u64 },
    /// An operator says that this node will not come back.
    Evict { node: NodeId },
    /// What this node asks for, of an origin that ended; `serial` orders it in this start.
    Ending { node: NodeId, start: u64, serial: u64, ending: Ending },
}

/// Whether a record shows what was reported, or that it is without object.
pub(super) fn is_done(report: &Report, record: &RegionPlacement) -> bool {
    match *report {
        Report::CaughtUp { node, slot, epoch } => {
            let slot = record.slots.get(usize::from(slot));
            slot.is_none_or(|slot| slot.epoch > epoch || slot.counts(node))
        }
        // Kept apart, in `endings`.
        Report::Ending { .. } => false,
        Report::Leave { node, .. } | Report::Evict { node } => !record.nodes.contains_key(&node),
    }
}

/// Who is in the group, for those who do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roll {
    /// The index at which it was applied.
    pub(super) index: u64,
    pub(super) config: Config,
    pub(super) peers: BTreeMap<u64, NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The sender's start (R13).
    Hello(Hello),
    /// What the disk `by` makes of the start with this nonce.
    Answer { nonce: u64, by: u64, stale: bool, roll: Option<Roll> },
    /// The sender's start is not known here: say it.
    Who,
    /// A member of the group, in the start with this nonce, to another.
    Raft { nonce: u64, message: GroupMessage },
    /// The leader, to every node: who leads, and who votes.
    Notice { leader: NodeId, voters: Vec<NodeId> },
    /// Towards the leader; forwarded once at most.
    Report { report: Report, forwarded: bool },
    /// The frame was of another council, epoch or group.
    Refused,
}

pub(super) fn encode(identity: Identity, message: &Message) -> Bytes {
    let body = postcard::to_stdvec(&(identity, message)).expect("a message encodes to memory");
    [&[FORMAT][..], &body].concat().into()
}

pub(super) fn decode(frame: &[u8]) -> Option<(Identity, Message)> {
    let (format, body) = frame.split_first()?;
    if *format != FORMAT {
        return None;
    }
    let (value, rest) = postcard::take_from_bytes(body).ok()?;
    rest.is_empty().then_some(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use atoll_store::dot::Origin;

    use super::*;

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in vec(proptest::num::u8::ANY, 0..300)) {
            let _ = decode(&bytes);
            bytes.insert(0, FORMAT);
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn frames_read_as_they_were_written_and_not_otherwise() {
        let identity = Identity { council: 1, epoch: 2, group: 3 };
        let node = NodeId([7; 16]);
        let report = Report::CaughtUp { node, slot: 3, epoch: 9 };
        let ending = Ending::Retired { origin: Origin(4) };
        let asked = Report::Ending { node, start: 1, serial: 2, ending };
        let hello = Hello { disk: 1, starts: vec![2, 3], promised: [(4, (5, 6))].into() };
        let roll = Roll { index: 1, config: Config::default(), peers: [(1, node)].into() };
        let messages = [
            Message::Hello(hello),
            Message::Answer { nonce: 1, by: 2, stale: false, roll: Some(roll) },
            Message::Who,
            Message::Notice { leader: node, voters: vec![node] },
            Message::Report { report, forwarded: true },
            Message::Report { report: asked, forwarded: false },
            Message::Refused,
        ];
        for message in messages {
            let frame = encode(identity, &message);
            assert_eq!(decode(&frame), Some((identity, message)));
            assert_eq!(decode(&frame[..frame.len() - 1]), None);
            assert_eq!(decode(&[&frame[..], &[0]].concat()), None, "nothing may follow");
            assert_eq!(decode(&[&[9], &frame[1..]].concat()), None, "another format");
        }
    }
}
