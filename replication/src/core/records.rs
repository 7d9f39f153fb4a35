//! Records of placement from peer to peer: their versions told, asked of one, sent whole.
//!
//! ```text
//! told of a newer one ── asked for ── came ── kept, its version told to all
//!                            └─ another, newer, was told meanwhile: asked for
//! ```
//!
//! Invariants:
//! 1. The newest record of each region is kept on disk, and its version told to every peer.
//! 2. A region's record is asked of one peer at a time, and sent only to who asks: each move makes
//!    several versions, and of each every peer tells. Copies that nobody needs would be most of
//!    what nodes say to each other while replicas move.
//! 3. What is lost is made up for: an answer that does not come, at the next tick; a version that
//!    was not told, with the next ping.

use std::collections::BTreeMap;

use atoll_store::dot::Millis;

use super::Core;
use super::message::Message;
use crate::placement::{RegionPlacement, Version};
use crate::transport::NodeId;

/// How long a record that was asked for is waited for. Default 1 s: it is a few kilobytes.
const ANSWER_MS: Millis = 1_000;

/// A record that a peer was asked for.
#[derive(Debug)]
pub(super) struct Awaited {
    of: NodeId,
    until: Millis,
    /// The newest that was told, and by whom.
    newest: (Version, NodeId),
}

impl Core {
    /// Takes a record, if it is newer than the one known.
    pub(super) fn take_record(&mut self, record: RegionPlacement) {
        if record.slots.len() != usize::from(self.engine.slots()) {
            tracing::error!(region = %record.region, "a record with other hash slots is ignored");
            return;
        }
        let (region, own) = (record.region.clone(), record.region == self.me.region);
        let before = self.own_epochs();
        let version = record.version;
        let body = postcard::to_stdvec(&record).expect("a record encodes to memory");
        if !self.placement.take(record) {
            return;
        }
        self.engine.put_note(&format!("placement/{region}"), &body);
        self.forget_routes();
        // Of a slot whose set has changed more than once, others may have known sets without it.
        let follows =
            |(slot, epoch): (&u16, &u64)| before.get(slot).is_some_and(|known| *epoch <= known + 1);
        if own && !self.own_epochs().iter().all(follows) {
            // Clocks that were closed with fewer shards say nothing of the others.
            self.placed.receiving_since = version;
            self.closed.clear();
            self.kept_closed = 0;
            self.peers.values_mut().for_each(|peer| peer.closed = None);
            self.keep_closed();
        }
        if own {
            self.placed.fresh = true;
            self.keep_moves();
        }
        self.changed = true;
        self.waits.touch_all();
        self.note_endings();
        self.unsettle();
        self.tell_all_records();
    }

    /// Tells a peer which records are known here.
    pub(super) fn tell_records(&mut self, peer: NodeId) {
        let versions = self.placement.regions().map(|r| (r.region.clone(), r.version));
        let versions: Vec<(String, Version)> = versions.collect();
        self.send(peer, &Message::Records(versions));
    }

    fn tell_all_records(&mut self) {
        let connected = self.peers.iter().filter(|(_, peer)| peer.connected);
        for peer in connected.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.tell_records(peer);
        }
    }

    /// A peer's records: asks for those that are newer, and says which are older.
    pub(super) fn records(&mut self, peer: NodeId, theirs: Vec<(String, Version)>) {
        let versions: BTreeMap<String, Version> = theirs.iter().cloned().collect();
        self.knows_records(peer, &versions);
        let newer = |known: &&RegionPlacement| {
            versions.get(&known.region).is_none_or(|version| *version < known.version)
        };
        let newer = self.placement.regions().filter(newer);
        let newer: Vec<_> = newer.map(|known| (known.region.clone(), known.version)).collect();
        if !newer.is_empty() {
            self.send(peer, &Message::NewerRecords(newer));
        }
        self.newer_records(peer, theirs);
    }

    /// Records of a peer: asks for those that are newer.
    pub(super) fn newer_records(&mut self, peer: NodeId, theirs: Vec<(String, Version)>) {
        let wanted =
            theirs.into_iter().filter(|(region, version)| self.wants(region, *version, peer));
        let wanted = wanted.map(|(region, _)| region).collect();
        self.ask_records(peer, wanted);
    }

    /// Whether a record is to be asked for: it is newer, and none of its region is awaited.
    fn wants(&mut self, region: &str, version: Version, teller: NodeId) -> bool {
        if self.known_record(region).is_some_and(|known| known >= version) {
            return false;
        }
        let Some(awaited) = self.placed.awaited.get_mut(region) else { return true };
        awaited.newest = awaited.newest.max((version, teller));
        false
    }

    /// Asks a peer for the records of some regions.
    fn ask_records(&mut self, peer: NodeId, regions: Vec<String>) {
        if regions.is_empty() {
            return;
        }
        let until = self.elapsed + ANSWER_MS;
        for region in &regions {
            let newest = (Version::default(), peer);
            self.placed.awaited.insert(region.clone(), Awaited { of: peer, until, newest });
        }
        self.send(peer, &Message::RecordsRequest(regions));
    }

    /// A peer lacks the records of these regions.
    pub(super) fn send_records(&mut self, peer: NodeId, regions: Vec<String>) {
        for region in regions {
            let Some(record) = self.placement.region(&region).cloned() else { continue };
            self.send(peer, &Message::Record(Box::new(record)));
        }
    }

    /// A peer's record, asked for or not: what is newer still is asked for next.
    pub(super) fn receive_record(&mut self, record: RegionPlacement) {
        let region = record.region.clone();
        self.take_record(record);
        let Some(awaited) = self.placed.awaited.remove(&region) else { return };
        let (version, teller) = awaited.newest;
        let known = self.known_record(&region).unwrap_or_default();
        if known < version && self.peers.get(&teller).is_some_and(|peer| peer.connected) {
            self.ask_records(teller, vec![region]);
        }
    }

    /// What did not come is asked of whoever has it: all are told what is known here.
    pub(super) fn tick_records(&mut self) {
        let (elapsed, peers) = (self.elapsed, &self.peers);
        let count = self.placed.awaited.len();
        self.placed.awaited.retain(|_, awaited| {
            elapsed < awaited.until && peers.get(&awaited.of).is_some_and(|peer| peer.connected)
        });
        if self.placed.awaited.len() < count {
            self.tell_all_records();
        }
    }

    fn known_record(&self, region: &str) -> Option<Version> {
        self.placement.region(region).map(|known| known.version)
    }
}
