//! Reading beside the writer: the last durable image of every hot entity, and what is on disk.
//!
//! Invariants:
//! 1. What is published is durable: whoever commits publishes afterwards, in order.
//! 2. An entity that is not published is on disk, current.
//! 3. A lock here is held for a lookup or an insert, never across I/O.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock};

use crate::backend::Backend;
use crate::checkpoint::{entity_key, load};
use crate::engine::{Changed, Staged};
use crate::entity::Image;
use crate::name::{Collection, EntityId, EntityKey, Kind};
use crate::record::{self, RecordKind};
use crate::shard::ShardId;

type Images = BTreeMap<EntityKey, Arc<Image>>;

/// The readers' image of a store. A cheap clone.
#[derive(Clone)]
pub struct Reader {
    backend: Arc<dyn Backend>,
    slots: Arc<[RwLock<Images>]>,
}

/// A stretch of a collection, in byte order of ids.
#[derive(Clone, Debug)]
pub struct Range {
    /// The kind.
    pub kind: Kind,
    /// The collection.
    pub collection: Collection,
    /// Ids start with it.
    pub prefix: String,
    /// Ids come after it.
    pub after: Option<String>,
}

impl Range {
    fn contains(&self, key: &EntityKey) -> bool {
        let id = key.id.as_str();
        key.kind == self.kind
            && key.collection == self.collection
            && id.starts_with(&self.prefix)
            && self.after.as_ref().is_none_or(|after| id > after.as_str())
    }

    /// The least id that can be in it, and whether it itself can.
    fn start(&self) -> (&str, bool) {
        match &self.after {
            Some(after) if *after >= self.prefix => (after, false),
            _ => (&self.prefix, true),
        }
    }
}

/// A list met state that cannot be read (R8): of this entity, if that much is known. The engine
/// learns of it, and has it repaired, when it is asked for the entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub Option<EntityKey>);

impl Reader {
    /// A reader of a store with `slots` hash slots.
    pub fn new(backend: Arc<dyn Backend>, slots: u16) -> Reader {
        let slots = (0..slots).map(|_| RwLock::default()).collect();
        Reader { backend, slots }
    }

    fn slot(&self, key: &EntityKey) -> &RwLock<Images> {
        &self.slots[usize::from(key.slot(self.slots.len() as u16))]
    }

    /// The image of a hot entity.
    pub fn peek(&self, key: &EntityKey) -> Option<Arc<Image>> {
        let slot = self.slot(key).read().expect("no panic under this lock");
        slot.get(key).cloned()
    }

    /// Shows one state.
    pub fn publish(&self, changed: &Changed) {
        let mut slot = self.slot(&changed.key).write().expect("no panic under this lock");
        match slot.get_mut(&changed.key) {
            Some(image) => *image = changed.image.clone(),
            None => drop(slot.insert(changed.key.clone(), changed.image.clone())),
        }
    }

    /// Forgets what a commit evicted, and shows what it made durable: what was evicted and then
    /// changed before the commit is shown.
    pub fn release(&self, staged: &Staged) {
        for key in &staged.evicted {
            self.slot(key).write().expect("no panic under this lock").remove(key);
        }
        for changed in &staged.changes {
            self.publish(changed);
        }
    }

    /// Up to `limit` present entities of some slots at `now`, in byte order; one more than asked
    /// tells of more. Reads the disk.
    pub fn list(
        &self,
        range: &Range,
        slots: &[u16],
        now: u64,
        limit: usize,
    ) -> Result<Vec<(EntityKey, Arc<Image>)>, Unreadable> {
        let mut found = Vec::new();
        for slot in slots {
            found.extend(self.list_slot(*slot, range, now, limit)?);
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        found.truncate(limit);
        Ok(found)
    }

    /// Everything on this node of one slot, after `after`: for snapshots.
    pub fn list_all(
        &self,
        slot: u16,
        after: Option<&EntityKey>,
        now: u64,
        limit: usize,
    ) -> Result<Vec<(EntityKey, Arc<Image>)>, Unreadable> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        self.merge_slot(slot, from, |_| true, now, limit)
    }

