//! Who forms a region: one create-if-absent, whatever number of nodes start at the same time.
//!
//! A region's *record* says of which cluster it is, which node forms its council, under which
//! number, and with which settings. It is kept in one *place*: a ConfigMap, an etcd key, or, where
//! discovery has no such place, a file of the one node that `cluster.founder` names.
//!
//! | the record | this node | what it does |
//! |---|---|---|
//! | is absent | creates it | is the founder |
//! | is absent | finds that another was faster | joins |
//! | names this node, not formed | | is the founder still, under the same number |
//! | names another, not formed | waits, then replaces it | is the founder, under its own number |
//! | formed | | joins, or goes on with the council on its disk |
//!
//! A founder (1) makes its council durable on its own disk, and lets it speak to nobody; (2)
//! confirms the record by compare-and-swap; (3) only then lets the council work. Whoever replaces
//! a record that was not confirmed does it by compare-and-swap as well, so that of a slow founder
//! and its replacement one finds its swap refused, and joins. Hence:
//!
//! Invariants:
//! 1. Of all councils ever prepared for a region, at most one is confirmed, whatever crashes,
//!    however slow anybody is, and whether or not keys survive a restart.
//! 2. A confirmed record is never replaced: an empty region joins, it never forms. If all of its
//!    nodes and their disks are gone, an operator says so (`atoll cluster recover`, or deleting the
//!    record).
//! 3. Waiting decides only when a record is replaced, never who wins.
//! 4. A record that contradicts the configuration stops the start, with a message that names the
//!    key, both values and the remedy.
//!
//! Left out: a founder named by configuration that loses its disk forms anew, since the record was
//! on it. Its peers know the region by another number and refuse it; restart it with the name
//! of another node of the region in `cluster.founder`.

mod file;
mod place;

use std::time::Duration;

use atoll_replication::transport::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::{Instant, sleep};

pub use place::Place;

use super::{Failure, Tries};

/// How often a node that waits looks at the record.
const LOOK: Duration = Duration::from_secs(2);
/// A record that comes and goes this often while it is looked at is somebody's mistake.
const TURNS: usize = 16;

/// What a place holds of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The cluster's name, as in the certificates of its nodes.
    pub cluster: String,
    /// The region.
    pub region: String,
    /// The council's number, drawn by its founder. 16 hexadecimal digits in JSON.
    #[serde(serialize_with = "write_hex", deserialize_with = "read_hex")]
    pub council: u64,
    /// The node that forms the council, or formed it.
    pub founder: NodeId,
    /// Hash slots of a placement.
    pub slots: u16,
    /// Replicas of a shard in the region.
    pub replicas: u16,
    /// The council is on its founder's disk, and works.
    pub formed: bool,
}

/// What a node brings along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The cluster's name, as in this node's certificate.
    pub cluster: String,
    /// `node.region`.
    pub region: String,
    /// This node.
    pub node: NodeId,
    /// A random number, drawn at this start: the council's, should this node form it.
    pub council: u64,
    /// `cluster.slots`.
    pub slots: u16,
    /// `cluster.replicas`.
    pub replicas: u16,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formed {
    /// The region's record. `None` where another node is named to form the region: the record is
    /// there, and this node learns from its peers.
    pub record: Option<Record>,
    /// As a claim's answer: this node is to form the council that the record names, or to finish
    /// it. As a confirmation's answer: the council that this node formed is the region's.
    pub by_me: bool,
}

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    /// Nothing was changed: ask again.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The configuration and the region differ: the message names the remedy.
    #[error(transparent)]
    Contradiction(Box<Contradiction>),
    /// Look at the place, and delete what somebody else put there.
    #[error("{place} holds no record of a region: {why}")]
    Garbled {
        /// Where.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A setting of this node that is not the region's.
#[derive(Debug, thiserror::Error)]
#[error("{key} is {configured}, but region {region} has {recorded} ({place}): {remedy}")]
pub struct Contradiction {
    /// The key, or what stands for it.
    pub key: &'static str,
    /// What this node was told.
    pub configured: String,
    /// What the region's record says.
    pub recorded: String,
    /// The region.
    pub region: String,
    /// Where the record is.
    pub place: String,
    /// What to do.
    pub remedy: String,
}

/// What a place holds, as it was read.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) text: String,
    /// What the place needs to replace it only if it is still the same.
    pub(super) version: String,
}

/// One node's part in forming its region.
#[derive(Clone, Debug)]
pub struct Formation {
    place: Place,
    claim: Claim,
}

impl Formation {
    /// Nothing is asked yet.
    pub fn new(place: Place, claim: Claim) -> Self {
        Self { place, claim }
    }

    /// Creates the region's record if there is none, and says whether it is this node that forms
    /// the region. Asking again, after a failure or a restart, is safe.
    pub async fn claim(&self) -> Result<Formed, FormationError> {
        if self.place.is_elsewhere() {
            return Ok(Formed { record: None, by_me: false });
        }
        for _ in 0..TURNS {
            if let Some((record, _)) = self.read().await? {
                return Ok(self.standing(record));
            }
            let record = self.own(false);
            if self.place.create(&self.text(&record)).await? {
                return Ok(self.standing(record));
            }
        }
        Err(self.garbled("it is there when it is created and gone when it is read"))
    }

