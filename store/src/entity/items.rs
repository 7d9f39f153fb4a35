//! An entity as an ordered run of items: how it is stored in pieces, and travels.
//!
//! Invariant: the items of an entity, in any split into runs, make the same entity again.

use serde::{Deserialize, Serialize};

use super::{Entity, Epoch, Folded};
use crate::command::RequestHash;
use crate::dot::{Dot, Hlc};
use crate::operation::{EpochKey, Part, Path, Payload};

/// Names an item; their order is the order of storage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ItemKey {
    /// A live payload.
    Live(Path, Dot),
    /// A counter's epoch.
    Epoch(EpochKey),
    /// A remembered retry.
    Retry(RequestHash, Dot),
    /// The folded epochs of a counter.
    Folded(Path),
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// A live payload.
    Live(Path, Dot, Payload),
    /// A counter's epoch.
    Epoch(EpochKey, Epoch),
    /// A remembered retry.
    Retry(RequestHash, Dot, Hlc),
    /// The folded epochs of a counter.
    Folded(Path, Folded),
}

impl Item {
    /// Its name.
    pub fn key(&self) -> ItemKey {
        match self {
            Item::Live(path, dot, _) => ItemKey::Live(path.clone(), *dot),
            Item::Epoch(key, _) => ItemKey::Epoch(key.clone()),
            Item::Retry(hash, dot, _) => ItemKey::Retry(*hash, *dot),
            Item::Folded(path, _) => ItemKey::Folded(path.clone()),
        }
    }
}

impl Entity {
    /// Its items with `from <= key < until`, in order.
    pub fn items<'a>(
        &'a self,
        from: Option<&'a ItemKey>,
        until: Option<&'a ItemKey>,
    ) -> impl Iterator<Item = Item> + 'a {
        self.live_from(from)
            .chain(self.epochs_from(from))
            .chain(self.retries_from(from))
            .chain(self.folded_from(from))
            .take_while(move |item| until.is_none_or(|until| item.key() < *until))
    }

    fn live_from<'a>(&'a self, from: Option<&'a ItemKey>) -> Box<dyn Iterator<Item = Item> + 'a> {
        let item = |((path, dot), payload): (&(Path, Dot), &Payload)| {
            Item::Live(path.clone(), *dot, payload.clone())
        };
        match from {
            None => Box::new(self.live.iter().map(item)),
            Some(ItemKey::Live(path, dot)) => {
                Box::new(self.live.range((path.clone(), *dot)..).map(item))
            }
            Some(_) => Box::new(std::iter::empty()),
        }
    }

    fn epochs_from<'a>(&'a self, from: Option<&'a ItemKey>) -> Box<dyn Iterator<Item = Item> + 'a> {
        let item = |(key, epoch): (&EpochKey, &Epoch)| Item::Epoch(key.clone(), *epoch);
        match from {
            Some(ItemKey::Epoch(key)) => Box::new(self.epochs.range(key.clone()..).map(item)),
            None | Some(ItemKey::Live(..)) => Box::new(self.epochs.iter().map(item)),
            Some(_) => Box::new(std::iter::empty()),
        }
    }

    fn retries_from<'a>(
        &'a self,
        from: Option<&'a ItemKey>,
    ) -> Box<dyn Iterator<Item = Item> + 'a> {
        let item =
            |((hash, dot), stamp): (&(RequestHash, Dot), &Hlc)| Item::Retry(*hash, *dot, *stamp);
        match from {
            Some(ItemKey::Retry(hash, dot)) => Box::new(self.keys.range((*hash, *dot)..).map(item)),
            Some(ItemKey::Folded(_)) => Box::new(std::iter::empty()),
            _ => Box::new(self.keys.iter().map(item)),
        }
    }

    fn folded_from<'a>(&'a self, from: Option<&'a ItemKey>) -> Box<dyn Iterator<Item = Item> + 'a> {
        let item = |(path, folded): (&Path, &Folded)| Item::Folded(path.clone(), *folded);
        match from {
            Some(ItemKey::Folded(path)) => Box::new(self.folded.range(path.clone()..).map(item)),
            _ => Box::new(self.folded.iter().map(item)),
        }
    }

    /// Takes in an item that it does not have.
    pub fn restore(&mut self, item: Item) {
        match item {
            Item::Live(path, dot, payload) => self.insert(path, dot, payload),
            Item::Epoch(key, epoch) => self.set_epoch(key, epoch),
            Item::Retry(hash, dot, stamp) => {
                self.keys.insert((hash, dot), stamp);
            }
            Item::Folded(path, folded) => self.set_folded(path, folded),
        }
    }

    /// An entity of these items.
    pub fn from_items(items: impl IntoIterator<Item = Item>) -> Entity {
        let mut entity = Entity::default();
        for item in items {
            entity.restore(item);
        }
        entity
    }
}

/// The items that a part's own effect touches, or `None` if it may touch any.
///
/// Closed epochs that a new one drops are left out: if they come back from disk, they are as
/// hidden as before.
pub(crate) fn touched(part: &Part, dot: Dot) -> Option<Vec<ItemKey>> {
    let effect = &part.effect;
    if effect.deletes.is_some() || effect.folded().is_some() {
        return None;
    }
    let mut keys = Vec::with_capacity(effect.adds.len() + effect.counts.len() + 1);
    for (path, dots) in &effect.removes {
        keys.extend(dots.iter().map(|dot| ItemKey::Live(path.clone(), *dot)));
    }
    for (key, _) in &effect.closes {
        // What it names may be folded here.
        keys.push(ItemKey::Folded(key.path.clone()));
        keys.push(ItemKey::Epoch(key.clone()));
    }
    keys.extend(effect.adds.iter().map(|(path, _)| ItemKey::Live(path.clone(), dot)));
    for (path, first, ..) in &effect.counts {
        let key = EpochKey { path: path.clone(), origin: dot.origin, first: *first };
        keys.push(ItemKey::Epoch(key));
    }
    keys.extend(part.hash.map(|hash| ItemKey::Retry(hash, dot)));
    Some(keys)
}
