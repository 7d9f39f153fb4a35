//! What a subscriber is told first: everything selected, page by page.
//!
//! Invariant: changes from before the first page on are told after it, so that nothing falls
//! between.

use std::sync::Arc;

use atoll_store::entity::Image;
use atoll_store::name::EntityKey;
use atoll_store::reader::Range;

use super::super::{Changed, ReadError, Record, Selection};
use super::{Cursor, PAGE, Phase, Subscription};

impl Subscription {
    /// One page of the snapshot.
    pub(super) async fn list(
        &mut self,
        slot: u16,
        after: Option<EntityKey>,
    ) -> Result<(), ReadError> {
        let (page, next) = match &self.what.selection {
            Selection::Entity(key) => {
                let image = self.node.read(key).await?;
                let absent = image.is_absent(self.node.now());
                let found = (!absent).then(|| (key.clone(), image));
                (found.into_iter().collect(), None)
            }
            Selection::Prefix { kind, collection, prefix } => {
                let (kind, collection, prefix) = (*kind, collection.clone(), prefix.clone());
                let after = after.map(|key| key.id.as_str().to_owned());
                let range = Range { kind, collection, prefix, after };
                let page = self
                    .node
                    .list_range(range, PAGE, &self.what.slots().collect::<Vec<_>>())
                    .await?;
                let last = page.last().map(|(key, _)| (0, Some(key.clone())));
                (page, last)
            }
            Selection::All { .. } => self.list_slot(slot, after).await?,
        };
        let nowhere = Cursor::nowhere();
        for (key, image) in page.into_iter().filter(|(key, _)| self.what.takes(key)) {
            let changed = Changed { key, image, origin_region: "".into() };
            self.queue.push_back((Record::Snapshot(changed), nowhere.clone()));
        }
        match next {
            Some((slot, after)) => self.phase = Phase::Snapshot { slot, after },
            None => {
                self.phase = Phase::Live;
                let cursor = self.cursor(self.position);
                self.queue.push_back((Record::Ready, cursor));
            }
        }
        Ok(())
    }

    #[allow(clippy::type_complexity)]
    async fn list_slot(
        &self,
        slot: u16,
        after: Option<EntityKey>,
    ) -> Result<(Vec<(EntityKey, Arc<Image>)>, Option<(u16, Option<EntityKey>)>), ReadError> {
        let page = self.node.list_slot(slot, after, PAGE).await?;
        let next = match page.last() {
            Some((last, _)) if page.len() == PAGE => Some((slot, Some(last.clone()))),
            _ => self.what.slot_after(slot).map(|next| (next, None)),
        };
        Ok((page, next))
    }
}
