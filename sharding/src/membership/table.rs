//! Everyone known, of all regions, and what lists show of them.
//!
//! Invariants:
//! 1. News of a death of someone unknown is no news: so what was forgotten stays forgotten.
//! 2. At most `members_max` entries; a newcomer above that is refused.
//! 3. A suspicion in the own region is shown only once it has lasted for longer than a pause.
//! 4. A dead node is kept, not dialled, until it is forgotten; a node that left is kept as long,
//!    shown nowhere, so that stale news does not bring it back.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

use super::Timing;
use super::member::{Life, Member, Record, State, Verdict};
use super::swim::View;

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    /// What lists show. `None`: nothing yet.
    pub(super) shown: Option<Member>,
    /// The revision that was shown.
    shown_revision: u32,
    /// Suspected since.
    suspected_at: Option<Millis>,
    /// Dead since.
    down_at: Option<Millis>,
    /// Missing since from the lists of its own region, which is another one.
    missing_at: Option<Millis>,
}

impl Entry {
    fn new(record: Record) -> Self {
        Self {
            record,
            shown: None,
            shown_revision: 0,
            suspected_at: None,
            down_at: None,
            missing_at: None,
        }
    }

    /// Notes since when things are as they are.
    fn mark(&mut self, now: Millis) {
        let since = |is: bool, known: Option<Millis>| is.then(|| known.unwrap_or(now));
        let verdict = self.record.verdict;
        self.suspected_at = since(verdict == Verdict::Suspect, self.suspected_at);
        self.down_at = since(verdict == Verdict::Down, self.down_at);
        self.missing_at = None;
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Something in it was new.
    News,
    /// Nothing was.
    Known,
    /// There is no room, or it tells of the death of someone unknown.
    Refused,
}

/// Everyone known.
pub(super) struct Table {
    own: NodeId,
    region: String,
    members_max: usize,
    doubt_ms: Millis,
    forget_after_ms: Millis,
    missing_ms: Millis,
    entries: BTreeMap<NodeId, Entry>,
    /// Whose showing may have changed.
    dirty: BTreeSet<NodeId>,
    /// When a suspicion is to be shown.
    doubts: BTreeSet<(Millis, NodeId)>,
    full: bool,
}

impl Table {
    pub(super) fn new(own: Record, members_max: usize, timing: &Timing) -> Self {
        let (node, region) = (own.node, own.facts.region.clone());
        Self {
            own: node,
            region,
            members_max,
            doubt_ms: timing.doubt_ms,
            forget_after_ms: timing.forget_after_ms,
            missing_ms: timing.missing_ms,
            entries: BTreeMap::from([(node, Entry::new(own))]),
            dirty: BTreeSet::from([node]),
            doubts: BTreeSet::new(),
            full: false,
        }
    }

    pub(super) fn record(&self, node: NodeId) -> Option<&Record> {
        self.entries.get(&node).map(|entry| &entry.record)
    }

    /// The own record.
    pub(super) fn own(&self) -> &Record {
        &self.entries[&self.own].record
    }

    /// Changes the own record.
    pub(super) fn change_own(&mut self, change: impl FnOnce(&mut Record)) {
        let entry = self.entries.get_mut(&self.own).expect("the own entry is never removed");
        change(&mut entry.record);
        self.dirty.insert(self.own);
    }

    /// Whether a node is known to be of the own region.
    pub(super) fn is_near(&self, node: NodeId) -> bool {
        self.record(node).is_some_and(|record| record.facts.region == self.region)
    }

    /// Everyone believed to run, this node too.
    pub(super) fn live(&self) -> impl Iterator<Item = &Record> {
        self.entries.values().map(|entry| &entry.record).filter(|record| !record.is_down())
    }

    /// All entries, the forgotten ones too.
    pub(super) fn all(&self) -> impl Iterator<Item = &Record> {
        self.entries.values().map(|entry| &entry.record)
    }

