//! What is known of a node, and which of two pieces of news about it is newer.
//!
//! A [`Record`] is what travels: what the node says of itself (its facts and its life), and what
//! its region says of it (the verdict). Each part has its own version, and they merge apart.
//!
//! Invariants:
//! 1. A higher incarnation beats a lower one, in all parts: a node that starts again, or that
//!    learns that it was taken for dead, continues under a higher one.
//! 2. Within an incarnation only the node itself changes facts and life, each time under a higher
//!    revision.
//! 3. Within an incarnation `Down` is final; between `Alive` and `Suspect` the higher suspicion
//!    number wins, and `Suspect` wins at equal numbers. So the order of arrival does not matter.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use atoll_replication::transport::NodeId;

/// The role of nodes that may carry news between regions.
pub const RELAY: &str = "relay";

/// Longest text of a record, bytes.
const TEXT_MAX: usize = 255;
/// Most roles of a node.
const ROLES_MAX: usize = 16;
/// Most regions that a relay names.
const REGIONS_MAX: usize = 64;
/// Incarnations stay below, so that there is always a higher one.
pub(super) const INCARNATION_MAX: u64 = 1 << 62;

/// Where a node is in its life, as its own region sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// There, but not ready: its replicas are catching up.
    Joining,
    /// There and ready.
    Up,
    /// Silent for longer than a pause explains; it may still answer.
    Suspect,
    /// Taken for dead by its region. It may come back by itself until it is forgotten.
    Down,
    /// There, handing off, and not coming back.
    Leaving,
    /// Forgotten. Only ever told as a change; no list shows it.
    Gone,
}

impl State {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Joining, Self::Up, Self::Suspect, Self::Down, Self::Leaving, Self::Gone];

    /// The name in lists, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
        }
    }

    /// Whether the node is believed to run.
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Down | Self::Gone)
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id: the hash of its key.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its failure domain in the region.
    pub zone: String,
    /// Where it is dialled.
    pub address: String,
    /// What it is for; see [`RELAY`].
    pub roles: BTreeSet<String>,
    /// Which life of the node: higher for a later one.
    pub incarnation: u64,
    /// The version of its program.
    pub version: String,
    /// Its disk, as the council knows it.
    pub disk: u64,
    /// Drawn at its start.
    pub start: u64,
    /// Where it is in its life.
    pub state: State,
}

/// What a node says of where it is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Life {
    Joining,
    Up,
    Leaving,
}

/// What a node's region says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Verdict {
    Alive,
    Suspect,
    Down,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) address: String,
    pub(super) roles: BTreeSet<String>,
    pub(super) version: String,
    pub(super) disk: u64,
    pub(super) start: u64,
    /// A relay: the other regions that it hears.
    pub(super) reaches: BTreeSet<String>,
}

/// What is told of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    /// Versions `life` and `facts` within an incarnation.
    pub(super) revision: u32,
    pub(super) life: Life,
    pub(super) facts: Facts,
    pub(super) verdict: Verdict,
    /// Versions `verdict` within an incarnation; the node itself raises it to refute.
    pub(super) suspicion: u16,
}