    fn list_slot(
        &self,
        slot: u16,
        range: &Range,
        now: u64,
        limit: usize,
    ) -> Result<Vec<(EntityKey, Arc<Image>)>, Unreadable> {
        let (start, inclusive) = range.start();
        let id = if start.is_empty() { "\0" } else { start };
        let Ok(id) = EntityId::parse(id) else { return Ok(Vec::new()) };
        let key = EntityKey::new(range.kind, range.collection.clone(), id);
        let from = if inclusive { Bound::Included(key) } else { Bound::Excluded(key) };
        self.merge_slot(slot, from, |key| range.contains(key), now, limit)
    }

    /// Merges the published images with the records on disk; the published ones are newer.
    fn merge_slot(
        &self,
        slot: u16,
        from: Bound<EntityKey>,
        within: impl Fn(&EntityKey) -> bool,
        now: u64,
        limit: usize,
    ) -> Result<Vec<(EntityKey, Arc<Image>)>, Unreadable> {
        let mut found: Vec<(EntityKey, Arc<Image>)> = Vec::new();
        let mut from = from;
        while found.len() < limit {
            let (mut page, end) = self.published(slot, &from, &within);
            let disk = self.recorded(slot, &from, &within, end.as_ref(), limit - found.len());
            let (disk, cut) = disk?;
            for (key, image) in disk {
                page.entry(key).or_insert(image);
            }
            let last = cut.or(end);
            let kept = |key: &EntityKey| last.as_ref().is_none_or(|last| key <= last);
            found
                .extend(page.into_iter().filter(|(key, image)| kept(key) && !image.is_absent(now)));
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// A page of published images, and where it was cut.
    fn published(
        &self,
        slot: u16,
        from: &Bound<EntityKey>,
        within: &impl Fn(&EntityKey) -> bool,
    ) -> (Images, Option<EntityKey>) {
        const PAGE: usize = 1024;
        let images = self.slots[usize::from(slot)].read().expect("no panic under this lock");
        let range = images.range((from.clone(), Bound::Unbounded));
        let page: Images = range
            .take_while(|(key, _)| within(key))
            .take(PAGE)
            .map(|(key, image)| (key.clone(), image.clone()))
            .collect();
        let cut = if page.len() == PAGE { page.keys().next_back().cloned() } else { None };
        (page, cut)
    }

    /// Entities on disk up to `end`, and where the page was cut.
    #[allow(clippy::type_complexity)]
    fn recorded(
        &self,
        slot: u16,
        from: &Bound<EntityKey>,
        within: &impl Fn(&EntityKey) -> bool,
        end: Option<&EntityKey>,
        limit: usize,
    ) -> Result<(Vec<(EntityKey, Arc<Image>)>, Option<EntityKey>), Unreadable> {
        let id = ShardId { placement: 0, slot };
        let start = match from {
            Bound::Unbounded => entity_key(id, &[]),
            Bound::Included(key) => entity_key(id, &key.bytes()),
            Bound::Excluded(key) => [entity_key(id, &key.bytes()), vec![0]].concat(),
        };
        let until = match end {
            Some(key) => [entity_key(id, &key.bytes()), vec![0]].concat(),
            None => [entity_key(id, &[]), vec![0xFF]].concat(),
        };
        let limit = limit.max(1);
        let page = record::scan(&*self.backend, RecordKind::Entity, &start, &until, limit);
        let page = page.map_err(|_| Unreadable(None))?;
        let full = page.len() == limit;
        let mut found = Vec::new();
        let mut last = None;
        for (key, _) in page {
            let Some(key) = EntityKey::from_bytes(key.get(7..).unwrap_or_default()) else {
                continue;
            };
            if !within(&key) {
                return Ok((found, None));
            }
            last = Some(key.clone());
            let image = match self.peek(&key) {
                Some(image) => image,
                None => {
                    let hot = load(&*self.backend, id, &key);
                    let hot = hot.map_err(|_| Unreadable(Some(key.clone())))?;
                    Arc::new(Image::new(hot.entity))
                }
            };
            found.push((key, image));
        }
        Ok((found, if full { last } else { None }))
    }
}
