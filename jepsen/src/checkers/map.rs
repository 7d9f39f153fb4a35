//! Maps of counters, registers, flags and sets: fields are observed-remove, updates are atomic.
//!
//! Operations, on `[key, value]`: `update` with `{"update": {field: change}, "remove": [fields]}`
//! as the HTTP contract has it, `clear` (removes all) with null, `read` and `final-read` with an
//! object or, where there is no map, null. A field has one type in all of the history; values set
//! to a register are unique, members of sets may be added again. What is judged of presence,
//! members, flags and values is in `super::observed`; beyond it:
//! 1. A counter shows the steps that must be there, and some of those that may be.
//! 2. A register that nothing removes keeps to one order of its writes ([`super::register`]).
//! 3. No set holds a member twice. Final reads are equal.
//!
//! Atomicity follows: what shows one part of an update shows all of it, or what was possibly
//! removed since. Left out: fields with two types; subsets of steps before the end, of which only
//! the range is judged.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Verdict;
use super::entity::{Agreement, Entity, argument, end, entities, is_final, shown};
use super::memory::Memory;
use super::observed::{Effect, Element, Fate, Known, Part, Pattern, Sight, judge};
use super::pn_counter::Acceptable;
use super::register;
use crate::history::{History, Pair};

/// Judges a history of maps.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let memory = Memory::of(history);
    for entity in entities(history, &["update", "clear"], &mut verdict) {
        let types = types(&entity);
        let effects = entity.writes.iter().enumerate();
        let effects: Vec<Effect> = effects.map(|(place, write)| effect(place, write)).collect();
        judge_registers(&entity, &types, &effects, &memory, &mut verdict);
        let steps = steps(&entity);
        let mut finals = Agreement::default();
        let seen = |read: &Pair<'_>, verdict: &mut Verdict| {
            if is_final(read) {
                finals.expect(&entity.key, read, shown(read).clone(), verdict);
            }
            elements(&entity.key, &types, read, verdict)
        };
        let look = |known: &Known<'_>, sight: &Sight<'_>, verdict: &mut Verdict| {
            judge_counters(&entity.key, &steps, known, sight, verdict);
        };
        judge(&entity, &memory, effects, &mut verdict, seen, look);
    }
    verdict
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Counter,
    Register,
    Flag,
    Set,
}

/// The fields that a write updates, each with its change.
fn changes<'a>(write: &Pair<'a>) -> impl Iterator<Item = (&'a String, &'a Map<String, Value>)> {
    let fields = argument(write)["update"].as_object().into_iter().flatten();
    fields.filter_map(|(field, change)| Some((field, change.as_object()?)))
}

fn types(entity: &Entity<'_>) -> BTreeMap<String, Type> {
    let type_of = |change: &Map<String, Value>| match change.keys().next()?.as_str() {
        "increment" | "decrement" => Some(Type::Counter),
        "set" => Some(Type::Register),
        "enable" | "disable" => Some(Type::Flag),
        _ => Some(Type::Set),
    };
    let all = entity.writes.iter().flat_map(changes);
    all.filter_map(|(field, change)| Some((field.clone(), type_of(change)?))).collect()
}

fn effect(place: usize, write: &Pair<'_>) -> Effect {
    let mut effect = Effect::default();
    if write.invoke.f == "clear" {
        effect.removes.push(Pattern::All);
    }
    let removed = argument(write)["remove"].as_array().into_iter().flatten();
    let removed = removed.filter_map(|field| field.as_str());
    effect.removes.extend(removed.map(|field| Pattern::Field(field.to_owned())));
    for (field, change) in changes(write) {
        let element = |part| Element { field: field.clone(), part };
        effect.adds.insert(element(Part::Presence));
        for (verb, value) in change {
            let members = || value.as_array().into_iter().flatten();
            let member = |value: &Value| element(Part::Member(value.to_string()));
            match verb.as_str() {
                "increment" | "decrement" => {
                    effect.adds.insert(element(Part::Step(place)));
                }
                "set" => {
                    effect.adds.insert(element(Part::Value(value.to_string())));
                    effect.supersedes.push(Pattern::Values(field.clone()));
                }
                "enable" => {
                    effect.adds.insert(element(Part::Enabled));
                    effect.supersedes.push(Pattern::One(element(Part::Enabled)));
                }
                "disable" => effect.removes.push(Pattern::One(element(Part::Enabled))),
                "add" => {
                    effect.adds.extend(members().map(member));
                    effect.supersedes.extend(members().map(member).map(Pattern::One));
                }
                _ => effect.removes.extend(members().map(member).map(Pattern::One)),
            }
        }
    }
    effect
}

