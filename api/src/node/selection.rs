//! What a subscriber wants.

use std::sync::Arc;

use atoll_store::name::{Collection, EntityKey, Kind};

use super::journal::Topic;

/// What a subscriber wants.
#[derive(Clone, Debug)]
pub enum Selection {
    /// One entity.
    Entity(EntityKey),
    /// A collection, or the ids in it that start with a prefix.
    Prefix {
        /// The kind.
        kind: Kind,
        /// The collection.
        collection: Collection,
        /// The prefix, maybe empty.
        prefix: String,
    },
    /// Everything, or only these kinds and collections (empty: all).
    All {
        /// Kinds; empty for all.
        kinds: Vec<Kind>,
        /// Collections; empty for all.
        collections: Vec<Collection>,
    },
}

impl Selection {
    /// Under which of the journal's topics its changes come.
    pub(super) fn topics(&self) -> Vec<Topic> {
        match self {
            Selection::Entity(key) => vec![Topic::Entity(key.clone())],
            Selection::Prefix { kind, collection, .. } => {
                vec![Topic::Collection(*kind, collection.clone())]
            }
            Selection::All { kinds, collections }
                if kinds.len() == 1 && !collections.is_empty() =>
            {
                collections.iter().map(|each| Topic::Collection(kinds[0], each.clone())).collect()
            }
            Selection::All { .. } => vec![Topic::All],
        }
    }

    /// Whether an entity is selected.
    pub(super) fn takes(&self, key: &EntityKey) -> bool {
        match self {
            Selection::Entity(one) => key == one,
            Selection::Prefix { kind, collection, prefix } => {
                key.kind == *kind
                    && key.collection == *collection
                    && key.id.as_str().starts_with(prefix)
            }
            Selection::All { kinds, collections } => {
                (kinds.is_empty() || kinds.contains(&key.kind))
                    && (collections.is_empty() || collections.contains(&key.collection))
            }
        }
    }
}

/// A selection out of some hash slots.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) selection: Selection,
    /// In ascending order.
    slots: Arc<[u16]>,
    count: u16,
}

impl Scope {
    /// What is selected in all `count` slots, or only in some.
    pub(super) fn new(selection: Selection, only: Option<&[u16]>, count: u16) -> Scope {
        let slots = match (&selection, only) {
            (Selection::Entity(key), _) => vec![key.slot(count)],
            (_, Some(only)) => only.to_vec(),
            (_, None) => (0..count).collect(),
        };
        Scope { selection, slots: slots.into(), count }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = u16> + '_ {
        self.slots.iter().copied()
    }

    pub(super) fn slot_after(&self, slot: u16) -> Option<u16> {
        self.slots.iter().copied().find(|next| *next > slot)
    }

    /// Whether an entity is selected.
    pub(super) fn takes(&self, key: &EntityKey) -> bool {
        let whole = self.slots.len() == usize::from(self.count);
        self.selection.takes(key) && (whole || self.slots.contains(&key.slot(self.count)))
    }
}
