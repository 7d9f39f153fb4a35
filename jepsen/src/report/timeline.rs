//! Operations one by one: a column for each process, time downwards, a bar for each operation.
//!
//! Shown are the neighbourhoods of the operations that violations name; without any, the first
//! operations. Time is in the order of events, not to scale: every line of the history has a row,
//! so that what overlapped is seen however short it was.
//!
//! Left out: what violations do not name; [`SHOWN_MAX`] operations are enough to look at.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Call, Facts, seconds};
use super::frame::{describe, drawing, line};
use super::markup::{Markup, clip, counted, number, thousands};
use super::results::Results;
use super::scale::duration;
use crate::history::{Process, Type};

/// Most operations that are shown.
const SHOWN_MAX: usize = 200;
/// Operations before and after one that a violation names.
const NEAR: usize = 14;
/// Height of a row, width of a column, width of the times at the left.
const ROW: f64 = 9.0;
const COLUMN: f64 = 122.0;
const GUTTER: f64 = 66.0;
const HEAD: f64 = 22.0;

/// The timelines of a run. Bars of operations that violations name have the id `op-<index>`.
pub(super) fn charts(out: &mut Markup, facts: &Facts<'_>, results: &Results) {
    if facts.calls.is_empty() {
        out.leaf("p", &[("class", "caption")], "No operations.");
        return;
    }
    let named = named(results);
    let groups = groups(facts, &named);
    let shown: usize = groups.iter().map(Vec::len).sum();
    let shown = thousands(shown as u64);
    let total = thousands(facts.calls.len() as u64);
    let which = match groups.len() {
        _ if !is_named(facts, &named) => format!("The first {shown} of {total} operations."),
        1 => format!("{shown} of {total} operations: those around a violation."),
        n => format!("{shown} of {total} operations: those around violations, in {n} places."),
    };
    let how = "Downwards in the order of events, not to scale; point at a bar for all of it.";
    out.leaf("p", &[("class", "caption")], &format!("{which} {how}"));
    groups.iter().for_each(|group| chart(out, facts, group, &named));
}

/// Indexes of lines that violations name, as `operation 17: ...`.
fn named(results: &Results) -> BTreeSet<u64> {
    let violations = results.verdicts.iter().flat_map(|verdict| &verdict.violations);
    violations.flat_map(|text| indexes(text)).collect()
}

/// Numbers that follow the word "operation" in a text.
pub(super) fn indexes(text: &str) -> impl Iterator<Item = u64> {
    text.split("operation ").skip(1).filter_map(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    })
}

/// Whether a call is one that violations name; its line that they name.
fn blamed(call: &Call<'_>, named: &BTreeSet<u64>) -> Option<u64> {
    let lines = call.pair.end.into_iter().chain([call.pair.invoke]);
    lines.map(|op| op.index).find(|index| named.contains(index))
}

fn is_named(facts: &Facts<'_>, named: &BTreeSet<u64>) -> bool {
    facts.calls.iter().any(|call| blamed(call, named).is_some())
}

/// Indexes of the lines that have a bar to go to.
pub(super) fn targets(facts: &Facts<'_>, results: &Results) -> BTreeSet<u64> {
    let named = named(results);
    let groups = groups(facts, &named).into_iter().flatten();
    groups.filter_map(|place| blamed(&facts.calls[place], &named)).collect()
}

