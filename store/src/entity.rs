//! Placeholder.
use crate::command::View;
use bytes::Bytes;
use std::sync::OnceLock;
/// One durable state of an entity, as readers share it.
#[derive(Debug)]
pub struct Image {
    rendered: OnceLock<Bytes>,
}
impl Image {
    /// What is shown at `now`; `None` if the entity is absent or has expired.
    pub fn view(&self, _kind: crate::name::Kind, _now: crate::dot::Millis) -> Option<View> {
        None
    }
    /// Whether the entity is absent or has expired at `now`.
    pub fn is_absent(&self, _now: crate::dot::Millis) -> bool {
        true
    }
    /// When it expires, if it does.
    pub fn expires_at(&self) -> Option<crate::dot::Millis> {
        None
    }
    /// The version: equal states have equal versions on every node.
    pub fn version(&self) -> u128 {
        0
    }
    /// Bytes that the surface made of this image once, shared by all readers.
    pub fn rendered(&self, render: impl FnOnce() -> Bytes) -> Bytes {
        self.rendered.get_or_init(render).clone()
    }
}
