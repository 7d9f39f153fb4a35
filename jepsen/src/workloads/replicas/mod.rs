//! Replicas as simple as they can be, for tests of workloads with their judges: every node keeps
//! all operations that it has, and shows what is added in them and removed in none.
//!
//! Invariants:
//! 1. An operation is delivered after what it removes, and after its node's operations before it.
//! 2. A run is a function of its seed.
//!
//! Left out: time, disks, and every way to be fast.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Answer, Method, Request};
use crate::random::Random;

mod run;
mod tests;

/// What a deliberately wrong cluster does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// Acknowledges a write at times, and forgets it.
    Forgets,
    /// A delivered operation at times removes nothing.
    KeepsRemoved,
    /// An operation at times removes what its node has not shown, too.
    RemovesUnseen,
    /// Stamps at times from a clock that is behind.
    TrustsClock,
    /// Delivers at times the first half of an operation only.
    Tears,
}

/// A place in an entity: a field (or none), and what of it.
type Path = (String, String);
/// One live add: the operation that made it, where, and what.
type Live = (usize, Path, Value);

struct Operation {
    origin: usize,
    entity: (&'static str, String),
    adds: Vec<(Path, Value)>,
    removes: BTreeSet<(usize, Path)>,
    stamp: (u64, usize),
}

/// A cluster.
pub(super) struct Cluster {
    operations: Vec<Operation>,
    /// By node: what it has, with how many of the adds.
    has: Vec<BTreeMap<usize, usize>>,
    clocks: Vec<u64>,
    bug: Option<Bug>,
}

impl Cluster {
    pub(super) fn new(nodes: usize, bug: Option<Bug>) -> Cluster {
        let has = vec![BTreeMap::new(); nodes];
        Cluster { operations: Vec::new(), has, clocks: vec![0; nodes], bug }
    }

    fn slips(&self, random: &mut Random, bug: Bug) -> bool {
        self.bug == Some(bug) && random.one_in(4)
    }

    /// A node answers a request.
    pub(super) fn ask(&mut self, random: &mut Random, node: usize, request: &Request) -> Answer {
        let (kind, _, id) = match request {
            Request::Write { entity, .. } | Request::Read { entity, .. } => entity.clone(),
            Request::Poll { .. } | Request::At(..) => panic!("none of these workloads does"),
        };
        let entity = (kind, id);
        if let Request::Write { method, body, seen, .. } = request {
            let operation = self.draft(node, entity.clone(), *method, body, seen.as_deref());
            self.accept(random, node, operation);
        }
        let live = self.live(node, &entity);
        let version: Vec<String> = live.iter().map(|(add, ..)| add.to_string()).collect();
        let value = self.view(kind, &live);
        Answer::Done { value, version: version.join(","), session: None }
    }

    fn accept(&mut self, random: &mut Random, node: usize, mut operation: Operation) {
        if self.slips(random, Bug::Forgets) {
            return;
        }
        if self.slips(random, Bug::RemovesUnseen) && !operation.removes.is_empty() {
            let all = self.operations.iter().enumerate();
            let same = all.filter(|(_, other)| other.entity == operation.entity);
            let paths: BTreeSet<Path> =
                operation.removes.iter().map(|(_, path)| path.clone()).collect();
            let unseen = same.flat_map(|(place, other)| {
                other.adds.iter().map(move |(path, _)| (place, path.clone()))
            });
            let unseen = unseen.filter(|(_, path)| paths.contains(path));
            operation.removes.extend(unseen.collect::<Vec<_>>());
        }
        self.clocks[node] += random.between(1, 9);
        if self.slips(random, Bug::TrustsClock) {
            operation.stamp.0 = self.clocks[node] / 2;
        } else {
            operation.stamp.0 = self.clocks[node];
        }
        self.has[node].insert(self.operations.len(), operation.adds.len());
        self.operations.push(operation);
    }

    /// Delivers to a node the next operation of another, if it can; answers whether it did.
    pub(super) fn deliver(&mut self, random: &mut Random, to: usize, from: usize) -> bool {
        let theirs = self.operations.iter().enumerate();
        let mut theirs = theirs.filter(|(_, operation)| operation.origin == from);
        let next = theirs.find(|(place, _)| !self.has[to].contains_key(place));
        let Some((place, operation)) = next else { return false };
        let needs = |(removed, _): &(usize, Path)| self.has[to].contains_key(removed);
        if self.bug != Some(Bug::RemovesUnseen) && !operation.removes.iter().all(needs) {
            return false;
        }
        let (mut adds, stamp) = (operation.adds.len(), operation.stamp.0);
        if self.slips(random, Bug::Tears) {
            adds /= 2;
        }
        if self.slips(random, Bug::KeepsRemoved) {
            self.operations[place].removes.clear();
        }
        self.clocks[to] = self.clocks[to].max(stamp);
        self.has[to].insert(place, adds);
        true
    }