/// Places of the calls to show, in runs of neighbours.
fn groups(facts: &Facts<'_>, named: &BTreeSet<u64>) -> Vec<Vec<usize>> {
    let count = facts.calls.len();
    let calls = facts.calls.iter().enumerate();
    let blamed = calls.filter(|(_, call)| blamed(call, named).is_some());
    let mut chosen = BTreeSet::new();
    for (place, _) in blamed {
        let near = place.saturating_sub(NEAR)..(place + NEAR + 1).min(count);
        let more = near.clone().filter(|place| !chosen.contains(place)).count();
        if chosen.len() + more > SHOWN_MAX {
            break;
        }
        chosen.extend(near);
    }
    if chosen.is_empty() {
        chosen.extend(0..count.min(SHOWN_MAX));
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for place in chosen {
        match groups.last_mut().filter(|group| group.last() == Some(&(place - 1))) {
            Some(group) => group.push(place),
            None => groups.push(vec![place]),
        }
    }
    groups
}

/// The rows and columns of a group.
struct Grid<'a> {
    /// Rows by the line of the history, each with its time in seconds.
    rows: BTreeMap<u64, (usize, f64)>,
    /// Columns by process, in the order of their first operation.
    columns: Vec<Process>,
    /// Beginnings and ends of faults: row, phase and what.
    faults: Vec<(usize, &'static str, String)>,
    calls: Vec<&'a Call<'a>>,
}

impl<'a> Grid<'a> {
    fn new(facts: &'a Facts<'a>, group: &[usize]) -> Grid<'a> {
        let calls: Vec<&Call<'_>> = group.iter().map(|place| &facts.calls[*place]).collect();
        let lines = calls.iter().flat_map(|c| [Some(c.pair.invoke), c.pair.end]).flatten();
        let times: BTreeMap<u64, f64> = lines.map(|op| (op.index, seconds(op.time))).collect();
        let order = |(row, (index, time)): (usize, (&u64, &f64))| (*index, (row, *time));
        let rows: BTreeMap<u64, (usize, f64)> = times.iter().enumerate().map(order).collect();
        let mut columns = Vec::new();
        for call in &calls {
            if !columns.contains(&call.pair.invoke.process) {
                columns.push(call.pair.invoke.process);
            }
        }
        columns.sort_unstable();
        let faults = moments(facts, &times);
        Grid { rows, columns, faults, calls }
    }

    fn y(&self, row: usize) -> f64 {
        HEAD + row as f64 * ROW
    }
}

/// Where faults begin and end between the rows.
fn moments(facts: &Facts<'_>, times: &BTreeMap<u64, f64>) -> Vec<(usize, &'static str, String)> {
    let times: Vec<f64> = times.values().copied().collect();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return Vec::new() };
    let mut moments = Vec::new();
    for fault in facts.faults.iter().filter(|fault| fault.counts) {
        for (phase, time) in [("begins", fault.start), ("ends", fault.end)] {
            if time >= *first && time <= *last {
                let row = times.partition_point(|other| *other < time);
                moments.push((row, phase, describe(fault)));
            }
        }
    }
    moments
}

fn chart(out: &mut Markup, facts: &Facts<'_>, group: &[usize], named: &BTreeSet<u64>) {
    let grid = Grid::new(facts, group);
    let width = GUTTER + COLUMN * grid.columns.len() as f64 + 8.0;
    let height = grid.y(grid.rows.len() + 1);
    let what = format!("Timeline of {}", counted(group.len() as u64, "operation"));
    out.element("div", &[("class", "timeline")], |out| {
        drawing(out, width, height, &what, |svg| {
            head(svg, &grid, height);
            times(svg, &grid);
            faults(svg, &grid, width);
            grid.calls.iter().for_each(|call| bar(svg, &grid, call, blamed(call, named), height));
        });
    });
}

fn head(svg: &mut Markup, grid: &Grid<'_>, height: f64) {
    for (place, process) in grid.columns.iter().enumerate() {
        let left = GUTTER + COLUMN * place as f64;
        line(svg, "grid", (left, 4.0, left, height));
        let (x, name) = (number(left + 4.0), process_name(*process));
        svg.leaf("text", &[("x", &x), ("y", "14"), ("class", "note")], &name);
    }
}

fn process_name(process: Process) -> String {
    match process {
        Process::Client(number) => format!("process {number}"),
        Process::Nemesis => "nemesis".into(),
    }
}

