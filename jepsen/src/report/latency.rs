//! Latency over time, a chart for each function: a raster of all operations, and percentiles.
//!
//! Operations that ended well are dots by cell, darker where there are more; those that failed or
//! are unknown are marked. Lines are percentiles of those that ended well, window by window.
//!
//! Left out: what each dot was. The windows say what they hold when pointed at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::facts::{Call, Facts};
use super::frame::{Frame, LEFT, RIGHT, Unit, legend, path, rect};
use super::markup::{Markup, counted, thousands};
use super::scale::{Scale, brief, duration, round_step};
use super::stable::{Quantiles, quantiles};
use crate::history::Type;

/// Most functions with a chart of their own.
const FUNCTIONS_MAX: usize = 8;
/// Height of a plot.
const HEIGHT: f64 = 170.0;
/// Side of a dot's cell.
const DOT: f64 = 2.5;
/// Side of a mark's cell.
const MARK: f64 = 5.0;
/// Windows across a run, at most.
const WINDOWS: f64 = 100.0;

/// Charts of all functions, with what they show.
pub(super) fn charts(out: &mut Markup, facts: &Facts<'_>) {
    legend(
        out,
        &[
            ("dot-ok", "ok"),
            ("dot-fail", "failed: certainly not applied"),
            ("dot-info", "info: nobody knows"),
            ("line-p50", "p50"),
            ("line-p95", "p95"),
            ("line-p99", "p99"),
            ("line-max", "max"),
            ("swatch-fault", "fault"),
        ],
    );
    let latencies = || facts.calls.iter().map(Call::latency_ms);
    let functions = facts.functions();
    for (f, count) in functions.iter().take(FUNCTIONS_MAX) {
        let frame = Frame::new(facts, HEIGHT);
        let y = Scale::logarithmic(latencies(), frame.bottom, frame.top);
        let calls: Vec<&Call<'_>> = facts.calls.iter().filter(|call| call.f() == *f).collect();
        out.element("h3", &[], |out| {
            out.leaf("code", &[], f);
            out.text(&format!(" · {}", counted(*count as u64, "operation")));
        });
        let title = format!("Latency of {f} over time, on a logarithmic scale");
        let mut dots = 0;
        frame.draw(out, facts, &title, (&y, Unit::Duration), |svg| {
            dots = raster(svg, &frame, &y, &calls);
            lines(svg, &frame, &y, &calls);
        });
        if dots < *count {
            let (count, dots) = (thousands(*count as u64), thousands(dots as u64));
            let text = format!(
                "{count} operations as {dots} marks: operations that would cover each other \
                 share one, darker where there are more."
            );
            out.leaf("p", &[("class", "caption")], &text);
        }
    }
    if functions.len() > FUNCTIONS_MAX {
        let names: Vec<&str> = functions[FUNCTIONS_MAX..].iter().map(|(f, _)| *f).collect();
        let text = format!("Without a chart, being rarer: {}.", names.join(", "));
        out.leaf("p", &[("class", "caption")], &text);
    }
}

