//! Well-formed nonsense, and messages in words, for tests of whoever reads messages.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::tail::Roster;
use super::wire::{Entry, Payload};
use super::*;

pub(super) fn node(disk: u64) -> NodeId {
    NodeId([disk as u8; 16])
}

impl Message {
    /// In words.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Append { index, commit, entries, .. } => {
                format!("append {} after {index}, committed {commit}", entries.len())
            }
            Kind::AppendAnswer { index, rejected: None, .. } => format!("has up to {index}"),
            Kind::AppendAnswer { index, .. } => format!("lacks {index}"),
            Kind::Vote { pre: true, .. } => format!("would vote? term {}", self.term),
            Kind::Vote { .. } => format!("vote? term {}", self.term),
            Kind::VoteAnswer { rejected, .. } => format!("vote: {}", !rejected),
            Kind::Snapshot(snapshot) => format!("state at {}", snapshot.index),
            Kind::Heartbeat { commit } => format!("here, committed {commit}"),
            Kind::HeartbeatAnswer { .. } => "here too".to_owned(),
            Kind::TimeoutNow => "lead".to_owned(),
            Kind::Ask { .. } => "leads?".to_owned(),
            Kind::AskAnswer { .. } => "leads".to_owned(),
        }
    }

    /// The same between other disks, of a snapshot with them in its group.
    pub(crate) fn readdressed(mut self, from: u64, to: u64) -> Message {
        (self.from, self.to) = (from, to);
        if let Kind::Snapshot(Snapshot { index, config, data, .. }) = &mut self.kind {
            config.voters.extend([from, to]);
            let roster = Roster { index: *index, config: config.clone(), peers: BTreeMap::new() };
            *data = roster.encode();
        }
        self
    }
}

fn payload() -> impl Strategy<Value = Payload> {
    let ids = || btree_set(0u64..5, 0..4);
    prop_oneof![
        Just(Payload::Nothing),
        vec(any_byte(), 0..4).prop_map(|bytes| Payload::Command(bytes.into())),
        (0u64..5).prop_map(|id| Payload::Change(Change::Learner(id, node(id)))),
        (0u64..5).prop_map(|id| Payload::Change(Change::Remove(id))),
        Just(Payload::Change(Change::Settle)),
        (ids(), ids())
            .prop_map(|(promote, remove)| Payload::Change(Change::Joint { promote, remove })),
    ]
}

pub(super) fn any_byte() -> impl Strategy<Value = u8> {
    proptest::num::u8::ANY
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..12, 1 => Just(u64::MAX), 1 => Just(u64::MAX >> 4)]
}

fn kind() -> impl Strategy<Value = Kind> {
    let n = number;
    let ids = || btree_set(0u64..5, 0..4);
    let config = (ids(), ids(), ids()).prop_map(|(voters, outgoing, learners)| Config {
        voters,
        outgoing,
        learners,
    });
    let entries = (n(), n(), vec((0u64..3, payload()), 0..4)).prop_map(|(index, term, list)| {
        let entry = |(place, (rise, payload)): (usize, (u64, Payload))| Entry {
            term: term.saturating_add(rise),
            index: index.saturating_add(place as u64 + 1),
            payload,
        };
        (index, term, list.into_iter().enumerate().map(entry).collect::<Vec<_>>())
    });
    let kept = (ids(), vec(any_byte(), 0..3)).prop_map(|(ids, state)| {
        let peers = ids.into_iter().map(|id| (id, node(id))).collect();
        Kept { peers, state: state.into() }.encode()
    });
    let data = prop_oneof![kept, vec(any_byte(), 0..9).prop_map(Bytes::from)];
    prop_oneof![
        4 => (entries, n()).prop_map(|((index, log_term, entries), commit)| Kind::Append {
            index, log_term, commit, entries
        }),
        2 => (n(), n(), proptest::option::of((n(), n())))
            .prop_map(|(index, commit, rejected)| Kind::AppendAnswer { index, commit, rejected }),
        2 => (proptest::bool::ANY, proptest::bool::ANY, n(), n(), (n(), n())).prop_map(
            |(pre, force, index, log_term, commit)| {
                Kind::Vote { pre, force, index, log_term, commit }
            }
        ),
        1 => (proptest::bool::ANY, proptest::bool::ANY, (n(), n()))
            .prop_map(|(pre, rejected, commit)| Kind::VoteAnswer { pre, rejected, commit }),
        2 => (n(), n(), config, data).prop_map(|(index, term, config, data)| {
            Kind::Snapshot(Snapshot { index, term, config, data })
        }),
        1 => n().prop_map(|commit| Kind::Heartbeat { commit }),
        1 => n().prop_map(|commit| Kind::HeartbeatAnswer { commit }),
        1 => (n(), n()).prop_map(|(commit, question)| Kind::Ask { commit, question }),
        1 => (n(), n()).prop_map(|(commit, question)| Kind::AskAnswer { commit, question }),
        1 => Just(Kind::TimeoutNow),
    ]
}

/// A message of any kind, between disks of a handful.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    (1u64..5, 1u64..4, number(), kind()).prop_map(|(from, to, term, kind)| Message {
        from,
        to,
        term,
        kind,
    })
}
