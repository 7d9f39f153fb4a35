//! stub
use crate::cli::{Failure, Output};
/// x
#[derive(Debug, clap::Args)]
pub struct Options {}
/// x
#[derive(Debug, clap::Args)]
pub struct BaselineOptions {}
/// x
pub async fn run(_: Options, _: Output) -> Result<(), Failure> {
    Ok(())
}
/// x
pub async fn baseline(_: BaselineOptions) -> Result<(), Failure> {
    Ok(())
}
