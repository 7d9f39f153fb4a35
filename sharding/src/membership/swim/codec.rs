//! Bytes of SWIM datagrams: fixed widths, no allocation, the same on every machine.
//!
//! ```text
//! datagram  form(1) source(24) suspicion(2) destination(24) kind(1) [probe(1)] [node(24)]
//!           [count(2) member(27)*]
//! identity  node(16) incarnation(8)          member  identity(24) suspicion(2) state(1)
//! ```
//!
//! Invariants: garbage is an error, never a panic; an item that does not fit leaves the buffer as
//! it was. 38 members fit beside the longest header into a datagram.

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};

use atoll_replication::transport::NodeId;

use crate::membership::member::INCARNATION_MAX;

/// The first byte of a datagram: another form is another number.
const FORM: u8 = 1;
const ID_BYTES: usize = 24;
const MEMBER_BYTES: usize = ID_BYTES + 3;

/// A life of a node, to SWIM: a new one at every start and after every false death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
}

impl foca::Identity for Id {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        let incarnation = self.incarnation + 1;
        (incarnation <= INCARNATION_MAX).then_some(Self { incarnation, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.incarnation > adversary.incarnation
    }
}

/// Bytes are no datagram of ours, or there is no room for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it ends too early")]
    Short,
    #[error("an unknown form, kind or state, or a number out of range")]
    Unknown,
    #[error("no room")]
    Full,
}

/// Encodes and decodes for the SWIM crate.
pub(crate) struct Codec;

fn put_id(id: &Id, buf: &mut impl BufMut) {
    buf.put_slice(&id.node.0);
    buf.put_u64(id.incarnation);
}

fn need(buf: &impl Buf, bytes: usize) -> Result<(), Malformed> {
    if buf.remaining() < bytes { Err(Malformed::Short) } else { Ok(()) }
}

fn take_id(buf: &mut impl Buf) -> Result<Id, Malformed> {
    need(buf, ID_BYTES)?;
    let mut node = [0; 16];
    buf.copy_to_slice(&mut node);
    let incarnation = buf.get_u64();
    if incarnation > INCARNATION_MAX {
        return Err(Malformed::Unknown);
    }
    Ok(Id { node: NodeId(node), incarnation })
}

/// The kind of a message, its probe and the third node that it names.
fn parts(message: &Message<Id>) -> (u8, Option<u8>, Option<&Id>) {
    match message {
        Message::Ping(probe) => (0, Some(*probe), None),
        Message::Ack(probe) => (1, Some(*probe), None),
        Message::PingReq { target, probe_number } => (2, Some(*probe_number), Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, Some(*probe_number), Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, Some(*probe_number), Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, Some(*probe_number), Some(origin)),
        Message::Announce => (6, None, None),
        Message::Feed => (7, None, None),
        Message::Gossip => (8, None, None),
        Message::Broadcast => (9, None, None),
        Message::TurnUndead => (10, None, None),
    }
}

fn take_message(buf: &mut impl Buf) -> Result<Message<Id>, Malformed> {
    need(buf, 1)?;
    let kind = buf.get_u8();
    let mut probe_number = 0;
    if kind <= 5 {
        need(buf, 1)?;
        probe_number = buf.get_u8();
    }
    Ok(match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: take_id(buf)?, probe_number },
        3 => Message::IndirectPing { origin: take_id(buf)?, probe_number },
        4 => Message::IndirectAck { target: take_id(buf)?, probe_number },
        5 => Message::ForwardedAck { origin: take_id(buf)?, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return Err(Malformed::Unknown),
    })
}

