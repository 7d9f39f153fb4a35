//! `atoll export`: everything one server holds, a record a line.
//!
//! Invariants:
//! 1. Collections are discovered from the snapshot of the change feed, so that nothing needs to
//!    be named; each entity is written once, with its newest value that the feed told.
//! 2. The last line is written only if the snapshot was complete; an incomplete export fails.
//!
//! Left out: the CRDTs' inner state (`"state": null`). An import is a new write of the values:
//! concurrent values of a multi-register become one after the other.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use hyper::header::ACCEPT;
use serde_json::{Value, json};

use super::output::Progress;
use super::{Common, Failure, file};
use crate::client::{Call, Feed};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Options {
    /// File to write; standard output without it
    file: Option<PathBuf>,
    /// Only these kinds, separated by commas
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Only these collections, separated by commas
    #[arg(long, value_delimiter = ',')]
    collections: Vec<String>,
}

/// Writes everything.
pub async fn run(common: &Common, options: Options) -> Result<(), Failure> {
    let mut out: Box<dyn Write> = match file(&options.file) {
        Some(path) => {
            let file = std::fs::File::create(path).map_err(Failure::of(path.display()))?;
            Box::new(std::io::BufWriter::new(file))
        }
        None => Box::new(std::io::BufWriter::new(std::io::stdout())),
    };
    let client = common.client()?;
    let call = Call::get(path(&options));
    common.show(&client, &call.clone().header(ACCEPT, "application/x-ndjson"));
    let mut feed = Feed::new(client, call, None, false);
    let mut progress = Progress::new("exporting");
    let mut count = 0u64;
    loop {
        let event = feed.next().await?;
        match event.name.as_str() {
            "snapshot" => {
                writeln!(out, "{}", record(event.entity())).map_err(Failure::of("export"))?;
                count += 1;
                progress.at(count, None);
            }
            "ready" => break,
            "error" | "reset" => {
                return Err(Failure::failed(format!(
                    "the server ended the snapshot ({}); export again",
                    event.line
                )));
            }
            // Changes during the snapshot belong to the next export.
            _ => {}
        }
    }
    out.flush().map_err(Failure::of("export"))?;
    drop(progress);
    eprintln!("exported {count} entities");
    Ok(())
}

fn path(options: &Options) -> String {
    let mut path = "/v1/changes?snapshot=true".to_string();
    for (name, values) in [("kinds", &options.kinds), ("collections", &options.collections)] {
        if !values.is_empty() {
            let values: Vec<_> = values.iter().map(|v| super::entity::segment(v)).collect();
            path.push_str(&format!("&{name}={}", values.join(",")));
        }
    }
    path
}

fn record(entity: &Value) -> Value {
    json!({
        "kind": entity["kind"], "collection": entity["collection"], "id": entity["id"],
        "value": entity["value"], "version": entity["version"], "state": null,
    })
}
