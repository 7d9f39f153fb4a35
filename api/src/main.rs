//! The binary `atoll`.
fn main() {}
