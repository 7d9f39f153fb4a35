//! What groups of two nodes say to each other: everything of one step in one frame.
//!
//! ```text
//! frame    format u8 · disk u64 · nonce of its start u64 · part*      (postcard)
//! ```
//!
//! Invariants:
//! 1. A frame says which start of which disk speaks; nothing of a group in it counts before that
//!    start was recognised (R13).
//! 2. A frame is at most about [`FRAME_BYTES`], or one longer part.
//! 3. Garbage is `None`, never a panic.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use atoll_replication::transport::NodeId;

use crate::raft::starts::Hello;
use crate::raft::{At, Config, Message};

/// The format that is written, and the only one that is read.
const FORMAT: u8 = 1;
/// Bytes at which a frame is closed.
pub(super) const FRAME_BYTES: usize = 256 << 10;

/// Who is in a group, for those who do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roll {
    pub(super) group: u64,
    /// The index at which it was applied.
    pub(super) index: u64,
    /// A later index, which is committed, and up to which it was not changed.
    pub(super) until: At,
    pub(super) config: Config,
    pub(super) peers: BTreeMap<u64, NodeId>,
}

/// A part of a group's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Records, as the state machine writes them.
    pub records: Bytes,
    /// The cursor after them; `None`: they are the last.
    pub next: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Part {
    /// The sender's start.
    Hello(Hello),
    /// What the sender makes of the start with this nonce, and who is in the groups that it named.
    Answer { nonce: u64, stale: bool, rolls: Vec<Roll> },
    /// The sender's start is not known here: say it.
    Who,
    /// A member of a group to another.
    Raft { group: u64, message: Message },
    /// The leader of this term: nothing was said since this index; sleep.
    Sleep { group: u64, term: u64, index: u64 },
    /// The sender sleeps.
    Slept { group: u64, term: u64, index: u64 },
    /// The sender is awake, and hears nothing of the leader.
    Wake { group: u64 },
    /// The sender takes the state at an index, and wants what comes after a cursor.
    Want { group: u64, at: At, after: Bytes },
    /// What comes after a cursor. `None`: that state is not to be had any more.
    Chunk { group: u64, at: At, after: Bytes, chunk: Option<Chunk> },
    /// Who is in these groups?
    Ask { groups: Vec<u64> },
    /// They are.
    Rolls(Vec<Roll>),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Speaker {
    pub(super) disk: u64,
    pub(super) nonce: u64,
}

/// Frames that hold all parts, in order.
pub(super) fn encode(speaker: Speaker, parts: &[Part]) -> Vec<Bytes> {
    let (mut frames, mut frame) = (Vec::new(), Vec::new());
    for part in parts {
        let body = postcard::to_stdvec(part).expect("a part encodes to memory");
        if !frame.is_empty() && frame.len() + body.len() > FRAME_BYTES {
            frames.push(Bytes::from(std::mem::take(&mut frame)));
        }
        if frame.is_empty() {
            frame.push(FORMAT);
            frame.extend(postcard::to_stdvec(&speaker).expect("a speaker encodes to memory"));
        }
        frame.extend(body);
    }
    if !frame.is_empty() {
        frames.push(frame.into());
    }
    frames
}

pub(super) fn decode(frame: &[u8]) -> Option<(Speaker, Vec<Part>)> {
    let (format, body) = frame.split_first()?;
    if *format != FORMAT {
        return None;
    }
    let (speaker, mut rest) = postcard::take_from_bytes(body).ok()?;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let part;
        (part, rest) = postcard::take_from_bytes(rest).ok()?;
        parts.push(part);
    }
    Some((speaker, parts))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

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
        let speaker = Speaker { disk: 7, nonce: 300 };
        let node = NodeId([7; 16]);
        let (at, after) = (At { index: 3, term: 1 }, Bytes::from("k"));
        let config = Config { voters: [7].into(), ..Config::default() };
        let roll = Roll { group: 1, index: 2, until: at, config, peers: [(7, node)].into() };
        let chunk = Chunk { records: "r".into(), next: None };
        let parts = [
            Part::Hello(Hello { disk: 1, starts: vec![2, 3], promised: [(4, (5, 6))].into() }),
            Part::Answer { nonce: 1, stale: false, rolls: vec![roll.clone()] },
            Part::Who,
            Part::Sleep { group: 1, term: 2, index: 3 },
            Part::Want { group: 1, at, after: after.clone() },
            Part::Chunk { group: 1, at, after, chunk: Some(chunk) },
            Part::Ask { groups: vec![1, 2] },
            Part::Rolls(vec![roll]),
        ];
        let frames = encode(speaker, &parts);
        assert_eq!(frames.len(), 1);
        assert_eq!(decode(&frames[0]), Some((speaker, parts.to_vec())));
        assert_eq!(decode(&frames[0][..frames[0].len() - 1]), None);
        assert_eq!(decode(&[&[9], &frames[0][1..]].concat()), None, "another format");
        assert!(encode(speaker, &[]).is_empty());
    }

    #[test]
    fn a_frame_is_bounded() {
        let speaker = Speaker { disk: 7, nonce: 300 };
        let chunk = Chunk { records: vec![1; FRAME_BYTES / 2].into(), next: None };
        let at = At { index: 3, term: 1 };
        let part = Part::Chunk { group: 1, at, after: Bytes::new(), chunk: Some(chunk) };
        let frames = encode(speaker, &[part.clone(), part.clone(), part.clone()]);
        assert_eq!(frames.len(), 3);
        assert!(frames.iter().all(|frame| decode(frame).unwrap().1 == [part.clone()]));
    }
}
