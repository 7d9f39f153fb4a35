//! What the demo shows: what to try, then a table that lives.
//!
//! Invariant: a terminal is redrawn in place once a second; elsewhere a line is printed only when
//! something changes, writes and lag left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::layout::Place;
use super::observe::{Observer, Seen, equal};
use super::supervisor::Supervisor;
use crate::cli::output::{Paint, paint, table};

/// Time between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Addresses and lines to copy.
pub(super) fn welcome(supervisor: &Supervisor) -> String {
    let mut text = String::from("\n");
    for (place, _) in supervisor.nodes() {
        let _ = writeln!(text, "  {:<6} {}", place.name(), place.url());
    }
    let base = supervisor.base();
    let url = |region| Place::new(base, region, 1).map(|place| place.url()).unwrap_or_default();
    let option = if base == 7400 { String::new() } else { format!(" --base-port {base}") };
    let _ = write!(
        text,
        "
Try, in another terminal:

  curl -N -H 'accept: text/event-stream' {us}/v1/counters/likes/post-42
  curl -X POST -H 'content-type: application/json' -d '{{\"increment\": 1}}' \
         {eu}/v1/counters/likes/post-42
  atoll demo{option} partition eu us
  atoll demo{option} heal
  atoll demo{option} kill ap-1
  atoll demo{option} start ap-1
  atoll demo{option} add ap

Ctrl-C ends the demo.

",
        us = url("us"),
        eu = url("eu"),
    );
    text
}

/// One region, as shown.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    region: &'static str,
    state: String,
    writes: u64,
    rate: u64,
    lag: BTreeMap<String, u64>,
    data: String,
    /// As its own nodes see it: the word of the first that answered.
    members: String,
    replicas: String,
}

/// Shows the demo until it is dropped.
pub(super) async fn live(supervisor: &Supervisor) {
    let mut observer = Observer::default();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let terminal = std::io::stdout().is_terminal();
    let (mut before, mut drawn, mut told) = (BTreeMap::new(), 0, String::new());
    loop {
        ticks.tick().await;
        let nodes = supervisor.nodes();
        let up: Vec<Place> = nodes.iter().filter(|n| n.1 == "up").map(|n| n.0.clone()).collect();
        let seen = observer.ask(&up).await;
        let seen: BTreeMap<Place, Seen> = up.into_iter().zip(seen).collect();
        let rows = rows(supervisor.regions(), &nodes, &seen, &before);
        before = seen.into_iter().map(|(place, seen)| (place, seen.writes)).collect();
        let cuts = cuts(supervisor);
        if terminal {
            let text = format!("{}{cuts}\n", render(&rows));
            // Up to the first line of the last table, and clear what is below.
            let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
            print!("{up}\x1b[J{text}");
            drawn = text.lines().count();
        } else {
            let line = rows.iter().fold(String::new(), |mut line, row| {
                let Row { region, state, members, replicas, data, .. } = row;
                let _ = write!(line, "{region} {state} ({members}), replicas {replicas}, {data}; ");
                line
            });
            let line = format!("{line}{cuts}");
            if line != told {
                println!("{line}");
                told = line;
            }
        }
        drop(std::io::stdout().flush());
    }
}

fn cuts(supervisor: &Supervisor) -> String {
    let cut: Vec<String> = supervisor
        .links()
        .into_iter()
        .filter(|(_, _, cut, _)| *cut)
        .map(|(a, b, ..)| format!("{a}-{b}"))
        .collect();
    match cut.is_empty() {
        true => "no link is cut".into(),
        false => paint(Paint::Red, &format!("cut: {}", cut.join(", "))),
    }
}

fn rows(
    regions: [&'static str; 3],
    nodes: &[(Place, &'static str)],
    seen: &BTreeMap<Place, Seen>,
    before: &BTreeMap<Place, u64>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for region in regions {
        let states: Vec<&str> =
            nodes.iter().filter(|n| n.0.region == region).map(|n| n.1).collect();
        let up = states.iter().filter(|state| **state == "up").count();
        let state = match states.as_slice() {
            [state] => super::control::state(state),
            _ => format!("{up} of {} up", states.len()),
        };
        let mut row = Row { region, state, data: verdict(region, seen), ..Row::default() };
        for (place, seen) in seen.iter().filter(|(place, _)| place.region == region) {
            row.writes += seen.writes;
            if row.members.is_empty() {
                row.members.clone_from(&seen.members);
                row.replicas.clone_from(&seen.replicas);
            }
            let earlier = before.get(place).copied().unwrap_or(seen.writes);
            row.rate += seen.writes.saturating_sub(earlier);
            for (other, ms) in &seen.lag {
                let worst = row.lag.entry(other.clone()).or_default();
                *worst = (*worst).max(*ms);
            }
        }
        rows.push(row);
    }
    rows
}

/// Which regions hold something else.
fn verdict(region: &str, seen: &BTreeMap<Place, Seen>) -> String {
    let of = |name: &str| {
        seen.iter().filter(|(place, _)| place.region == name).map(|(_, seen)| seen).collect()
    };
    let own: Vec<&Seen> = of(region);
    if own.is_empty() {
        return "-".into();
    }
    let regions: BTreeSet<&str> = seen.keys().map(|place| place.region).collect();
    let differs = |other: &&str| {
        let theirs: Vec<&Seen> = if *other == region { Vec::new() } else { of(other) };
        !equal(own.iter().chain(&theirs).copied())
    };
    let differing: Vec<&str> = regions.into_iter().filter(differs).collect();
    match differing.is_empty() {
        true => paint(Paint::Green, "equal"),
        false => paint(Paint::Yellow, &format!("differs from {}", differing.join(", "))),
    }
}

fn render(rows: &[Row]) -> String {
    let heading = ["REGION", "STATE", "MEMBERS", "REPLICAS", "WRITES", "/S"].map(String::from);
    let behind = rows.iter().map(|row| format!("BEHIND {}", row.region));
    let mut cells = vec![
        heading.into_iter().chain(behind).chain(["DATA".to_string()]).collect::<Vec<String>>(),
    ];
    for row in rows {
        let mut line = vec![row.region.to_string(), row.state.clone()];
        line.extend([row.members.clone(), row.replicas.clone()]);
        line.extend([row.writes.to_string(), row.rate.to_string()]);
        line.extend(rows.iter().map(|other| match row.lag.get(other.region) {
            Some(ms) if other.region != row.region => format!("{ms} ms"),
            _ => "-".into(),
        }));
        line.push(row.data.clone());
        cells.push(line);
    }
    table(&cells)
}
