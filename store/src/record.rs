//! Records: how a value lies on disk, so that damage, a foreign key or a newer format is noticed.
//!
//! ```text
//! record   format version u8 · kind u8 · body · checksum u32 LE
//! body     the value itself, at most 32 KiB; or, where the kind has its top bit (0x80) set,
//!          the head of a value in pieces: length u64 LE · pieces u16 LE · CRC-32 of it u32 LE
//! piece    a record of kind `Piece` under: key of the head · FF FF · number u16 BE
//! checksum CRC-32 (IEEE) over: length of the key u32 LE · key · version · kind · body
//! ```
//!
//! Invariants:
//! 1. A value and all its pieces change in one batch: a reader sees one value or the other.
//! 2. Version first and checksum last are the same in every format version, so a newer format is
//!    told apart from damage.
//! 3. A damaged record is an item of a scan; it neither ends the scan nor hides its neighbours.
//! 4. No key in use is another key in use followed by `FF FF` and two bytes; callers see to it.
//!    (Whether such a key *is* a piece is decided by its record and its head, not by its shape.)
//! 5. Without damage, a piece whose head is gone is skipped: it holds nothing that is in use.
//!
//! Left out: compression, and what to do about damage (that is quarantine, in the layer above).

use bytes::{Bytes, BytesMut};

use crate::backend::{Backend, BackendError, Write};

/// The format version that is written, and the newest that is read.
pub const FORMAT: u8 = 1;
/// Longest body of one record, in bytes; a longer value lies in pieces of this size.
pub const BODY_MAX: usize = 32 * 1024;
/// Longest value, in bytes: as many pieces as a `u16` counts. Callers bound theirs far below.
pub const VALUE_MAX: usize = u16::MAX as usize * BODY_MAX;

const HEADER: usize = 2;
const CHECKSUM: usize = 4;
const HEAD_FLAG: u8 = 0x80;
const HEAD_BODY: usize = 14;
const PIECE_MARK: [u8; 2] = [0xFF, 0xFF];
const PIECE_SUFFIX: usize = 4;
/// Pairs fetched from the backend at a time by `scan`; 64 full records are 2 MiB.
const SCAN_PAGE: usize = 64;

/// What a record is. Numbers are part of the format: never reused, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// About the whole directory: disk id, starts, counters.
    Meta = 1,
    /// Consecutive entries of the log.
    Log = 2,
    /// A shard: its vector and what belongs to it.
    Shard = 3,
    /// A checkpoint of an entity.
    Entity = 4,
    /// A part of a value longer than [`BODY_MAX`]; only ever written by this module.
    Piece = 5,
    /// A fact about nodes, policies or behaviours.
    Fact = 6,
    /// An entry of an index.
    Index = 7,
    /// State received in chunks and not yet switched over to.
    Staged = 8,
    /// What a voter must not forget: starts of disks; a group's votes, log and snapshot.
    Raft = 9,
    /// What belongs to owned entities: heads, events, snapshots, remembered commands.
    Owned = 10,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Meta,
            2 => Self::Log,
            3 => Self::Shard,
            4 => Self::Entity,
            5 => Self::Piece,
            6 => Self::Fact,
            7 => Self::Index,
            8 => Self::Staged,
            9 => Self::Raft,
            10 => Self::Owned,
            _ => return None,
        })
    }
}

/// Why a record cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Shorter than any record.
    #[error("too short for a record")]
    Short,
    /// Its bytes, or the key it lies under, are not those that were written.
    #[error("checksum does not match")]
    Checksum,
    /// Sound, but not of the kind that belongs under this key.
    #[error("wrong or unknown kind")]
    Kind,
    /// Sound, but its body does not read as what it should be.
    #[error("malformed body")]
    Body,
    /// Piece with this number is missing or damaged.
    #[error("piece {0} is missing or damaged")]
    Piece(u16),
    /// Its pieces are sound, but are not those of one value.
    #[error("pieces do not belong together")]
    Pieces,
}

/// A record that cannot be believed: what it held is *unknown*, which is not *absent*.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged record {}: {why}", key.escape_ascii())]
pub struct Damaged {
    /// The key it lies under.
    pub key: Bytes,
    /// What is wrong with it.
    pub why: Damage,
}

/// Reading a record failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record is damaged: quarantine its range and fetch it from a peer.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A newer release wrote here: start that release, this one must not touch the directory.
    #[error("record format {found} is newer than {FORMAT}, the newest this release reads")]
    Version {
        /// The format version found.
        found: u8,
    },
    /// The storage engine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// One item of a scan: a key, and its value or what is wrong with it.
