//! Some of the hash slots: what one node answers for where several share the work.
//!
//! Invariant: slots are in order, each once.

use std::fmt;
use std::sync::Arc;

use atoll_replication::transport::NodeId;

/// What one node answers for in a request that concerns many shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// The node; `None`: this one.
    pub(super) node: Option<NodeId>,
    /// What it serves of them.
    pub(super) part: Slots,
}

/// Some of the hash slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Slots(Arc<[u16]>);

impl Slots {
    /// All slots of a cluster that has so many.
    pub(in super::super) fn all(slots: u16) -> Slots {
        (0..slots).collect()
    }

    /// Whether a slot is one of them.
    pub(in super::super) fn has(&self, slot: u16) -> bool {
        self.0.binary_search(&slot).is_ok()
    }

    /// The slots, in order.
    pub(in super::super) fn slots(&self) -> &[u16] {
        &self.0
    }

    /// Each of them.
    pub(in super::super) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }

    /// Reads what `Display` writes; `None` if it is something else, or names a slot that a cluster
    /// with so many does not have.
    pub(in super::super) fn parse(text: &str, slots: u16) -> Option<Slots> {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|slot| digits && *slot < slots)
        };
        let mut all = Vec::new();
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first)?, number(last)?);
            let above = all.last().is_none_or(|before| *before < first);
            if !above || last < first {
                return None;
            }
            all.extend(first..=last);
        }
        Some(Slots(all.into()))
    }
}

impl FromIterator<u16> for Slots {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Slots {
        let mut slots: Vec<u16> = slots.into_iter().collect();
        slots.sort_unstable();
        slots.dedup();
        Slots(slots.into())
    }
}

/// As ranges, as in `0-3,7`.
impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut comma) = (self.slots(), "");
        while let Some(first) = rest.first() {
            let run = rest.iter().zip(*first..).take_while(|(slot, next)| *slot == next).count();
            let last = rest[run - 1];
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            (rest, comma) = (&rest[run..], ",");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_part_is_refused() {
        for bad in ["", "a", "1,", "3-1", "1,1", "2,1", "64", "+1", "0--1", "99999"] {
            assert_eq!(Slots::parse(bad, 64), None, "{bad}");
        }
        assert_eq!(Slots::parse("0-2,63", 64), Some([63, 0, 1, 2].into_iter().collect()));
        assert_eq!(Slots::all(64).to_string(), "0-63");
    }

    proptest! {
        #[test]
        fn parts_come_back(slots in prop::collection::btree_set(0..64u16, 1..64)) {
            let part: Slots = slots.iter().copied().collect();
            prop_assert_eq!(Slots::parse(&part.to_string(), 64), Some(part.clone()));
            for slot in 0..64 {
                prop_assert_eq!(part.has(slot), slots.contains(&slot));
            }
        }

        #[test]
        fn garbage_never_panics(text in "[0-9,a-]{0,20}") {
            let _ = Slots::parse(&text, 64);
        }
    }
}
