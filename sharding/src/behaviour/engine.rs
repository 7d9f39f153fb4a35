//! The engine of one worker: a realm for every behaviour in use, and calls within limits.
//!
//! Invariants:
//! 1. A realm belongs to one behaviour, in a runtime of its own: neither memory nor garbage of
//!    another one counts.
//! 2. A call that fails by a limit in a realm that was used before is run again in a fresh one,
//!    where instructions are counted from a known place; only that verdict counts.
//! 3. A realm in which a limit was reached is not used again.
//!
//! What is counted: the engine reports every 10,000th jump back or call; a round of a loop is one
//! or two of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use atoll_store::owned::{BehaviourHash, NewEvent, STATE_MAX};
use bytes::Bytes;
use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::function::Args;
use rquickjs::{Context, Ctx, Function, Object, Persistent, Runtime, String as Text};
use serde_json::Value;

use super::source::Source;
use super::{Problem, hash, json};
use crate::owner::behaviour::{Behaviour, Behaviours, Command, Decision, Failure, Refusal};

/// The name of a behaviour's text in stack traces.
pub(super) const FILE: &str = "behaviour";
/// Realms kept by an engine, each some hundred kilobytes.
const REALMS_MAX: usize = 64;

/// What a realm is made of. Promises are there for modules alone; their names are gone.
pub(super) type Parts = (
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::Promise,
);

/// Limits of one call. One for an event that is in the log already has twice as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jumps back and calls, in units of 10,000. Default 100: some 50 ms.
    pub ticks: u64,
    /// Memory beyond that of an empty realm, in bytes. Default 64 MiB.
    pub memory: usize,
    /// Stack, in bytes. Default 256 KiB.
    pub stack: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { ticks: 100, memory: 64 << 20, stack: 256 << 10 }
    }
}

impl Limits {
    fn doubled(self) -> Limits {
        Limits { ticks: 2 * self.ticks, memory: 2 * self.memory, stack: 2 * self.stack }
    }
}

/// The engine of one worker.
pub struct Engine {
    limits: Limits,
    sources: BTreeMap<BehaviourHash, Script>,
    clock: u64,
}

impl Engine {
    /// An engine without behaviours.
    pub fn new(limits: Limits) -> Engine {
        Engine { limits, sources: BTreeMap::new(), clock: 0 }
    }

    /// Adds a behaviour; its realm is made when it is first called. One that was checked anywhere
    /// in the cluster is sound here.
    pub fn add(&mut self, text: &str) -> Result<BehaviourHash, Problem> {
        let hash = hash(text);
        if !self.sources.contains_key(&hash) {
            let script = Script::new(Source::new(text)?, self.limits);
            self.sources.insert(hash, script);
        }
        Ok(hash)
    }

    /// Forgets a behaviour that nothing in the log of this node's shards needs any more.
    pub fn remove(&mut self, hash: &BehaviourHash) {
        self.sources.remove(hash);
    }

    /// Lets go of the realm that was used least recently, where there are too many.
    fn shed(&mut self) {
        let kept = self.sources.values().filter(|script| script.realm.is_some());
        if kept.count() > REALMS_MAX {
            let oldest = self.sources.values_mut().filter(|script| script.realm.is_some());
            if let Some(script) = oldest.min_by_key(|script| script.used) {
                script.realm = None;
            }
        }
    }
}

impl Behaviours for Engine {
    fn find(&mut self, hash: &BehaviourHash) -> Option<&mut dyn Behaviour> {
        self.shed();
        self.clock += 1;
        let script = self.sources.get_mut(hash)?;
        script.used = self.clock;
        Some(script)
    }
}

/// A behaviour, with its realm while it is in use.
pub(super) struct Script {
    source: Source,
    limits: Limits,
    realm: Option<Realm>,
    used: u64,
    /// Whether errors say where they are: for checks, as it is not the same in all releases.
    pub(super) traced: bool,
    version: Option<u32>,
}

impl Script {
    pub(super) fn new(source: Source, limits: Limits) -> Script {
        Script { source, limits, realm: None, used: 0, traced: false, version: None }
    }

    /// Calls a function of the prelude.
    pub(super) fn call(
        &mut self,
        name: &str,
        arguments: &[&str],
        limits: Limits,
    ) -> Result<String, Failure> {
        let used = self.realm.is_some();
        let result = self.attempt(name, arguments, limits);
        match result {
            Err(failure) if failure.is_severe() => {
                self.realm = None;
                if !used {
                    return Err(failure);
                }
                let result = self.attempt(name, arguments, limits);
                if result.as_ref().is_err_and(Failure::is_severe) {
                    self.realm = None;
                }
                result
            }
            result => result,
        }
    }

