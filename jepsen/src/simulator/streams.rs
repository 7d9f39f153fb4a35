//! Subscriptions in a world where a node may not hold all: a stream of parts, each of one node.
//!
//! Invariants:
//! 1. Where one node serves all, its records and cursors are passed on as they are.
//! 2. Else a cursor names what was seen of each part. Before `ready` it leads to a whole snapshot
//!    again; `ready`, and the `progress` that ends a resume, come once every part has told its own.
//! 3. A part that begins anew makes all begin anew.

use std::collections::{BTreeMap, BTreeSet};

use atoll::node::{Cursor, Part, Record as NodeRecord, Selection, Start, Subscription};
use atoll_store::dot::Origin;
use futures_util::FutureExt;
use futures_util::stream::{BoxStream, StreamExt, unfold};

use super::ask;
use super::machine::Machine;
use super::world::World;
use crate::workloads::Record;

/// Most records of one poll.
const POLL_RECORDS: usize = 256;

/// A subscriber's stream.
pub(super) struct Stream {
    /// The machine that was asked, in which run.
    home: (usize, Origin),
    what: Selection,
    parts: Vec<Piece>,
    /// Who serves it, for the history: another name for each stream of several.
    pub(super) name: String,
    /// Whether all of it comes from one node.
    whole: bool,
}

/// A part of a stream.
struct Piece {
    at: usize,
    origin: Origin,
    slots: Vec<u16>,
    /// After what was told.
    cursor: Cursor,
    phase: Phase,
    /// What is asked of the node for the next record outlives the turn in which it was asked.
    records: BoxStream<'static, (NodeRecord, Cursor)>,
}

/// What a part is yet to tell before all have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Snapshot,
    Resume,
    Live,
}

/// What comes of a look at a stream.
enum Next {
    Record(Record),
    /// Something that only a part has to say.
    Silent,
    /// It begins anew.
    Anew(Record),
    Ended(Record),
}

impl Stream {
    /// Whether it is of this machine, in this run.
    pub(super) fn is_of(&self, at: usize, origin: Origin) -> bool {
        self.home == (at, origin)
    }

    /// The cursor after what was told.
    fn cursor(&self) -> String {
        if self.parts.iter().any(|part| part.phase == Phase::Snapshot) {
            return Cursor::nowhere().as_str().to_owned();
        }
        let mut seen: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for part in &self.parts {
            seen.entry(part.cursor.as_str()).or_default().extend(&part.slots);
        }
        serde_json::to_string(&seen).expect("a cursor is written as JSON")
    }

    /// What a part's record is to the subscriber.
    fn next(&mut self, at: usize, record: &NodeRecord, cursor: Cursor, now: u64) -> Next {
        let whole = self.whole;
        let plain = |cursor: &Cursor| ask::record(record, cursor.as_str().to_owned(), now);
        if whole {
            let record = plain(&cursor);
            return if record.event == "error" {
                Next::Ended(record)
            } else {
                Next::Record(record)
            };
        }
        self.parts[at].cursor = cursor;
        let phase = self.parts[at].phase;
        match record {
            NodeRecord::Ready | NodeRecord::Progress => self.parts[at].phase = Phase::Live,
            _ => {}
        }
        let told = ask::record(record, self.cursor(), now);
        let others_wait = self.parts.iter().any(|part| part.phase != Phase::Live);
        match record {
            NodeRecord::Reset => {
                Next::Anew(Record { cursor: Cursor::nowhere().as_str().into(), ..told })
            }
            NodeRecord::Ended(_) => Next::Ended(told),
            NodeRecord::Ready | NodeRecord::Progress if others_wait => Next::Silent,
            NodeRecord::Ready if phase != Phase::Snapshot => Next::Silent,
            _ => Next::Record(told),
        }
    }
}

/// Where a subscriber begins in each slot.
enum Since {
    Snapshot,
    Whole(Cursor),
    Slots(BTreeMap<u16, Cursor>),
}

impl Since {
    fn parse(text: Option<&str>) -> Option<Since> {
        let Some(text) = text else { return Some(Since::Snapshot) };
        if !text.starts_with('{') {
            return Cursor::parse(text).map(Since::Whole);
        }
        let seen: BTreeMap<String, Vec<u16>> = serde_json::from_str(text).ok()?;
        let mut slots = BTreeMap::new();
        for (cursor, of) in seen {
            let cursor = Cursor::parse(&cursor)?;
            slots.extend(of.into_iter().map(|slot| (slot, cursor.clone())));
        }
        Some(Since::Slots(slots))
    }

    /// Parts of a part that begin alike.
    fn split(&self, slots: &[u16]) -> Vec<(Start, Vec<u16>)> {
        let all = slots.to_vec();
        match self {
            Since::Snapshot => vec![(Start::Snapshot, all)],
            Since::Whole(cursor) => vec![(Start::After(cursor.clone()), all)],
            Since::Slots(seen) => {
                let mut alike: BTreeMap<String, (Cursor, Vec<u16>)> = BTreeMap::new();
                for slot in all {
                    let cursor = seen.get(&slot).cloned().unwrap_or_else(Cursor::nowhere);
                    let key = cursor.as_str().to_owned();
                    alike.entry(key).or_insert((cursor, Vec::new())).1.push(slot);
                }
                let start = |(cursor, slots)| (Start::After(cursor), slots);
                alike.into_values().map(start).collect()
            }
        }
    }
}

