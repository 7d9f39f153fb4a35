//! What is checked of a behaviour before the cluster takes it: it parses, it exports what it must,
//! its constants are values, and its examples come true.
//!
//! An example is `{given: [events], when: command, then}`, where `then` is `{events, reply,
//! rejected}`, each part checked where it is there; or an array, which is the events.

use atoll_store::owned::{BehaviourHash, NewEvent};
use bytes::Bytes;
use rquickjs::{Context, Ctx, Module, Runtime};
use serde_json::Value;

use super::engine::{FILE, Limits, Parts, Script, event, place, prelude, thrown};
use super::source::Source;
use super::{Problem, hash, json};
use crate::owner::behaviour::{Behaviour, Command, Failure, Refusal};

/// Most examples of a behaviour.
const EXAMPLES_MAX: usize = 1_000;
/// What a behaviour exports; all that are functions must be there.
const KNOWN: [&str; 5] = ["initial", "decide", "evolve", "snapshotVersion", "examples"];

/// A behaviour that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its name in logs.
    pub hash: BehaviourHash,
    /// The version of its snapshots.
    pub snapshot_version: u32,
    /// How many examples came true.
    pub examples: usize,
}

/// Checks a behaviour, with calls within these limits.
pub fn check(text: &str, limits: Limits) -> Result<Accepted, Problem> {
    // The engine's view first: what is no module at all is told in its words.
    let parsed = exports_of(text, limits)?;
    let source = Source::new(text)?;
    let ours: Vec<String> = source.exports.keys().cloned().collect();
    if let Some(hidden) = parsed.iter().find(|name| !ours.contains(name)) {
        let message = format!("write `export` at the beginning of a line to export `{hidden}`");
        return Err(Problem::new(1, 1, &message));
    }
    if let Some((text, line)) = source.exports.iter().find(|(name, _)| !parsed.contains(name)) {
        let message = format!("this line reads as an export of `{text}`, and is none");
        return Err(Problem::new(*line, 1, &message));
    }
    let mut script = Script::new(source.clone(), limits);
    script.traced = true;
    Check { source, script }.run(limits)
}

/// What a module exports, as the engine reads it.
fn exports_of(text: &str, limits: Limits) -> Result<Vec<String>, Problem> {
    let unavailable = |_| Problem::new(1, 1, "the engine could not be started");
    let runtime = Runtime::new().map_err(unavailable)?;
    runtime.set_memory_limit(2 * limits.memory);
    runtime.set_max_stack_size(limits.stack);
    let mut left = limits.ticks;
    runtime.set_interrupt_handler(Some(Box::new(move || {
        left = left.saturating_sub(1);
        left == 0
    })));
    let context = Context::custom::<Parts>(&runtime).map_err(unavailable)?;
    context.with(|ctx| {
        prelude(&ctx, true).map_err(|error| problem(&ctx, &error))?;
        let declared = Module::declare(ctx.clone(), FILE, text);
        let declared = declared.map_err(|error| problem(&ctx, &error))?;
        let (module, promise) = declared.eval().map_err(|error| problem(&ctx, &error))?;
        promise.finish::<()>().map_err(|error| problem(&ctx, &error))?;
        let names = module.namespace().and_then(|names| names.keys().collect());
        names.map_err(|error| problem(&ctx, &error))
    })
}

/// An exception of the module itself, which has no extra line.
fn problem(ctx: &Ctx<'_>, error: &rquickjs::Error) -> Problem {
    if matches!(error, rquickjs::Error::WouldBlock) {
        return Problem::new(1, 1, "a behaviour does not await");
    }
    let value = ctx.catch();
    let exception = value.as_exception().cloned();
    let stack = exception.as_ref().and_then(|exception| exception.stack());
    let at = stack.as_deref().and_then(place).map(|(line, column)| (line + 1, column));
    let (line, column) = at.unwrap_or((1, 1));
    let _ = ctx.throw(value);
    match thrown(ctx, error) {
        Failure::Error(message) => {
            let message = message.rsplit_once(" (").map_or(&message[..], |(head, _)| head);
            Problem::new(line, column, message)
        }
        failure => Problem::new(line, column, &failure.to_string()),
    }
}

struct Check {
    source: Source,
    script: Script,
}

impl Check {
    fn run(mut self, limits: Limits) -> Result<Accepted, Problem> {
        let kinds = self.constant("kinds", None, limits)?;
        for name in ["initial", "decide", "evolve"] {
            if !self.source.exports.contains_key(name) {
                return Err(Problem::new(1, 1, &format!("missing export `{name}`")));
            }
        }
        for kind in kinds.as_array().into_iter().flatten() {
            let name = kind[0].as_str().unwrap_or_default();
            let function = ["decide", "evolve"].contains(&name);
            if function != (kind[1] == "function") {
                let what = if function { "a function" } else { "a value" };
                return Err(self.at(name, &format!("`{name}` must be {what}")));
            }
            if !KNOWN.contains(&name) {
                let known = KNOWN.join(", ");
                return Err(self.at(name, &format!("unknown export `{name}`: there are {known}")));
            }
        }
        let initial = self.script.initial().map_err(|failure| self.failed("initial", &failure))?;
        let version = self.script.snapshot_version();
        let snapshot_version =
            version.map_err(|failure| self.failed("snapshotVersion", &failure))?;
        let examples = self.examples(&initial, limits)?;
        Ok(Accepted { hash: hash(&self.source.text), snapshot_version, examples })
    }