    fn attempt(
        &mut self,
        name: &str,
        arguments: &[&str],
        limits: Limits,
    ) -> Result<String, Failure> {
        let realm = match self.realm.take() {
            Some(realm) => realm,
            None => Realm::new(&self.source, self.traced, limits)?,
        };
        let realm = self.realm.insert(realm);
        realm.set_limits(limits);
        realm.call(name, arguments)
    }

    fn text<'a>(bytes: &'a Bytes, what: &str) -> Result<&'a str, Failure> {
        std::str::from_utf8(bytes).map_err(|_| Failure::Error(format!("{what} is not UTF-8")))
    }

    fn state(&self, text: &str, what: &str) -> Result<Bytes, Failure> {
        let (state, _) = json::canonical(text.as_bytes())
            .map_err(|error| Failure::Error(format!("{what}: {error}")))?;
        match state.len() > STATE_MAX {
            true => Err(Failure::Limit("a state has at most 4 MiB")),
            false => Ok(state),
        }
    }
}

impl Behaviour for Script {
    fn snapshot_version(&mut self) -> Result<u32, Failure> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        let version = match self.source.exports.contains_key("snapshotVersion") {
            false => 1,
            true => {
                let text = self.call("constant", &["snapshotVersion"], self.limits)?;
                let wrong = "`snapshotVersion` is a whole number from 1";
                let version: Option<u32> = text.parse().ok().filter(|version| *version > 0);
                version.ok_or(Failure::Error(wrong.into()))?
            }
        };
        self.version = Some(version);
        Ok(version)
    }

    fn initial(&mut self) -> Result<Bytes, Failure> {
        let text = self.call("constant", &["initial"], self.limits)?;
        self.state(&text, "`initial`")
    }

    fn decide(&mut self, state: &Bytes, command: &Command) -> Result<Decision, Refusal> {
        let failed = Refusal::Failed;
        let state = Self::text(state, "the state").map_err(failed)?;
        let data = Self::text(&command.data, "the data").map_err(failed)?;
        let decided = self.call("decide", &[state, &command.kind, data], self.limits);
        let text = decided.map_err(failed)?;
        match text.strip_prefix('!') {
            Some(reason) => Err(Refusal::Rejected(reason.to_string())),
            None => decision(&text).map_err(|error| failed(Failure::Error(error))),
        }
    }

    fn evolve(&mut self, state: &Bytes, event: &NewEvent, logged: bool) -> Result<Bytes, Failure> {
        let limits = if logged { self.limits.doubled() } else { self.limits };
        let state = Self::text(state, "the state")?;
        let data = Self::text(&event.data, "the data")?;
        let text = self.call("evolve", &[state, &event.kind, data], limits)?;
        self.state(&text, "what `evolve` returned")
    }
}

/// Reads what `decide` returned: `{events: [{type, data}], reply}`, each part optional.
pub(super) fn decision(text: &str) -> Result<Decision, String> {
    let shape = "`decide` returns {events: [{type, data}], reply}";
    let (_, value) = json::canonical(text.as_bytes())?;
    let Value::Object(members) = value else { return Err(shape.into()) };
    if let Some(stranger) = members.keys().find(|name| !["events", "reply"].contains(&&name[..])) {
        return Err(format!("{shape}, not {stranger:?}"));
    }
    let events = match members.get("events") {
        None => Vec::new(),
        Some(Value::Array(events)) => events.iter().map(event).collect::<Result<_, _>>()?,
        Some(_) => return Err(shape.into()),
    };
    let reply = json::bytes(members.get("reply").unwrap_or(&Value::Null))?;
    Ok(Decision { events, reply })
}

/// Reads an event: `{type, data}`, data optional.
pub(super) fn event(value: &Value) -> Result<NewEvent, String> {
    let shape = "an event is {type, data}, its type a string of 1-128 bytes";
    let members = value.as_object().ok_or(shape)?;
    let kind = members.get("type").and_then(Value::as_str).ok_or(shape)?;
    if members.keys().any(|name| name != "type" && name != "data") || kind.is_empty() {
        return Err(shape.into());
    }
    let data = json::bytes(members.get("data").unwrap_or(&Value::Null))?;
    Ok(NewEvent { kind: kind.to_string(), data })
}

/// A realm of one behaviour.
struct Realm {
    // Dropped before the runtime that they live in.
    link: Persistent<Object<'static>>,
    context: Context,
    runtime: Runtime,
    base: usize,
    ticks: Rc<Cell<u64>>,
    limit: Rc<Cell<u64>>,
}