    fn live(&self, node: usize, entity: &(&'static str, String)) -> Vec<Live> {
        let here = self.has[node].iter().map(|(place, adds)| (*place, *adds));
        let here: Vec<(usize, usize)> =
            here.filter(|(place, _)| self.operations[*place].entity == *entity).collect();
        let removed: BTreeSet<&(usize, Path)> =
            here.iter().flat_map(|(place, _)| &self.operations[*place].removes).collect();
        let mut live = Vec::new();
        for (place, adds) in here {
            for (path, value) in &self.operations[place].adds[..adds] {
                if !removed.contains(&(place, path.clone())) {
                    live.push((place, path.clone(), value.clone()));
                }
            }
        }
        live
    }

    fn draft(
        &self,
        node: usize,
        entity: (&'static str, String),
        method: Method,
        body: &Value,
        seen: Option<&str>,
    ) -> Operation {
        let live = self.live(node, &entity);
        let mut draft = Draft { live, adds: Vec::new(), removes: BTreeSet::new() };
        match (entity.0, method) {
            (_, Method::Delete) => draft.remove(|_| true),
            ("sets", _) => draft.change("", body),
            ("maps", _) => {
                for field in body["remove"].as_array().into_iter().flatten() {
                    draft.remove(|path| *field == *path.0);
                }
                for (field, change) in body["update"].as_object().into_iter().flatten() {
                    draft.add(field, "there", Value::Null);
                    draft.change(field, change);
                }
            }
            (_, Method::Put) => draft.assign("", body.clone()),
            _ => draft.assign("", body["set"].clone()),
        }
        if let Some(seen) = seen {
            let seen: Vec<&str> = seen.split(',').collect();
            draft.removes.retain(|(add, _)| seen.contains(&add.to_string().as_str()));
        }
        let Draft { adds, removes, .. } = draft;
        Operation { origin: node, entity, adds, removes, stamp: (0, node) }
    }

    fn view(&self, kind: &str, live: &[Live]) -> Value {
        match kind {
            _ if live.is_empty() => Value::Null,
            "registers" => self.latest(live, ""),
            "maps" => {
                let fields: BTreeSet<&String> = live.iter().map(|(_, path, _)| &path.0).collect();
                let shown =
                    fields.into_iter().map(|field| (field.clone(), self.field(live, field)));
                Value::Object(shown.collect::<Map<_, _>>())
            }
            _ => members(live, ""),
        }
    }

    fn latest(&self, live: &[Live], field: &str) -> Value {
        let values = live.iter().filter(|(_, path, _)| path.0 == field && path.1 == "value");
        let latest = values.max_by_key(|(place, ..)| self.operations[*place].stamp);
        latest.map_or(Value::Null, |(.., value)| value.clone())
    }

    fn field(&self, live: &[Live], field: &str) -> Value {
        let mut of = live.iter().filter(|(_, path, _)| path.0 == field);
        match field {
            "flag" => of.any(|(_, path, _)| path.1 == "on").into(),
            "tags" => members(live, field),
            "count" | "total" => {
                let steps = of.filter(|(_, path, _)| path.1 == "step");
                json!(steps.filter_map(|(.., by)| by.as_i64()).sum::<i64>())
            }
            _ => self.latest(live, field),
        }
    }
}

fn members(live: &[Live], field: &str) -> Value {
    let of = live.iter().filter(|(_, path, _)| path.0 == field && path.1 != "there");
    let members: BTreeMap<String, &Value> =
        of.map(|(.., value)| (value.to_string(), value)).collect();
    members.into_values().cloned().collect::<Vec<_>>().into()
}

/// An operation in the making, against what its node shows.
struct Draft {
    live: Vec<Live>,
    adds: Vec<(Path, Value)>,
    removes: BTreeSet<(usize, Path)>,
}

impl Draft {
    fn remove(&mut self, covers: impl Fn(&Path) -> bool) {
        let seen = self.live.iter().filter(|(_, path, _)| covers(path));
        self.removes.extend(seen.map(|(add, path, _)| (*add, path.clone())));
    }

    fn add(&mut self, field: &str, part: &str, value: Value) {
        self.adds.push(((field.to_owned(), part.to_owned()), value));
    }

    fn assign(&mut self, field: &str, value: Value) {
        self.remove(|path| path.0 == field && path.1 == "value");
        self.add(field, "value", value);
    }

    fn change(&mut self, field: &str, change: &Value) {
        for (verb, value) in change.as_object().into_iter().flatten().rev() {
            match verb.as_str() {
                "set" => self.assign(field, value.clone()),
                "increment" => self.add(field, "step", value.clone()),
                "decrement" => self.add(field, "step", json!(-value.as_i64().unwrap_or(0))),
                "enable" | "disable" => {
                    self.remove(|path| path.0 == field && path.1 == "on");
                    if verb == "enable" {
                        self.add(field, "on", Value::Null);
                    }
                }
                _ => self.members(field, verb == "add", value),
            }
        }
    }

    fn members(&mut self, field: &str, adds: bool, members: &Value) {
        for member in members.as_array().into_iter().flatten() {
            let part = format!("member {member}");
            self.remove(|path| path.0 == field && path.1 == part);
            if adds {
                self.add(field, &part, member.clone());
            }
        }
    }
}
