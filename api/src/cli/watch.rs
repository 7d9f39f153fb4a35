//! `atoll watch`: changes as they happen, across broken connections.
//!
//! Invariant: after a break it resumes from the last cursor that it printed.

use std::io::Write;

use clap::Args;
use hyper::header::ACCEPT;
use serde_json::Value;

use super::entity::{known, segment};
use super::output::{Paint, paint, plain};
use super::{Common, Entity, Failure, Output};
use crate::client::{Call, Event, Feed};

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct Options {
    /// kind/collection/id, or kind/collection for all of a collection; none for everything
    what: Option<String>,
    /// Of a collection, only ids that start with this
    #[arg(long)]
    prefix: Option<String>,
    /// Resume after this cursor
    #[arg(long)]
    since: Option<String>,
    /// End after this many records other than progress
    #[arg(long)]
    count: Option<u64>,
}

/// Prints records until told to stop.
pub async fn run(common: &Common, options: Options) -> Result<(), Failure> {
    let call = Call::get(path(&options)?);
    let client = common.client()?;
    common.show(&client, &call.clone().header(ACCEPT, "application/x-ndjson"));
    let mut feed = Feed::new(client, call, options.since, true);
    let mut left = options.count;
    while left != Some(0) {
        let event = feed.next().await?;
        if let Err(error) = print(&event, common.output) {
            // Whoever read us has seen enough.
            let gone = error.kind() == std::io::ErrorKind::BrokenPipe;
            return if gone { Ok(()) } else { Err(Failure::of("standard output")(error)) };
        }
        if event.name == "error" {
            match event.entity()["code"].as_str().or(event.data["code"].as_str()) {
                Some("unauthorized") => return Err(Failure::failed("no longer allowed to watch")),
                code => note(&format!("{}; resuming", code.unwrap_or("the stream ended"))),
            }
        }
        if event.name != "progress" {
            left = left.map(|left| left - 1);
        }
    }
    Ok(())
}

fn note(text: &str) {
    eprintln!("{}", paint(Paint::Yellow, text));
}

fn path(options: &Options) -> Result<String, Failure> {
    let Some(what) = &options.what else { return Ok("/v1/changes".into()) };
    if what.splitn(3, '/').count() == 3 {
        let entity: Entity = what.parse().map_err(Failure::Usage)?;
        return Ok(entity.path());
    }
    let Some((kind, collection)) = what.split_once('/') else {
        return Err(Failure::Usage("expected kind/collection or kind/collection/id".into()));
    };
    known(kind).map_err(Failure::Usage)?;
    let path = format!("/v1/{kind}/{}", segment(collection));
    Ok(match &options.prefix {
        Some(prefix) => format!("{path}?prefix={}", segment(prefix)),
        None => path,
    })
}

fn print(event: &Event, output: Output) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if output == Output::Json {
        return writeln!(out, "{}", event.line);
    }
    let entity = event.entity();
    let field = |name: &str| entity[name].as_str().unwrap_or_default();
    match event.name.as_str() {
        "progress" => Ok(()),
        "snapshot" | "change" | "delete" => {
            let name = format!("{}/{}/{}", field("kind"), field("collection"), field("id"));
            let value = match &entity["value"] {
                Value::Null => "-".into(),
                value => plain(value),
            };
            let origin = match field("origin_region") {
                "" => String::new(),
                region => paint(Paint::Dim, &format!("  from {region}")),
            };
            writeln!(out, "{:<8} {name}  {value}{origin}", event.name)
        }
        other => writeln!(out, "{other}"),
    }
}
