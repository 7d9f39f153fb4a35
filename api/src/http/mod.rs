//! The HTTP surface.

pub mod accept;
pub mod address;
pub mod json;
pub mod limits;
pub mod operations;
pub mod problem;
pub mod query;
pub mod render;
pub mod request;
pub mod version;
