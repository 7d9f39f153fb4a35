//! Sends flights to all regions at once, and again elsewhere until each request was answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jepsen::http::{Client, Response};
use jepsen::wait;
use serde_json::{Value, json};

/// Senders for each region.
const SENDERS: usize = 4;
/// How long one request may be sent again and again, and how long progress may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an attempt may take before it counts as lost.
const ATTEMPT: Duration = Duration::from_secs(5);

/// One flight of the file.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    /// The record as it is.
    pub(crate) record: Value,
    /// When it left.
    pub(crate) date: String,
    /// Minutes late, negative when early.
    pub(crate) delay: i64,
    /// Code of the airport it left.
    pub(crate) origin: String,
    /// Code of the airport it reached.
    pub(crate) destination: String,
}

impl Flight {
    /// Reads a line of the file.
    pub(crate) fn parse(line: &str) -> Result<Flight> {
        let record: Value = serde_json::from_str(line)?;
        let text = |name: &str| record[name].as_str().map(str::to_owned).context("no text");
        Ok(Flight {
            date: text("date")?,
            delay: record["delay"].as_i64().context("no delay")?,
            origin: text("origin")?,
            destination: text("destination")?,
            record,
        })
    }

    /// The route as a member of sets.
    pub(crate) fn route(&self) -> String {
        format!("{}-{}", self.origin, self.destination)
    }

    /// The requests that this flight makes: method, path and body.
    fn requests(&self) -> [(&'static str, String, Value); 5] {
        let step = if self.delay < 0 { "decrement" } else { "increment" };
        let update = json!({
            "flights": {"increment": 1},
            "routes": {"add": [self.route()]},
            "last": {"set": self.date},
        });
        let destination = format!("/v1/counters/arrivals/{}", self.destination);
        let delays = "/v1/counters/delays/total".to_owned();
        let airport = format!("/v1/maps/airports/{}", self.origin);
        [
            ("POST", destination, json!({"increment": 1})),
            ("POST", delays, json!({step: self.delay.unsigned_abs()})),
            ("POST", "/v1/sets/routes/all".into(), json!({"add": [self.route()]})),
            ("POST", airport, json!({"update": update})),
            ("PUT", "/v1/registers/last/flight".into(), self.record.clone()),
        ]
    }
}

/// How many flights were sent, and how many may be.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    sent: AtomicUsize,
    allowed: AtomicUsize,
}

impl Progress {
    /// Lets flights go, up to this place in the file.
    pub(crate) fn allow(&self, place: usize) {
        self.allowed.store(place, Ordering::SeqCst);
    }

    /// Waits until this many flights were sent and answered.
    pub(crate) fn wait(&self, count: usize) -> Result<()> {
        let reached = || (self.sent.load(Ordering::SeqCst) >= count).then_some(());
        wait::until(PATIENCE, reached)
            .with_context(|| format!("{:?} while waiting for {count}", self.sent))
    }

    fn wait_allowed(&self, place: usize) -> Result<()> {
        let allowed = || (place < self.allowed.load(Ordering::SeqCst)).then_some(());
        wait::until(PATIENCE, allowed).with_context(|| format!("flight {place} was held back"))
    }
}

/// A running sender; it gives the number of attempts that failed.
pub(crate) type Sender<'scope> = ScopedJoinHandle<'scope, Result<usize>>;

/// Starts senders: flight n goes to region n mod 3, by several senders a region.
pub(crate) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    flights: &'env [Flight],
    progress: &'env Progress,
    addresses: BTreeMap<String, SocketAddr>,
) -> Vec<Sender<'scope>> {
    let addresses: Vec<SocketAddr> = addresses.into_values().collect();
    let count = addresses.len() * SENDERS;
    let sender = |number: usize| {
        let mut clients: Vec<Client> =
            addresses.iter().map(|address| Client::new(*address, ATTEMPT)).collect();
        scope.spawn(move || {
            let mut failed = 0;
            for place in (number..flights.len()).step_by(count) {
                progress.wait_allowed(place)?;
                failed += send_flight(&mut clients, place, &flights[place])?;
                progress.sent.fetch_add(1, Ordering::SeqCst);
            }
            Ok(failed)
        })
    };
    (0..count).map(sender).collect()
}

/// Waits for the senders; the number of attempts that failed.
pub(crate) fn finish(senders: Vec<Sender<'_>>) -> Result<usize> {
    let result = |sender: Sender<'_>| match sender.join() {
        Ok(result) => result,
        Err(_) => bail!("a sender panicked"),
    };
    senders.into_iter().map(result).sum()
}

fn send_flight(clients: &mut [Client], place: usize, flight: &Flight) -> Result<usize> {
    let mut failed = 0;
    for (number, (method, path, body)) in flight.requests().into_iter().enumerate() {
        let key = format!("flight-{place}-{number}");
        let headers = [("content-type", "application/json"), ("idempotency-key", &*key)];
        let body = body.to_string();
        let mut attempts = 0;
        let answer = wait::until(PATIENCE, || {
            let region = (place + attempts) % clients.len();
            attempts += 1;
            let answer = clients[region].send(method, &path, &headers, body.as_bytes());
            answer.ok().filter(|answer| answer.status < 500 && answer.status != 429)
        });
        let answer = answer.with_context(|| format!("no answer to {method} {path}"))?;
        expect_done(&answer).with_context(|| format!("{method} {path} {body}"))?;
        failed += attempts - 1;
    }
    Ok(failed)
}

/// Whether a request was answered as done; a refusal is a fault of the server, or of this test.
fn expect_done(answer: &Response) -> Result<()> {
    match answer.status {
        200 => Ok(()),
        status => bail!("{status}: {}", String::from_utf8_lossy(&answer.body)),
    }
}