/// Times at the left, every few rows.
fn times(svg: &mut Markup, grid: &Grid<'_>) {
    for (row, time) in grid.rows.values().filter(|(row, _)| row % 4 == 0) {
        let y = number(grid.y(*row) + 4.0);
        let x = number(GUTTER - 8.0);
        let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "end"), ("class", "note")];
        svg.leaf("text", &at, &format!("{time:.3} s"));
    }
}

fn faults(svg: &mut Markup, grid: &Grid<'_>, width: f64) {
    for (row, phase, what) in &grid.faults {
        let y = grid.y(*row) - 1.5;
        line(svg, "moment", (GUTTER, y, width, y));
        let (x, y) = (number(width - 10.0), number(y - 2.0));
        let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "end"), ("class", "lane")];
        svg.element("text", &at, |svg| {
            svg.text(&format!("{} {phase}", what.split(' ').next().unwrap_or_default()));
            svg.leaf("title", &[], what);
        });
    }
}

fn bar(svg: &mut Markup, grid: &Grid<'_>, call: &Call<'_>, blamed: Option<u64>, height: f64) {
    let invoke = call.pair.invoke;
    let row = |index: u64| grid.rows.get(&index).map_or(0.0, |(row, _)| grid.y(*row));
    let top = row(invoke.index);
    let bottom = call.pair.end.map_or(height, |end| row(end.index) + ROW);
    let place = grid.columns.iter().position(|process| *process == invoke.process);
    let left = GUTTER + COLUMN * place.unwrap_or_default() as f64 + 3.0;
    let class = match (call.outcome, blamed) {
        (Type::Ok, None) => "op ok",
        (Type::Fail, None) => "op fail",
        (_, None) => "op info",
        (Type::Ok, Some(_)) => "op ok blamed",
        (Type::Fail, Some(_)) => "op fail blamed",
        (_, Some(_)) => "op info blamed",
    };
    let id = blamed.map_or(String::new(), |index| format!("op-{index}"));
    let [x, y, w, h] = [left, top, COLUMN - 6.0, (bottom - top - 1.0).max(3.0)].map(number);
    let all = [("x", x.as_str()), ("y", &y), ("width", &w), ("height", &h), ("rx", "2")];
    let group = [("class", class), ("id", &id)];
    let group = if blamed.is_some() { &group[..] } else { &group[..1] };
    svg.element("g", group, |svg| {
        svg.leaf("title", &[], &title(call));
        svg.element("rect", &all, |_| ());
        let (x, y) = (number(left + 4.0), number(top + 11.5));
        svg.leaf("text", &[("x", &x), ("y", &y)], &clip(&label(call), 17));
    });
}

/// What a bar says: the function with its argument, or with what was read.
fn label(call: &Call<'_>) -> String {
    let invoke = call.pair.invoke;
    let shown = call.pair.end.filter(|end| end.kind == Type::Ok).unwrap_or(invoke);
    match shown.value.is_null() {
        true => invoke.f.clone(),
        false => format!("{} {}", invoke.f, clip(&shown.value.to_string(), 40)),
    }
}

fn title(call: &Call<'_>) -> String {
    let invoke = call.pair.invoke;
    let value = |value: &serde_json::Value| clip(&value.to_string(), 300);
    let node = invoke.node.as_deref().unwrap_or("an unnamed node");
    let mut text = format!("{} {}\n", invoke.f, value(&invoke.value));
    text.push_str(&match (call.pair.end, call.outcome) {
        (None, _) => "never answered".into(),
        (Some(end), Type::Ok) => format!("ok {}", value(&end.value)),
        (Some(end), Type::Fail) => {
            format!("failed {}", end.error.as_ref().map_or("".into(), value))
        }
        (Some(end), _) => format!("unknown {}", end.error.as_ref().map_or("".into(), value)),
    });
    let lines = match call.pair.end {
        Some(end) => format!("operations {} and {}", invoke.index, end.index),
        None => format!("operation {}", invoke.index),
    };
    let took = duration(call.latency_ms());
    let (process, start) = (process_name(invoke.process), call.start);
    text + &format!("\n{process} at {node}, from {start:.4} s, {took}; {lines}")
}
