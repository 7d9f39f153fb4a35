//! A running subscription: a reader of the journal, not a queue.
//!
//! | phase | does | then |
//! |---|---|---|
//! | resume | waits until a starting node knows its journals | one of those below |
//! | snapshot | lists what is selected, page by page; then `ready` | live, from before the list |
//! | replay | reads the log above a foreign cursor's clocks, a page at a time | live |
//! | live | reads the journal after its position, or waits | ended, when draining |
//!
//! Invariants:
//! 1. No change is skipped without `reset`: the position moves only over what was read.
//! 2. A cursor given with a record, sent back, leads to everything after that record; before
//!    `ready` it leads to a whole snapshot again.
//! 3. `next` may be cancelled at any await: nothing is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;

use atoll_replication::core::Status;
use atoll_store::dot::{Hlc, Millis, Origin};
use atoll_store::entity::Image;
use atoll_store::log;
use atoll_store::mutant::Mutant;
use atoll_store::name::EntityKey;

use super::cursor::Cursor;
use super::journal::{Entry, Tail, Topic};
use super::replay::{DISK_RECORDS, Page, Seen, keys_of, page_above};
use super::selection::Scope;
use super::{Changed, Node, ReadError, Record, Start};

mod snapshot;

/// Entities listed in one step of a snapshot, changes read in one step of the journal.
const PAGE: usize = 256;
/// A subscriber whom nothing concerned for this long is told how far the journal has moved.
const PROGRESS_EVERY_MS: Millis = 15_000;

enum Phase {
    /// From this slot (everything) or id (one collection) on.
    Snapshot {
        slot: u16,
        after: Option<EntityKey>,
    },
    Resume(Cursor),
    Replay(Replay),
    Live,
    Ended,
}

/// A change to be told, and the position that its cursor names.
struct Shown {
    changed: Changed,
    position: u64,
}

/// How far the log was read for a foreign cursor.
struct Replay {
    cursor: Cursor,
    above: Arc<Seen>,
    /// The next position to read, and the last: what is later is read live.
    from: u64,
    end: u64,
    /// Read since `end` was taken: later entries of the log add nothing to them.
    seen: BTreeSet<EntityKey>,
}

/// A running subscription.
pub struct Subscription {
    node: Node,
    what: Scope,
    topics: Vec<Topic>,
    notify: Arc<Notify>,
    phase: Phase,
    position: u64,
    told: u64,
    /// It resumed, and is told once it has everything up to here.
    behind: Option<u64>,
    clocks: Arc<BTreeMap<Origin, Hlc>>,
    queue: VecDeque<(Record, Cursor)>,
    /// By the node's clock.
    progress_at: Millis,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.notify = Arc::default();
        self.node.journal().unlisten(&self.topics);
    }
}

impl Subscription {
    pub(super) fn new(node: Node, what: Scope, start: Start) -> Subscription {
        let topics = what.selection.topics();
        let notify = node.journal().listen(&topics);
        let end = node.journal().end();
        let mut subscription = Subscription {
            topics,
            notify,
            what,
            phase: Phase::Live,
            position: end,
            told: end,
            behind: None,
            clocks: Arc::default(),
            queue: VecDeque::new(),
            progress_at: node.now() + PROGRESS_EVERY_MS,
            node,
        };
        subscription.begin(start);
        subscription
    }

    fn begin(&mut self, start: Start) {
        match start {
            Start::Now => {
                // The first record: a client that breaks off now can resume from here.
                let cursor = self.cursor(self.position);
                self.queue.push_back((Record::Progress, cursor));
            }
            Start::Snapshot => self.snapshot(),
            Start::After(cursor) => self.phase = Phase::Resume(cursor),
        }
    }

    fn resume(&mut self, cursor: Cursor, status: &Status) {
        let Some(place) = cursor.place().filter(|place| !place.is_nowhere()) else {
            return self.reset();
        };
        self.phase = Phase::Live;
        let own = status.starts.iter().position(|(start, _)| *start == place.start);
        let next = own.map(|at| status.starts.get(at + 1).map_or(u64::MAX, |(_, from)| *from));
        // A copy that was given up and taken again has a journal of its own.
        let taken = |slot| status.taken_at.get(&slot).copied().unwrap_or(0);
        if self.what.slots().map(taken).max().unwrap_or(0) > place.position && own.is_some() {
            return self.reset();
        }
        if next.is_some_and(|next| place.position < next && place.position <= self.position) {
            self.position = place.position + u64::from(Mutant::ResumeOffByOne.is_on());
            self.told = place.position;
            self.behind = Some(self.node.journal().end());
            self.clocks = Arc::new(place.clocks);
            return;
        }
        let above = Arc::new(Seen::new(place.clocks, status));
        let (end, seen) = (self.node.journal().end(), BTreeSet::new());
        self.phase = Phase::Replay(Replay { cursor, above, from: 1, end, seen });
    }

    /// Back to a whole snapshot.
    fn reset(&mut self) {
        self.queue.push_back((Record::Reset, Cursor::nowhere()));
        self.snapshot();
    }