impl foca::Codec<Id> for Codec {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<Id>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        let (kind, probe, node) = parts(&header.message);
        let extra = probe.map_or(0, |_| 1) + node.map_or(0, |_| ID_BYTES);
        if buf.remaining_mut() < 2 * ID_BYTES + 4 + extra {
            return Err(Malformed::Full);
        }
        buf.put_u8(FORM);
        put_id(&header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_id(&header.dst, &mut buf);
        buf.put_u8(kind);
        if let Some(probe) = probe {
            buf.put_u8(probe);
        }
        if let Some(node) = node {
            put_id(node, &mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Id>, Malformed> {
        need(&buf, 1)?;
        if buf.get_u8() != FORM {
            return Err(Malformed::Unknown);
        }
        let src = take_id(&mut buf)?;
        need(&buf, 2)?;
        let src_incarnation = buf.get_u16();
        let dst = take_id(&mut buf)?;
        let message = take_message(&mut buf)?;
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(
        &mut self,
        member: &Member<Id>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        if buf.remaining_mut() < MEMBER_BYTES {
            return Err(Malformed::Full);
        }
        put_id(member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Id>, Malformed> {
        let id = take_id(&mut buf)?;
        need(&buf, 3)?;
        let suspicion = buf.get_u16();
        let state = match buf.get_u8() {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Malformed::Unknown),
        };
        Ok(Member::new(id, suspicion, state))
    }
}

/// What a datagram says, before anything is made of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) header: Header<Id>,
    /// Whom it carries news of.
    pub(crate) about: Vec<NodeId>,
}

impl Datagram {
    /// Reads a datagram to its end.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let header = foca::Codec::decode_header(&mut Codec, &mut bytes)?;
        let mut about = Vec::new();
        if !bytes.is_empty() {
            need(&bytes, 2)?;
            for _ in 0..bytes.get_u16() {
                let member: Member<Id> = foca::Codec::decode_member(&mut Codec, &mut bytes)?;
                about.push(member.id().node);
            }
        }
        if bytes.is_empty() { Ok(Self { header, about }) } else { Err(Malformed::Unknown) }
    }

    /// A datagram without news.
    pub(crate) fn encode(header: &Header<Id>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let written = foca::Codec::encode_header(&mut Codec, header, &mut bytes);
        written.expect("a vector has room");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use foca::Codec as _;
    use proptest::prelude::*;

    use super::*;

    fn any_id() -> impl Strategy<Value = Id> {
        (any::<[u8; 16]>(), 0..=INCARNATION_MAX)
            .prop_map(|(node, incarnation)| Id { node: NodeId(node), incarnation })
    }

    fn any_message() -> impl Strategy<Value = Message<Id>> {
        (0..11u8, any::<u8>(), any_id()).prop_map(|(kind, probe_number, id)| match kind {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: id, probe_number },
            3 => Message::IndirectPing { origin: id, probe_number },
            4 => Message::IndirectAck { target: id, probe_number },
            5 => Message::ForwardedAck { origin: id, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }

    proptest! {
        #[test]
        fn headers_and_members_read_what_they_write(
            src in any_id(), src_incarnation: u16, dst in any_id(), message in any_message(),
            state in 0..3u8,
        ) {
            let header = Header { src, src_incarnation, dst, message };
            let bytes = Datagram::encode(&header);
            prop_assert_eq!(Datagram::decode(&bytes).unwrap().header, header);
            for end in 0..bytes.len() {
                prop_assert!(Datagram::decode(&bytes[..end]).is_err());
            }
            let state = [State::Alive, State::Suspect, State::Down][usize::from(state)];
            let member = Member::new(src, src_incarnation, state);
            let mut bytes = Vec::new();
            Codec.encode_member(&member, &mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), MEMBER_BYTES);
            prop_assert_eq!(Codec.decode_member(&bytes[..]).unwrap(), member.clone());
            let mut small = Vec::new();
            let full = Codec.encode_member(&member, (&mut small).limit(MEMBER_BYTES - 1));
            prop_assert_eq!(full, Err(Malformed::Full));
            prop_assert!(small.is_empty());
        }

        #[test]
        fn garbage_is_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Datagram::decode(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = FORM;
            }
            let _ = Datagram::decode(&bytes);
        }
    }
}
