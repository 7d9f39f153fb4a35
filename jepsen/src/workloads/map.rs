//! Maps: updates of several fields of several types at once, and removes of fields.
//!
//! Fields: `count` (a counter), `flag`, `tags` (a set), `title` (a register), which are removed at
//! times, and `name` (a register) and `total` (a counter), which only a delete of the map would
//! remove; none does in the maps of `KEPT`.

use serde_json::{Map, Value, json};

use super::keyed::{finals, key_of, on, some_key};
use super::or_set::read;
use super::{Answer, Invocation, Method, Request, Step, Workload, single};
use crate::checkers::{Verdict, map};
use crate::history::History;
use crate::random::Random;

/// Fields that are removed at times.
const REMOVED: [&str; 4] = ["count", "flag", "tags", "title"];
/// All fields.
const FIELDS: [&str; 6] = ["count", "flag", "name", "tags", "title", "total"];
/// Maps that are never deleted.
const KEPT: [&str; 2] = ["k1", "k2"];
/// Of the members that are drawn again, how far back they go.
const RECENT: u64 = 6;

/// Updates, removes and reads.
#[derive(Debug, Default)]
pub struct Maps {
    drawn: u64,
}

impl Maps {
    fn change(&mut self, random: &mut Random, field: &str) -> Value {
        self.drawn += 1;
        let recent = random.between(self.drawn.saturating_sub(RECENT) + 1, self.drawn);
        let by = random.between(1, 5);
        match (field, random.below(4)) {
            ("count" | "total", 0) => json!({ "decrement": by }),
            ("count" | "total", _) => json!({ "increment": by }),
            ("flag", 0) => json!({ "disable": true }),
            ("flag", _) => json!({ "enable": true }),
            ("tags", 0) => json!({ "remove": [recent] }),
            ("tags", 1) if recent != self.drawn => {
                json!({ "add": [self.drawn], "remove": [recent] })
            }
            ("tags", _) => json!({ "add": [self.drawn] }),
            _ => json!({ "set": self.drawn }),
        }
    }

    fn update(&mut self, random: &mut Random) -> Value {
        let mut fields = FIELDS;
        random.shuffle(&mut fields);
        let several = random.between(1, 4) as usize;
        let mut update = Map::new();
        for field in &fields[..several] {
            update.insert((*field).to_owned(), self.change(random, field));
        }
        let mut body = json!({ "update": update });
        let other = fields[several];
        if REMOVED.contains(&other) && random.one_in(4) {
            body["remove"] = json!([other]);
        }
        body
    }
}

impl Workload for Maps {
    fn next(&mut self, random: &mut Random, _process: u64) -> Invocation {
        let key = some_key(random);
        match random.below(20) {
            0..=8 => on(&key, "read", Value::Null),
            9..=16 => on(&key, "update", self.update(random)),
            17 if !KEPT.contains(&key.as_str()) => on(&key, "clear", Value::Null),
            _ => on(&key, "update", json!({ "remove": [random.pick(&REMOVED)] })),
        }
    }

    fn step(&mut self, _process: u64, invocation: &Invocation, answers: &[Answer]) -> Step {
        let entity = ("maps", "jepsen-map".into(), key_of(invocation));
        let (method, body) = match invocation.f {
            "update" => (Method::Post, invocation.value[1].clone()),
            "clear" => (Method::Delete, Value::Null),
            _ => return read(entity, invocation, answers),
        };
        let request = Request::write(entity, method, body);
        single(request, invocation, answers)
    }

    fn finals(&self) -> Vec<Invocation> {
        finals()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("map", map::check(history))]
    }
}