    /// What lists show.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        let shown = self.entries.values().filter_map(|entry| entry.shown.as_ref());
        shown.filter(|member| member.state != State::Gone)
    }

    /// What lists show of a node.
    pub(super) fn member(&self, node: NodeId) -> Option<&Member> {
        let shown = self.entries.get(&node).and_then(|entry| entry.shown.as_ref());
        shown.filter(|member| member.state != State::Gone)
    }

    /// Takes what is told of another node. In the own region the verdict is not taken: there it is
    /// the failure detector's, by [`Table::judge`].
    pub(super) fn take(&mut self, now: Millis, mut record: Record) -> Taken {
        let node = record.node;
        let near = record.facts.region == self.region;
        let Some(entry) = self.entries.get_mut(&node) else {
            return self.admit(now, record);
        };
        if near && record.incarnation == entry.record.incarnation {
            (record.verdict, record.suspicion) = (Verdict::Alive, 0);
        }
        entry.missing_at = None;
        let reborn = record.incarnation > entry.record.incarnation;
        if !entry.record.merge(record) {
            return Taken::Known;
        }
        if reborn {
            (entry.suspected_at, entry.down_at) = (None, None);
        }
        self.marked(now, node);
        Taken::News
    }

    fn admit(&mut self, now: Millis, record: Record) -> Taken {
        if record.is_down() {
            return Taken::Refused;
        }
        if self.entries.len() >= self.members_max {
            if !self.full {
                self.full = true;
                tracing::error!(most = self.members_max, node = %record.node,
                    "the list of members is full; newcomers are refused");
            }
            return Taken::Refused;
        }
        let node = record.node;
        self.entries.insert(node, Entry::new(record));
        self.marked(now, node);
        Taken::News
    }

    /// Takes what the region believes about one of its nodes. A belief about a later life than
    /// the one whose facts are known waits for the facts, unless that life has ended too.
    pub(super) fn judge(&mut self, now: Millis, node: NodeId, view: &View) {
        let near = self.is_near(node);
        let Some(entry) = self.entries.get_mut(&node).filter(|_| near) else { return };
        let later = view.incarnation > entry.record.incarnation && view.verdict == Verdict::Down;
        let same = view.incarnation == entry.record.incarnation;
        if (same || later) && entry.record.judge(view.verdict, view.suspicion) {
            self.marked(now, node);
        }
    }

    /// A region of others listed all its members: who is not among them for long has gone.
    /// Answers who.
    pub(super) fn listed(
        &mut self,
        now: Millis,
        region: &str,
        listed: &BTreeSet<NodeId>,
    ) -> Vec<NodeId> {
        let mut gone = Vec::new();
        for (node, entry) in &mut self.entries {
            let record = &entry.record;
            if record.facts.region != region || record.is_down() || listed.contains(node) {
                continue;
            }
            let since = *entry.missing_at.get_or_insert(now);
            if now.saturating_sub(since) >= self.missing_ms {
                gone.push(*node);
            }
        }
        for node in &gone {
            if let Some(entry) = self.entries.get_mut(node) {
                entry.record.judge(Verdict::Down, 0);
                self.marked(now, *node);
            }
        }
        gone
    }

    fn marked(&mut self, now: Millis, node: NodeId) {
        let Some(entry) = self.entries.get_mut(&node) else { return };
        entry.mark(now);
        if let Some(since) = entry.suspected_at {
            self.doubts.insert((since + self.doubt_ms, node));
        }
        self.dirty.insert(node);
    }

