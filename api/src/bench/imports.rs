//! Import of 10,000 records by `atoll import` itself.

use std::fmt::Write;

use serde_json::{Value, json};
use tokio::process::Command;

use super::Plan;
use super::report::Row;
use super::servers::Server;
use crate::cli::Failure;

/// Records to import.
const RECORDS: usize = 10_000;

/// Imports into an empty node.
pub(super) async fn measure(plan: &Plan) -> Result<Vec<Row>, Failure> {
    let node = Server::node(plan).await?;
    let file = tempfile::NamedTempFile::new().map_err(Failure::of("records"))?;
    let mut text = String::new();
    for index in 0..RECORDS {
        let id = format!("record-{index}");
        let record = json!({"kind": "counters", "collection": "bench", "id": id, "value": index});
        writeln!(text, "{record}").expect("writing to a string does not fail");
    }
    std::fs::write(file.path(), text).map_err(Failure::of("records"))?;
    let program = std::env::current_exe().map_err(Failure::of("this program's path"))?;
    let done = Command::new(program)
        .args(["import", "--output", "json", "--url", &node.url()])
        .arg(file.path())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Failure::of("import"))?;
    node.end().await;
    let result: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
    let (Some(seconds), Some(applied)) = (result["seconds"].as_f64(), result["applied"].as_u64())
    else {
        let errors = String::from_utf8_lossy(&done.stderr).trim().to_string();
        return Err(Failure::failed(format!("the import failed: {errors}")));
    };
    if applied != RECORDS as u64 {
        return Err(Failure::failed(format!("only {applied} of {RECORDS} records were applied")));
    }
    let value = applied as f64 / seconds.max(f64::MIN_POSITIVE);
    Ok(vec![Row { name: "import of 10,000 records", unit: "records/s", value, ..Row::default() }])
}