/// What a read shows but for counters.
fn elements(
    key: &str,
    types: &BTreeMap<String, Type>,
    read: &Pair<'_>,
    verdict: &mut Verdict,
) -> Option<BTreeSet<Element>> {
    let (value, empty) = (shown(read), Map::new());
    let Some(fields) = value.as_object().or_else(|| value.is_null().then_some(&empty)) else {
        verdict.blame(read, format!("{key}: is no object"));
        return None;
    };
    let mut seen = BTreeSet::new();
    for (field, value) in fields {
        let element = |part| Element { field: field.clone(), part };
        seen.insert(element(Part::Presence));
        match (types.get(field), value) {
            (Some(Type::Register), Value::Null) | (Some(Type::Flag), Value::Bool(false)) => {}
            (Some(Type::Register), value) => {
                seen.insert(element(Part::Value(value.to_string())));
            }
            (Some(Type::Flag), Value::Bool(true)) => {
                seen.insert(element(Part::Enabled));
            }
            (Some(Type::Set), Value::Array(members)) => {
                for member in members {
                    if !seen.insert(element(Part::Member(member.to_string()))) {
                        verdict.blame(read, format!("{key}: {member} in {field} was read twice"));
                    }
                }
            }
            (Some(Type::Counter), value) if value.is_i64() => {}
            (None, _) => {}
            (Some(kind), value) => {
                verdict.blame(read, format!("{key}: {field} is no {kind:?}: {value}"));
            }
        }
    }
    Some(seen)
}

/// One step of a counter.
struct Step<'a> {
    place: usize,
    write: Pair<'a>,
    by: i128,
}

/// The steps of each counter.
fn steps<'a>(entity: &Entity<'a>) -> BTreeMap<&'a String, Vec<Step<'a>>> {
    let mut found: BTreeMap<&String, Vec<Step<'a>>> = BTreeMap::new();
    for (place, write) in entity.writes.iter().enumerate() {
        for (field, change) in changes(write) {
            let amount =
                |verb: &str| change.get(verb).map(|by| i128::from(by.as_i64().unwrap_or(0)));
            let by = amount("increment").or_else(|| amount("decrement").map(|by| -by));
            let step = by.map(|by| Step { place, write: *write, by });
            if let Some(step) = step {
                found.entry(field).or_default().push(step);
            }
        }
    }
    found
}

/// Counters of fields that are there.
fn judge_counters(
    key: &str,
    steps: &BTreeMap<&String, Vec<Step<'_>>>,
    known: &Known<'_>,
    sight: &Sight<'_>,
    verdict: &mut Verdict,
) {
    let read = sight.read();
    for (field, steps) in steps {
        let Some(sum) = shown(read)[field.as_str()].as_i64().map(i128::from) else { continue };
        let (mut certain, mut maybe) = (0, Vec::new());
        for step in steps.iter().filter(|step| step.write.invoke.index < end(read)) {
            let part = Part::Step(step.place);
            match known.fate(step.place, &Element { field: (*field).clone(), part }, sight) {
                Fate::There => certain += step.by,
                Fate::Unknown => maybe.push(step.by),
                Fate::Gone => {}
            }
        }
        let start = if is_final(read) {
            Acceptable::Sums([certain].into())
        } else {
            Acceptable::Between(certain, certain)
        };
        if !maybe.iter().copied().fold(start, Acceptable::maybe).contains(sum) {
            let what = format!("{key}: {field} = {sum} is no sum of what may be counted");
            verdict.blame(read, what);
        }
    }
}

/// Registers that nothing removes.
fn judge_registers(
    entity: &Entity<'_>,
    types: &BTreeMap<String, Type>,
    effects: &[Effect],
    memory: &Memory,
    verdict: &mut Verdict,
) {
    let registers = types.iter().filter(|(_, kind)| **kind == Type::Register);
    for field in registers.map(|(field, _)| field) {
        let present = Element { field: field.clone(), part: Part::Presence };
        let removes = |effect: &Effect| effect.removes.iter().any(|p| p.covers(&present));
        if effects.iter().any(removes) {
            continue;
        }
        let written = entity.writes.iter().map(|write| argument(write)["update"][field].get("set"));
        let seen: Vec<&Value> =
            entity.reads.iter().map(|read| &shown(read)[field.as_str()]).collect();
        let name = format!("{}: {field}", entity.key);
        register::judge(entity, &name, memory, written.collect(), &seen, verdict);
    }
}

#[cfg(test)]
mod tests;