pub type Item = (Bytes, Result<Bytes, Damaged>);

/// Appends the writes that put `body` under `key`, and returns the number of its pieces (0 for a
/// body of at most [`BODY_MAX`]). `previous_pieces` is that number of the value being replaced, 0
/// if there was none; leftover pieces are deleted.
///
/// # Panics
///
/// If the body is longer than [`VALUE_MAX`] (2 GiB), or the kind is `Piece`.
pub fn encode(
    kind: RecordKind,
    key: &[u8],
    body: &[u8],
    batch: &mut Vec<Write>,
    previous_pieces: u16,
) -> u16 {
    assert!(kind != RecordKind::Piece, "pieces are written by this module alone");
    assert!(body.len() <= VALUE_MAX, "callers bound their values");
    if body.len() <= BODY_MAX {
        batch.push((key.to_vec(), Some(frame(kind as u8, key, body))));
        delete_pieces(key, 0, previous_pieces, batch);
        return 0;
    }
    let mut pieces = 0;
    for chunk in body.chunks(BODY_MAX) {
        let key = piece_key(key, pieces);
        let value = frame(RecordKind::Piece as u8, &key, chunk);
        batch.push((key, Some(value)));
        pieces += 1;
    }
    let head = Head { length: body.len() as u64, pieces, checksum: crc32fast::hash(body) };
    let value = frame(kind as u8 | HEAD_FLAG, key, &head.to_bytes());
    batch.push((key.to_vec(), Some(value)));
    delete_pieces(key, pieces, previous_pieces, batch);
    pieces
}

/// Appends the writes that delete the value under `key` and its `pieces` pieces.
pub fn remove(key: &[u8], pieces: u16, batch: &mut Vec<Write>) {
    batch.push((key.to_vec(), None));
    delete_pieces(key, 0, pieces, batch);
}

/// The value under `key`, and the number of its pieces (to pass to [`encode`] or [`remove`]).
pub fn read(
    backend: &dyn Backend,
    key: &[u8],
    expected: RecordKind,
) -> Result<Option<(Bytes, u16)>, RecordError> {
    match backend.get(key)? {
        Some(value) => open(backend, key, &value, expected).map(Some),
        None => Ok(None),
    }
}

/// Up to `limit` values with `from <= key < until` in order of keys, whole again where they lie in
/// pieces. A damaged record is an item; only a newer format or a failing engine is an error.
/// To go on, scan from the last key followed by a zero byte.
pub fn scan(
    backend: &dyn Backend,
    kind: RecordKind,
    from: &[u8],
    until: &[u8],
    limit: usize,
) -> Result<Vec<Item>, RecordError> {
    let mut items = Vec::new();
    let mut from = from.to_vec();
    while items.len() < limit {
        let page = backend.scan(&from, until, SCAN_PAGE)?;
        let Some((last, _)) = page.last() else { break };
        from = [last, &[0][..]].concat();
        let full = page.len() == SCAN_PAGE;
        for (key, value) in page {
            if items.len() < limit && !is_piece(backend, &key, &value)? {
                let body = settle(open(backend, &key, &value, kind))?;
                items.push((key, body.map(|(body, _)| body)));
            }
        }
        if !full {
            break;
        }
    }
    Ok(items)
}

/// Checks that a record, found under `key`, is what was written there.
pub(crate) fn check(key: &[u8], value: &Bytes) -> Result<(), RecordError> {
    verify(key, value).map(|_| ())
}

/// Parts damage, which is an item, from errors that concern the whole scan.
fn settle<T>(result: Result<T, RecordError>) -> Result<Result<T, Damaged>, RecordError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(RecordError::Damaged(damaged)) => Ok(Err(damaged)),
        Err(error) => Err(error),
    }
}

/// The head of a value in pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    length: u64,
    pieces: u16,
    checksum: u32,
}

impl Head {
    fn to_bytes(self) -> [u8; HEAD_BODY] {
        let mut bytes = [0; HEAD_BODY];
        bytes[..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.pieces.to_le_bytes());
        bytes[10..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// `None` unless length and pieces agree, so that no allocation trusts a number alone.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (pieces, rest) = rest.split_first_chunk::<2>()?;
        let head = Self {
            length: u64::from_le_bytes(*length),
            pieces: u16::from_le_bytes(*pieces),
            checksum: u32::from_le_bytes(rest.try_into().ok()?),
        };
        let fits = head.length > BODY_MAX as u64
            && head.length.div_ceil(BODY_MAX as u64) == u64::from(head.pieces);
        fits.then_some(head)
    }
}

fn frame(kind: u8, key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER + body.len() + CHECKSUM);
    value.extend_from_slice(&[FORMAT, kind]);
    value.extend_from_slice(body);
    let checksum = checksum(key, &value);
    value.extend_from_slice(&checksum.to_le_bytes());
    value
}

