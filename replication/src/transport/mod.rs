//! The seam between what nodes say to each other and how it travels.
//!
//! A driver hands frames (opaque bytes) and datagrams to a [`Transport`] and receives [`Arrival`]s.
//! Real nodes use [`quic`]; tests and the simulator use [`memory`], which needs no runtime and no
//! clock.
//!
//! Invariants:
//!
//! 1. A peer is named by its key: [`NodeId`] is derived from the certificate that the handshake
//!    verified, never from an address or from what a frame claims.
//! 2. There is at most one live connection a pair of nodes. For each peer the arrivals read
//!    `Connected (Received | Datagram)* Disconnected`, and again from the start.
//! 3. Within one connection and class frames arrive in the order sent, each once. Across classes,
//!    and across a reconnection, there is no order, and frames may be missing. Datagrams have no
//!    order at all, and may be missing or doubled.
//! 4. Memory is bounded: a full queue drops the frame and says so; a slow receiver slows the
//!    sender, and nobody else.
//!
//! Left out: acknowledgements and retries. What is dropped is repaired by sync.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod certificates;
pub mod memory;
pub mod quic;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names a node: the first 16 bytes of the BLAKE3 hash of its public key (the DER encoding of the
/// certificate's SubjectPublicKeyInfo). Written as 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

/// A text is not a [`NodeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 32 hexadecimal digits")]
pub struct InvalidNodeId;

impl NodeId {
    /// The name of the node with this public key (SubjectPublicKeyInfo, DER).
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        let hash = blake3::hash(spki_der);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        Self(id)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(InvalidNodeId);
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(id))
    }
}

fn digit(ascii: u8) -> Result<u8, InvalidNodeId> {
    let value = char::from(ascii).to_digit(16).ok_or(InvalidNodeId)?;
    u8::try_from(value).map_err(|_| InvalidNodeId)
}

/// Hexadecimal in formats for people, 16 plain bytes in others.
impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(Self)
        }
    }
}

/// What a frame is for. Each class is a stream of its own, so that a full one does not hold up the
/// others; declared from the most to the least urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// What keeps the cluster together: relayed membership, votes, records of placement.
    Cluster,
    /// Small and urgent: vectors, acknowledgements, heartbeats.
    Control,
    /// Operations of replicated entities, as they happen.
    Operations,
    /// Forwarded commands and requests, with their replies.
    Commands,
    /// Transfers of state, and what sync fetches.
    Bulk,
}

impl Class {
    /// All classes, the most urgent first.
    pub const ALL: [Self; 5] =
        [Self::Cluster, Self::Control, Self::Operations, Self::Commands, Self::Bulk];

    /// Dense from 0, the most urgent first; also the byte that opens a stream.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The class whose stream opens with this byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// What is sent first: the higher one.
    const fn priority(self) -> i32 {
        (Self::ALL.len() - 1 - self.index()) as i32
    }

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Control => "control",
            Self::Operations => "operations",
            Self::Commands => "commands",
            Self::Bulk => "bulk",
        }
    }
}

/// The longest datagram, bytes: it fits into one packet on every path that QUIC runs on.
pub const DATAGRAM_BYTES: usize = 1_100;

/// Carries frames to other nodes. Never blocks and never waits.
pub trait Transport: Send + Sync {
    /// Queues a frame. `false`: dropped, because the peer is not connected, its queue of this
    /// class is full, or the frame is larger than the transport carries. Sync repairs it.
    fn send(&self, to: NodeId, class: Class, frame: Bytes) -> bool;

    /// Sends at most [`DATAGRAM_BYTES`] past all streams, at most once, and repeats nothing.
    /// `false`: dropped, because the peer is not connected, or it is longer.
    fn datagram(&self, to: NodeId, bytes: Bytes) -> bool;

    /// How much has come from a connected peer since it connected, as a count that rises with
    /// whatever comes: a sign of life. It starts again with every connection.
    fn received(&self, peer: NodeId) -> Option<u64>;

    /// The peer broke the protocol: closes its connection and counts it under `why`. The peer may
    /// connect again, after a back-off if it is this node that dials.
    fn reject(&self, peer: NodeId, why: &'static str);

    /// The smoothed round-trip time to a connected peer.
    fn round_trip(&self, peer: NodeId) -> Option<Duration>;
}

/// What the transport tells its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A peer can be sent to.
    Connected {
        /// Who, as verified by the handshake.
        peer: NodeId,
        /// Where its packets come from now; not necessarily where it listens.
        address: SocketAddr,
    },
    /// The connection is gone, and with it whatever was in flight.
    Disconnected {
        /// Who.
        peer: NodeId,
    },
    /// A frame, whole, as it was given to the peer's `send`.
    Received {
        /// Who sent it, as verified by the handshake.
        peer: NodeId,
        /// The class it was sent with.
        class: Class,
        /// Its bytes; not yet validated in any way.
        frame: Bytes,
    },
    /// A datagram, whole, as it was given to the peer's `datagram`.
    Datagram {
        /// Who sent it, as verified by the handshake.
        peer: NodeId,
        /// Its bytes; not yet validated in any way.
        bytes: Bytes,
    },
}

impl Arrival {
    /// Whether it concerns the cluster's own upkeep and not the replication of entities;
    /// connections concern both.
    pub fn is_for_cluster(&self) -> bool {
        matches!(self, Self::Received { class: Class::Cluster, .. } | Self::Datagram { .. })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    #[test]
    fn node_ids_read_what_they_write() {
        let id = NodeId::of_public_key(b"key");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert_eq!(NodeId([0xab; 16]).to_string(), "ab".repeat(16));
        for text in ["", "ab", &"g".repeat(32), &"é".repeat(16), &"0".repeat(33)] {
            assert_eq!(text.parse::<NodeId>(), Err(InvalidNodeId), "{text}");
        }
    }

    #[test]
    fn node_ids_serialise_as_bytes_or_as_text() {
        let id = NodeId::of_public_key(b"key");
        let bytes = postcard::to_allocvec(&id).unwrap();
        assert_eq!(bytes, id.0);
        assert_eq!(postcard::from_bytes::<NodeId>(&bytes).unwrap(), id);
        let text = id.to_string();
        let text: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
        assert_eq!(NodeId::deserialize(text).unwrap(), id);
    }

    #[test]
    fn classes_are_dense_bytes() {
        for (byte, class) in (0..).zip(Class::ALL) {
            assert_eq!(Class::from_byte(byte), Some(class));
            assert_eq!(class.index(), usize::from(byte));
        }
        assert_eq!(Class::from_byte(5), None);
    }
}