impl World {
    /// Opens a stream at a machine that runs.
    pub(super) fn open(
        &mut self,
        at: usize,
        what: Selection,
        since: Option<&str>,
    ) -> Result<Stream, String> {
        let Some(running) = &self.machines[at].running else { return Err("unreachable".into()) };
        let (node, home) = (&running.node, (at, running.origin));
        let cover = node.cover(&node.all_slots(), &BTreeSet::new()).ok_or("not-a-replica")?;
        let since = Since::parse(since).ok_or("bad-request")?;
        let mut names: Vec<String> = Vec::new();
        let mut parts = Vec::new();
        for Part { node, slots } in cover {
            let to = match node {
                None => Some(at),
                Some(node) => self.machine(node).filter(|to| self.are_connected(at, *to)),
            };
            let to = to.ok_or("unreachable")?;
            names.push(self.machines[to].name());
            for (start, slots) in since.split(&slots) {
                parts.push(self.piece(to, &what, &slots, start)?);
            }
        }
        let slots: usize = parts.iter().map(|part| part.slots.len()).sum();
        if slots != usize::from(self.slots()) {
            return Err("not-a-replica".into());
        }
        let whole = parts.len() == 1;
        if parts.len() > 1 || parts[0].at != at {
            self.coverage.hit("subscription led elsewhere");
        }
        self.streams += u64::from(!whole);
        let name = match whole {
            true => names.join(""),
            false => format!("{}@{}", names.join("+"), self.streams),
        };
        Ok(Stream { home, what, parts, name, whole })
    }

    fn slots(&self) -> u16 {
        self.machines[0].options.slots
    }

    fn piece(
        &self,
        at: usize,
        what: &Selection,
        slots: &[u16],
        start: Start,
    ) -> Result<Piece, String> {
        let Some(running) = &self.machines[at].running else { return Err("unreachable".into()) };
        let (cursor, phase) = match &start {
            Start::After(cursor) => (cursor.clone(), Phase::Resume),
            _ => (Cursor::nowhere(), Phase::Snapshot),
        };
        let opened = running.node.subscribe_part(what.clone(), slots, start).now_or_never();
        let opened = opened.expect("a stream opens without waiting");
        let records = records(opened.map_err(|error| error.to_string())?);
        let (origin, slots) = (running.origin, slots.to_vec());
        Ok(Piece { at, origin, slots, cursor, phase, records })
    }

    /// Takes what a stream has; one that is cut, or has ended, is dropped.
    pub(super) fn poll(&mut self, stream: &mut Option<Stream>, records: &mut Vec<Record>) {
        let (time, Some(open)) = (self.time, stream.as_mut()) else { return };
        let (home, origin) = open.home;
        let runs = |machine: &Machine, origin| {
            machine.running.as_ref().is_some_and(|running| running.origin == origin)
        };
        let reached = |part: &Piece| {
            let near = part.at == home || self.are_connected(home, part.at);
            near && runs(&self.machines[part.at], part.origin)
        };
        if !runs(&self.machines[home], origin) || !open.parts.iter().all(reached) {
            *stream = None;
            return;
        }
        if !self.machines[home].is_up(time) {
            return;
        }
        while records.len() < POLL_RECORDS {
            let Some(open) = stream.as_mut() else { return };
            match self.next_of(open) {
                None => return,
                Some(Next::Silent) => {}
                Some(Next::Record(record)) => records.push(record),
                Some(Next::Ended(record)) => {
                    records.push(record);
                    *stream = None;
                }
                Some(Next::Anew(record)) => {
                    let what = open.what.clone();
                    let name = std::mem::take(&mut open.name);
                    *stream = self.open(home, what, None).ok();
                    if let Some(open) = stream.as_mut() {
                        open.name = name;
                        records.push(record);
                    }
                }
            }
        }
    }

    /// The next record of any part that has one. Those of which there is a snapshot come first.
    fn next_of(&self, open: &mut Stream) -> Option<Next> {
        let snapshot = open.parts.iter().any(|part| part.phase == Phase::Snapshot) && !open.whole;
        for at in 0..open.parts.len() {
            let part = &mut open.parts[at];
            let machine = &self.machines[part.at];
            let waits = snapshot && part.phase != Phase::Snapshot;
            if waits || !machine.is_up(self.time) {
                continue;
            }
            if let Some(Some((record, cursor))) = part.records.next().now_or_never() {
                return Some(open.next(at, &record, cursor, machine.wall(self.time)));
            }
        }
        None
    }
}

fn records(subscription: Subscription) -> BoxStream<'static, (NodeRecord, Cursor)> {
    let next = async |mut subscription: Subscription| {
        let record = subscription.next().await;
        Some((record, subscription))
    };
    unfold(subscription, next).boxed()
}
