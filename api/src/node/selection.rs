//! What a subscriber wants.

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