    /// When a suspicion is to be shown.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.doubts.first().map(|(at, _)| *at)
    }

    /// The state of a node as lists show it.
    fn state(&self, now: Millis, entry: &Entry) -> State {
        let record = &entry.record;
        let near = record.facts.region == self.region;
        let patience = if near { self.doubt_ms } else { 0 };
        match (record.verdict, record.life) {
            (Verdict::Down, Life::Leaving) => State::Gone,
            (Verdict::Down, _) => State::Down,
            (Verdict::Suspect, _)
                if entry.suspected_at.is_some_and(|since| since + patience <= now) =>
            {
                State::Suspect
            }
            (_, Life::Joining) => State::Joining,
            (_, Life::Up) => State::Up,
            (_, Life::Leaving) => State::Leaving,
        }
    }

    /// What changed in lists since the last call, in order of ids; and whose record did.
    pub(super) fn changes(&mut self, now: Millis) -> (Vec<Member>, Vec<NodeId>) {
        while let Some((at, node)) = self.doubts.first().copied().filter(|(at, _)| *at <= now) {
            self.doubts.remove(&(at, node));
            self.dirty.insert(node);
        }
        let (mut changes, mut records) = (Vec::new(), Vec::new());
        for node in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.entries.get(&node) else { continue };
            let member = entry.record.member(self.state(now, entry));
            let revision = entry.record.revision;
            let entry = self.entries.get_mut(&node).expect("it was there a moment ago");
            let same = entry.shown.as_ref() == Some(&member);
            if !same || entry.shown_revision != revision {
                records.push(node);
            }
            entry.shown_revision = revision;
            if !same {
                entry.shown = Some(member.clone());
                changes.push(member);
            }
        }
        (changes, records)
    }

    /// Forgets who has been dead for long. Answers who was, as gone.
    pub(super) fn forget(&mut self, now: Millis) -> Vec<Member> {
        let old = |entry: &Entry| {
            entry.down_at.is_some_and(|since| now.saturating_sub(since) >= self.forget_after_ms)
        };
        let gone = self.entries.iter().filter(|(_, entry)| old(entry));
        let gone: Vec<NodeId> = gone.map(|(node, _)| *node).collect();
        let entries = gone.iter().filter_map(|node| self.entries.remove(node));
        let shown = entries.filter_map(|entry| entry.shown);
        let shown = shown.filter(|member| member.state != State::Gone);
        let shown = shown.map(|member| Member { state: State::Gone, ..member }).collect();
        self.full &= gone.is_empty();
        shown
    }

    /// A node's record as others may have it: a suspicion is told once it is shown.
    pub(super) fn telling(&self, node: NodeId) -> Option<Record> {
        let entry = self.entries.get(&node)?;
        let mut record = entry.record.clone();
        let shown = entry.shown.as_ref().map(|member| member.state);
        if record.verdict == Verdict::Suspect && shown != Some(State::Suspect) {
            record.verdict = Verdict::Alive;
        }
        Some(record)
    }

    /// The records of a region.
    pub(super) fn region(&self, region: &str) -> Vec<Record> {
        let of = self.entries.values().filter(|entry| entry.record.facts.region == region);
        of.filter_map(|entry| self.telling(entry.record.node)).collect()
    }

    /// By region, a hash of who is live there and of what is told of them. The dead do not count:
    /// each node forgets them at a time of its own.
    pub(super) fn digests(&self) -> BTreeMap<String, u64> {
        let mut hashers: BTreeMap<&str, blake3::Hasher> = BTreeMap::new();
        for entry in self.entries.values().filter(|entry| !entry.record.is_down()) {
            let record = &entry.record;
            let hasher = hashers.entry(&record.facts.region).or_default();
            let suspect = entry.shown.as_ref().is_some_and(|member| member.state == State::Suspect);
            hasher.update(&record.node.0);
            hasher.update(&record.incarnation.to_be_bytes());
            hasher.update(&record.revision.to_be_bytes());
            hasher.update(&[u8::from(suspect)]);
        }
        let short = |hasher: blake3::Hasher| {
            let mut hash = [0; 8];
            hash.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
            u64::from_be_bytes(hash)
        };
        hashers.into_iter().map(|(region, hasher)| (region.to_owned(), short(hasher))).collect()
    }
}
