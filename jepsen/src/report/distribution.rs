//! How long until everyone sees: a histogram of stable latencies with its percentiles.

use super::facts::Facts;
use super::frame::{LEFT, RIGHT, WIDTH, drawing, line, rect};
use super::markup::{Markup, counted, number, thousands};
use super::scale::{Scale, brief, duration};
use super::stable::{Quantiles, Stable};

const TOP: f64 = 40.0;
const BOTTOM: f64 = 200.0;
/// Bars across the chart.
const BARS: usize = 60;

/// The chart with its numbers, or why there is none.
pub(super) fn chart(out: &mut Markup, facts: &Facts<'_>) {
    let Some(stable) = &facts.stable else {
        out.leaf("p", &[("class", "caption")], "Not measured: the run had no probes.");
        return;
    };
    let q = stable.quantiles();
    if q.count > 0 {
        histogram(out, stable, &q);
    }
    let mut text = format!(
        "From the acknowledgement of {} until the last node showed it",
        counted(q.count, "probe")
    );
    for (name, value) in marks(&q) {
        text.push_str(&format!(" · {name} {}", duration(value)));
    }
    out.leaf("p", &[("class", "caption")], &(text + "."));
    if q.unseen > 0 {
        let text = format!("{} acknowledged and not seen on every node.", thousands(q.unseen));
        out.leaf("p", &[("class", "caption warn")], &text);
    }
}

fn marks(q: &Quantiles) -> [(&'static str, f64); 4] {
    [("p50", q.p50), ("p95", q.p95), ("p99", q.p99), ("max", q.max)]
}

fn histogram(out: &mut Markup, stable: &Stable, q: &Quantiles) {
    let x = Scale::logarithmic(stable.sorted_ms.iter().copied(), LEFT, RIGHT);
    let width = (RIGHT - LEFT) / BARS as f64;
    let mut bars = vec![0u64; BARS];
    for latency in &stable.sorted_ms {
        bars[(((x.place(*latency) - LEFT) / width) as usize).min(BARS - 1)] += 1;
    }
    let most = bars.iter().copied().max().unwrap_or_default();
    let y = Scale::linear(0.0, most as f64, BOTTOM, TOP);
    let title = "Distribution of stable latency, on a logarithmic scale";
    drawing(out, WIDTH, BOTTOM + 34.0, title, |svg| {
        axes(svg, &x, &y);
        for (place, count) in bars.iter().enumerate().filter(|(_, count)| **count > 0) {
            let top = y.place(*count as f64);
            let left = LEFT + place as f64 * width;
            let edge = |place: usize| {
                let share = place as f64 / BARS as f64;
                duration(x.low() * (x.high() / x.low()).powf(share))
            };
            let title = format!("{} to {}: {count}", edge(place), edge(place + 1));
            rect(svg, "bar", (left + 0.5, top, width - 1.0, BOTTOM - top), &title);
        }
        percentiles(svg, &x, q);
    });
}

fn axes(svg: &mut Markup, x: &Scale, y: &Scale) {
    // Counts are whole.
    for tick in y.ticks(6).into_iter().filter(|tick| tick.fract() == 0.0) {
        let place = y.place(tick);
        line(svg, "grid", (LEFT, place, RIGHT, place));
        let (x, y) = (number(LEFT - 6.0), number(place + 3.5));
        let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "end")];
        svg.leaf("text", &at, &brief(tick));
    }
    line(svg, "axis", (LEFT, BOTTOM, RIGHT, BOTTOM));
    for tick in x.ticks(12) {
        let place = x.place(tick);
        line(svg, "axis", (place, BOTTOM, place, BOTTOM + 4.0));
        let (x, y) = (number(place), number(BOTTOM + 15.0));
        let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "middle")];
        svg.leaf("text", &at, &duration(tick));
    }
    let (x, y) = (number(RIGHT), number(BOTTOM + 28.0));
    let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "end"), ("class", "note")];
    svg.leaf("text", &at, "until seen on every node; bars are numbers of probes");
}

/// Marks of percentiles. Names that would cover each other take another line.
fn percentiles(svg: &mut Markup, x: &Scale, q: &Quantiles) {
    let mut row_ends = [f64::MIN; 3];
    for (name, value) in marks(q) {
        let place = x.place(value);
        let row = row_ends.iter().position(|end| *end < place - 13.0).unwrap_or(2);
        row_ends[row] = place + 13.0;
        let y = 9.0 + 12.0 * row as f64;
        line(svg, "percentile", (place, y + 2.0, place, BOTTOM));
        let (x, y) = (number(place), number(y));
        let at = [("x", x.as_str()), ("y", &y), ("text-anchor", "middle"), ("class", "note")];
        svg.leaf("text", &at, name);
    }
}
