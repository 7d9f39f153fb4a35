//! A place in a node's journal, opaque to clients.
//!
//! Invariants:
//! 1. It names the start that published it: after an unknown start it is foreign, never mistaken
//!    for a place in another journal.
//! 2. It ends with a checksum: what no node wrote is refused, not taken for some place.
//! 3. It says which origins were retired, by the sum over them: it has no clocks of these.
//! 4. Its clocks are closed at its position: whoever has seen up to the position has seen every
//!    operation of each origin up to its clock.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use atoll_store::dot::{Hlc, Origin};
use atoll_store::log::RETIRED;

/// Origins carried in a cursor; further ones are replayed from their start. Keeps it under 1 KiB.
const CLOCKS: usize = 32;
/// Bytes of the checksum at the end.
const CHECK: usize = 4;
/// A start that no node ever has.
const NOWHERE: Origin = Origin(0);

/// A place in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

/// What a cursor is made of: start, position, clocks.
type Parts = (Origin, u64, Vec<(Origin, Hlc)>);

/// What a cursor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The start of the node that published it.
    pub(super) start: Origin,
    /// Everything up to this journal position was seen.
    pub(super) position: u64,
    /// Everything of each origin up to this clock was seen.
    pub(super) clocks: BTreeMap<Origin, Hlc>,
}

impl Cursor {
    /// Parses what a client sent back; `None` if it is no cursor.
    pub fn parse(text: &str) -> Option<Cursor> {
        let cursor = Cursor(text.to_owned());
        cursor.place().map(|_| cursor)
    }

    /// The text for clients: printable ASCII, under 1 KiB.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The cursor that leads to a whole snapshot, at any node.
    pub fn nowhere() -> Cursor {
        Cursor::of(NOWHERE, 0, &BTreeMap::new())
    }

    pub(super) fn of(start: Origin, position: u64, clocks: &BTreeMap<Origin, Hlc>) -> Cursor {
        let mut newest: Vec<(Origin, Hlc)> = clocks.iter().map(|(o, c)| (*o, *c)).collect();
        newest.sort_by_key(|(origin, clock)| (*origin != RETIRED, std::cmp::Reverse(*clock)));
        newest.truncate(CLOCKS);
        let place = (start, position, newest);
        let mut body = postcard::to_stdvec(&place).expect("a cursor encodes");
        let check = check(&body);
        body.extend_from_slice(&check);
        Cursor(URL_SAFE_NO_PAD.encode(body))
    }

    pub(super) fn place(&self) -> Option<Place> {
        if self.0.len() > 1024 {
            return None;
        }
        let body = URL_SAFE_NO_PAD.decode(&self.0).ok()?;
        let (body, sum) = body.split_at_checked(body.len().checked_sub(CHECK)?)?;
        if check(body) != sum {
            return None;
        }
        let (place, rest) = postcard::take_from_bytes::<Parts>(body).ok()?;
        let (start, position, clocks) = place;
        rest.is_empty().then(|| Place { start, position, clocks: clocks.into_iter().collect() })
    }
}

impl Place {
    /// Whether it is in no journal at all.
    pub(super) fn is_nowhere(&self) -> bool {
        self.start == NOWHERE
    }
}

fn check(body: &[u8]) -> [u8; CHECK] {
    let mut out = [0; CHECK];
    blake3::Hasher::new().update(body).finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_what_it_wrote_and_stays_small() {
        let clocks = (1..1000u64).map(|n| (Origin(u64::MAX - n), Hlc(u64::MAX - n)));
        let clocks = clocks.chain([(RETIRED, Hlc(1))]).collect();
        let cursor = Cursor::of(Origin(7), 42, &clocks);
        assert!(cursor.as_str().len() < 1024);
        let place = Cursor::parse(cursor.as_str()).and_then(|c| c.place()).expect("a cursor");
        assert_eq!((place.start, place.position), (Origin(7), 42));
        assert_eq!(place.clocks.len(), CLOCKS);
        assert_eq!(place.clocks.get(&RETIRED), Some(&Hlc(1)), "whatever is left out, not this");
        let flipped = cursor.as_str().replacen('A', "B", 1);
        for bad in ["", "!", "AAAA", "AAAAAAAAAA", &flipped, &"A".repeat(2000)] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
        assert!(Cursor::nowhere().place().expect("a cursor").is_nowhere());
    }
}
