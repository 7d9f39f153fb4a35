//! Request bodies to commands, by kind.
//!
//! Invariants:
//! 1. What comes out applies to the kind that was asked: the node never sees `WrongKind`.
//! 2. Every refusal names the field and what was expected there.
//! 3. Values come out canonical, and within the limits of the edge.

use std::borrow::Cow;

use atoll_store::command::{Command, FieldCommand, Value};
use atoll_store::dot::Dot;
use atoll_store::name::Kind;

use super::json::{Json, Member, canonical};
use super::limits::Limits;
use super::problem::Problem;

/// Largest integer that a double holds exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_991.0;

/// What a `POST` asks: one operation object, or a non-empty array of them.
///
/// `seen` are the dots of an `If-Match`, only for multi-registers.
pub fn operations(
    kind: Kind,
    body: &Json<'_>,
    seen: Option<Vec<Dot>>,
    limits: &Limits,
) -> Result<Vec<Command>, Problem> {
    let one = |json: &Json<'_>, seen| command(kind, object(json, "an operation")?, seen, limits);
    let Json::Array(items) = body else { return Ok(vec![one(body, seen)?]) };
    if items.is_empty() {
        return Err(Problem::bad("expected at least one operation, got an empty array"));
    }
    if items.len() > limits.update_operations {
        let limit = limits.update_operations;
        return Err(Problem::too_large(format!("an update has at most {limit} operations")));
    }
    if seen.is_some() && items.len() > 1 {
        return Err(Problem::bad("If-Match goes with one operation, not with an array of them"));
    }
    let numbered = items.iter().enumerate();
    numbered
        .map(|(index, item)| {
            one(item, seen.clone()).map_err(|problem| problem.inside(&format!("[{index}]")))
        })
        .collect()
}

/// What a `PUT` of a raw value asks; `None` if the kind has no assignment.
pub fn assignment(
    kind: Kind,
    body: &Json<'_>,
    seen: Option<Vec<Dot>>,
    limits: &Limits,
) -> Result<Option<Command>, Problem> {
    Ok(Some(match (kind, body) {
        (Kind::Registers, _) => Command::Set(value(body, limits)?),
        (Kind::MultiRegisters, _) => set(member("a multi-register", body, limits)?, seen),
        (Kind::Flags, Json::Bool(enabled)) => Command::Enable(*enabled),
        (Kind::Flags, _) => return Err(expected("the value of a flag", "true or false", body)),
        (Kind::Counters | Kind::Sets | Kind::Maps, _) => return Ok(None),
    }))
}

fn set(value: Value, seen: Option<Vec<Dot>>) -> Command {
    match seen {
        Some(dots) => Command::SetSeen(value, dots),
        None => Command::Set(value),
    }
}

fn command(
    kind: Kind,
    members: &[Member<'_>],
    seen: Option<Vec<Dot>>,
    limits: &Limits,
) -> Result<Command, Problem> {
    match kind {
        Kind::Counters => {
            let (plus, minus) = amount(single(members, &["increment", "decrement"])?)?;
            Ok(Command::Count { plus, minus })
        }
        Kind::Registers => {
            let (_, json) = single(members, &["set"])?;
            Ok(Command::Set(value(json, limits)?))
        }
        Kind::MultiRegisters => {
            let (_, json) = single(members, &["set"])?;
            Ok(set(member("a multi-register", json, limits)?, seen))
        }
        Kind::Flags => Ok(Command::Enable(switch(single(members, &["enable", "disable"])?)?)),
        Kind::Sets => {
            let (add, remove) = member_lists(members, limits)?;
            Ok(Command::Members { add, remove })
        }
        Kind::Maps => fields(members, limits),
    }
}

/// The operation on a map: fields to update, names of fields to remove.
fn fields(members: &[Member<'_>], limits: &Limits) -> Result<Command, Problem> {
    let (mut update, mut remove) = (Vec::new(), Vec::new());
    for (name, json) in members {
        match name.as_ref() {
            "update" => {
                for (field, json) in object(json, "update")? {
                    let field = field_name(field, limits)?;
                    let command = object(json, "an update of a field")
                        .and_then(|members| field_command(members, limits))
                        .map_err(|problem| problem.inside(&format!("update.{field}")))?;
                    update.push((field, command));
                }
            }
            "remove" => {
                for json in array(json, "remove")? {
                    let Json::String(field) = json else {
                        return Err(expected("remove", "names of fields", json));
                    };
                    remove.push(field_name(field, limits)?);
                }
            }
            other => return Err(unknown(other, &["update", "remove"])),
        }
    }
    Ok(Command::Fields { update, remove })
}

fn field_command(members: &[Member<'_>], limits: &Limits) -> Result<FieldCommand, Problem> {
    const ALL: [&str; 7] = ["increment", "decrement", "set", "enable", "disable", "add", "remove"];
    let first = members.first().map(|(name, _)| name.as_ref());
    match first {
        Some("add" | "remove") => {
            let (add, remove) = member_lists(members, limits)?;
            Ok(FieldCommand::Members { add, remove })
        }
        Some("increment" | "decrement") => {
            let (plus, minus) = amount(single(members, &ALL)?)?;
            Ok(FieldCommand::Count { plus, minus })
        }
        Some("enable" | "disable") => Ok(FieldCommand::Enable(switch(single(members, &ALL)?)?)),
        _ => match single(members, &ALL)? {
            ("set", json) => Ok(FieldCommand::Set(value(json, limits)?)),
            (other, _) => Err(unknown(other, &ALL)),
        },
    }
}

/// The only member of an operation, by one of the allowed names.
fn single<'a>(
    members: &'a [Member<'_>],
    allowed: &[&str],
) -> Result<(&'a str, &'a Json<'a>), Problem> {
    if let Some((name, _)) = members.iter().find(|(name, _)| !allowed.contains(&name.as_ref())) {
        return Err(unknown(name, allowed));
    }
    match members {
        [(name, json)] => Ok((name, json)),
        _ => {
            let (got, allowed) = (members.len(), allowed.join(", "));
            let detail = format!("an operation has exactly one of {allowed}, got {got}");
            Err(Problem::bad(detail + "; send an array for several"))
        }
    }
}

/// What to add and to subtract.
fn amount((name, json): (&str, &Json<'_>)) -> Result<(u128, u128), Problem> {
    let refuse = || expected(name, "an integer within i128, as a number or a string", json);
    let amount = integer(json).ok_or_else(refuse)?;
    let size = amount.unsigned_abs();
    let adds = (name == "increment") == (amount >= 0);
    Ok(if adds { (size, 0) } else { (0, size) })
}

fn integer(json: &Json<'_>) -> Option<i128> {
    let exact = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<i128>().ok())
    };
    match json {
        Json::String(text) => exact(text)?,
        // `1.0` and `1e3` are integers too, as far as a double is exact.
        Json::Number(text, value) => exact(text).unwrap_or_else(|| {
            let whole = value.fract() == 0.0 && value.abs() <= EXACT_MAX;
            whole.then_some(*value as i128)
        }),
        _ => None,
    }
}