    fn snapshot(&mut self) {
        self.behind = None;
        self.position = self.node.journal().end();
        let slot = self.what.slots().next().unwrap_or(0);
        self.phase = Phase::Snapshot { slot, after: None };
    }

    fn cursor(&mut self, position: u64) -> Cursor {
        let closed = self.node.journal().closed();
        if closed.position <= position {
            self.clocks = closed.clocks;
        }
        Cursor::of(self.node.origin(), position, &self.clocks)
    }

    /// The next record with the cursor after it; waits. Cancel-safe.
    pub async fn next(&mut self) -> (Record, Cursor) {
        loop {
            if let Some(next) = self.queue.pop_front() {
                self.progress_at = self.node.now() + PROGRESS_EVERY_MS;
                return next;
            }
            if let Err(error) = self.advance().await {
                self.end(match error {
                    ReadError::Draining => "draining",
                    ReadError::Elsewhere => "moved",
                    // Streams ask for no level.
                    ReadError::Overloaded | ReadError::Unmet(_) => "overloaded",
                    ReadError::Quarantined => "quarantined",
                });
            }
        }
    }

    fn end(&mut self, code: &'static str) {
        let cursor = match std::mem::replace(&mut self.phase, Phase::Ended) {
            // Of these the subscriber does not have all yet.
            Phase::Snapshot { .. } => Cursor::nowhere(),
            Phase::Resume(cursor) | Phase::Replay(Replay { cursor, .. }) => cursor,
            Phase::Live | Phase::Ended => self.cursor(self.position),
        };
        self.queue.push_back((Record::Ended(code), cursor));
    }

    async fn advance(&mut self) -> Result<(), ReadError> {
        // What is held elsewhere now is read there: the subscriber resumes, and is led to it.
        if !matches!(self.phase, Phase::Ended) && !self.node.serves_all(self.what.slots()) {
            return Err(ReadError::Elsewhere);
        }
        match &self.phase {
            Phase::Snapshot { slot, after } => {
                let (slot, after) = (*slot, after.clone());
                self.list(slot, after).await
            }
            Phase::Resume(cursor) => {
                let cursor = cursor.clone();
                let status = self.node.journal().started().await.ok_or(ReadError::Draining)?;
                self.resume(cursor, &status);
                Ok(())
            }
            Phase::Replay(_) => self.replay().await,
            Phase::Live if self.has_caught_up() => {
                self.bookmark();
                Ok(())
            }
            Phase::Live => self.read().await,
            Phase::Ended => std::future::pending().await,
        }
    }

    /// Live: what is after the position, or a wait for it.
    async fn read(&mut self) -> Result<(), ReadError> {
        if self.node.journal().is_draining() {
            return Err(ReadError::Draining);
        }
        let (tail, reached) =
            self.node.journal().after(self.position, PAGE, |key| self.what.takes(key));
        match tail {
            Tail::Older => self.read_disk().await,
            Tail::Entries(entries) if entries.is_empty() => {
                self.position = reached;
                if !self.has_caught_up() {
                    self.wait().await;
                }
                Ok(())
            }
            Tail::Entries(entries) => {
                let shown = self.resolve(entries).await?;
                self.show(shown);
                self.position = reached;
                Ok(())
            }
        }
    }

    /// Waits for a change of what is selected, or until progress is due.
    async fn wait(&mut self) {
        if !is_due(self.node.now(), self.progress_at) {
            // In a fixed order: what a stepped node does is decided by its caller alone.
            tokio::select! {
                biased;
                () = self.notify.notified() => return,
                () = self.due() => {}
            }
        }
        self.progress();
    }

