//! Small records beside the entities: facts about origins, and notes under names.
//!
//! Invariant: they are staged like everything else, and durable with the step that put them.

use bytes::Bytes;

use crate::dot::Origin;
use crate::engine::Engine;
use crate::record::{self, RecordError, RecordKind};

/// Notes read at a time: more than there are regions.
const NOTES: usize = 4_096;

fn fact_key(origin: Origin) -> Vec<u8> {
    [&b"o"[..], &origin.0.to_be_bytes()].concat()
}

impl Engine {
    /// The bodies of stored facts.
    pub fn facts(&self) -> &[Bytes] {
        &self.facts
    }

    /// Stages a fact about an origin.
    pub fn put_fact(&mut self, origin: Origin, body: &[u8]) {
        record::encode(RecordKind::Fact, &fact_key(origin), body, &mut self.staged.batch.writes, 0);
    }

    /// Stages the end of the fact about an origin.
    pub(crate) fn drop_fact(&mut self, origin: Origin) {
        record::remove(&fact_key(origin), 0, &mut self.staged.batch.writes);
    }

    /// Stages a note: a small record under a name of its writer's choice.
    pub fn put_note(&mut self, name: &str, body: &[u8]) {
        let key = [&b"n"[..], name.as_bytes()].concat();
        record::encode(RecordKind::Fact, &key, body, &mut self.staged.batch.writes, 0);
    }

    /// Stages the end of a note.
    pub fn drop_note(&mut self, name: &str) {
        let key = [&b"n"[..], name.as_bytes()].concat();
        record::remove(&key, 0, &mut self.staged.batch.writes);
    }

    /// The names and bodies of notes whose name starts so; a damaged one is left out.
    pub fn notes(&self, prefix: &str) -> Result<Vec<(String, Bytes)>, RecordError> {
        let start = [&b"n"[..], prefix.as_bytes()].concat();
        let end = [&start[..], &[0xFF]].concat();
        let found = record::scan(&*self.backend, RecordKind::Fact, &start, &end, NOTES)?;
        let name = |key: &[u8]| String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into();
        Ok(found.into_iter().filter_map(|(key, body)| Some((name(&key), body.ok()?))).collect())
    }
}