    fn constant(
        &mut self,
        call: &str,
        name: Option<&str>,
        limits: Limits,
    ) -> Result<Value, Problem> {
        let arguments: Vec<&str> = name.into_iter().collect();
        let text = self.script.call(call, &arguments, limits);
        let text = text.map_err(|failure| self.failed(name.unwrap_or_default(), &failure))?;
        let value = json::canonical(text.as_bytes());
        let value = value.map_err(|error| self.at(name.unwrap_or_default(), &error))?;
        Ok(value.1)
    }

    /// A problem with an export.
    fn at(&self, export: &str, message: &str) -> Problem {
        let line = self.source.exports.get(export).copied().unwrap_or(1);
        Problem::new(line, 1, message)
    }

    /// A failure, where it says it was, or else at an export.
    fn failed(&self, export: &str, failure: &Failure) -> Problem {
        let text = failure.to_string();
        let placed = text.strip_suffix(')').and_then(|text| text.rsplit_once(" ("));
        let numbers = placed.and_then(|(text, at)| Some((text, at.split_once(':')?)));
        let numbers = numbers.and_then(|(text, (line, column))| {
            Some(Problem::new(line.parse().ok()?, column.parse().ok()?, text))
        });
        numbers.unwrap_or_else(|| self.at(export, &text))
    }

    fn examples(&mut self, initial: &Bytes, limits: Limits) -> Result<usize, Problem> {
        if !self.source.exports.contains_key("examples") {
            return Ok(0);
        }
        let examples = self.constant("constant", Some("examples"), limits)?;
        let wrong = "`examples` is an array of {given, when, then}, at most 1,000";
        let examples = examples.as_array().filter(|all| all.len() <= EXAMPLES_MAX);
        let examples = examples.ok_or_else(|| self.at("examples", wrong))?;
        for (number, example) in (1..).zip(examples) {
            self.example(initial, example).map_err(|mut problem| {
                problem.message = format!("example {number}: {}", problem.message);
                problem
            })?;
        }
        Ok(examples.len())
    }

    fn example(&mut self, initial: &Bytes, example: &Value) -> Result<(), Problem> {
        let wrong = "an example is {given: [events], when: {type, data}, then}";
        let wrong = self.at("examples", wrong);
        let given = example["given"].as_array().ok_or_else(|| wrong.clone())?;
        let given: Result<Vec<NewEvent>, String> = given.iter().map(event).collect();
        let given = given.map_err(|error| self.at("examples", &error))?;
        let when = event(&example["when"]).map_err(|_| wrong.clone())?;
        let then = Expected::read(&example["then"]).map_err(|error| self.at("examples", &error))?;
        let mut state = initial.clone();
        for event in &given {
            let next = self.script.evolve(&state, event, false);
            state = next.map_err(|failure| self.failed("evolve", &failure))?;
        }
        let command = Command { kind: when.kind, data: when.data };
        let found = match self.script.decide(&state, &command) {
            Ok(decision) => {
                for event in &decision.events {
                    let next = self.script.evolve(&state, event, false);
                    state = next.map_err(|failure| self.failed("evolve", &failure))?;
                }
                let Ok(reply) = serde_json::from_slice(&decision.reply) else {
                    return Err(wrong);
                };
                Expected { events: Some(decision.events), reply: Some(reply), rejected: None }
            }
            Err(Refusal::Rejected(why)) => {
                Expected { events: None, reply: None, rejected: Some(why) }
            }
            Err(Refusal::Failed(failure)) => return Err(self.failed("decide", &failure)),
        };
        then.compare(&found).map_err(|message| self.at("examples", &message))
    }
}

/// What an example expects, or what came out.
#[derive(Debug, Default)]
struct Expected {
    events: Option<Vec<NewEvent>>,
    reply: Option<Value>,
    rejected: Option<String>,
}

impl Expected {
    fn read(then: &Value) -> Result<Expected, String> {
        let wrong = "`then` is {events, reply, rejected} or an array of events";
        if let Some(events) = then.as_array() {
            let events: Result<_, String> = events.iter().map(event).collect();
            return Ok(Expected { events: Some(events?), ..Expected::default() });
        }
        let members = then.as_object().filter(|members| !members.is_empty()).ok_or(wrong)?;
        let mut out = Expected::default();
        for (name, value) in members {
            match (&name[..], value) {
                ("events", Value::Array(events)) => {
                    let events: Result<_, String> = events.iter().map(event).collect();
                    out.events = Some(events?);
                }
                ("reply", value) => out.reply = Some(value.clone()),
                ("rejected", Value::String(why)) => out.rejected = Some(why.clone()),
                _ => return Err(wrong.into()),
            }
        }
        Ok(out)
    }

    fn compare(&self, found: &Expected) -> Result<(), String> {
        if self.rejected != found.rejected {
            let say = |rejected: &Option<String>| match rejected {
                Some(why) => format!("rejected: {why:?}"),
                None => "no rejection".into(),
            };
            return Err(format!("expected {}, got {}", say(&self.rejected), say(&found.rejected)));
        }
        if let Some(events) =
            self.events.as_ref().filter(|events| found.events.as_ref() != Some(*events))
        {
            let found = found.events.as_deref().unwrap_or_default();
            return Err(format!("expected events {}, got {}", show(events), show(found)));
        }
        let canonical = |value: &Value| json::bytes(value).unwrap_or_default();
        let show = |value: &Value| String::from_utf8_lossy(&canonical(value)).into_owned();
        match (&self.reply, &found.reply) {
            (Some(expected), Some(found)) if canonical(expected) != canonical(found) => {
                Err(format!("expected reply {}, got {}", show(expected), show(found)))
            }
            _ => Ok(()),
        }
    }
}

fn show(events: &[NewEvent]) -> String {
    let one = |event: &NewEvent| format!("{}{}", event.kind, String::from_utf8_lossy(&event.data));
    format!("[{}]", events.iter().map(one).collect::<Vec<_>>().join(", "))
}
