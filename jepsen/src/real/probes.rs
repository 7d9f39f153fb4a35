//! Probes: how long a write takes to be seen everywhere.
//!
//! Each node has a register that a client of its own rewrites with 1, 2, 3, ...; at each node a
//! subscriber watches them all, and records when it first sees a number or a later one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::asking::{Asker, record, subscribe};
use super::world::World;
use crate::history::Type;
use crate::workloads::{Answer, Method, Request};

/// From one write of a probe to the next.
const EVERY: Duration = Duration::from_millis(200);
/// Pause before a broken subscription is opened again.
const AGAIN: Duration = Duration::from_millis(100);
/// Clients with this number and above write probes.
const FIRST_CLIENT: u64 = 1_000_000;
/// Where the registers are.
const COLLECTION: &str = "probe";

/// Rewrites a node's probe until faults are over.
pub(crate) fn write(world: &World, place: usize) {
    let (client, name) = (FIRST_CLIENT + place as u64, world.places[place].name.clone());
    let mut asker = Asker::new(world.places.iter().map(|p| (p.name.as_str(), p.address)));
    let mut due = Instant::now();
    for n in 1u64.. {
        due = (due + EVERY).max(Instant::now());
        if !world.wait_for_fault(due) {
            return;
        }
        let value = json!([name, n]);
        let request = Request::Write {
            entity: ("registers", COLLECTION.into(), name.clone()),
            method: Method::Put,
            body: n.into(),
            key: None,
            seen: None,
            session: None,
        };
        let at = world.stand_in(place);
        let answer = world.asking(at, || {
            world.invoke(client, "probe", value.clone(), &world.places[at].name);
            asker.ask(at, &request)
        });
        let served = asker.served().filter(|_| world.roams);
        let served = served.unwrap_or(&world.places[at].name).to_owned();
        let (kind, error) = match answer {
            Answer::Done { .. } | Answer::Records(..) => (Type::Ok, None),
            Answer::Refused(code) => (Type::Fail, Some(code)),
            Answer::Lost(why) => (Type::Info, Some(why)),
        };
        world.end(client, kind, ("probe", value), error, &served);
    }
}

/// Watches all probes at a node until all is over.
pub(crate) fn watch(world: &World, place: usize) {
    let path = format!("/v1/registers/{COLLECTION}");
    let mut seen = BTreeMap::<String, u64>::new();
    let mut cursor: Option<String> = None;
    let mut at = world.stand_in(place);
    while !world.is_all_over() {
        if let Ok(mut stream) = subscribe(world.places[at].address, &path, cursor.as_deref()) {
            while !world.is_all_over() {
                let line = match stream.line(Instant::now() + AGAIN) {
                    Ok(Some(line)) => line,
                    Ok(None) => continue,
                    Err(_) => break,
                };
                let Some(record) = record(&line) else { continue };
                cursor = Some(record.cursor);
                if let (Some(of), Some(n)) = (record.id, record.value.as_u64()) {
                    see(world, place, &mut seen, of, n);
                }
            }
        }
        world.wait_for_all(Instant::now() + AGAIN);
        // Where nodes come and go, the next one is as good.
        at = world.another(at).filter(|_| world.roams).unwrap_or(place);
    }
}

/// Records a number that is above all that were seen.
fn see(world: &World, place: usize, seen: &mut BTreeMap<String, u64>, of: String, n: u64) {
    let last = seen.entry(of.clone()).or_default();
    if n > *last {
        *last = n;
        let at = Value::from(world.places[place].name.as_str());
        world.note("seen", json!({"at": at, "of": of, "n": n}));
    }
}
