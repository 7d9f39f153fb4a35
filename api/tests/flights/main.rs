//! Flights, sent to three real regions through a partition and a kill -9, add up to the last one.
//!
//! The demo runs as its users run it, as processes on loopback. Flight records go to all regions
//! at once, each request with an idempotency key, and what fails is sent again elsewhere. In the
//! end every region must hold exactly what an independent fold of the file gives.
//!
//! The input is the project's own small file; `ATOLL_FLIGHTS` may name a larger one.

mod demo;
mod load;
mod sums;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use demo::Demo;
use load::{Flight, Progress};
use serde_json::Value;
use sums::Sums;

/// How long the regions may take to agree once everything is mended.
const CONVERGENCE: Duration = Duration::from_secs(60);

#[test]
fn three_regions_agree_on_every_flight() -> Result<()> {
    let flights = flights()?;
    let mut demo = Demo::start()?;
    let progress = Progress::default();
    progress.allow(flights.len() / 2);
    let addresses = demo.addresses()?;
    let retries = std::thread::scope(|scope| {
        let senders = load::start(scope, &flights, &progress, addresses);
        let faults = make_faults(&mut demo, &progress, flights.len());
        progress.give_up_if(faults.is_err());
        // What a sender met comes first: it explains why the faults were not made.
        let retries = load::finish(senders)?;
        faults.map(|()| retries)
    })?;
    ensure!(retries > 0, "the faults met no request");
    await_equal_digests(&demo)?;
    Sums::of(&flights).compare(&mut demo.clients()?)?;
    demo.stop()
}

/// Cuts, kills, starts and mends, each at its place in the file.
///
/// Flights are held back so that each act meets requests in flight, and so that a twelfth of the
/// file is certainly sent while one link is cut and one region is down.
fn make_faults(demo: &mut Demo, progress: &Progress, total: usize) -> Result<()> {
    progress.wait(total / 3)?;
    demo.command(&["partition", "eu", "us"])?;
    progress.allow(total * 7 / 12);
    progress.wait(total / 2)?;
    demo.command(&["kill", "ap-1"])?;
    progress.allow(total * 2 / 3);
    progress.wait(total * 2 / 3)?;
    let in_eu = demo.digest("eu")?;
    ensure!(in_eu != demo.digest("us")?, "eu and us agree, though the link between them is cut");
    demo.command(&["start", "ap-1"])?;
    demo.remember_processes()?;
    demo.command(&["heal"])?;
    progress.allow(total);
    progress.wait(total)
}

fn await_equal_digests(demo: &Demo) -> Result<()> {
    let mut last = String::new();
    let equal = jepsen::wait::until(CONVERGENCE, || {
        let digests: Result<Vec<Value>> =
            ["eu", "us", "ap"].map(|r| demo.digest(r)).into_iter().collect();
        last = format!("{digests:?}");
        let digests = digests.ok()?;
        let some = digests[0].as_object().is_some_and(|shards| !shards.is_empty());
        (some && digests.iter().all(|digest| *digest == digests[0])).then_some(())
    });
    equal.with_context(|| format!("digests still differ after {CONVERGENCE:?}: {last}"))
}

fn flights() -> Result<Vec<Flight>> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../jepsen/data/flights-300.ndjson");
    let path = std::env::var_os("ATOLL_FLIGHTS").map_or_else(|| shipped.into(), PathBuf::from);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let flights: Vec<Flight> =
        text.lines().map(Flight::parse).collect::<Result<_>>().context("flights")?;
    ensure!(flights.len() >= 100, "too few flights to make faults among");
    Ok(flights)
}
