//! One durable state of an entity, as readers share it.
//!
//! Invariants:
//! 1. An image never changes; a new state is a new image.
//! 2. The version is a function of live payloads alone: equal states, equal versions.

use std::sync::OnceLock;

use bytes::Bytes;

use super::Entity;
use crate::command::View;
use crate::dot::Millis;
use crate::name::Kind;

/// One state of an entity.
#[derive(Debug)]
pub struct Image {
    entity: Entity,
    expires_at: Option<Millis>,
    present: bool,
    rendered: OnceLock<Bytes>,
}

impl Image {
    /// The image of a state.
    pub fn new(entity: Entity) -> Image {
        let (expires_at, present) = (entity.expires_at(), entity.is_present());
        Image { entity, expires_at, present, rendered: OnceLock::new() }
    }

    /// The state.
    pub fn entity(&self) -> &Entity {
        &self.entity
    }

    /// What is shown at `now`; `None` if the entity is absent or has expired.
    pub fn view(&self, kind: Kind, now: Millis) -> Option<View> {
        if self.is_absent(now) { None } else { self.entity.view(kind) }
    }

    /// Whether the entity is absent, or has expired at `now`.
    pub fn is_absent(&self, now: Millis) -> bool {
        !self.present || self.expires_at.is_some_and(|at| at <= now)
    }

    /// When it expires, if it does.
    pub fn expires_at(&self) -> Option<Millis> {
        self.expires_at
    }

    /// The version: equal states have equal versions on every node.
    pub fn version(&self) -> u128 {
        self.entity.sum()
    }

    /// Bytes that the surface made of this image once, shared by all readers.
    pub fn rendered(&self, render: impl FnOnce() -> Bytes) -> Bytes {
        self.rendered.get_or_init(render).clone()
    }
}
