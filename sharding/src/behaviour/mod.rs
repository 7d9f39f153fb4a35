//! Behaviours: what users write to decide for their entities, in JavaScript or in Rust.
//!
//! A behaviour in JavaScript is a module of pure functions. Each worker has an [`Engine`], which
//! keeps a realm for every behaviour in use; `prelude.js` has taken from it whatever is not the
//! same on all nodes, and frozen the rest. `docs/behaviours.md` is for who writes one;
//! `docs/decisions/0020-quickjs.md` says why this engine.
//!
//! Invariants:
//! 1. A call sees its arguments and its source, and nothing of any other call.
//! 2. Limits count instructions and bytes, not time. Whether a call is within them is decided by
//!    a fresh realm: what a used one refuses is run again.
//! 3. Values go in and come out as canonical JSON; this is the only place below `api` that reads
//!    values.
//! 4. What is uploaded was run: its syntax, its exports and its examples are checked.
//!
//! Left out: a bound of time. A built-in function counts as one instruction, however long its
//! argument is; arguments are bounded by memory.

mod cart;
mod check;
mod engine;
mod json;
mod native;
mod source;

pub use cart::Cart;
pub use check::{Accepted, check};
pub use engine::{Engine, Limits};
pub use native::{Decided, Native, Pure, Rejection};
pub use source::SOURCE_MAX;

use atoll_store::owned::BehaviourHash;

/// The shopping cart, in JavaScript.
pub const CART: &str = include_str!("cart.js");

/// Names a behaviour: the hash of its source.
pub fn hash(source: &str) -> BehaviourHash {
    blake3::derive_key("atoll behaviour 1", source.as_bytes())
}

/// Why a behaviour is refused, and where. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct Problem {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl Problem {
    fn new(line: usize, column: usize, message: &str) -> Problem {
        Problem { line, column, message: message.to_string() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
