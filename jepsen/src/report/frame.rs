//! The frame of a chart over time: axes, grid, and the faults as lanes and shades.
//!
//! Every chart over time has the same width, margins and seconds, so that they can be read one
//! below the other. The faults are lanes above the plot, one for each name, and shade it.

use std::collections::BTreeSet;

use super::facts::{Facts, Fault};
use super::markup::{Attributes, Markup, clip, number};
use super::scale::{Scale, brief, duration};

/// Width of a drawing.
pub(super) const WIDTH: f64 = 800.0;
/// Where the plot begins and ends.
pub(super) const LEFT: f64 = 112.0;
pub(super) const RIGHT: f64 = WIDTH - 22.0;
/// Height of a fault's lane.
const LANE: f64 = 13.0;
/// Most lanes; further names share the last one.
const LANES_MAX: usize = 12;
/// Most windows of faults that are drawn in one chart.
const WINDOWS_MAX: usize = 400;

/// Where a plot is, and what its places mean.
pub(super) struct Frame {
    /// The time axis, in seconds.
    pub(super) x: Scale,
    /// The upper edge of the plot.
    pub(super) top: f64,
    /// The lower edge.
    pub(super) bottom: f64,
}

impl Frame {
    /// A plot of that height below the lanes of the faults.
    pub(super) fn new(facts: &Facts<'_>, height: f64) -> Frame {
        let top = 12.0 + LANE * lanes(&facts.faults).len() as f64;
        let x = Scale::linear(0.0, facts.end, LEFT, RIGHT);
        Frame { x, top, bottom: top + height }
    }

    /// A drawing with its frame; `inside` draws into it, over the shades.
    pub(super) fn draw(
        &self,
        out: &mut Markup,
        facts: &Facts<'_>,
        title: &str,
        (y, unit): (&Scale, Unit),
        inside: impl FnOnce(&mut Markup),
    ) {
        drawing(out, WIDTH, self.bottom + 34.0, title, |svg| {
            self.faults(svg, facts);
            self.vertical(svg, y, unit);
            self.seconds(svg, facts);
            inside(svg);
        });
    }

    fn faults(&self, svg: &mut Markup, facts: &Facts<'_>) {
        let lanes = lanes(&facts.faults);
        for (place, name) in lanes.iter().enumerate() {
            let y = 2.0 + LANE * place as f64;
            let (x, y) = (number(LEFT - 6.0), number(y + 9.5));
            let at = [("x", x.as_str()), ("y", &y), ("class", "lane"), ("text-anchor", "end")];
            svg.leaf("text", &at, &clip(name, 17));
        }
        let windows = facts.faults.iter().filter(|fault| fault.counts);
        for fault in windows.take(WINDOWS_MAX) {
            let last = lanes.len() - 1;
            let lane = lanes.iter().position(|name| *name == fault.name).unwrap_or(last);
            let (from, to) = (self.x.place(fault.start), self.x.place(fault.end));
            let width = (to - from).max(1.5);
            let title = describe(fault);
            rect(svg, "shade", (from, self.top, width, self.bottom - self.top), &title);
            rect(svg, "fault", (from, 2.0 + LANE * lane as f64, width, LANE - 3.0), &title);
        }
        if let Some(healed) = facts.healed {
            let x = self.x.place(healed);
            line(svg, "healed", (x, self.top - 4.0, x, self.bottom));
            let at = [("x", &number(x - 4.0)[..]), ("y", &number(self.top + 10.0)[..])];
            let [x, y] = at;
            svg.leaf("text", &[x, y, ("class", "note"), ("text-anchor", "end")], "healed");
        }
    }

    fn vertical(&self, svg: &mut Markup, y: &Scale, unit: Unit) {
        let most = ((self.bottom - self.top) / 20.0) as usize;
        for tick in y.ticks(most) {
            let place = y.place(tick);
            line(svg, "grid", (LEFT, place, RIGHT, place));
            let (x, y) = (number(LEFT - 6.0), number(place + 3.5));
            let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "end")];
            svg.leaf("text", &at, &unit.text(tick));
        }
    }

    fn seconds(&self, svg: &mut Markup, facts: &Facts<'_>) {
        line(svg, "axis", (LEFT, self.bottom, RIGHT, self.bottom));
        let (factor, unit) = time_unit(facts.end);
        let ticks = Scale::linear(0.0, self.x.high() / factor, 0.0, 1.0).ticks(10);
        for tick in ticks {
            let x = self.x.place(tick * factor);
            line(svg, "axis", (x, self.bottom, x, self.bottom + 4.0));
            let (x, y) = (number(x), number(self.bottom + 15.0));
            let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "middle")];
            svg.leaf("text", &at, &brief(tick));
        }
        let label = format!("{unit} since the start");
        let (x, y) = (number(RIGHT), number(self.bottom + 28.0));
        let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "end"), ("class", "note")];
        svg.leaf("text", &at, &label);
    }
}

