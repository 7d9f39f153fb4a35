//! Unit tests of the dot store; the laws over random histories are in `store/tests/laws.rs`.
