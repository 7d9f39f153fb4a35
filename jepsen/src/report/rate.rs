//! Throughput over time: ends in a second, by outcome and by region.
//!
//! A window without any is drawn as none: a line that falls to the ground is what partitions and
//! dead nodes look like.

use super::facts::{Call, Facts};
use super::frame::{Frame, Unit, legend, path};
use super::latency::window_seconds;
use super::markup::{Markup, clip};
use super::scale::{Scale, round_step};
use crate::history::Type;

/// Height of a plot.
const HEIGHT: f64 = 120.0;
/// Classes of lines for regions; further regions begin again.
const COLOURS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];

/// A line of a chart.
struct Series<'a> {
    class: String,
    name: String,
    counts: Box<dyn Fn(&Call<'_>) -> bool + 'a>,
}

/// Both charts.
pub(super) fn charts(out: &mut Markup, facts: &Facts<'_>) {
    out.leaf("h3", &[], "By outcome");
    let outcomes = [
        ("fail", "failed", Type::Fail),
        ("info", "info: nobody knows", Type::Info),
        ("ok", "ok", Type::Ok),
    ];
    let outcomes = outcomes.map(|(class, name, outcome)| Series {
        class: class.into(),
        name: name.into(),
        counts: Box::new(move |call| call.outcome == outcome),
    });
    chart(out, facts, "Throughput over time by outcome", &outcomes);
    let regions = facts.regions();
    if regions.is_empty() {
        return;
    }
    out.leaf("h3", &[], "By region, ok only");
    let region = |(place, region): (usize, &&str)| {
        let region = (*region).to_owned();
        Series {
            class: COLOURS[place % COLOURS.len()].into(),
            name: clip(&region, 20),
            counts: Box::new(move |call| call.outcome == Type::Ok && call.region == region),
        }
    };
    let regions: Vec<Series<'_>> = regions.iter().enumerate().map(region).collect();
    chart(out, facts, "Throughput over time by region", &regions);
}

fn chart(out: &mut Markup, facts: &Facts<'_>, title: &str, series: &[Series<'_>]) {
    let classes: Vec<String> = series.iter().map(|s| format!("stroke-{}", s.class)).collect();
    let names = classes.iter().zip(series).map(|(class, s)| (class.as_str(), s.name.as_str()));
    legend(out, &names.collect::<Vec<_>>());
    let frame = Frame::new(facts, HEIGHT);
    let end = frame.x.high();
    let rates: Vec<Vec<f64>> = series.iter().map(|s| rates(facts, end, &s.counts)).collect();
    let most = rates.iter().flatten().copied().fold(1.0, f64::max);
    let y = Scale::linear(0.0, ceiling(most), frame.bottom, frame.top);
    let length = window_seconds(end);
    frame.draw(out, facts, title, (&y, Unit::Rate), |svg| {
        for (class, rates) in classes.iter().zip(&rates) {
            let place = |(place, rate): (usize, &f64)| {
                Some((frame.x.place((place as f64 + 0.5) * length), y.place(*rate)))
            };
            path(svg, &format!("line {class}"), rates.iter().enumerate().map(place));
        }
    });
}

/// A round number of at most a few steps above.
fn ceiling(most: f64) -> f64 {
    let step = round_step(most / 5.0);
    (most / step).ceil() * step
}

/// Ends in a second, window by window; the last window takes what remains of the run.
fn rates(facts: &Facts<'_>, end: f64, counts: &dyn Fn(&Call<'_>) -> bool) -> Vec<f64> {
    let length = window_seconds(end);
    let windows = ((end / length).round() as usize).max(1);
    let mut rates = vec![0.0; windows];
    for call in facts.calls.iter().filter(|call| counts(call)) {
        rates[((call.end / length) as usize).min(windows - 1)] += 1.0;
    }
    for (place, rate) in rates.iter_mut().enumerate() {
        let last = place == windows - 1;
        *rate /= if last { end - place as f64 * length } else { length };
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Recorder;
    use serde_json::Value;

    #[test]
    fn a_last_window_of_another_length_is_no_other_rate() {
        let mut recorder = Recorder::default();
        // 10 operations a second for 150.5 seconds: windows are 2 s, the last one 2.5 s.
        for tenth in 0..1_505 {
            recorder.invoke(tenth * 100_000_000, 0, "add", Value::Null, None);
            recorder.end(tenth * 100_000_000, 0, Type::Ok, "add", Value::Null, None, None);
        }
        recorder.nemesis(150_500_000_000, "healed", Value::Null);
        let history = recorder.history();
        let rates = rates(&Facts::new(&history), 150.5, &|_| true);
        assert_eq!(rates.len(), 75);
        assert!(rates.iter().all(|rate| (rate - 10.0).abs() < 1.0), "{rates:?}");
    }

    #[test]
    fn the_axis_ends_at_a_round_number() {
        assert_eq!([1.0, 97.0, 101.0, 530.0].map(ceiling), [1.0, 100.0, 150.0, 600.0]);
    }
}
