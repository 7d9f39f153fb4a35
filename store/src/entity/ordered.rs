//! An ordered map whose clones share: a short array while it is small, a tree beyond.
//!
//! Invariants:
//! 1. A clone costs one reference count; a change of a clone costs the array, or a path of the
//!    tree, never the whole of a large map.
//! 2. Equal contents are equal maps, whichever way they are held.
//!
//! Most entities are counters and registers of a few items: a tree's leaf of fixed capacity would
//! cost each of them kilobytes, copied at every change.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use imbl::OrdMap;

/// Items up to which the array is cheaper than the tree.
const FEW: usize = 12;

/// An ordered map.
#[derive(Clone)]
pub(crate) enum Ordered<K, V> {
    Few(Arc<Vec<(K, V)>>),
    Many(OrdMap<K, V>),
}

/// One iterator or the other.
enum Either<A, B> {
    Few(A),
    Many(B),
}

impl<T, A: Iterator<Item = T>, B: Iterator<Item = T>> Iterator for Either<A, B> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Either::Few(items) => items.next(),
            Either::Many(items) => items.next(),
        }
    }
}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for Ordered<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K, V> Default for Ordered<K, V> {
    fn default() -> Self {
        Ordered::Few(Arc::default())
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for Ordered<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Eq for Ordered<K, V> {}

impl<K: Ord + Clone, V: Clone> Ordered<K, V> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Ordered::Few(items) => items.len(),
            Ordered::Many(items) => items.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Ordered::Few(items) => find(items, key).ok().map(|at| &items[at].1),
            Ordered::Many(items) => items.get(key),
        }
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Puts a value; answers the one that was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let items = match self {
            Ordered::Few(items) => items,
            Ordered::Many(items) => return items.insert(key, value),
        };
        match find(items, &key) {
            Ok(at) => Some(std::mem::replace(&mut Arc::make_mut(items)[at].1, value)),
            Err(at) if items.len() < FEW => {
                Arc::make_mut(items).insert(at, (key, value));
                None
            }
            Err(_) => {
                let mut many: OrdMap<K, V> = items.iter().cloned().collect();
                many.insert(key, value);
                *self = Ordered::Many(many);
                None
            }
        }
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Ordered::Few(items) => {
                let at = find(items, key).ok()?;
                Some(Arc::make_mut(items).remove(at).1)
            }
            Ordered::Many(items) => {
                let old = items.remove(key);
                if items.len() <= FEW / 2 {
                    let few = items.iter().map(|(key, value)| (key.clone(), value.clone()));
                    *self = Ordered::Few(Arc::new(few.collect()));
                }
                old
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        match self {
            Ordered::Few(items) => Either::Few(items.iter().map(|(key, value)| (key, value))),
            Ordered::Many(items) => Either::Many(items.iter()),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Items within bounds, in order.
    pub(crate) fn range<'a, R: RangeBounds<K>>(
        &'a self,
        bounds: R,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, R> {
        match self {
            Ordered::Few(items) => {
                let from = match bounds.start_bound() {
                    Bound::Unbounded => 0,
                    Bound::Included(key) => items.partition_point(|(at, _)| at < key),
                    Bound::Excluded(key) => items.partition_point(|(at, _)| at <= key),
                };
                let until = match bounds.end_bound() {
                    Bound::Unbounded => items.len(),
                    Bound::Included(key) => items.partition_point(|(at, _)| at <= key),
                    Bound::Excluded(key) => items.partition_point(|(at, _)| at < key),
                };
                let items = items.get(from..until).unwrap_or_default();
                Either::Few(items.iter().map(|(key, value)| (key, value)))
            }
            Ordered::Many(items) => Either::Many(items.range(bounds)),
        }
    }
}

fn find<K: Ord, V>(items: &[(K, V)], key: &K) -> Result<usize, usize> {
    items.binary_search_by(|(at, _)| at.cmp(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_an_ordered_map(
            steps in proptest::collection::vec((0u8..40, any::<bool>()), 0..120),
            low in 0u8..40, high in 0u8..40,
        ) {
            let (mut map, mut model) = (Ordered::default(), BTreeMap::new());
            for (at, (key, put)) in steps.into_iter().enumerate() {
                let before = map.clone();
                let kept: Vec<_> = model.clone().into_iter().collect();
                if put {
                    prop_assert_eq!(map.insert(key, at), model.insert(key, at));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                // A clone keeps what it had.
                prop_assert!(before.iter().map(|(k, v)| (*k, *v)).eq(kept));
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert_eq!(map.get(&low), model.get(&low));
            if low <= high {
                prop_assert!(map.range(low..=high).eq(model.range(low..=high)));
                prop_assert!(map.range(low..high).eq(model.range(low..high)));
            }
            prop_assert!(map.range(low..).eq(model.range(low..)));
            let rebuilt = model.iter().fold(Ordered::default(), |mut rebuilt, (key, value)| {
                rebuilt.insert(*key, *value);
                rebuilt
            });
            prop_assert_eq!(map, rebuilt);
        }
    }
}
