//! Tests of records: round trips, damage, garbage.

use super::*;
use crate::backend::memory::Memory;
use proptest::prelude::*;

const KEY: &[u8] = b"e/users/ann";

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn put(memory: &Memory, key: &[u8], body: &[u8], previous: u16) -> u16 {
    let mut batch = Vec::new();
    let pieces = encode(RecordKind::Entity, key, body, &mut batch, previous);
    memory.commit(&batch).unwrap();
    pieces
}

fn raw(memory: &Memory) -> Vec<(Bytes, Bytes)> {
    memory.scan(b"", &[0xFF; 32], usize::MAX).unwrap()
}

fn everything(memory: &Memory) -> Vec<Item> {
    scan(memory, RecordKind::Entity, b"", &[0xFF; 32], usize::MAX).unwrap()
}

fn check_round_trip(length: usize) {
    let memory = Memory::new();
    let pieces = put(&memory, KEY, &body(length), 0);
    let expected = if length <= BODY_MAX { 0 } else { length.div_ceil(BODY_MAX) };
    assert_eq!(usize::from(pieces), expected);
    let found = read(&memory, KEY, RecordKind::Entity).unwrap().unwrap();
    assert!(found == (Bytes::from(body(length)), pieces));
    assert!(everything(&memory) == [(Bytes::from(KEY), Ok(Bytes::from(body(length))))]);
    let longest = raw(&memory).iter().map(|(_, value)| value.len()).max().unwrap();
    assert!(longest <= BODY_MAX + HEADER + CHECKSUM);
    let mut batch = Vec::new();
    remove(KEY, pieces, &mut batch);
    memory.commit(&batch).unwrap();
    assert!(raw(&memory).is_empty());
    assert!(read(&memory, KEY, RecordKind::Entity).unwrap().is_none());
}

#[test]
fn values_around_multiples_of_the_longest_body_round_trip() {
    check_round_trip(0);
    for multiple in 1..4 {
        for length in [-1, 0, 1] {
            check_round_trip((multiple * BODY_MAX).strict_add_signed(length));
        }
    }
}

#[test]
fn a_shorter_value_leaves_no_pieces_behind() {
    let memory = Memory::new();
    let mut pieces = 0;
    for (length, left) in [(5 * BODY_MAX, 6), (2 * BODY_MAX, 3), (10, 1), (BODY_MAX + 1, 3)] {
        pieces = put(&memory, KEY, &body(length), pieces);
        assert_eq!(raw(&memory).len(), left);
        assert_eq!(everything(&memory)[0].1.as_ref().unwrap().len(), length);
    }
}

/// The bytes of format 1. If this fails, the format has changed: raise `FORMAT`.
#[test]
fn the_format_is_stable() {
    let memory = Memory::new();
    put(&memory, b"key", b"value", 0);
    put(&memory, b"long", &body(BODY_MAX + 3), 0);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: Vec<String> = raw(&memory)
        .iter()
        .map(|(key, value)| {
            let shown = if value.len() > 64 { &value[value.len() - 8..] } else { value };
            format!("{} {} {}", hex(key), value.len(), hex(shown))
        })
        .collect();
    assert_eq!(lines, GOLDEN);
}

const GOLDEN: [&str; 4] = [
    "6b6579 11 010476616c7565400b85c7",
    "6c6f6e67 20 0184038000000000000002007d010d32d2fcc9ad",
    "6c6f6e67ffff0000 32774 86878889b4451426",
    "6c6f6e67ffff0001 9 01058a8b8c9f9cd4ae",
];

#[test]
fn a_record_under_another_key_is_damaged() {
    let memory = Memory::new();
    put(&memory, b"a", b"x", 0);
    let value = memory.get(b"a").unwrap().unwrap().to_vec();
    memory.commit(&[(b"b".to_vec(), Some(value))]).unwrap();
    let items = everything(&memory);
    assert!(items[0].1.is_ok());
    assert_eq!(items[1].1.as_ref().unwrap_err().why, Damage::Checksum);
}

#[test]
fn a_newer_format_is_told_apart_from_damage() {
    let memory = Memory::new();
    let mut value = vec![FORMAT + 1, RecordKind::Entity as u8, 7, 7];
    value.extend(checksum(KEY, &value).to_le_bytes());
    memory.commit(&[(KEY.to_vec(), Some(value))]).unwrap();
    let error = read(&memory, KEY, RecordKind::Entity).unwrap_err();
    assert_eq!(error.to_string(), "record format 2 is newer than 1, the newest this release reads");
    assert!(scan(&memory, RecordKind::Entity, b"", b"z", 9).is_err());
}

#[test]
fn a_record_of_another_kind_is_damaged() {
    let memory = Memory::new();
    put(&memory, KEY, b"x", 0);
    let error = read(&memory, KEY, RecordKind::Meta).unwrap_err();
    assert!(matches!(error, RecordError::Damaged(Damaged { why: Damage::Kind, .. })));
}

