//! The page of a run: its structure, what hostile values do to it, and its size.

use serde_json::json;

use super::*;
use crate::checkers::testing::history;
use crate::history::Type;

fn page(run: &Run) -> String {
    page::render(&run.results(), &run.history)
}

/// Asserts that every element that is opened is closed, in order.
fn well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for piece in page.split('<').skip(1) {
        let tag = piece.split(|c: char| c == '>' || c.is_whitespace()).next().unwrap();
        match tag.strip_prefix('/') {
            Some(tag) => assert_eq!(open.pop(), Some(tag)),
            None if tag == "meta" || tag.starts_with('!') => {}
            None => open.push(tag),
        }
    }
    assert_eq!(open, [""; 0]);
}

#[test]
fn a_page_names_every_verdict_and_shades_every_fault() {
    let run = sample::run(7, 2_000);
    let page = page(&run);
    well_formed(&page);
    for (name, verdict) in &run.verdicts {
        let word = verdict.word();
        assert!(page.contains(&format!(">{word}</b> {name}<")), "{name}");
    }
    for name in ["kill", "pause", "slow", "partition-region"] {
        assert!(page.contains(&format!(">{}</text>", markup::clip(name, 17))), "{name}");
    }
    // Seven windows in each chart: two of latency, two of throughput.
    assert_eq!(page.matches("class=\"shade\"").count(), 28);
    assert_eq!(page.matches(">healed</text>").count(), 4);
    for word in ["partition-halves from 34.8 s to 45.6 s", "p50_ms", "913", "connection refused"] {
        assert!(page.contains(word), "{word}");
    }
    if let Some(directory) = std::env::var_os("ATOLL_REPORT_SAMPLE") {
        sample::run(7, 20_000).write(Path::new(&directory)).unwrap();
    }
}

#[test]
fn violations_lead_to_their_operations() {
    let page = page(&sample::run(7, 2_000));
    let targets: Vec<&str> =
        page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(targets.len(), 3);
    for target in targets {
        assert_eq!(page.matches(&format!("id=\"{target}\"")).count(), 1, "{target}");
    }
    assert_eq!(page.matches("blamed\"").count(), 3);
}

#[test]
fn hostile_values_stay_text() {
    let hostile = "</script><b>\"'&";
    let lines = [
        (0, Type::Invoke, hostile, json!(hostile)),
        (0, Type::Ok, hostile, json!([hostile])),
        (0, Type::Invoke, "read", json!({hostile: hostile})),
    ];
    let verdict = Verdict {
        violations: vec![format!("operation 1: {hostile}")],
        judged: 1,
        unknown: vec![hostile.into()],
        counted: [(hostile.to_owned(), 1.0)].into(),
    };
    let run = Run {
        workload: hostile.into(),
        nemesis: vec![hostile.into()],
        nodes: vec![hostile.into()],
        options: [(hostile.to_owned(), hostile.to_owned())].into(),
        started: Some(hostile.into()),
        history: history(&lines),
        verdicts: vec![(hostile.into(), verdict)],
        ..Run::default()
    };
    let page = page(&run);
    well_formed(&page);
    assert!(!page.contains("<b>") && !page.contains("<script") && !page.contains("</script"));
    assert!(page.contains("&lt;/script&gt;&lt;b&gt;&quot;&#39;&amp;"));
}

#[test]
fn nothing_and_next_to_nothing_are_pages_too() {
    let nothing = Run::default();
    assert!(page(&nothing).contains("Nothing was judged"));
    well_formed(&page(&nothing));
    assert!(!nothing.results().valid);
    let lines = [(0, Type::Invoke, "add", json!(1)), (0, Type::Ok, "add", json!(1))];
    for count in [1, 2] {
        let run = Run { history: history(&lines[..count]), ..Run::default() };
        let page = page(&run);
        well_formed(&page);
        assert!(
            !page.contains("NaN") && !page.contains("inf ") && !page.contains("inf\""),
            "{page}"
        );
        assert!(page.contains("The first 1 of 1 operations."));
    }
}

#[test]
fn a_page_of_many_operations_stays_small() {
    let run = sample::run(3, 116_000);
    assert!(run.history.pairs().len() > 100_000, "{}", run.history.pairs().len());
    let page = page(&run);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
    assert!(page.contains("operations that would cover each other share one"));
}

#[test]
fn a_folder_holds_all_and_its_page_can_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("some/run");
    let run = sample::run(5, 500);
    run.write(&directory).unwrap();
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    assert_eq!(History::from_edn(&read("history.edn")).unwrap(), run.history);
    assert_eq!(History::from_json_lines(&read("history.jsonl")).unwrap(), run.history);
    assert_eq!(read_results(&directory).unwrap(), run.results());
    let first = read("report.html");
    fs::write(directory.join("report.html"), "").unwrap();
    rewrite(&directory).unwrap();
    assert_eq!(read("report.html"), first);
    fs::remove_file(directory.join("results.json")).unwrap();
    assert!(rewrite(&directory).unwrap_err().to_string().contains("results.json"));
}

#[test]
fn results_count_what_happened() {
    let run = sample::run(5, 500);
    let results = run.results();
    assert!(!results.valid);
    assert_eq!(results.violations(), 3);
    assert_eq!((results.faults["kill"], results.faults["pause"]), (3, 1));
    let pairs = run.history.pairs();
    let work = pairs.iter().filter(|pair| pair.invoke.f != "probe").count();
    assert_eq!(results.operations.total(), work as u64);
    assert!(results.operations.info > 0 && results.operations.fail > 0);
    assert!(results.stable_latency_ms.unwrap().p50 > 100.0);
}

#[test]
fn the_first_hundred_violations_are_kept_and_all_are_counted() {
    let violations = (0..250).map(|n| format!("operation {n}: x")).collect();
    let counted = [("x".into(), f64::NAN)].into();
    let verdict = Verdict { violations, judged: 9, counted, ..Verdict::default() };
    let run = Run { verdicts: vec![("set".into(), verdict)], ..Run::default() };
    let judged = &run.results().verdicts[0];
    assert_eq!((judged.violations.len(), judged.violations_total), (100, 250));
    assert!(judged.counted.is_empty());
    assert!(page(&run).contains("… and 150 more."));
}

#[test]
fn what_could_not_be_decided_is_neither_good_nor_bad() {
    let unknown = vec!["gave up after 9 steps".to_owned()];
    let undecided = Verdict { unknown, judged: 9, ..Verdict::default() };
    let good = Verdict { judged: 9, ..Verdict::default() };
    let mut run = Run {
        verdicts: vec![("linearizable".into(), undecided), ("set".into(), good)],
        ..Run::default()
    };
    assert_eq!((run.results().word(), run.results().valid), ("UNKNOWN", false));
    let text = page(&run);
    assert!(text.contains(">UNKNOWN</b> linearizable<"), "{text}");
    assert!(text.contains("gave up after 9 steps"), "{text}");
    run.verdicts[1].1.violations.push("operation 1: lost".into());
    assert_eq!(run.results().word(), "BAD");
}
