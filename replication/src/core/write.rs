//! Accepting changes: stamp, apply, ship.
//!
//! Invariants:
//! 1. A refused change draws no dot and no stamp.
//! 2. (R10) A retry whose first attempt is known here makes no second operation.
//! 3. (R11) Expired state is removed by a logged operation: of the node that set the expiry, or,
//!    should that be gone, of another after a grace.

use std::sync::Arc;

use atoll_store::command::{Change, Command, Refusal};
use atoll_store::dot::{Dot, Millis};
use atoll_store::entity::Image;
use atoll_store::operation::{Operation, Part};

use super::wait::{Goal, Item};
use super::{Core, Ticket, Written};
use crate::level::{Demand, Level, Unmet};

/// How long the node that set an expiry has to remove what expired, before others do.
const SWEEP_GRACE_MS: Millis = 10_000;
/// Remembered retries of an entity from which on old ones are looked for.
const FORGET_FROM: usize = 1_024;
/// Expired entities removed in one step.
const SWEEP_BATCH: usize = 256;

impl Core {
    pub(super) fn write(
        &mut self,
        now: Millis,
        ticket: Ticket,
        changes: Vec<Change>,
        demand: Demand,
    ) {
        let common = self.disk_full().or_else(|| self.clock_skew());
        let mut items = Vec::with_capacity(changes.len());
        for change in changes {
            let accepted = match &common {
                Some(refusal) => Err(refusal.clone().into()),
                None => self.accept(now, &change, demand.level),
            };
            items.push(accepted.unwrap_or_else(|unmet| Item::Done(Err(unmet))));
        }
        self.wait_for(ticket, items, demand);
    }

    /// Applies a change if its level can be reached; what is to be waited for.
    fn accept(&mut self, now: Millis, change: &Change, level: Level) -> Result<Item, Unmet> {
        let shard = self.engine.shard_of(&change.key);
        self.serves(shard)?;
        let alone = self.is_enough(shard, level)?;
        let issued = self.engine.sequence(shard, self.me.origin);
        let written = self.apply_change(now, change)?;
        let sequence = self.engine.sequence(shard, self.me.origin);
        Ok(match alone {
            true => Item::Done(Ok(written)),
            // What was done before, or had nothing to do, stands on all that is here.
            false if sequence == issued => Item::Open(written, shard, Goal::Copy),
            false => Item::Open(written, shard, Goal::Operation(sequence)),
        })
    }

    fn apply_change(&mut self, now: Millis, change: &Change) -> Result<Written, Refusal> {
        let damaged = |_| Refusal::Quarantined;
        let existed = {
            let entity = self.engine.entity(&change.key).map_err(damaged)?;
            entity.is_present() && entity.expires_at().is_none_or(|at| at > now)
        };
        if self.is_replay(now, change)? {
            let image = self.engine.image(&change.key).map_err(damaged)?;
            return Ok(Written { image, existed, replayed: true });
        }
        let only_deletes = change.commands.iter().all(|command| *command == Command::Delete);
        if only_deletes && !existed && change.hash.is_none() {
            let image = self.engine.image(&change.key).map_err(damaged)?;
            return Ok(Written { image, existed, replayed: false });
        }
        let image = self.stamp(now, change)?;
        self.writes += 1;
        Ok(Written { image, existed, replayed: false })
    }

    /// Whether an earlier try of this request was applied (R10).
    fn is_replay(&mut self, now: Millis, change: &Change) -> Result<bool, Refusal> {
        let Some(hash) = change.hash else { return Ok(false) };
        let limit = self.engine.limits().retry_keys;
        let entity = self.engine.entity(&change.key).map_err(|_| Refusal::Quarantined)?;
        let mut other = false;
        for known in entity.remembered(hash.key, now) {
            if known.request == hash.request {
                return Ok(true);
            }
            other = true;
        }
        if other {
            return Err(Refusal::KeyReused);
        }
        let held = entity.keys_len();
        // Doubling pays for the scan; at the limit it is worth one for every refusal.
        if held >= limit || (held >= FORGET_FROM && held.is_power_of_two()) {
            let damaged = |_| Refusal::Quarantined;
            let kept = self.engine.forget_retries(&change.key).map_err(damaged)?;
            if kept >= limit {
                return Err(Refusal::TooManyKeys { limit: limit as u64 });
            }
        }
        Ok(false)
    }

    /// Makes the operation, applies it here, and queues it for the peers.
    fn stamp(&mut self, now: Millis, change: &Change) -> Result<Arc<Image>, Refusal> {
        let shard = self.engine.shard_of(&change.key);
        let stamp = self.hlc.tick(now);
        let origin = self.me.origin;
        let dot = Dot { origin, sequence: self.engine.sequence(shard, origin) + 1 };
        let effect = self.engine.draft(change, dot, stamp, now)?;
        self.hlc = stamp;
        let part = Part { key: change.key.clone(), hash: change.hash, effect };
        let operation = Operation { dot, stamp, parts: vec![part] };
        let bytes = operation.encode();
        let image = self.engine.apply(shard, &operation, bytes.clone());
        self.push.entry(shard).or_default().push(bytes);
        self.waits.touch(shard);
        self.drain_waiting(shard);
        image.ok_or(Refusal::Quarantined)
    }

    /// Removes what has expired (R11).
    pub(super) fn sweep(&mut self, now: Millis) {
        self.swept = now;
        for key in self.engine.expired(now, SWEEP_BATCH) {
            #[cfg(feature = "mutants")]
            if atoll_store::mutant::Mutant::ExpireSilently.is_on() {
                self.engine.lose(&key);
                continue;
            }
            let Ok(entity) = self.engine.entity(&key) else { continue };
            let due = entity.expires_at().unwrap_or(now);
            let own = entity.expiry_origin() == Some(self.me.origin);
            let here = self.serves(self.engine.shard_of(&key)).is_ok();
            let refused = !here || self.disk_full().is_some() || self.clock_skew().is_some();
            if refused || !(own || now > due + SWEEP_GRACE_MS) {
                continue;
            }
            let commands = vec![Command::Delete];
            let change = Change { key, commands, hash: None, ttl_ms: None };
            if let Err(error) = self.stamp(now, &change) {
                tracing::warn!(%error, entity = %change.key, "expired state stays");
            }
        }
    }
}
