//! `atoll import`: records as new writes, in batches, several in flight.
//!
//! Invariants:
//! 1. Records of one entity are applied in their order: they are in one batch, or the earlier
//!    batch has been answered.
//! 2. Every record is counted as applied or as refused, and a refusal gives exit code 1.
//! 3. Memory is bounded by the batches in flight, whatever the size of the file.
//!
//! Left out: exact repetition. Counters are incremented by their exported value, so a second
//! import doubles them; `--key` makes one import safe to repeat for 24 h.

mod record;

use std::collections::HashSet;
use std::io::BufRead;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};

use super::output::Progress;
use super::{Common, Failure, Output, file};
use crate::client::{Call, Client};

/// Batches in flight: enough to keep the server's group commit busy over a slow link.
const IN_FLIGHT: usize = 4;
/// Bytes of a batch, half the server's default limit of a body.
const BATCH_BYTES: usize = 512 << 10;
/// Refusals printed one by one; more are only counted.
const SHOWN: u64 = 10;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Options {
    /// File to read; standard input without it
    file: Option<PathBuf>,
    /// Operations a batch, up to the server's limit
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Idempotency key: repeating the same import with the same key within 24 h counts once
    #[arg(long)]
    key: Option<String>,
}

struct Batch {
    operations: Vec<Value>,
    lines: Vec<u64>,
    entities: HashSet<String>,
    bytes: usize,
    number: u64,
}

#[derive(Default)]
struct Outcome {
    applied: u64,
    refused: u64,
}

/// Reads, sends, counts.
pub async fn run(common: &Common, options: Options) -> Result<(), Failure> {
    let (mut input, size): (Box<dyn BufRead>, _) = match file(&options.file) {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(Failure::of(path.display()))?;
            let size = file.metadata().ok().map(|meta| meta.len());
            (Box::new(std::io::BufReader::new(file)), size)
        }
        None => (Box::new(std::io::BufReader::new(std::io::stdin())), None),
    };
    let client = common.client()?;
    let started = Instant::now();
    let mut progress = Progress::new("importing");
    let (mut read, mut line, mut text) = (0u64, 0u64, String::new());
    let mut batch = Batch::new(0);
    let mut flying = JoinSet::new();
    let mut busy: Vec<(u64, HashSet<String>)> = Vec::new();
    let mut outcome = Outcome::default();
    loop {
        text.clear();
        let bytes = input.read_line(&mut text).map_err(Failure::of("import"))?;
        (read, line) = (read + bytes as u64, line + 1);
        let end = bytes == 0;
        if !text.trim().is_empty() {
            batch.push(line, text.trim())?;
        }
        let full = batch.lines.len() >= usize::from(options.batch) || batch.bytes >= BATCH_BYTES;
        if (full || end) && !batch.lines.is_empty() {
            let waits = |busy: &[(u64, HashSet<String>)]| {
                busy.len() >= IN_FLIGHT || busy.iter().any(|(_, e)| !e.is_disjoint(&batch.entities))
            };
            while waits(&busy) {
                landed(flying.join_next().await, &mut busy, &mut outcome)?;
            }
            busy.push((batch.number, std::mem::take(&mut batch.entities)));
            let next = Batch::new(batch.number + 1);
            let (sent, key) = (std::mem::replace(&mut batch, next), options.key.clone());
            flying.spawn(send(common.clone(), client.clone(), sent, key));
        }
        progress.at(read, size);
        if end {
            break;
        }
    }
    while !busy.is_empty() {
        landed(flying.join_next().await, &mut busy, &mut outcome)?;
    }
    drop(progress);
    report(common.output, &outcome, started)
}

fn report(output: Output, outcome: &Outcome, started: Instant) -> Result<(), Failure> {
    let seconds = started.elapsed().as_secs_f64();
    let rate = outcome.applied as f64 / seconds.max(1e-9);
    match output {
        Output::Json => println!(
            "{}",
            json!({"applied": outcome.applied, "refused": outcome.refused, "seconds": seconds})
        ),
        Output::Table => println!("applied {} in {seconds:.2} s ({rate:.0}/s)", outcome.applied),
    }
    match outcome.refused {
        0 => Ok(()),
        refused => Err(Failure::failed(format!("{refused} records were refused"))),
    }
}

type Landed = Result<(u64, Outcome), Failure>;

fn landed(
    landed: Option<Result<Landed, JoinError>>,
    busy: &mut Vec<(u64, HashSet<String>)>,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let (number, part) = landed
        .expect("what is busy is in flight")
        .map_err(|e| Failure::failed(e.to_string()))??;
    busy.retain(|(other, _)| *other != number);
    outcome.applied += part.applied;
    outcome.refused += part.refused;
    Ok(())
}

async fn send(common: Common, client: Client, batch: Batch, key: Option<String>) -> Landed {
    let mut call = Call::post("/v1/batch", json!({"operations": batch.operations}));
    if let Some(key) = key {
        let key = format!("{key}/{}", batch.number);
        call = call.header(hyper::header::HeaderName::from_static("idempotency-key"), key);
    }
    let answer = common.call(&client, call).await?;
    let results = answer.body["results"].as_array().cloned().unwrap_or_default();
    if results.len() != batch.lines.len() {
        return Err(Failure::failed("the server answered another number of results"));
    }
    let mut outcome = Outcome::default();
    for (result, line) in results.iter().zip(&batch.lines) {
        if result["status"].as_u64().is_some_and(|status| (200..300).contains(&status)) {
            outcome.applied += 1;
            continue;
        }
        outcome.refused += 1;
        if outcome.refused <= SHOWN {
            eprintln!("line {line}: {}", result["body"]);
        }
    }
    Ok((batch.number, outcome))
}

impl Batch {
    fn new(number: u64) -> Batch {
        let (operations, lines, entities) = (Vec::new(), Vec::new(), HashSet::new());
        Batch { operations, lines, entities, bytes: 0, number }
    }

    fn push(&mut self, line: u64, text: &str) -> Result<(), Failure> {
        let wrong = |cause: String| Failure::failed(format!("line {line}: {cause}"));
        let record: Value = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        for operation in record::operations(&record).map_err(wrong)? {
            self.entities.insert(operation["path"].as_str().unwrap_or_default().into());
            self.operations.push(operation);
            self.lines.push(line);
        }
        self.bytes += text.len();
        Ok(())
    }
}
