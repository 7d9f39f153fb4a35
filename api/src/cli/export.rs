//! `atoll export`: everything one server holds, a record a line.
//!
//! Invariants:
//! 1. Collections are discovered from the snapshot of the change feed, so that nothing needs to
//!    be named; each entity is written once, with its newest value that the feed told.
//! 2. The last line is written only if the snapshot was complete; an incomplete export fails.
//!
//! Each record carries the CRDT itself, as `state`. An import is nevertheless a new write of the
//! values: it takes from the state what values do not tell, the types of a map's fields.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use futures_util::future::join_all;
use hyper::header::ACCEPT;
use serde_json::Value;

use super::output::Progress;
use super::{Common, Entity, Failure, file};
use crate::client::{Call, Client, ClientError, Feed};

/// Entities asked for at a time.
const AT_A_TIME: usize = 64;

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
    let reader = client.clone();
    let mut waiting = Vec::new();
    let mut feed = Feed::new(client, call, None, false);
    let mut progress = Progress::new("exporting");
    let mut count = 0u64;
    loop {
        let event = feed.next().await?;
        match event.name.as_str() {
            "snapshot" => {
                waiting.push(record_call(event.entity())?);
                if waiting.len() == AT_A_TIME {
                    count += write(&mut out, &reader, std::mem::take(&mut waiting)).await?;
                    progress.at(count, None);
                }
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
    count += write(&mut out, &reader, waiting).await?;
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

/// The request for one entity with its state.
fn record_call(entity: &Value) -> Result<Call, Failure> {
    let text = |name: &str| entity[name].as_str().unwrap_or_default().to_string();
    let entity = Entity { kind: text("kind"), collection: text("collection"), id: text("id") };
    Ok(Call::get(format!("{}?state=true", entity.path())))
}

/// Asks for entities and writes their records; those deleted meanwhile are left out.
async fn write(out: &mut dyn Write, client: &Client, calls: Vec<Call>) -> Result<u64, Failure> {
    let mut count = 0;
    for answer in join_all(calls.iter().map(|call| client.call(call))).await {
        match answer {
            Ok(answer) => {
                writeln!(out, "{}", answer.body).map_err(Failure::of("export"))?;
                count += 1;
            }
            Err(ClientError::Refused(problem)) if problem.status == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(count)
}
