//! What the file adds up to, by a fold that shares nothing with the product, against all regions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::{Context, Result, ensure};
use jepsen::http::Client;
use serde_json::Value;

use crate::load::Flight;

/// A client for each region, by name.
type Clients = BTreeMap<String, Client>;

/// The sums of a file.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    arrivals: BTreeMap<String, i64>,
    delays: i64,
    routes: BTreeSet<String>,
    airports: BTreeMap<String, Airport>,
    records: Vec<Value>,
}

/// What left one airport.
#[derive(Debug, Default)]
struct Airport {
    flights: i64,
    routes: BTreeSet<String>,
    dates: BTreeSet<String>,
}

impl Sums {
    /// Adds up the flights.
    pub(crate) fn of(flights: &[Flight]) -> Sums {
        let mut sums = Sums::default();
        for flight in flights {
            *sums.arrivals.entry(flight.destination.clone()).or_default() += 1;
            sums.delays += flight.delay;
            sums.routes.insert(flight.route());
            let airport = sums.airports.entry(flight.origin.clone()).or_default();
            airport.flights += 1;
            airport.routes.insert(flight.route());
            airport.dates.insert(flight.date.clone());
            sums.records.push(flight.record.clone());
        }
        sums
    }

    /// Compares everything, as read from every region.
    pub(crate) fn compare(&self, clients: &mut Clients) -> Result<()> {
        same(clients, "counters/delays/total", |value| equal(value, &Value::from(self.delays)))?;
        same(clients, "sets/routes/all", |value| equal(value, &array(&self.routes)))?;
        // Which of two concurrent flights is the last is for the clocks to say, and all agree.
        same(clients, "registers/last/flight", |value| {
            ensure!(self.records.contains(value), "{value} was never sent");
            Ok(())
        })?;
        listed(clients, "counters/arrivals", self.arrivals.keys())?;
        for (airport, count) in &self.arrivals {
            let path = format!("counters/arrivals/{airport}");
            same(clients, &path, |value| equal(value, &Value::from(*count)))?;
        }
        listed(clients, "maps/airports", self.airports.keys())?;
        for (name, airport) in &self.airports {
            same(clients, &format!("maps/airports/{name}"), |value| airport.compare(value))?;
        }
        Ok(())
    }
}

impl Airport {
    fn compare(&self, value: &Value) -> Result<()> {
        equal(&value["flights"], &Value::from(self.flights))?;
        equal(&value["routes"], &array(&self.routes))?;
        let last = value["last"].as_str().context("last is no string")?;
        ensure!(self.dates.contains(last), "{last} is no date of a flight from here");
        let fields = value.as_object().map_or(0, |fields| fields.len());
        ensure!(fields == 3, "{fields} fields in {value}");
        Ok(())
    }
}

/// Members in the order in which sets are shown: the bytes of their JSON forms.
fn array(members: &BTreeSet<String>) -> Value {
    members.iter().cloned().collect()
}

fn equal(value: &Value, expected: &Value) -> Result<()> {
    ensure!(value == expected, "{value}, and the file says {expected}");
    Ok(())
}

/// Reads an entity in every region: the value is as expected, and the answers are all the same.
fn same(clients: &mut Clients, path: &str, check: impl Fn(&Value) -> Result<()>) -> Result<()> {
    let mut first = None;
    for (region, client) in clients {
        let body = read(client, &format!("/v1/{path}"))?;
        check(&body["value"]).with_context(|| format!("{path} in {region}"))?;
        let first = first.get_or_insert_with(|| body.clone());
        ensure!(*first == body, "{path}: {first} and, in {region}, {body}");
    }
    Ok(())
}

/// Lists a collection in every region, page by page: exactly these ids, in their order.
fn listed<'a, I>(clients: &mut Clients, collection: &str, ids: I) -> Result<()>
where
    I: Iterator<Item = &'a String> + Clone + Debug,
{
    for (region, client) in clients {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = read(client, &format!("/v1/{collection}?limit=50{cursor}"))?;
            let items = page["items"].as_array().context("a page without items")?;
            found.extend(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)));
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encoded(next)),
                None => break,
            }
        }
        ensure!(found.iter().eq(ids.clone()), "{collection} in {region}: {found:?}, not {ids:?}");
    }
    Ok(())
}

fn read(client: &mut Client, path: &str) -> Result<Value> {
    let answer = client.fetch(path).with_context(|| path.to_owned())?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(answer.status == 200, "{path}: {} {body}", answer.status);
    Ok(answer.json()?)
}

/// Percent-encodes what is not plain in a query.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
