//! The names of entities: kind, collection and id, parsed once at the edge.
//!
//! Invariants:
//! 1. A `Collection` and an `EntityId` that exist are valid: nothing behind the edge checks again.
//! 2. Keys order by kind, then collection, then the bytes of the id; lists rely on it.
//!
//! Left out: percent-encoding, which belongs to HTTP.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest collection name, in bytes.
pub const COLLECTION_MAX: usize = 64;
/// Longest entity id, in bytes.
pub const ID_MAX: usize = 256;

/// What an entity is, and so how concurrent changes of it combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A signed sum of increments and decrements.
    Counters,
    /// One value, the last writer wins.
    Registers,
    /// All values that no write has seen.
    MultiRegisters,
    /// A boolean, enable wins.
    Flags,
    /// Distinct values, add wins.
    Sets,
    /// Fields of the other types.
    Maps,
}

impl Kind {
    /// Every kind, in the order of keys.
    pub const ALL: [Kind; 6] = [
        Kind::Counters,
        Kind::Registers,
        Kind::MultiRegisters,
        Kind::Flags,
        Kind::Sets,
        Kind::Maps,
    ];

    /// The kind's name in addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counters => "counters",
            Kind::Registers => "registers",
            Kind::MultiRegisters => "multi-registers",
            Kind::Flags => "flags",
            Kind::Sets => "sets",
            Kind::Maps => "maps",
        }
    }

    /// The kind of that name, if there is one.
    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a name was refused; the text names the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The collection breaks its rule.
    #[error("collection {0:?} must be 1-64 of [a-z0-9._-], starting with a letter or digit")]
    Collection(String),
    /// The id breaks its rule.
    #[error("id must be 1-256 bytes of UTF-8, got {0} bytes")]
    Id(usize),
}

/// A collection's name: 1-64 of `[a-z0-9._-]`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Collection(Arc<str>);

impl Collection {
    /// Parses a name.
    pub fn parse(name: &str) -> Result<Collection, NameError> {
        let bytes = name.as_bytes();
        let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        let rest = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
        let lower = !bytes.iter().any(u8::is_ascii_uppercase);
        if first && rest && lower && bytes.len() <= COLLECTION_MAX {
            Ok(Collection(name.into()))
        } else {
            Err(NameError::Collection(name.chars().take(80).collect()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An entity's id in its collection: 1-256 bytes of UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EntityId(Arc<str>);

impl EntityId {
    /// Parses an id, already percent-decoded.
    pub fn parse(id: &str) -> Result<EntityId, NameError> {
        if id.is_empty() || id.len() > ID_MAX {
            return Err(NameError::Id(id.len()));
        }
        Ok(EntityId(id.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Collection {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(input)?;
        Collection::parse(&name).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for EntityId {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let id = <std::borrow::Cow<'de, str>>::deserialize(input)?;
        EntityId::parse(&id).map_err(serde::de::Error::custom)
    }
}

/// The full name of an entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(from = "Parts")]
pub struct EntityKey {
    /// Its kind.
    pub kind: Kind,
    /// Its collection.
    pub collection: Collection,
    /// Its id.
    pub id: EntityId,
    /// Hash of the three, made once: a write asks for the slot several times.
    hash: u64,
}

/// What of a name is written down.
#[derive(Deserialize)]
struct Parts {
    kind: Kind,
    collection: Collection,
    id: EntityId,
}

impl From<Parts> for EntityKey {
    fn from(parts: Parts) -> EntityKey {
        EntityKey::new(parts.kind, parts.collection, parts.id)
    }
}

impl Serialize for EntityKey {
    fn serialize<S: serde::Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        (self.kind, &self.collection, &self.id).serialize(output)
    }
}

impl EntityKey {
    /// The name of these parts.
    pub fn new(kind: Kind, collection: Collection, id: EntityId) -> EntityKey {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind as u8]).update(collection.0.as_bytes());
        hasher.update(&[0]).update(id.0.as_bytes());
        let hash = hasher.finalize();
        let head = hash.as_bytes().first_chunk::<8>().expect("a hash has 32 bytes");
        EntityKey { kind, collection, id, hash: u64::from_be_bytes(*head) }
    }

    /// Parses the three parts.
    pub fn parse(kind: Kind, collection: &str, id: &str) -> Result<EntityKey, NameError> {
        let collection = Collection::parse(collection)?;
        Ok(EntityKey::new(kind, collection, EntityId::parse(id)?))
    }

    /// The key's bytes: kind, collection, a zero byte, id. Their order is the order of keys.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + self.collection.0.len() + self.id.0.len());
        out.push(self.kind as u8);
        out.extend_from_slice(self.collection.0.as_bytes());
        out.push(0);
        out.extend_from_slice(self.id.0.as_bytes());
        out
    }

    /// Reads what [`EntityKey::bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<EntityKey> {
        let (&kind, rest) = bytes.split_first()?;
        let kind = Kind::ALL.into_iter().find(|k| *k as u8 == kind)?;
        let split = rest.iter().position(|b| *b == 0)?;
        let collection = std::str::from_utf8(&rest[..split]).ok()?;
        let id = std::str::from_utf8(&rest[split + 1..]).ok()?;
        EntityKey::parse(kind, collection, id).ok()
    }

    /// The hash slot of the entity among `slots`.
    pub fn slot(&self, slots: u16) -> u16 {
        (self.hash % u64::from(slots)) as u16
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.collection.0, self.id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_edge() {
        assert!(Collection::parse("likes.v2_a-b").is_ok());
        for bad in ["", "-x", "A", "a b", "a/b", &"x".repeat(65)] {
            assert!(Collection::parse(bad).is_err(), "{bad:?}");
        }
        assert!(EntityId::parse(&"é".repeat(128)).is_ok());
        assert!(EntityId::parse(&"é".repeat(129)).is_err());
        assert!(EntityId::parse("").is_err());
    }

    #[test]
    fn key_bytes_round_trip_and_keep_order() {
        let keys: Vec<_> = ["a", "a\u{0}b", "b/c", "é"]
            .iter()
            .map(|id| EntityKey::parse(Kind::Sets, "c", id).expect("valid"))
            .collect();
        for pair in keys.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].bytes() < pair[1].bytes());
        }
        for key in keys {
            assert_eq!(EntityKey::from_bytes(&key.bytes()), Some(key));
        }
    }
}
