//! Tables in Markdown.

use super::{MutantRow, Row};

/// The table of runs.
pub fn runs(rows: &[Row]) -> String {
    let head = [
        "workload",
        "nemesis",
        "runs",
        "operations",
        "faults",
        "violations",
        "excused",
        "stable latency p99",
        "note",
    ];
    let cells = |row: &Row| {
        let latency = row.stable_latency_p99_ms;
        vec![
            row.workload.clone(),
            row.nemesis.clone(),
            thousands(row.runs),
            thousands(row.operations),
            thousands(row.faults),
            thousands(row.violations),
            thousands(row.excused),
            latency.map_or("-".into(), |ms| format!("{ms:.0} ms")),
            row.note.clone(),
        ]
    };
    table(&head, 2..8, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// The table of deliberate bugs.
pub fn mutants(rows: &[MutantRow]) -> String {
    let head = [
        "mutant",
        "rule",
        "workload",
        "seeds",
        "caught",
        "judge of histories",
        "seeds",
        "caught",
        "check inside",
    ];
    let or_dash = |text: &str| if text.is_empty() { "-".into() } else { text.to_owned() };
    let cells = |row: &MutantRow| {
        vec![
            row.mutant.clone(),
            row.rule.clone(),
            row.workload.clone(),
            row.median_seeds.map_or("never".into(), thousands),
            format!("{} of {}", row.caught, row.trials),
            or_dash(&row.judges),
            row.median_judged.map_or("-".into(), thousands),
            format!("{} of {}", row.judged, row.trials),
            or_dash(&row.inside),
        ]
    };
    table(&head, 3..5, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Text as it is, in a fence that is longer than any in it.
pub(super) fn block(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}", text.trim_end())
}

fn table(head: &[&str], numbers: std::ops::Range<usize>, rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return "Not run yet.".into();
    }
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&mut head.iter().map(|name| (*name).to_owned()));
    let rule = |place| if numbers.contains(&place) { "--:" } else { "---" };
    text.push_str(&line(&mut (0..head.len()).map(|place| rule(place).to_owned())));
    for cells in rows {
        text.push_str(&line(&mut cells.iter().map(|cell| escape(cell))));
    }
    text
}

/// Text that does not end its cell or its line.
fn escape(cell: &str) -> String {
    let cell = cell.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
    cell.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn thousands(value: u64) -> String {
    crate::report::thousands(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_runs() {
        let row = Row {
            workload: "g-set".into(),
            nemesis: "kill".into(),
            runs: 2,
            operations: 12_000,
            faults: 8,
            excused: 3,
            stable_latency_p99_ms: Some(140.4),
            note: "a|b\n<!-- /matrix -->".into(),
            ..Row::default()
        };
        let expected = "\
| workload | nemesis | runs | operations | faults | violations | excused | \
stable latency p99 | note |
| --- | --- | --: | --: | --: | --: | --: | --: | --- |
| g-set | kill | 2 | 12,000 | 8 | 0 | 3 | 140 ms | a\\|b &lt;!-- /matrix --> |
";
        assert_eq!(runs(&[row]), expected);
        assert_eq!(runs(&[]), "Not run yet.");
    }

    #[test]
    fn a_table_of_mutants() {
        let row = |median_seeds, caught| MutantRow {
            mutant: "trust-vectors".into(),
            rule: "R8".into(),
            workload: "g-set".into(),
            median_seeds,
            caught,
            trials: 20,
            judges: "set".into(),
            median_judged: Some(4),
            judged: 2,
            inside: String::new(),
        };
        let text = mutants(&[row(Some(3), 20), row(None, 0)]);
        let start = "| trust-vectors | R8 | g-set | 3 | 20 of 20 | set | 4 | 2 of 20 | - |";
        assert!(text.contains(start), "{text}");
        assert!(text.contains("| never | 0 of 20 |"), "{text}");
    }

    #[test]
    fn a_block_is_longer_than_what_is_in_it() {
        assert_eq!(block("a\nb\n\n"), "```text\na\nb\n```");
        assert_eq!(block("````"), "`````text\n````\n`````");
    }
}
