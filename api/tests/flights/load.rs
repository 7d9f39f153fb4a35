//! Sends flights to all regions at once, and again elsewhere until each request was answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
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
    given_up: AtomicBool,
}

impl Progress {
    /// Lets flights go, up to this place in the file.
    pub(crate) fn allow(&self, place: usize) {
        self.allowed.store(place, Ordering::SeqCst);
    }

    /// Lets everyone who waits fail at once.
    pub(crate) fn give_up_if(&self, hopeless: bool) {
        self.given_up.fetch_or(hopeless, Ordering::SeqCst);
    }

    /// Waits until this many flights were sent and answered.
    pub(crate) fn wait(&self, count: usize) -> Result<()> {
        self.until(|| self.sent.load(Ordering::SeqCst) >= count)
            .with_context(|| format!("{:?} flights sent while waiting for {count}", self.sent))
    }

    fn wait_allowed(&self, place: usize) -> Result<()> {
        self.until(|| place < self.allowed.load(Ordering::SeqCst))
            .with_context(|| format!("flight {place} was held back"))
    }

    fn until(&self, reached: impl Fn() -> bool) -> Result<()> {
        let given_up = || self.given_up.load(Ordering::SeqCst);
        let over = wait::until(PATIENCE, || (reached() || given_up()).then_some(()));
        ensure!(over.is_some(), "no progress");
        ensure!(!given_up(), GivenUp);
        Ok(())
    }
}

/// Something else failed, and says why.
#[derive(Debug, thiserror::Error)]
#[error("given up, because something else failed")]
struct GivenUp;

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
            let places = (number..flights.len()).step_by(count);
            let sent = places.map(|place| {
                progress.wait_allowed(place)?;
                let failed = send_flight(&mut clients, place, &flights[place])?;
                progress.sent.fetch_add(1, Ordering::SeqCst);
                Ok(failed)
            });
            let failed = sent.sum::<Result<usize>>();
            progress.give_up_if(failed.is_err());
            failed
        })
    };
    (0..count).map(sender).collect()
}

/// Waits for the senders; the number of attempts that failed, or what failed first of all.
pub(crate) fn finish(senders: Vec<Sender<'_>>) -> Result<usize> {
    let result = |sender: Sender<'_>| match sender.join() {
        Ok(result) => result,
        Err(_) => bail!("a sender panicked"),
    };
    let results: Vec<Result<usize>> = senders.into_iter().map(result).collect();
    let told = |result: &Result<usize>| result.as_ref().is_err_and(|e| !e.is::<GivenUp>());
    match results.iter().position(told) {
        Some(place) => results.into_iter().nth(place).unwrap_or(Ok(0)),
        None => results.into_iter().sum(),
    }
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
