//! stub
use crate::cli::{Failure, Output};
/// x
#[derive(Debug, clap::Args)]
pub struct Options {}
/// x
#[derive(Debug, clap::Args)]
pub struct Unused {}
/// x
pub async fn run(_: Options, _: Output) -> Result<(), Failure> {
    Ok(())
}
/// x
pub async fn unused(_: Unused) -> Result<(), Failure> {
    Ok(())
}