impl Record {
    /// What is wrong with it, naming the field.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let facts = &self.facts;
        let long = |text: &String| text.len() > TEXT_MAX;
        if self.incarnation > INCARNATION_MAX {
            return Err("incarnation: above 2^62");
        }
        for (text, what) in [
            (&facts.name, "name: longer than 255 bytes"),
            (&facts.region, "region: longer than 255 bytes"),
            (&facts.zone, "zone: longer than 255 bytes"),
            (&facts.address, "address: longer than 255 bytes"),
            (&facts.version, "version: longer than 255 bytes"),
        ] {
            if long(text) {
                return Err(what);
            }
        }
        if facts.region.is_empty() {
            return Err("region: empty");
        }
        if facts.roles.len() > ROLES_MAX || facts.roles.iter().any(long) {
            return Err("roles: more than 16, or one longer than 255 bytes");
        }
        if facts.reaches.len() > REGIONS_MAX || facts.reaches.iter().any(long) {
            return Err("regions: more than 64, or one longer than 255 bytes");
        }
        Ok(())
    }

    /// Takes the newer parts of what else is told of the node. Answers whether any was.
    pub(super) fn merge(&mut self, other: Self) -> bool {
        if other.incarnation > self.incarnation {
            *self = other;
            return true;
        }
        if other.incarnation < self.incarnation {
            return false;
        }
        let judged = self.judge(other.verdict, other.suspicion);
        let told = other.revision > self.revision;
        if told {
            (self.revision, self.life, self.facts) = (other.revision, other.life, other.facts);
        }
        judged || told
    }

    /// Takes a verdict about this incarnation, if it is newer. Answers whether it was.
    pub(super) fn judge(&mut self, verdict: Verdict, suspicion: u16) -> bool {
        let newer = match (self.verdict, verdict) {
            (Verdict::Down, _) => false,
            (_, Verdict::Down) => true,
            _ => (suspicion, verdict) > (self.suspicion, self.verdict),
        };
        if newer {
            (self.verdict, self.suspicion) = (verdict, suspicion);
        }
        newer
    }

    /// Whether the node's region takes it for dead.
    pub(super) fn is_down(&self) -> bool {
        self.verdict == Verdict::Down
    }

    /// The member as lists show it.
    pub(super) fn member(&self, state: State) -> Member {
        let facts = self.facts.clone();
        Member {
            node: self.node,
            name: facts.name,
            region: facts.region,
            zone: facts.zone,
            address: facts.address,
            roles: facts.roles,
            incarnation: self.incarnation,
            version: facts.version,
            disk: facts.disk,
            start: facts.start,
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(incarnation: u64, revision: u32, verdict: Verdict, suspicion: u16) -> Record {
        let life = if revision == 0 { Life::Joining } else { Life::Up };
        let facts = Facts {
            name: format!("n{revision}"),
            region: "eu".into(),
            zone: String::new(),
            address: format!("{incarnation}:{revision}"),
            roles: BTreeSet::new(),
            version: String::new(),
            disk: 0,
            start: 0,
            reaches: BTreeSet::new(),
        };
        let node = NodeId([1; 16]);
        Record { node, incarnation, revision, life, facts, verdict, suspicion }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let verdict =
            prop_oneof![Just(Verdict::Alive), Just(Verdict::Suspect), Just(Verdict::Down)];
        (0..3u64, 0..3u32, verdict, 0..3u16).prop_map(
            |(incarnation, revision, verdict, suspicion)| {
                record(incarnation, revision, verdict, suspicion)
            },
        )
    }

    /// Without what does not count: the number of a death.
    fn normal(mut record: Record) -> Record {
        if record.is_down() {
            record.suspicion = 0;
        }
        record
    }

    proptest! {
        #[test]
        fn news_in_any_order_gives_one_record(
            mut news in proptest::collection::vec(any_record(), 1..8),
            turn in 0..8usize,
        ) {
            let fold = |news: &[Record]| {
                let mut known = news[0].clone();
                for record in &news[1..] {
                    known.merge(record.clone());
                }
                normal(known)
            };
            let one = fold(&news);
            let by = turn % news.len();
            news.rotate_left(by);
            prop_assert_eq!(&one, &fold(&news));
            news.reverse();
            prop_assert_eq!(&one, &fold(&news));
            let mut known = one.clone();
            for record in news {
                prop_assert!(!known.merge(record), "what was taken is no news");
            }
        }
    }

    #[test]
    fn a_new_life_ends_a_death_and_nothing_else_does() {
        let mut known = record(5, 1, Verdict::Down, 0);
        assert!(!known.merge(record(5, 1, Verdict::Alive, 9)));
        assert!(!known.merge(record(4, 7, Verdict::Alive, 9)), "stale, whoever relays it");
        assert!(known.merge(record(6, 0, Verdict::Alive, 0)));
        assert_eq!(known.verdict, Verdict::Alive);
    }

    #[test]
    fn a_record_out_of_bounds_names_the_field() {
        let mut bad = record(1, 1, Verdict::Alive, 0);
        bad.facts.region.clear();
        assert_eq!(bad.check(), Err("region: empty"));
        bad.facts.region = "e".repeat(256);
        assert_eq!(bad.check(), Err("region: longer than 255 bytes"));
        assert!(record(u64::MAX, 1, Verdict::Alive, 0).check().is_err());
        assert!(record(1, 1, Verdict::Alive, 0).check().is_ok());
    }
}
