//! Who a node is, and how long things take in membership.
//!
//! Invariant: what passes the checks makes a core that works; what does not says which field is
//! wrong, and what it must be.

use std::collections::BTreeSet;

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

/// Who this node is, and how it watches others.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its id: the hash of its key.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its failure domain in the region.
    pub zone: String,
    /// Where peers reach it.
    pub address: String,
    /// What it is for; see [`super::RELAY`].
    pub roles: BTreeSet<String>,
    /// The version of its program.
    pub version: String,
    /// Its disk, as the council knows it.
    pub disk: u64,
    /// 64 random bits drawn at this start.
    pub start: u64,
    /// Higher than at any earlier start: the wall clock in ms does, and if it was set back the
    /// node rises above what its peers remember.
    pub incarnation: u64,
    /// All chance comes from it.
    pub seed: u64,
    /// Addresses dialled until a member answers there: gateways of other regions.
    pub seeds: BTreeSet<String>,
    /// Nodes of a region that carry news to and from others. Default 2: one may die.
    pub relays: usize,
    /// Most members of all regions, the dead ones too. Default 4096.
    pub members_max: usize,
    /// How long things take.
    pub timing: Timing,
}

/// How long things take. Set them alike on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between probes of one node after the other. Default 250: in a region of any size somebody
    /// probes a dead node within 250 ms on average, and within 2 s but for one time in 3,000.
    pub probe_ms: Millis,
    /// How long a probe waits before others are asked to look. Default 100.
    pub answer_ms: Millis,
    /// From suspicion to death. Default 2,250: a node paused for 1 s has 1 s and more to say so.
    pub suspect_ms: Millis,
    /// How long a suspicion lasts before lists show it. Default 1,500: longer than a pause of 1 s
    /// and the word that it was one. Less than `suspect_ms`.
    pub doubt_ms: Millis,
    /// A dead node is forgotten after this. Default 600,000.
    pub forget_after_ms: Millis,
    /// Between comparisons with another node of the region, and with each other region by relays.
    /// Default 5,000.
    pub exchange_ms: Millis,
    /// Between tries to dial one of the dead, or of a region out of reach. Default 15,000.
    pub retry_ms: Millis,
    /// A region of which nothing was heard for this is out of reach. Default 15,000: three
    /// comparisons.
    pub silence_ms: Millis,
    /// A node of another region that is missing from its region's lists for this has gone.
    /// Default 30,000.
    pub missing_ms: Millis,
    /// A connection without use is offered for closing after this. Default 60,000.
    pub spare_ms: Millis,
    /// An event that comes this late means that this node was paused. Default 200.
    pub late_ms: Millis,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_ms: 250,
            answer_ms: 100,
            suspect_ms: 2_250,
            doubt_ms: 1_500,
            forget_after_ms: 600_000,
            exchange_ms: 5_000,
            retry_ms: 15_000,
            silence_ms: 15_000,
            missing_ms: 30_000,
            spare_ms: 60_000,
            late_ms: 200,
        }
    }
}

/// A configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A field of this node's own description; the text names it and its bound.
    #[error("this node cannot be described to others: {0}; shorten or set it")]
    Own(&'static str),
    /// Timings that contradict each other; the text names them.
    #[error("timing of membership: {0}")]
    Timing(&'static str),
}

impl Timing {
    /// What is wrong with them.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |what| Err(ConfigError::Timing(what));
        if self.answer_ms == 0 || self.answer_ms >= self.probe_ms {
            return wrong("answer_ms must be above 0 and below probe_ms");
        }
        if self.doubt_ms >= self.suspect_ms {
            return wrong("doubt_ms must be below suspect_ms");
        }
        if self.forget_after_ms <= self.suspect_ms {
            return wrong("forget_after_ms must be above suspect_ms");
        }
        if [self.exchange_ms, self.retry_ms, self.silence_ms, self.late_ms].contains(&0) {
            return wrong("exchange_ms, retry_ms, silence_ms and late_ms must be above 0");
        }
        Ok(())
    }
}
