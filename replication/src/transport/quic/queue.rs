//! What waits to be written to one peer in one class.
//!
//! Invariants: frames held, those being written included, never cost more than the bound; a frame
//! that does not fit is refused, never one that was accepted before; order is kept. The lock is
//! held for a few instructions and never across an await.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

/// What a frame costs above its bytes: its handle and its header. Bounds empty frames too.
const OVERHEAD: usize = 64;

/// The most that one write takes, so that room comes back while a long queue drains.
const BATCH_BYTES: usize = 256 * 1024;

/// Frames taken out together, and what they cost.
pub(super) struct Batch {
    pub(super) frames: Vec<Bytes>,
    pub(super) cost: usize,
}

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    bound: usize,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Bytes>,
    held: usize,
    closed: bool,
}

fn cost(frame: &Bytes) -> usize {
    frame.len() + OVERHEAD
}

impl Queue {
    pub(super) fn new(bound: usize) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), bound }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the queue")
    }

    /// Accepts a frame if there is room for it.
    pub(super) fn push(&self, frame: Bytes) -> bool {
        let mut state = self.state();
        if state.closed || state.held + cost(&frame) > self.bound {
            return false;
        }
        state.held += cost(&frame);
        state.frames.push_back(frame);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Waits for frames and takes what has queued up; `None`: closed and empty. One taker at a
    /// time. The frames count until [`Queue::written`].
    pub(super) async fn take(&self) -> Option<Batch> {
        loop {
            match self.take_now() {
                Some(batch) => return Some(batch),
                None if self.state().closed => return None,
                None => self.changed.notified().await,
            }
        }
    }

    fn take_now(&self) -> Option<Batch> {
        let mut state = self.state();
        let mut batch = Batch { frames: Vec::new(), cost: 0 };
        while batch.cost < BATCH_BYTES {
            let Some(frame) = state.frames.pop_front() else { break };
            batch.cost += cost(&frame);
            batch.frames.push(frame);
        }
        (!batch.frames.is_empty()).then_some(batch)
    }

    /// Gives back the room of a batch.
    pub(super) fn written(&self, cost: usize) {
        self.state().held -= cost;
    }

    /// Accepts nothing more; what is queued can still be taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Closes, and drops what is queued: how many frames.
    pub(super) fn clear(&self) -> usize {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.frames).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Bytes {
        Bytes::from(vec![0; length])
    }

    #[tokio::test]
    async fn room_comes_back_when_written() {
        let queue = Queue::new(2 * (100 + OVERHEAD));
        assert!(queue.push(frame(100)) && queue.push(frame(100)) && !queue.push(frame(0)));
        let batch = queue.take().await.unwrap();
        assert_eq!(batch.frames.len(), 2);
        assert!(!queue.push(frame(0)), "what is being written counts");
        queue.written(batch.cost);
        assert!(queue.push(frame(100)));
    }

    #[tokio::test]
    async fn empty_frames_are_bounded_and_long_queues_come_in_batches() {
        let queue = Queue::new(10 * OVERHEAD);
        assert_eq!((0..100).filter(|_| queue.push(frame(0))).count(), 10);

        let queue = Queue::new(usize::MAX);
        (0..10).for_each(|_| assert!(queue.push(frame(BATCH_BYTES / 2))));
        assert_eq!(queue.take().await.unwrap().frames.len(), 2);
    }

    #[tokio::test]
    async fn a_closed_queue_drains() {
        let queue = Queue::new(1000);
        assert!(queue.push(frame(1)));
        queue.close();
        assert!(!queue.push(frame(1)));
        assert_eq!(queue.take().await.unwrap().frames.len(), 1);
        assert!(queue.take().await.is_none());
        assert_eq!(queue.clear(), 0);
    }
}
