//! `report.html`: what a run showed, for people. One file; no network, no script.
//!
//! In order: the verdicts, since that is the question; what was done and refused; latency,
//! throughput and stable latency with the faults in view; operations one by one; the faults.
//!
//! Left out: the history itself, which lies beside the page.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Facts, Fault};
use super::markup::{Markup, clip, counted, thousands};
use super::results::{Judged, Results};
use super::scale::{brief, duration};
use super::stable::quantiles;
use super::{distribution, latency, rate, timeline};
use crate::history::{History, Type};

const STYLE: &str = include_str!("style.css");
/// Most rows of a table of faults, and of errors.
const FAULTS_MAX: usize = 300;
const ERRORS_MAX: usize = 15;
/// Most characters of a violation.
const VIOLATION_MAX: usize = 600;

/// The page of a run.
pub(super) fn render(results: &Results, history: &History) -> String {
    let facts = Facts::new(history);
    let mut page = Markup::default();
    page.constant("<!doctype html>\n");
    page.element("html", &[("lang", "en")], |page| {
        page.element("head", &[], |head| {
            head.empty("meta", &[("charset", "utf-8")]);
            let fits = "width=device-width, initial-scale=1";
            head.empty("meta", &[("name", "viewport"), ("content", fits)]);
            head.leaf("title", &[], &title(results));
            head.element("style", &[], |style| style.constant(STYLE));
        });
        page.element("body", &[], |body| {
            body.element("main", &[], |main| content(main, results, &facts));
        });
    });
    page.finish()
}

fn title(results: &Results) -> String {
    format!("{} under {}: {}", results.workload, nemesis(results), results.word())
}

fn nemesis(results: &Results) -> String {
    match results.nemesis.is_empty() {
        true => "no faults".into(),
        false => results.nemesis.join(", "),
    }
}

fn content(main: &mut Markup, results: &Results, facts: &Facts<'_>) {
    header(main, results, facts);
    section(main, "Verdicts", |out| verdicts(out, results, facts));
    section(main, "Operations", |out| operations(out, facts));
    if facts.calls.is_empty() {
        out_of_nothing(main);
    } else {
        section(main, "Latency", |out| latency::charts(out, facts));
        section(main, "Throughput", |out| rate::charts(out, facts));
    }
    section(main, "Stable latency", |out| distribution::chart(out, facts));
    section(main, "Faults", |out| faults(out, facts));
    section(main, "Timeline", |out| timeline::charts(out, facts, results));
    footer(main);
}

fn section(main: &mut Markup, name: &str, inside: impl FnOnce(&mut Markup)) {
    main.element("section", &[], |out| {
        out.leaf("h2", &[], name);
        inside(out);
    });
}

fn out_of_nothing(main: &mut Markup) {
    let text = "No client did anything: there is nothing to draw.";
    main.leaf("p", &[("class", "caption")], text);
}

fn header(main: &mut Markup, results: &Results, facts: &Facts<'_>) {
    main.element("header", &[], |out| {
        out.element("h1", &[], |out| {
            out.leaf("b", &[("class", class(results.word()))], results.word());
            out.text(" ");
            out.leaf("span", &[], &format!("{} under {}", results.workload, nemesis(results)));
        });
        let mut line = format!("seed {} · {:.1} s", results.seed, facts.end);
        line.push_str(&format!(" · {}", counted(results.operations.total(), "operation")));
        line.push_str(&format!(" · {}", counted(results.faults.values().sum(), "fault")));
        if let Some(started) = &results.started {
            line.push_str(&format!(" · {started}"));
        }
        out.leaf("p", &[], &line);
        out.leaf("p", &[("class", "caption")], &format!("Nodes: {}", results.nodes.join(", ")));
        if !results.options.is_empty() {
            let option = |(name, value): (&String, &String)| format!("{name} {value}");
            let options: Vec<String> = results.options.iter().map(option).collect();
            out.leaf("p", &[("class", "caption")], &format!("Options: {}", options.join(" · ")));
        }
    });
}