#[test]
fn damage_does_not_end_a_scan() {
    let memory = Memory::new();
    for key in [b"a", b"b", b"c"] {
        put(&memory, key, &body(3 * BODY_MAX), 0);
    }
    memory.corrupt(&piece_key(b"a", 1), 1000);
    memory.corrupt(b"b", 17);
    let items = everything(&memory);
    // The pieces of a damaged head stay skipped, and those of a sound one are no items.
    let seen: Vec<_> = items
        .iter()
        .map(|(key, body)| (&key[..], body.as_ref().map_err(|d| d.why).err()))
        .collect();
    assert_eq!(
        seen,
        [(&b"a"[..], Some(Damage::Piece(1))), (b"b", Some(Damage::Checksum)), (b"c", None)]
    );
}

#[test]
fn pieces_of_two_values_do_not_make_one() {
    let memory = Memory::new();
    put(&memory, KEY, &body(2 * BODY_MAX), 0);
    let old = memory.get(&piece_key(KEY, 1)).unwrap().unwrap().to_vec();
    put(&memory, KEY, &vec![9; 2 * BODY_MAX], 2);
    memory.commit(&[(piece_key(KEY, 1), Some(old))]).unwrap();
    let items = everything(&memory);
    assert_eq!(items[0].1.as_ref().unwrap_err().why, Damage::Pieces);
}

/// A key that happens to look like a piece's (a log position may) is an item, sound or damaged.
#[test]
fn a_key_shaped_like_a_piece_is_no_piece() {
    let memory = Memory::new();
    let key = b"l\0\0\0\0\xFF\xFF\0\x01";
    put(&memory, key, b"x", 0);
    assert_eq!(everything(&memory), [(Bytes::from(&key[..]), Ok(Bytes::from("x")))]);
    for bit in 0..56 {
        memory.corrupt(key, bit);
        assert!(everything(&memory)[0].1.is_err());
        memory.corrupt(key, bit);
    }
}

#[test]
fn a_scan_counts_values_and_goes_on_where_it_ended() {
    let memory = Memory::new();
    for number in 0..200_u8 {
        put(&memory, &[b'k', number], &body(usize::from(number % 3) * BODY_MAX), 0);
    }
    let mut from = vec![0];
    let mut seen = Vec::new();
    loop {
        let items = scan(&memory, RecordKind::Entity, &from, b"l", 7).unwrap();
        let Some((last, _)) = items.last() else { break };
        assert!(items.len() <= 7);
        from = [last, &[0][..]].concat();
        seen.extend(items.into_iter().map(|(key, body)| (key[1], body.unwrap().len())));
    }
    let expected: Vec<_> = (0..200).map(|n: u8| (n, usize::from(n % 3) * BODY_MAX)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn every_flipped_bit_of_short_records_is_detected() {
    let memory = Memory::new();
    put(&memory, b"a", b"short", 0);
    put(&memory, b"b", &body(BODY_MAX + 1), 0);
    for (key, value) in raw(&memory) {
        for bit in (0..value.len() * 8).take(200) {
            check_flip(&memory, &key, bit);
        }
    }
}

fn check_flip(memory: &Memory, key: &[u8], bit: usize) {
    assert!(memory.corrupt(key, bit));
    let damaged = everything(memory).iter().filter(|(_, body)| body.is_err()).count();
    assert_eq!(damaged, 1, "bit {bit} of {}", key.escape_ascii());
    memory.corrupt(key, bit);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_value_round_trips(length in 0..4 * BODY_MAX) {
        check_round_trip(length);
    }

    #[test]
    fn any_flipped_bit_is_detected(length in 0..3 * BODY_MAX, at: prop::sample::Index, bit: usize) {
        let memory = Memory::new();
        put(&memory, KEY, &body(length), 0);
        put(&memory, b"other", b"neighbour", 0);
        let pairs: Vec<_> =
            raw(&memory).into_iter().filter(|(key, _)| key.starts_with(KEY)).collect();
        check_flip(&memory, &at.get(&pairs).0, bit);
    }

    #[test]
    fn garbage_never_panics(pairs: Vec<(Vec<u8>, Vec<u8>)>, flag: bool) {
        let memory = Memory::new();
        for (key, garbage) in pairs {
            // Both plain garbage, and garbage under a sound checksum.
            let value = if flag {
                let mut value = garbage;
                if let Some(version) = value.first_mut() {
                    *version %= FORMAT + 1;
                }
                let checksum = checksum(&key, &value);
                value.extend(checksum.to_le_bytes());
                value
            } else {
                garbage
            };
            memory.commit(&[(key.clone(), Some(value))]).unwrap();
            let _ = read(&memory, &key, RecordKind::Entity);
        }
        everything(&memory);
    }
}