fn checksum(key: &[u8], record: &[u8]) -> u32 {
    let length = u32::try_from(key.len()).expect("keys are shorter than 4 GiB");
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(key);
    hasher.update(record);
    hasher.finalize()
}

fn piece_key(key: &[u8], number: u16) -> Vec<u8> {
    [key, &PIECE_MARK, &number.to_be_bytes()].concat()
}

fn delete_pieces(key: &[u8], from: u16, until: u16, batch: &mut Vec<Write>) {
    batch.extend((from..until).map(|number| (piece_key(key, number), None)));
}

/// Checks a record; its kind byte and its body.
fn verify(key: &[u8], value: &Bytes) -> Result<(u8, Bytes), RecordError> {
    let damaged = |why| Damaged { key: Bytes::copy_from_slice(key), why };
    if value.len() < HEADER + CHECKSUM {
        return Err(damaged(Damage::Short).into());
    }
    let (record, stored) = value.split_at(value.len() - CHECKSUM);
    if checksum(key, record).to_le_bytes() != stored {
        return Err(damaged(Damage::Checksum).into());
    }
    match record[0] {
        FORMAT => Ok((record[1], value.slice(HEADER..record.len()))),
        0 => Err(damaged(Damage::Body).into()),
        found => Err(RecordError::Version { found }),
    }
}

/// The value that `record`, found under `key`, is or heads.
fn open(
    backend: &dyn Backend,
    key: &[u8],
    record: &Bytes,
    expected: RecordKind,
) -> Result<(Bytes, u16), RecordError> {
    let damaged = |why| Damaged { key: Bytes::copy_from_slice(key), why };
    let (kind, body) = verify(key, record)?;
    if RecordKind::from_byte(kind & !HEAD_FLAG) != Some(expected) {
        return Err(damaged(Damage::Kind).into());
    }
    if kind & HEAD_FLAG == 0 {
        return Ok((body, 0));
    }
    let head = Head::from_bytes(&body).ok_or_else(|| damaged(Damage::Body))?;
    let mut value = BytesMut::new();
    for number in 0..head.pieces {
        value.extend_from_slice(&piece(backend, key, number)?);
    }
    if value.len() as u64 != head.length || crc32fast::hash(&value) != head.checksum {
        return Err(damaged(Damage::Pieces).into());
    }
    Ok((value.freeze(), head.pieces))
}

/// A piece; whatever is wrong with it is damage of the value it belongs to.
fn piece(backend: &dyn Backend, head: &[u8], number: u16) -> Result<Bytes, RecordError> {
    let key = piece_key(head, number);
    let found = match backend.get(&key)? {
        Some(value) => settle(verify(&key, &value))?.ok(),
        None => None,
    };
    match found {
        Some((kind, body)) if kind == RecordKind::Piece as u8 => Ok(body),
        _ => {
            let key = Bytes::copy_from_slice(head);
            Err(Damaged { key, why: Damage::Piece(number) }.into())
        }
    }
}

/// Whether a pair is a piece: a sound record says so itself; for a damaged one its head does.
fn is_piece(backend: &dyn Backend, key: &[u8], value: &Bytes) -> Result<bool, RecordError> {
    let Some((prefix, number)) = split_piece_key(key) else { return Ok(false) };
    if let Ok((kind, _)) = settle(verify(key, value))? {
        return Ok(kind == RecordKind::Piece as u8);
    }
    let Some(head) = backend.get(prefix)? else { return Ok(false) };
    let Ok((kind, body)) = settle(verify(prefix, &head))? else { return Ok(false) };
    let head = Head::from_bytes(&body).filter(|_| kind & HEAD_FLAG != 0);
    Ok(head.is_some_and(|head| number < head.pieces))
}

fn split_piece_key(key: &[u8]) -> Option<(&[u8], u16)> {
    let (prefix, suffix) = key.split_at_checked(key.len().checked_sub(PIECE_SUFFIX)?)?;
    let number = suffix.strip_prefix(&PIECE_MARK)?;
    Some((prefix, u16::from_be_bytes(number.try_into().ok()?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