/// The class of a verdict's word.
fn class(word: &str) -> &'static str {
    match word {
        "good" => "good",
        "UNKNOWN" => "unknown",
        _ => "bad",
    }
}

fn verdicts(out: &mut Markup, results: &Results, facts: &Facts<'_>) {
    if results.verdicts.is_empty() {
        out.leaf("p", &[("class", "caption warn")], "Nothing was judged, so nothing is proven.");
    }
    let targets = timeline::targets(facts, results);
    // What is wrong is read first.
    let (good, bad): (Vec<&Judged>, Vec<&Judged>) = results.verdicts.iter().partition(|v| v.good);
    bad.into_iter().chain(good).for_each(|judged| verdict(out, judged, &targets));
}

fn verdict(out: &mut Markup, judged: &Judged, targets: &BTreeSet<u64>) {
    out.element("article", &[("class", class(&judged.word))], |out| {
        out.element("h3", &[], |out| {
            out.leaf("b", &[("class", class(&judged.word))], &judged.word);
            out.text(&format!(" {}", judged.name));
            let mut what = format!(" · {} judged", counted(judged.judged, "operation"));
            if judged.violations_total > 0 {
                let count = counted(judged.violations_total, "violation");
                what.push_str(&format!(" · {count}"));
            } else if !judged.unknown.is_empty() {
                what.push_str(": not decided");
            } else if !judged.good {
                what.push_str(": no proof of anything");
            }
            out.leaf("small", &[], &what);
        });
        violations(out, judged, targets);
        judged.unknown.iter().for_each(|what| {
            out.leaf("p", &[("class", "caption")], &clip(what, VIOLATION_MAX));
        });
        counts(out, &judged.counted);
    });
}

fn violations(out: &mut Markup, judged: &Judged, targets: &BTreeSet<u64>) {
    let Some(first) = judged.violations.first() else { return };
    out.element("details", &[], |out| {
        out.leaf("summary", &[], &clip(first, 160));
        out.element("ol", &[], |out| {
            for violation in &judged.violations {
                out.element("li", &[], |out| {
                    out.leaf("code", &[], &clip(violation, VIOLATION_MAX));
                    let line = timeline::indexes(violation).find(|line| targets.contains(line));
                    if let Some(line) = line {
                        out.text(" ");
                        out.leaf("a", &[("href", &format!("#op-{line}"))], "in the timeline");
                    }
                });
            }
        });
        let missing = judged.violations_total.saturating_sub(judged.violations.len() as u64);
        if missing > 0 {
            out.leaf("p", &[("class", "caption")], &format!("… and {} more.", thousands(missing)));
        }
    });
}

fn counts(out: &mut Markup, counted: &BTreeMap<String, f64>) {
    if counted.is_empty() {
        return;
    }
    out.element("dl", &[], |out| {
        for (name, value) in counted {
            out.element("div", &[], |out| {
                out.leaf("dt", &[], name);
                out.leaf("dd", &[], &count_text(*value));
            });
        }
    });
}

fn count_text(value: f64) -> String {
    match value {
        value if value.fract() == 0.0 && (0.0..1e15).contains(&value) => thousands(value as u64),
        value if value.abs() < 0.001 => format!("{value:.2e}"),
        value => brief(value),
    }
}

/// A table with a head and rows; cells of numbers are to the right.
fn table(out: &mut Markup, head: &[&str], numbers: usize, rows: &[Vec<String>]) {
    let class = |place: usize| if place < numbers { "number" } else { "" };
    let first = head.len() - numbers;
    out.element("div", &[("class", "table")], |out| {
        out.element("table", &[], |out| {
            let mut row = |tag: &'static str, cells: &mut dyn Iterator<Item = &str>| {
                out.element("tr", &[], |out| {
                    for (place, cell) in cells.enumerate() {
                        let class = class(place.checked_sub(first).unwrap_or(numbers));
                        out.leaf(tag, &[("class", class)], cell);
                    }
                });
            };
            row("th", &mut head.iter().copied());
            rows.iter().for_each(|cells| row("td", &mut cells.iter().map(String::as_str)));
        });
    });
}