impl Realm {
    fn new(source: &Source, traced: bool, limits: Limits) -> Result<Realm, Failure> {
        let runtime = Runtime::new().map_err(|_| Failure::Memory)?;
        let (ticks, limit) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(u64::MAX)));
        let (count, most) = (ticks.clone(), limit.clone());
        runtime.set_interrupt_handler(Some(Box::new(move || {
            count.set(count.get() + 1);
            count.get() > most.get()
        })));
        let context = Context::custom::<Parts>(&runtime).map_err(|_| Failure::Memory)?;
        let link = context.with(|ctx| -> Result<_, Failure> {
            let link = link(&ctx, source, traced).map_err(|error| thrown(&ctx, &error))?;
            Ok(Persistent::save(&ctx, link))
        })?;
        let base = usize::try_from(runtime.memory_usage().malloc_size).unwrap_or(0);
        let mut realm = Realm { link, context, runtime, base, ticks, limit };
        realm.set_limits(limits);
        Ok(realm)
    }

    fn set_limits(&mut self, limits: Limits) {
        self.runtime.set_memory_limit(self.base + limits.memory);
        self.runtime.set_max_stack_size(limits.stack);
        self.limit.set(limits.ticks);
        self.ticks.set(0);
    }

    fn call(&mut self, name: &str, arguments: &[&str]) -> Result<String, Failure> {
        let link = self.link.clone();
        let result = self.context.with(|ctx| {
            let result = invoke(&ctx, link, name, arguments);
            result.map_err(|error| thrown(&ctx, &error))
        });
        if self.ticks.get() > self.limit.get() { Err(Failure::Budget) } else { result }
    }
}

/// Makes the prelude's object of a behaviour.
fn link<'js>(ctx: &Ctx<'js>, source: &Source, traced: bool) -> rquickjs::Result<Object<'js>> {
    let prelude = prelude(ctx, traced)?;
    let mut options = EvalOptions::default();
    options.filename = Some(FILE.into());
    let make: Function<'js> = ctx.eval_with_options(source.function.as_str(), options)?;
    prelude.call((make,))
}

/// Runs the prelude in a new realm.
pub(super) fn prelude<'js>(ctx: &Ctx<'js>, traced: bool) -> rquickjs::Result<Function<'js>> {
    if !traced {
        ctx.eval::<(), _>("Error.stackTraceLimit = 0;")?;
    }
    ctx.eval(include_str!("prelude.js"))
}

fn invoke<'js>(
    ctx: &Ctx<'js>,
    link: Persistent<Object<'static>>,
    name: &str,
    arguments: &[&str],
) -> rquickjs::Result<String> {
    let function: Function<'js> = link.restore(ctx)?.get(name)?;
    let mut args = Args::new(ctx.clone(), arguments.len());
    for argument in arguments {
        args.push_arg(*argument)?;
    }
    let result: Text<'js> = function.call_arg(args)?;
    result.to_string()
}

/// What an exception is; the engine's own words tell limits apart from errors.
pub(super) fn thrown(ctx: &Ctx<'_>, error: &rquickjs::Error) -> Failure {
    if !matches!(error, rquickjs::Error::Exception) {
        return Failure::Error(match error {
            rquickjs::Error::Allocation => return Failure::Memory,
            rquickjs::Error::Utf8(_) => "a string is not Unicode".into(),
            other => other.to_string(),
        });
    }
    let value = ctx.catch();
    let Some(exception) = value.as_exception() else {
        let text = value.get::<rquickjs::Coerced<String>>().map(|text| text.0);
        return Failure::Error(format!("threw {}", text.unwrap_or("something".into())));
    };
    let message = exception.message().unwrap_or_default();
    match &message[..] {
        "out of memory" => Failure::Memory,
        "interrupted" => Failure::Budget,
        "Maximum call stack size exceeded" => Failure::Stack,
        _ => {
            let name: String = exception.get("name").unwrap_or("Error".into());
            let place = exception.stack().as_deref().and_then(place);
            Failure::Error(match place {
                Some((line, column)) => format!("{name}: {message} ({line}:{column})"),
                None => format!("{name}: {message}"),
            })
        }
    }
}

/// The first place in the behaviour's text that a stack trace names.
pub(super) fn place(stack: &str) -> Option<(usize, usize)> {
    let at = stack.find(&format!("{FILE}:"))?;
    let mut numbers = stack[at + FILE.len() + 1..].split(|c: char| !c.is_ascii_digit());
    let line: usize = numbers.next()?.parse().ok()?;
    let column = numbers.next()?.parse().ok()?;
    // The function that the text was made has one line more.
    Some((line.checked_sub(1)?, column))
}