fn switch((name, json): (&str, &Json<'_>)) -> Result<bool, Problem> {
    match json {
        Json::Bool(true) => Ok(name == "enable"),
        _ => Err(expected(name, "true", json)),
    }
}

/// The `add` and `remove` of a set.
fn member_lists(
    members: &[Member<'_>],
    limits: &Limits,
) -> Result<(Vec<Value>, Vec<Value>), Problem> {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for (name, json) in members {
        let list = match name.as_ref() {
            "add" => &mut add,
            "remove" => &mut remove,
            other => return Err(unknown(other, &["add", "remove"])),
        };
        for json in array(json, name)? {
            list.push(member(name, json, limits)?);
        }
    }
    Ok((add, remove))
}

/// A value that an entity holds many of.
fn member(name: &str, json: &Json<'_>, limits: &Limits) -> Result<Value, Problem> {
    let (member, limit) = (value(json, limits)?, limits.member_bytes);
    if member.len() > limit {
        return Err(Problem::too_large(format!("a member of {name} passes {limit} bytes")));
    }
    Ok(member)
}

fn value(json: &Json<'_>, limits: &Limits) -> Result<Value, Problem> {
    canonical(json, limits.json_depth).map_err(|_| {
        Problem::too_large(format!("a value nests deeper than {} levels", limits.json_depth))
    })
}

fn field_name(name: &str, limits: &Limits) -> Result<String, Problem> {
    match name.len() {
        0 => Err(Problem::bad("a field's name must not be empty")),
        bytes if bytes > limits.field_name_bytes => {
            let limit = limits.field_name_bytes;
            Err(Problem::too_large(format!("a field's name has {bytes} bytes; at most {limit}")))
        }
        _ => Ok(name.into()),
    }
}

fn object<'a, 'b>(json: &'a Json<'b>, what: &str) -> Result<&'a [Member<'b>], Problem> {
    match json {
        Json::Object(members) => Ok(members),
        _ => Err(expected(what, "an object", json)),
    }
}

fn array<'a, 'b>(json: &'a Json<'b>, what: &str) -> Result<&'a [Json<'b>], Problem> {
    match json {
        Json::Array(items) => Ok(items),
        _ => Err(expected(what, "an array", json)),
    }
}

fn expected(what: &str, expected: &str, json: &Json<'_>) -> Problem {
    let got: Cow<'_, str> = match json {
        Json::Number(text, _) if text.len() <= 64 => Cow::Borrowed(text),
        Json::String(text) if text.len() <= 64 => Cow::Owned(format!("{text:?}")),
        Json::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
        _ => Cow::Borrowed(json.type_name()),
    };
    Problem::bad(format!("{what}: expected {expected}, got {got}"))
}

fn unknown(name: &str, allowed: &[&str]) -> Problem {
    let name: String = name.chars().take(80).collect();
    Problem::bad(format!("unknown operation {name:?}; allowed here: {}", allowed.join(", ")))
}

#[cfg(test)]
mod tests;