/// What the numbers of an axis are.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    /// Milliseconds.
    Duration,
    /// Anything in a second.
    Rate,
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Unit::Duration => duration(value),
            Unit::Rate => format!("{}/s", brief(value)),
        }
    }
}

/// Seconds in the unit that suits a run, and its name.
fn time_unit(end: f64) -> (f64, &'static str) {
    match end {
        end if end < 0.2 => (1e-3, "milliseconds"),
        end if end < 600.0 => (1.0, "seconds"),
        end if end < 6.0 * 3_600.0 => (60.0, "minutes"),
        _ => (3_600.0, "hours"),
    }
}

/// Names of faults, one lane each.
fn lanes<'a>(faults: &[Fault<'a>]) -> Vec<&'a str> {
    let counted = faults.iter().filter(|fault| fault.counts);
    let names: BTreeSet<&str> = counted.map(|fault| fault.name).collect();
    let mut lanes: Vec<&str> = names.into_iter().collect();
    if lanes.len() > LANES_MAX {
        lanes.truncate(LANES_MAX - 1);
        lanes.push("others");
    }
    lanes
}

/// A fault in a line of text.
pub(super) fn describe(fault: &Fault<'_>) -> String {
    let (start, end) = (brief(fault.start), brief(fault.end));
    let details = clip(&fault.details.to_string(), 200);
    format!("{} from {start} s to {end} s: {details}", fault.name)
}

/// A drawing with a title for those who cannot see it.
pub(super) fn drawing(
    out: &mut Markup,
    width: f64,
    height: f64,
    title: &str,
    inside: impl FnOnce(&mut Markup),
) {
    let (width, height) = (number(width), number(height));
    let view = format!("0 0 {width} {height}");
    let size = [("viewBox", view.as_str()), ("width", &width), ("height", &height)];
    let [view, width, height] = size;
    out.element("div", &[("class", "chart")], |out| {
        let attributes = [view, width, height, ("role", "img"), ("aria-label", title)];
        out.element("svg", &attributes, inside);
    });
}

/// A rectangle (x, y, width, height) that says what it is when it is pointed at.
pub(super) fn rect(
    svg: &mut Markup,
    class: &str,
    (x, y, width, height): (f64, f64, f64, f64),
    title: &str,
) {
    let [x, y, width, height] = [x, y, width, height].map(number);
    let attributes: Attributes<'_> =
        &[("class", class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)];
    svg.element("rect", attributes, |svg| {
        if !title.is_empty() {
            svg.leaf("title", &[], title);
        }
    });
}

/// A line (x, y, x, y).
pub(super) fn line(svg: &mut Markup, class: &str, (x1, y1, x2, y2): (f64, f64, f64, f64)) {
    let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(number);
    let attributes: Attributes<'_> =
        &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)];
    svg.element("line", attributes, |_| ());
}

/// A path through points, broken where one is missing; a lone point is a dot.
pub(super) fn path(
    svg: &mut Markup,
    class: &str,
    points: impl Iterator<Item = Option<(f64, f64)>>,
) {
    let mut d = String::new();
    let mut joined = false;
    for point in points {
        if let Some((x, y)) = point {
            d.push(if joined { 'L' } else { 'M' });
            d.push_str(&format!("{} {}", number(x), number(y)));
            if !joined {
                d.push_str("h0");
            }
        }
        joined = point.is_some();
    }
    if !d.is_empty() {
        svg.element("path", &[("class", class), ("d", &d)], |_| ());
    }
}

/// What the colours of a chart mean.
pub(super) fn legend(out: &mut Markup, entries: &[(&str, &str)]) {
    out.element("p", &[("class", "legend")], |out| {
        for (class, name) in entries {
            out.element("span", &[], |out| {
                out.element("i", &[("class", class)], |_| ());
                out.text(name);
            });
        }
    });
}
