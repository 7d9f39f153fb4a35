//! What was measured, where, and how it is printed.

use serde_json::{Value, json};

use crate::cli::Output;
use crate::cli::output::table;

/// One figure.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) value: f64,
    /// What it is measured against: its name and its figure.
    pub(super) baseline: Option<(&'static str, f64)>,
    /// Latencies in milliseconds, where there are any.
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    /// Measurement and reason.
    pub(super) failures: Vec<(String, String)>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.baseline.map(|(_, baseline)| self.value / baseline.max(f64::MIN_POSITIVE))
    }
}

impl Report {
    pub(super) fn new() -> Report {
        Report { rows: Vec::new(), failures: Vec::new() }
    }

    pub(super) fn print(&self, output: Output) {
        let environment = environment();
        match output {
            Output::Json => println!("{}", self.json(&environment)),
            Output::Table => print!("{}", self.text(&environment)),
        }
    }

    fn json(&self, environment: &Value) -> Value {
        let row = |row: &Row| {
            json!({"name": row.name, "unit": row.unit, "value": row.value,
                "against": row.baseline.map(|(name, _)| name),
                "baseline": row.baseline.map(|(_, value)| value), "ratio": row.ratio(),
                "p50_ms": row.p50_ms, "p99_ms": row.p99_ms})
        };
        let failure = |(name, reason): &(String, String)| json!({"name": name, "reason": reason});
        json!({"environment": environment,
            "results": self.rows.iter().map(row).collect::<Vec<_>>(),
            "failures": self.failures.iter().map(failure).collect::<Vec<_>>()})
    }

    fn text(&self, environment: &Value) -> String {
        let mut text = String::new();
        for (name, value) in environment.as_object().into_iter().flatten() {
            text.push_str(&format!("{name}: {}\n", crate::cli::output::plain(value)));
        }
        let heading = ["MEASURED", "VALUE", "UNIT", "BASELINE", "RATIO", "P50", "P99", "AGAINST"];
        let mut rows = vec![heading.map(String::from).to_vec()];
        let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.2} ms"));
        for row in &self.rows {
            let (against, baseline) = match row.baseline {
                Some((name, value)) => (name, figure(value)),
                None => ("-", "-".into()),
            };
            let ratio = row.ratio().map_or("-".into(), |ratio| format!("{ratio:.2}"));
            rows.push(vec![
                row.name.into(),
                figure(row.value),
                row.unit.into(),
                baseline,
                ratio,
                ms(row.p50_ms),
                ms(row.p99_ms),
                against.into(),
            ]);
        }
        text.push('\n');
        text.push_str(&table(&rows));
        for (name, reason) in &self.failures {
            text.push_str(&format!("{name} failed: {reason}\n"));
        }
        text
    }
}

/// Three or more digits, no false precision.
fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The machine and the build.
fn environment() -> Value {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "build": if cfg!(debug_assertions) { "debug: figures mean nothing" } else { "release" },
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "processor": model.map_or("unknown", |(_, model)| model),
        "version": env!("CARGO_PKG_VERSION"),
    })
}