    /// Waits until progress is due. Whoever steps a node polls again when its clock has moved.
    async fn due(&self) {
        let wait_ms = self.progress_at.saturating_sub(self.node.now());
        match self.node.is_stepped() {
            false => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
            true => {
                poll_fn(|_| match is_due(self.node.now(), self.progress_at) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await
            }
        }
    }

    /// Tells how far the journal has moved.
    fn progress(&mut self) {
        self.progress_at = self.node.now() + PROGRESS_EVERY_MS;
        self.skip();
        if self.position > self.told {
            self.bookmark();
        }
    }

    /// Whether it resumed, and has everything that was there then, which it was not told yet.
    fn has_caught_up(&self) -> bool {
        self.behind.is_some_and(|end| end <= self.position)
    }

    fn bookmark(&mut self) {
        (self.behind, self.told) = (None, self.position);
        let cursor = self.cursor(self.position);
        self.queue.push_back((Record::Progress, cursor));
    }

    /// Moves over what nothing told this subscriber of: changes up to `woken` have told theirs, so
    /// without a permit none of them was for it.
    fn skip(&mut self) {
        let woken = self.node.journal().woken();
        match self.notify.notified().now_or_never() {
            Some(()) => self.notify.notify_one(),
            None => self.position = self.position.max(woken),
        }
    }

    /// Each entity once, at its last change: its state then, or a later one.
    async fn resolve(&self, entries: Vec<Entry>) -> Result<Vec<Shown>, ReadError> {
        let last: BTreeMap<EntityKey, usize> =
            entries.iter().enumerate().map(|(at, entry)| (entry.key.clone(), at)).collect();
        let places: Vec<u64> = entries.iter().map(|entry| entry.position).collect();
        let entries = entries.into_iter().enumerate();
        let newest: Vec<(usize, Entry, Option<Arc<Image>>)> = entries
            .filter(|(at, entry)| last.get(&entry.key) == Some(at))
            .map(|(at, entry)| {
                let image = entry.image.upgrade();
                (at, entry, image)
            })
            .collect();
        let missing = newest.iter().filter(|(.., image)| image.is_none());
        let missing = missing.map(|(_, entry, _)| entry.key.clone()).collect();
        let mut read = self.node.read_all(missing).await?.into_iter();
        let mut shown = Vec::with_capacity(newest.len());
        for (at, entry, image) in newest {
            let image = image.unwrap_or_else(|| read.next().expect("each that was missing"));
            // Of several changes with one position, only the last has been followed by all.
            let more = places.get(at + 1) == Some(&entry.position);
            let position = entry.position - u64::from(more);
            let origin_region = self.node.region_of(entry.origin);
            let changed = Changed { key: entry.key, image, origin_region };
            shown.push(Shown { changed, position });
        }
        Ok(shown)
    }

    /// Queues changes.
    fn show(&mut self, shown: Vec<Shown>) {
        for Shown { changed, position } in shown {
            let cursor = self.cursor(position);
            self.told = position;
            self.queue.push_back((Record::Changed(changed), cursor));
        }
    }

    /// Behind memory's reach: the log on disk.
    ///
    /// It may be ahead of memory, and of what readers see: what is later than memory's end is left
    /// for the next read, or its old state would be shown as the new one.
    async fn read_disk(&mut self) -> Result<(), ReadError> {
        let (backend, from) = (self.node.backend(), self.position + 1);
        let end = self.node.journal().end();
        let what = self.what.clone();
        let mut page = self
            .node
            .blocking(move || log::read(&*backend, from, DISK_RECORDS).unwrap_or_default())
            .await?;
        page.retain(|(position, _)| *position <= end);
        let dense = page.iter().zip(from..).all(|((position, _), next)| *position == next);
        let (Some((last, _)), true) = (page.last().cloned(), dense) else {
            // Trimmed, or damaged.
            self.reset();
            return Ok(());
        };
        let mut entries = Vec::new();
        for (position, bytes) in page {
            let Some(keys) = keys_of(&bytes) else {
                self.reset();
                return Ok(());
            };
            for (key, origin) in keys.into_iter().filter(|(key, _)| what.takes(key)) {
                entries.push(Entry { position, key, image: Weak::new(), origin });
            }
        }
        let shown = self.resolve(entries).await?;
        self.show(shown);
        self.position = last;
        Ok(())
    }

    /// A foreign cursor: every entity changed above its clocks, at least once. One page.
    async fn replay(&mut self) -> Result<(), ReadError> {
        let Phase::Replay(replay) = &self.phase else { return Ok(()) };
        let (backend, from, end) = (self.node.backend(), replay.from, replay.end);
        let above = replay.above.clone();
        let (first, last, mut keys) =
            match self.node.blocking(move || page_above(&*backend, from, &above)).await? {
                Page::Changes { first, last, keys } => (first, last, keys),
                Page::End if from > end => {
                    self.replayed();
                    return Ok(());
                }
                Page::End | Page::Gone => {
                    self.reset();
                    return Ok(());
                }
            };
        // The log starts where it was trimmed; later nothing may be missing.
        if from > 1 && first > from {
            self.reset();
            return Ok(());
        }
        keys.retain(|key, _| self.what.takes(key) && !replay.seen.contains(key));
        let images = self.node.read_all(keys.keys().cloned().collect()).await?;
        let Phase::Replay(replay) = &mut self.phase else { return Ok(()) };
        for ((key, origin), image) in keys.into_iter().zip(images) {
            replay.seen.insert(key.clone());
            let origin_region = self.node.region_of(origin);
            let changed = Changed { key, image, origin_region };
            self.queue.push_back((Record::Changed(changed), replay.cursor.clone()));
        }
        replay.from = last + 1;
        if last >= end {
            self.replayed();
        }
        Ok(())
    }

    /// The log was read for a foreign cursor.
    fn replayed(&mut self) {
        let Phase::Replay(replay) = &self.phase else { return };
        self.position = replay.end;
        self.behind = Some(self.position);
        self.phase = Phase::Live;
    }
}

/// Whether progress is due: also after the clock was set back, which must not silence it.
fn is_due(now: Millis, at: Millis) -> bool {
    now >= at || at - now > PROGRESS_EVERY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_does_not_silence_progress() {
        assert!(is_due(20_000, 20_000) && is_due(4_999, 20_000));
        assert!(!is_due(5_000, 20_000) && !is_due(19_999, 20_000));
    }
}