fn operations(out: &mut Markup, facts: &Facts<'_>) {
    let row = |(f, _): &(&str, usize)| {
        let count = |outcome: Type| {
            let calls = facts.calls.iter().filter(|call| call.f() == *f);
            thousands(calls.filter(|call| call.outcome == outcome).count() as u64)
        };
        let ok = facts.calls.iter().filter(|call| call.f() == *f && call.outcome == Type::Ok);
        let mut latencies: Vec<f64> = ok.map(|call| call.latency_ms()).collect();
        latencies.sort_by(f64::total_cmp);
        let q = quantiles(&latencies);
        let mut cells =
            vec![(*f).to_owned(), count(Type::Ok), count(Type::Fail), count(Type::Info)];
        let times = [q.p50, q.p95, q.p99, q.max];
        let time = |ms: f64| if q.count > 0 { duration(ms) } else { "–".into() };
        cells.extend(times.map(time));
        cells
    };
    let rows: Vec<Vec<String>> = facts.functions().iter().map(row).collect();
    let head = ["function", "ok", "failed", "info", "p50", "p95", "p99", "max"];
    table(out, &head, 7, &rows);
    errors(out, facts);
}

/// Why operations failed or are unknown, the most frequent first.
fn errors(out: &mut Markup, facts: &Facts<'_>) {
    let mut counts: BTreeMap<(&str, &str, String), u64> = BTreeMap::new();
    for call in &facts.calls {
        let outcome = match call.outcome {
            Type::Ok => continue,
            Type::Fail => "failed",
            Type::Invoke | Type::Info => "info",
        };
        let error = call.pair.end.map(|end| end.error.as_ref().map_or("-".into(), text));
        let error = clip(&error.unwrap_or_else(|| "never answered".into()), 160);
        *counts.entry((call.f(), outcome, error)).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if counts.is_empty() {
        return;
    }
    let row = |((f, outcome, error), count): &((&str, &str, String), u64)| {
        vec![(*f).to_owned(), (*outcome).to_owned(), error.clone(), thousands(*count)]
    };
    let rows: Vec<Vec<String>> = counts.iter().take(ERRORS_MAX).map(row).collect();
    table(out, &["function", "outcome", "why", "count"], 1, &rows);
    if counts.len() > ERRORS_MAX {
        let text = format!("… and {} rarer ones.", counts.len() - ERRORS_MAX);
        out.leaf("p", &[("class", "caption")], &text);
    }
}

fn text(error: &serde_json::Value) -> String {
    error.as_str().map_or_else(|| error.to_string(), str::to_owned)
}

fn faults(out: &mut Markup, facts: &Facts<'_>) {
    if facts.faults.is_empty() {
        out.leaf("p", &[("class", "caption")], "None.");
        return;
    }
    let row = |fault: &Fault<'_>| {
        let end = match (fault.counts, fault.ended) {
            (false, _) => "–".into(),
            (true, true) => format!("{:.2} s", fault.end),
            (true, false) => "never".into(),
        };
        let details = clip(&fault.details.to_string(), 300);
        let lasted = duration((fault.end - fault.start) * 1e3);
        vec![fault.name.to_owned(), details, format!("{:.2} s", fault.start), end, lasted]
    };
    let rows: Vec<Vec<String>> = facts.faults.iter().take(FAULTS_MAX).map(row).collect();
    table(out, &["fault", "details", "begins", "ends", "lasts"], 3, &rows);
    if facts.faults.len() > FAULTS_MAX {
        let text = format!("The first {FAULTS_MAX} of {}.", facts.faults.len());
        out.leaf("p", &[("class", "caption")], &text);
    }
    if let Some(healed) = facts.healed {
        let text = format!("All was healed at {healed:.2} s.");
        out.leaf("p", &[("class", "caption")], &text);
    }
}

fn footer(main: &mut Markup) {
    main.element("footer", &[], |out| {
        out.text("Beside this page: ");
        for (place, file) in ["history.edn", "history.jsonl", "results.json"].iter().enumerate() {
            out.text(if place > 0 { ", " } else { "" });
            out.leaf("a", &[("href", file)], file);
        }
    });
}
