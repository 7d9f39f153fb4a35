//! What members tell each other in stream frames: closed, bounded, encoded with postcard.
//!
//! Invariants:
//! 1. Garbage decodes to an error, never to a panic; a frame is [`FRAME_BYTES`] at most.
//! 2. Every record that leaves [`Message::decode`] is within its bounds.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use atoll_replication::transport::NodeId;

use super::member::Record;

/// Longest frame: what the slowest link carries in a second or so.
pub(super) const FRAME_BYTES: usize = 1 << 20;

/// The first byte of a frame: another form is another number.
const FORM: u8 = 1;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// What changed.
    News(Vec<Record>),
    /// All that the sender knows of a region.
    Whole { region: String, records: Vec<Record> },
    /// What the sender knows, as a hash by region. Who knows something else answers with `Whole`
    /// and, unless this is an answer, its own hashes of the regions in which they differ.
    Digests { answer: bool, regions: Vec<(String, u64)> },
    /// The sender suspects a node of its region.
    Accused { node: NodeId, incarnation: u64, suspicion: u16 },
    /// The sender has no use for this connection; who has none either closes it.
    Spare,
}

impl Message {
    /// As a frame.
    pub(super) fn encode(&self) -> Bytes {
        let frame = postcard::to_extend(self, vec![FORM]);
        frame.map(Bytes::from).expect("encoding into memory does not fail")
    }

    /// From a frame; the error says what is wrong, without what it holds.
    pub(super) fn decode(frame: &[u8]) -> Result<Self, &'static str> {
        if frame.len() > FRAME_BYTES {
            return Err("a membership frame is too long");
        }
        let body = match frame.split_first() {
            Some((&FORM, body)) => body,
            _ => return Err("a membership frame of unknown form"),
        };
        let message = match postcard::take_from_bytes(body) {
            Ok((message, [])) => message,
            _ => return Err("a damaged membership frame"),
        };
        if let Self::News(records) | Self::Whole { records, .. } = &message {
            records.iter().try_for_each(Record::check)?;
        }
        Ok(message)
    }

    /// A region's records: as one list if a frame holds them, else in parts that do not claim to
    /// be all.
    pub(super) fn whole(region: &str, records: Vec<Record>) -> Vec<Bytes> {
        let all = Self::Whole { region: region.to_owned(), records };
        let frame = all.encode();
        if frame.len() <= FRAME_BYTES {
            return vec![frame];
        }
        let Self::Whole { records, .. } = all else { return Vec::new() };
        // Forty of the longest records fit.
        records.chunks(40).map(|part| Self::News(part.to_vec()).encode()).collect()
    }
}
