//! From a commit in one region to the event at a subscriber in another.
//!
//! Two figures: from the moment the request was sent (what an application sees), and from the
//! moment its answer came (what replication adds; 0 if the event was faster).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::ACCEPT;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Plan;
use super::load::quantile;
use super::report::Row;
use super::servers::Server;
use crate::cli::Failure;
use crate::client::{Call, Client};

/// Time between two writes: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// How long an event may take before the measurement fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Request sent, answer received, event received, by id.
#[derive(Default)]
struct Times {
    sent: HashMap<String, Instant>,
    answered: HashMap<String, Instant>,
    seen: HashMap<String, Instant>,
}

/// Writes in one region, listens in another.
pub(super) async fn measure(plan: &Plan) -> Result<Vec<Row>, Failure> {
    let nodes = Server::nodes(plan, &["eu", "us", "ap"]).await?;
    let writer = nodes[0].client()?;
    let call = Call::get("/v1/registers/events").header(ACCEPT, "text/event-stream");
    let mut stream = Stream::new(nodes[1].client()?.open(&call).await?.into_body());
    write(&writer, "first").await?;
    // The regions have found each other once the first event came through.
    while stream.next(PATIENCE).await? != "first" {}

    // A std mutex: held for an insertion only.
    let times = Arc::new(Mutex::new(Times::default()));
    let count = (plan.length.as_millis() / PACE.as_millis()) as usize;
    let writing = tokio::spawn(paced(writer, count, times.clone()));
    let mut received = 0;
    while received < count {
        let id = stream.next(PATIENCE).await?;
        let now = Instant::now();
        let mut times = times.lock().expect("nobody panics while holding the times");
        received += usize::from(id.starts_with("e-") && times.seen.insert(id, now).is_none());
    }
    writing.await.map_err(|e| Failure::failed(e.to_string()))??;
    for node in nodes {
        node.end().await;
    }
    let times = times.lock().expect("nobody panics while holding the times");
    Ok(vec![
        row("event in another region, from the request", &times.seen, &times.sent),
        row("event in another region, from the commit", &times.seen, &times.answered),
    ])
}

fn row(
    name: &'static str,
    seen: &HashMap<String, Instant>,
    since: &HashMap<String, Instant>,
) -> Row {
    let delay = |(id, start): (&String, &Instant)| {
        Some(seen.get(id)?.saturating_duration_since(*start).as_secs_f32() * 1000.0)
    };
    let mut delays: Vec<f32> = since.iter().filter_map(delay).collect();
    delays.sort_by(f32::total_cmp);
    let p50_ms = quantile(&delays, 0.5);
    let p99_ms = quantile(&delays, 0.99);
    let value = p50_ms.unwrap_or_default();
    Row { name, unit: "ms, median", value, p50_ms, p99_ms, ..Row::default() }
}

async fn write(client: &Client, id: &str) -> Result<(), Failure> {
    client.call(&Call::post(format!("/v1/registers/events/{id}"), json!({"set": id}))).await?;
    Ok(())
}

/// Writes at a steady pace, whether or not the last answer is there.
async fn paced(client: Client, count: usize, times: Arc<Mutex<Times>>) -> Result<(), Failure> {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..count {
        ticks.tick().await;
        let (client, times, id) = (client.clone(), times.clone(), format!("e-{index}"));
        tasks.spawn(async move {
            let sent = Instant::now();
            write(&client, &id).await?;
            let answered = Instant::now();
            let mut times = times.lock().expect("nobody panics while holding the times");
            times.sent.insert(id.clone(), sent);
            times.answered.insert(id, answered);
            Ok::<(), Failure>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|e| Failure::failed(e.to_string()))??;
    }
    Ok(())
}

/// Server-sent events, as the ids of the entities they speak of.
struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Stream {
    fn new(body: Incoming) -> Stream {
        Stream { body, buffer: Vec::new() }
    }

    async fn next(&mut self, patience: Duration) -> Result<String, Failure> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Some(id) = id(&line) {
                    return Ok(id);
                }
            }
            let frame = timeout(patience, self.body.frame()).await;
            match frame.map_err(|_| Failure::failed("no event within 30 s"))? {
                Some(Ok(frame)) => {
                    self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default())
                }
                Some(Err(error)) => return Err(Failure::failed(error.to_string())),
                None => return Err(Failure::failed("the event stream ended")),
            }
        }
    }
}

fn id(line: &[u8]) -> Option<String> {
    let record: Value = serde_json::from_slice(line.strip_prefix(b"data:")?).ok()?;
    record["data"]["id"].as_str().map(str::to_string)
}
