//! What the SWIM crate wants done, kept as values, and its settings.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use foca::{Config, Message, Notification, Runtime, Timer};

use atoll_replication::transport::{DATAGRAM_BYTES, NodeId};
use atoll_store::dot::Millis;

use super::HELPERS;
use super::codec::{Datagram, Id};
use crate::membership::Timing;

/// How often each piece of news is sent on: reaches all of a hundred nodes with 1 % loss.
const TRANSMISSIONS: u8 = 8;
/// Between rounds of gossip, while there is news.
const GOSSIP_MS: u64 = 200;

/// What the SWIM crate wants done.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) now: Millis,
    number: u64,
    pub(super) timers: BTreeMap<(Millis, u64), Timer<Id>>,
    pub(super) datagrams: Vec<(NodeId, Bytes)>,
    /// The last node probed, under which number, and when.
    pub(super) probed: Option<(Id, u8, Millis)>,
}

impl Runtime<Id> for &mut Outbox {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        tracing::debug!(?notification, "swim");
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        if let Ok(Datagram { header, .. }) = Datagram::decode(data)
            && let Message::Ping(probe) = header.message
        {
            self.probed = Some((to, probe, self.now));
        }
        self.datagrams.push((to.node, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        let after = Millis::try_from(after.as_millis()).expect("durations here are short");
        self.number += 1;
        self.timers.insert((self.now + after, self.number), event);
    }
}

/// The settings of the SWIM crate.
pub(super) fn config(timing: &Timing) -> Config {
    let one = NonZeroUsize::MIN;
    let ms = Duration::from_millis;
    let gossip = foca::PeriodicParams {
        frequency: ms(GOSSIP_MS),
        num_members: one.saturating_add(HELPERS - 1),
    };
    Config {
        probe_period: ms(timing.probe_ms),
        probe_rtt: ms(timing.answer_ms),
        num_indirect_probes: one.saturating_add(HELPERS - 1),
        max_transmissions: NonZeroU8::MIN.saturating_add(TRANSMISSIONS - 1),
        suspect_to_down_after: ms(timing.suspect_ms),
        remove_down_after: Some(ms(timing.forget_after_ms)),
        max_packet_size: one.saturating_add(DATAGRAM_BYTES - 1),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(gossip),
    }
}