    /// The council of `record` is durable on this node's disk: makes it the region's. If another
    /// node has taken over meanwhile (`by_me` is false), what was prepared must be dropped.
    pub async fn confirm(&self, record: &Record) -> Result<Formed, FormationError> {
        let confirmed = Record { formed: true, ..record.clone() };
        let same = |now: &Record| (now.council, now.founder) == (record.council, record.founder);
        for _ in 0..TURNS {
            let swapped = match self.read().await? {
                None => self.place.create(&self.text(&confirmed)).await?,
                Some((now, _)) if !same(&now) => {
                    return Ok(Formed { record: Some(now), by_me: false });
                }
                Some((now, _)) if now.formed => true,
                Some((_, held)) => self.place.replace(&self.text(&confirmed), &held).await?,
            };
            if swapped {
                return Ok(Formed { record: Some(confirmed), by_me: true });
            }
        }
        Err(self.garbled("it changes all the time"))
    }

    /// Waits until the region is formed; or until nobody has confirmed the same record for
    /// `patience`, and this node has taken it over: then it is this node that forms the region.
    /// Failures are logged, and tried again for ever; contradictions end the wait.
    pub async fn settled(&self, patience: Duration) -> Result<Formed, FormationError> {
        let mut tries = Tries::new("the region's record");
        let mut seen: Option<(Record, Instant)> = None;
        loop {
            match self.look(&mut seen, patience).await {
                Ok(Some(formed)) => return Ok(formed),
                Ok(None) => sleep(LOOK.min(patience)).await,
                Err(FormationError::Failure(failure)) => tries.after(&failure).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn look(
        &self,
        seen: &mut Option<(Record, Instant)>,
        patience: Duration,
    ) -> Result<Option<Formed>, FormationError> {
        let formed = self.claim().await?;
        let Some(record) = &formed.record else { return Ok(Some(formed)) };
        if formed.by_me || record.formed {
            return Ok(Some(formed));
        }
        match seen {
            Some((same, since)) if same == record => {
                if since.elapsed() < patience {
                    return Ok(None);
                }
                self.take_over(record).await
            }
            _ => {
                *seen = Some((record.clone(), Instant::now()));
                Ok(None)
            }
        }
    }

    /// Replaces `abandoned`, if it is still there and not confirmed.
    async fn take_over(&self, abandoned: &Record) -> Result<Option<Formed>, FormationError> {
        let Some((now, held)) = self.read().await? else { return Ok(None) };
        if now != *abandoned {
            return Ok(None);
        }
        let record = self.own(false);
        if !self.place.replace(&self.text(&record), &held).await? {
            return Ok(None);
        }
        let before = &now.founder;
        tracing::warn!(region = record.region, %before, "took over forming a region");
        Ok(Some(Formed { record: Some(record), by_me: true }))
    }

    fn standing(&self, record: Record) -> Formed {
        let by_me = record.founder == self.claim.node && !record.formed;
        Formed { record: Some(record), by_me }
    }

    fn own(&self, formed: bool) -> Record {
        let Claim { cluster, region, node, council, slots, replicas } = self.claim.clone();
        Record { cluster, region, council, founder: node, slots, replicas, formed }
    }

    fn text(&self, record: &Record) -> String {
        serde_json::to_string(record).expect("a record has only text and numbers")
    }

    async fn read(&self) -> Result<Option<(Record, Held)>, FormationError> {
        let Some(held) = self.place.read().await? else { return Ok(None) };
        let record = serde_json::from_str(&held.text).map_err(|error| self.garbled(error))?;
        self.check(&record)?;
        Ok(Some((record, held)))
    }

    fn garbled(&self, why: impl ToString) -> FormationError {
        FormationError::Garbled { place: self.place.title(), why: why.to_string() }
    }

    /// Whether the record and this node's configuration agree.
    fn check(&self, record: &Record) -> Result<(), FormationError> {
        let claim = &self.claim;
        let refuse = |key, configured: &dyn ToString, recorded: &dyn ToString, remedy: String| {
            Err(FormationError::Contradiction(Box::new(Contradiction {
                key,
                configured: configured.to_string(),
                recorded: recorded.to_string(),
                region: record.region.clone(),
                place: self.place.title(),
                remedy,
            })))
        };
        if claim.cluster != record.cluster {
            let remedy = format!(
                "give this node a certificate of cluster {}, or this cluster a place of its own \
                 (`discovery.kubernetes_config_map`, `discovery.etcd_prefix`, `node.data`)",
                record.cluster
            );
            return refuse("the certificate's cluster", &claim.cluster, &record.cluster, remedy);
        }
        if claim.region != record.region {
            let remedy = "one data directory is for one region: use another `node.data`".into();
            return refuse("`node.region`", &claim.region, &record.region, remedy);
        }
        if claim.slots != record.slots {
            let remedy = format!("set it to {}: it never changes", record.slots);
            return refuse("`cluster.slots`", &claim.slots, &record.slots, remedy);
        }
        if claim.replicas != record.replicas {
            let remedy = format!("set it to {}", record.replicas);
            return refuse("`cluster.replicas`", &claim.replicas, &record.replicas, remedy);
        }
        Ok(())
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn write_hex<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:016x}"))
}

fn read_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
