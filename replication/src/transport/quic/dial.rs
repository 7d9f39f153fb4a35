//! Keeps one address connected: dials, waits until the connection is lost, dials again.
//!
//! Invariants: an address whose peer is connected, by whichever side's dial, is not dialled; after
//! the loss of a connection that had been good the first dial comes at once; pauses count from the
//! start of an attempt, so that a slow attempt does not add to them. Once its address is removed,
//! a dialler ends: at once, or with the connection that it has made.
//!
//! Left out: giving up by itself. Who knows that a peer is gone for good removes its address.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::NodeId;
use super::Shared;
use super::connection::{self, Outcome};
use crate::transport::certificates::SERVER_NAME;

/// An attempt is given up after this long: long enough for a slow link, short enough that the
/// growing pauses between QUIC's own repetitions do not hide that a partition has healed.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Dials until the transport closes, the sender of `removed` is dropped, or the address turns out
/// to be this node's own.
pub(super) async fn keep_connected(
    shared: Arc<Shared>,
    address: String,
    mut removed: watch::Receiver<()>,
) {
    let mut dialler = Dialler {
        pause: Pause::new(&shared),
        address,
        attempts: 0,
        own: BTreeSet::new(),
        known: None,
        answered: false,
    };
    while shared.is_open() {
        let dialled = tokio::select! {
            // Nothing is sent: it is dropped.
            _ = removed.changed() => return,
            dialled = dialler.dial(&shared) => dialled,
        };
        let Some((target, connection)) = dialled else { return };
        let outcome = connection::dialled(&shared, connection).await;
        let pause = dialler.learn(target, outcome);
        tokio::select! {
            _ = removed.changed() => return,
            () = sleep_until(Instant::now() + pause) => {}
        }
    }
}

enum Failure {
    /// All that the name stands for is this node.
    Own,
    Unreachable,
}

/// The address that was dialled, and what came of it.
type Dialled = (SocketAddr, Connection);

struct Dialler {
    address: String,
    attempts: usize,
    /// Resolved addresses that led back to this node.
    own: BTreeSet<SocketAddr>,
    /// Who answered last.
    known: Option<NodeId>,
    /// Anyone has answered.
    answered: bool,
    pause: Pause,
}

impl Dialler {
    /// The next connection, however long it takes; `None`: the address is this node's own.
    async fn dial(&mut self, shared: &Shared) -> Option<Dialled> {
        loop {
            if let Some(peer) = self.known {
                shared.peers.absent(peer).await;
            }
            let started = Instant::now();
            match self.attempt(shared).await {
                Ok(dialled) => return Some(dialled),
                Err(Failure::Own) => return None,
                Err(Failure::Unreachable) => {
                    sleep_until(started + self.pause.next(self.answered)).await;
                }
            }
        }
    }

    /// What a connection's end says about the address; how long to wait before the next dial.
    fn learn(&mut self, target: SocketAddr, outcome: Outcome) -> Duration {
        match outcome {
            Outcome::Own => self.found_self(target),
            Outcome::Duplicate(peer) => (self.known, self.answered) = (Some(peer), true),
            Outcome::Lost { peer, steady: true, .. } => {
                (self.known, self.answered) = (Some(peer), true);
                self.pause.reset();
            }
            Outcome::Lost { peer, answered, steady: false } => {
                (self.known, self.answered) = (Some(peer), self.answered || answered);
                return self.pause.next(self.answered);
            }
        }
        Duration::ZERO
    }

    /// Resolves the name and dials one of its addresses, the next at each attempt.
    async fn attempt(&mut self, shared: &Shared) -> Result<Dialled, Failure> {
        let attempt = async {
            let target = self.resolve(shared).await?;
            let connecting = shared.endpoint.connect(target, SERVER_NAME).map_err(|error| {
                tracing::debug!(address = self.address, %error, "cannot dial");
                Failure::Unreachable
            })?;
            match connecting.await {
                Ok(connection) => Ok((target, connection)),
                Err(error) => {
                    connection::refused("dialled", &self.address, &error);
                    Err(Failure::Unreachable)
                }
            }
        };
        let result = timeout(ATTEMPT, attempt).await.unwrap_or(Err(Failure::Unreachable));
        self.attempts = self.attempts.wrapping_add(1);
        result
    }

    async fn resolve(&self, shared: &Shared) -> Result<SocketAddr, Failure> {
        let resolved = lookup_host(&self.address).await.map_err(|error| {
            tracing::debug!(address = self.address, %error, "cannot resolve");
            Failure::Unreachable
        })?;
        let reachable = |address: &SocketAddr| shared.config.listen.is_ipv6() || address.is_ipv4();
        let all: Vec<SocketAddr> = resolved.filter(reachable).collect();
        let others: Vec<_> = all.iter().filter(|a| !self.own.contains(a)).collect();
        match others.get(self.attempts % others.len().max(1)) {
            Some(target) => Ok(**target),
            None if all.is_empty() => Err(Failure::Unreachable),
            None => Err(Failure::Own),
        }
    }

    /// The connection just made led back to this node.
    fn found_self(&mut self, target: SocketAddr) {
        self.own.insert(target);
        tracing::info!(address = self.address, "this node's own address: not dialled any more");
    }
}

/// Exponential back-off with jitter.
struct Pause {
    min: u64,
    max: u64,
    max_known: u64,
    current: u64,
}

impl Pause {
    fn new(shared: &Shared) -> Self {
        let config = &shared.config;
        Self {
            min: config.dial_min_ms,
            max: config.dial_max_ms,
            max_known: config.dial_max_known_ms,
            current: config.dial_min_ms,
        }
    }

    fn reset(&mut self) {
        self.current = self.min;
    }

    /// The next pause. `known`: the address has answered before.
    fn next(&mut self, known: bool) -> Duration {
        let cap = if known { self.max_known } else { self.max };
        let whole = self.current.min(cap);
        self.current = whole.saturating_mul(2);
        // Without randomness the jitter is lost, not the pause.
        let drawn = getrandom::u64().unwrap_or(0);
        Duration::from_millis(whole - drawn % (whole / 2 + 1))
    }
}