/// Draws operations by cell; returns how many marks there are.
fn raster(svg: &mut Markup, frame: &Frame, y: &Scale, calls: &[&Call<'_>]) -> usize {
    let mut cells: BTreeMap<(i64, i64), usize> = BTreeMap::new();
    let mut failed = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    for call in calls {
        let (x, y) = (frame.x.place(call.start), y.place(call.latency_ms()));
        let cell = |side: f64| ((x / side).round() as i64, (y / side).round() as i64);
        match call.outcome {
            Type::Ok => *cells.entry(cell(DOT)).or_default() += 1,
            Type::Fail => drop(failed.insert(cell(MARK))),
            Type::Invoke | Type::Info => drop(unknown.insert(cell(MARK))),
        }
    }
    for (class, counts) in [("few", 1..=1), ("some", 2..=4), ("many", 5..=usize::MAX)] {
        let dense = cells.iter().filter(|(_, count)| counts.contains(*count));
        dots(svg, class, dense.map(|(cell, _)| *cell));
    }
    glyphs(svg, "fail", "m-2.5-2.5l5 5m0-5l-5 5", &failed);
    glyphs(svg, "info", "m0-3l3 5.5h-6z", &unknown);
    cells.len() + failed.len() + unknown.len()
}

/// Dots as one path in units of cells: few bytes each.
fn dots(svg: &mut Markup, class: &str, cells: impl Iterator<Item = (i64, i64)>) {
    let mut d = String::new();
    for (x, y) in cells {
        let _ = write!(d, "M{x} {y}h0");
    }
    if !d.is_empty() {
        let scale = format!("scale({DOT})");
        let class = format!("dots {class}");
        svg.element("path", &[("class", &class), ("transform", &scale), ("d", &d)], |_| ());
    }
}

fn glyphs(svg: &mut Markup, class: &str, shape: &str, cells: &BTreeSet<(i64, i64)>) {
    let mut d = String::new();
    for (x, y) in cells {
        let _ = write!(d, "M{} {}{shape}", *x as f64 * MARK, *y as f64 * MARK);
    }
    if !d.is_empty() {
        svg.element("path", &[("class", &format!("glyph {class}")), ("d", &d)], |_| ());
    }
}

/// A class and which percentile it draws.
type Curve = (&'static str, fn(&Quantiles) -> f64);

/// A window of time with what began in it.
#[derive(Clone, Default)]
struct Window {
    latencies_ms: Vec<f64>,
    failed: u64,
    unknown: u64,
}

/// The length of windows of a run, in seconds: round, and not too many.
pub(super) fn window_seconds(end: f64) -> f64 {
    round_step(end / WINDOWS)
}

fn windows(calls: &[&Call<'_>], end: f64) -> Vec<Window> {
    let length = window_seconds(end);
    let mut windows = vec![Window::default(); (end / length) as usize + 1];
    let last = windows.len() - 1;
    for call in calls {
        let window = &mut windows[((call.start / length) as usize).min(last)];
        match call.outcome {
            Type::Ok => window.latencies_ms.push(call.latency_ms()),
            Type::Fail => window.failed += 1,
            Type::Invoke | Type::Info => window.unknown += 1,
        }
    }
    windows.iter_mut().for_each(|window| window.latencies_ms.sort_by(f64::total_cmp));
    windows
}

fn lines(svg: &mut Markup, frame: &Frame, y: &Scale, calls: &[&Call<'_>]) {
    let end = frame.x.high();
    let length = window_seconds(end);
    let windows = windows(calls, end);
    let found: Vec<Quantiles> = windows.iter().map(|w| quantiles(&w.latencies_ms)).collect();
    let curves: [Curve; 4] = [
        ("line line-max", |q| q.max),
        ("line line-p99", |q| q.p99),
        ("line line-p95", |q| q.p95),
        ("line line-p50", |q| q.p50),
    ];
    for (class, of) in curves {
        let point = |(place, q): (usize, &Quantiles)| {
            let x = frame.x.place((place as f64 + 0.5) * length);
            (q.count > 0).then(|| (x, y.place(of(q))))
        };
        path(svg, class, found.iter().enumerate().map(point));
    }
    for (place, (window, q)) in windows.iter().zip(&found).enumerate() {
        let from = place as f64 * length;
        if q.count + window.failed + window.unknown == 0 {
            continue;
        }
        let left = frame.x.place(from).max(LEFT);
        let right = frame.x.place(from + length).min(RIGHT);
        let title = summary(window, q, from, from + length);
        rect(svg, "window", (left, frame.top, right - left, frame.bottom - frame.top), &title);
    }
}

fn summary(window: &Window, q: &Quantiles, from: f64, to: f64) -> String {
    let mut text = format!("{} to {} s: {} ok", brief(from), brief(to), q.count);
    if window.failed > 0 {
        let _ = write!(text, ", {} failed", window.failed);
    }
    if window.unknown > 0 {
        let _ = write!(text, ", {} unknown", window.unknown);
    }
    if q.count > 0 {
        for (name, value) in [("p50", q.p50), ("p95", q.p95), ("p99", q.p99), ("max", q.max)] {
            let _ = write!(text, "\n{name} {}", duration(value));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Recorder;
    use serde_json::json;

    const SECOND: u64 = 1_000_000_000;

    /// A call a second, all of 2 ms; between 40 and 60 s, all failed.
    fn drawn() -> String {
        let mut recorder = Recorder::default();
        for second in 0..100 {
            let kind = if (40..60).contains(&second) { Type::Fail } else { Type::Ok };
            let (from, to) = (second * SECOND, second * SECOND + SECOND / 500);
            recorder.invoke(from, 0, "add", json!(1), None);
            recorder.end(to, 0, kind, "add", json!(1), None, None);
        }
        recorder.nemesis(100 * SECOND, "healed", json!(null));
        let history = recorder.history();
        let mut out = Markup::default();
        charts(&mut out, &Facts::new(&history));
        out.finish()
    }

    #[test]
    fn a_line_is_broken_where_nothing_ended_well() {
        let page = drawn();
        let lines: Vec<&str> = page.split("class=\"line ").skip(1).collect();
        assert_eq!(lines.len(), 4);
        for line in lines {
            let d = line.split('"').nth(2).unwrap();
            assert_eq!((d.matches('M').count(), d.matches('L').count()), (2, 78), "{d}");
        }
    }

    #[test]
    fn windows_say_what_they_hold() {
        let page = drawn();
        let ok = "1 to 2 s: 1 ok\np50 2 ms\np95 2 ms\np99 2 ms\nmax 2 ms<";
        assert!(page.contains(ok), "{page}");
        assert_eq!(page.matches(": 0 ok, 1 failed<").count(), 20);
        assert_eq!(page.matches("class=\"window\"").count(), 100);
    }
}
