//! SIGTERM under load: an orderly end, and a quick start after it.

use std::time::Duration;

use anyhow::{Result, ensure};
use jepsen::wait::until;

use crate::load::{self, Load};
use crate::node::{Site, Stream, await_equal};

/// What a drain may take; the limit for running requests is 10 s.
const DRAIN: Duration = Duration::from_secs(10);

#[test]
fn sigterm_under_load_loses_nothing_and_ends_in_order() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = site.two()?;
    let ports = nodes.each_ref().map(|node| node.port);
    let load = Load::of(&nodes, 3);
    load.during(|| {
        let [ended, ..] = &mut nodes;
        for _ in 0..2 {
            load.advance(&ended.name, 30)?;
            let mut streams = [
                Stream::open(ended, "/v1/changes")?,
                Stream::open(ended, "/v1/counters/load?prefix=")?,
                Stream::open(ended, "/v1/counters/idle/never")?,
            ];
            streams[1].expect("\"ready\"")?;
            streams[2].expect("\"ready\"")?;
            let ledgers = load.ledgers(&ended.name);
            ended.terminate()?;
            for stream in &mut streams {
                stream.expect("\"error\"")?;
                stream.expect("draining")?;
            }
            let mut status = None;
            let over = until(DRAIN, || {
                status = ended.try_end().transpose();
                status.as_ref().map(drop)
            });
            ensure!(over.is_some(), "it drains on after {DRAIN:?}");
            let status = status.transpose()?;
            ensure!(status.is_some_and(|s| s.success()), "{status:?}: {}", ended.log_tail());
            ensure!(ended.ask("/readyz").is_err(), "still there");
            ended.start_alone()?;
            for (writer, ledger) in ledgers {
                load::check(ended, &writer, &ledger)?;
            }
            ended.stop()?;
            ended.start(&ports)?;
        }
        load.advance(&ended.name, 10)
    })?;
    await_equal(&nodes)?;
    nodes.iter().try_for_each(|node| load.check(node))
}
