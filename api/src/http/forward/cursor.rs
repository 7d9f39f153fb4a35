//! The cursor of a stream over several nodes: a cursor for each part of the slots.
//!
//! Written `<slots>:<cursor>` for each part, separated by `;`. Opaque to clients, and valid at
//! every node, as each part's is.
//!
//! Invariant: the parts are disjoint, and together they are all slots.

use std::fmt;

use super::Slots;
use crate::node::Cursor;

/// Bytes of the longest text that is read: 64 parts of the longest cursor.
const TEXT_MAX: usize = 80 << 10;

/// A cursor for each part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Places(Vec<(Slots, Cursor)>);

impl Places {
    /// Of parts that are disjoint and together all slots; those with one cursor become one.
    pub(super) fn of<'a>(parts: impl Iterator<Item = (&'a Slots, &'a Cursor)>) -> Places {
        let mut places: Vec<(Slots, Cursor)> = Vec::new();
        for (part, cursor) in parts {
            match places.iter_mut().find(|(_, known)| known == cursor) {
                Some((known, _)) => {
                    *known = known.slots().iter().chain(part.slots()).copied().collect();
                }
                None => places.push((part.clone(), cursor.clone())),
            }
        }
        places.sort_by(|one, other| one.0.cmp(&other.0));
        Places(places)
    }

    /// Reads what `Display` writes.
    pub(in super::super) fn parse(text: &str, slots: u16) -> Option<Places> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let one = |text: &str| {
            let (part, cursor) = text.split_once(':')?;
            Some((Slots::parse(part, slots)?, Cursor::parse(cursor)?))
        };
        let places: Vec<(Slots, Cursor)> = text.split(';').map(one).collect::<Option<_>>()?;
        let mut all: Vec<u16> = places.iter().flat_map(|(part, _)| part.slots()).copied().collect();
        all.sort_unstable();
        all.iter().copied().eq(0..slots).then_some(Places(places))
    }

    /// The cursor of the part with this slot.
    pub(in super::super) fn at(&self, slot: u16) -> Option<&Cursor> {
        self.0.iter().find(|(part, _)| part.has(slot)).map(|(_, cursor)| cursor)
    }

    /// Each part with its cursor.
    pub(super) fn into_parts(self) -> Vec<(Slots, Cursor)> {
        self.0
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (part, cursor)) in self.0.iter().enumerate() {
            let mark = if at == 0 { "" } else { ";" };
            write!(f, "{mark}{part}:{}", cursor.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(slots: impl IntoIterator<Item = u16>) -> Slots {
        slots.into_iter().collect()
    }

    #[test]
    fn parts_with_one_cursor_are_one() {
        let cursor = Cursor::nowhere();
        let (even, odd) = (part((0..64).step_by(2)), part((1..64).step_by(2)));
        let places = Places::of([(&odd, &cursor), (&even, &cursor)].into_iter());
        let text = places.to_string();
        assert_eq!(text, format!("0-63:{}", cursor.as_str()));
        assert_eq!(Places::parse(&text, 64), Some(places.clone()));
        assert_eq!(places.at(63), Some(&cursor));
    }

    #[test]
    fn what_is_not_all_slots_once_is_refused() {
        let cursor = Cursor::nowhere();
        let cursor = cursor.as_str();
        for parts in ["0-62", "0-64", "1-63", "0-63;", ";0-63", ""] {
            let text = parts.replace(';', &format!(":{cursor};"));
            assert_eq!(Places::parse(&format!("{text}:{cursor}"), 64), None, "{parts}");
        }
        let twice = format!("0-63:{cursor};5:{cursor}");
        assert_eq!(Places::parse(&twice, 64), None);
        assert_eq!(Places::parse("0-63:AAAA", 64), None);
        assert_eq!(Places::parse(cursor, 64), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[0-9,:;a-]{0,40}") {
            let _ = Places::parse(&text, 64);
        }
    }
}
