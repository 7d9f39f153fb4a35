//! `get`, `set`, `incr`, `add`, `remove` and `command`: one request each.
//!
//! Left out: conditions, sessions and idempotency keys; `--trace` gives the curl to add them to.

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::output::{Paint, paint, plain};
use super::{Common, Entity, Failure, Output};
use crate::client::{Call, ClientError};

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// kind/collection/id
    entity: Entity,
    #[command(flatten)]
    level: Level,
}

/// Arguments of `set`.
#[derive(Debug, Args)]
#[command(after_help = "\
Values are JSON; what is no JSON is taken as text:

  atoll set registers/titles/post-42 '\"Hello\"'
  atoll set registers/titles/post-42 Hello
  atoll set multi-registers/carts/c-1 '{\"items\": 2}'
  atoll set flags/seen/post-42 true
  atoll set maps/posts/42 title=Hello likes=+1 seen=true

Map fields: `field=value` sets a register, `field=true|false` a flag, `field=+n|-n` adds to a \
counter, `field={\"add\": [\"x\"]}` is an operation of the field's type as it is, and `field=` \
removes the field.")]
pub struct Set {
    /// kind/collection/id
    entity: Entity,
    /// A value; for maps, one or more field=value
    #[arg(required = true, allow_negative_numbers = true)]
    values: Vec<String>,
    #[command(flatten)]
    level: Level,
}

/// Arguments of `incr`.
#[derive(Debug, Args)]
pub struct Incr {
    /// counters/collection/id
    entity: Entity,
    /// By how much
    #[arg(default_value = "1", allow_negative_numbers = true)]
    by: i64,
    #[command(flatten)]
    level: Level,
}

/// Arguments of `add` and `remove`.
#[derive(Debug, Args)]
pub struct Members {
    /// sets/collection/id
    entity: Entity,
    /// Members: JSON; what is no JSON is taken as text
    #[arg(required = true, allow_negative_numbers = true)]
    members: Vec<String>,
    #[command(flatten)]
    level: Level,
}

/// Arguments of `command`.
#[derive(Debug, Args)]
pub struct Owned {
    /// entities/type/id
    entity: Entity,
    /// The command's type
    name: String,
    /// Its data, JSON
    #[arg(default_value = "{}")]
    data: String,
}

/// How many replicas must answer.
#[derive(Debug, Args)]
struct Level {
    /// one, local_quorum, quorum, each_quorum or all
    #[arg(long)]
    consistency: Option<String>,
    /// How long to wait for them, in milliseconds
    #[arg(long)]
    timeout: Option<u32>,
}

impl Level {
    fn path(&self, entity: &Entity) -> String {
        let mut query = Vec::new();
        if let Some(level) = &self.consistency {
            query.push(format!("consistency={}", super::entity::segment(level)));
        }
        if let Some(timeout) = self.timeout {
            query.push(format!("timeout={timeout}"));
        }
        match query.is_empty() {
            true => entity.path(),
            false => format!("{}?{}", entity.path(), query.join("&")),
        }
    }
}

/// Prints the value.
pub async fn get(common: &Common, what: Get) -> Result<(), Failure> {
    let client = common.client()?;
    let answer = common.call(&client, Call::get(what.level.path(&what.entity))).await;
    let answer = answer.map_err(|failure| match failure {
        Failure::Refused(problem) if problem.is_absent() => {
            Failure::Absent(format!("{} is not there", what.entity))
        }
        failure => failure,
    })?;
    print(common, &answer.body);
    Ok(())
}

/// Assigns.
pub async fn set(common: &Common, what: Set) -> Result<(), Failure> {
    let operation = assignment(&what.entity.kind, &what.values).map_err(Failure::Usage)?;
    let path = what.level.path(&what.entity);
    let call = match what.entity.kind.as_str() {
        "documents" => Call { method: Method::PUT, ..Call::post(path, operation) },
        _ => Call::post(path, operation),
    };
    send(common, call).await
}

/// Adds to a counter.
pub async fn incr(common: &Common, what: Incr) -> Result<(), Failure> {
    expect(&what.entity, "counters")?;
    send(common, Call::post(what.level.path(&what.entity), counted(what.by))).await
}

/// Adds members, or removes them.
pub async fn members(common: &Common, what: Members, verb: &str) -> Result<(), Failure> {
    expect(&what.entity, "sets")?;
    let members: Vec<Value> = what.members.iter().map(|text| json_or_text(text)).collect();
    send(common, Call::post(what.level.path(&what.entity), json!({verb: members}))).await
}

/// Runs a command at an owned entity, where the server knows how.
pub async fn command(common: &Common, what: Owned) -> Result<(), Failure> {
    expect(&what.entity, "entities")?;
    let data: Value = serde_json::from_str(&what.data)
        .map_err(|e| Failure::Usage(format!("the data is not JSON: {e}")))?;
    let client = common.client()?;
    let path = format!("{}/commands", what.entity.path());
    let call = Call::post(path, json!({"type": what.name, "data": data}));
    common.show(&client, &call);
    match client.call(&call).await {
        Err(ClientError::Refused(problem)) if problem.status == 501 => Err(Failure::failed(
            "this server does not run owned entities (501 not-implemented); replicated kinds \
             such as counters, registers and sets need no owner",
        )),
        Err(error) => Err(error.into()),
        Ok(answer) => {
            println!("{}", answer.body);
            Ok(())
        }
    }
}

async fn send(common: &Common, call: Call) -> Result<(), Failure> {
    let client = common.client()?;
    let answer = common.call(&client, call).await?;
    print(common, &answer.body);
    Ok(())
}

fn print(common: &Common, body: &Value) {
    match common.output {
        Output::Json => println!("{body}"),
        Output::Table => {
            println!("{}", plain(&body["value"]));
            if let Value::Object(conflicts) = &body["conflicts"] {
                eprintln!("{} {}", paint(Paint::Yellow, "conflicts:"), json!(conflicts));
            }
        }
    }
}

fn expect(entity: &Entity, kind: &str) -> Result<(), Failure> {
    if entity.kind == kind {
        return Ok(());
    }
    Err(Failure::Usage(format!("this works on {kind}, and {entity} is none of them")))
}

/// JSON, or else the text itself.
fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()))
}

fn counted(by: i64) -> Value {
    match by {
        0.. => json!({"increment": by}),
        _ => json!({"decrement": by.unsigned_abs()}),
    }
}

/// The body of a `set`.
fn assignment(kind: &str, values: &[String]) -> Result<Value, String> {
    if kind == "maps" {
        return fields(values);
    }
    let [value] = values else { return Err(format!("{kind} take one value")) };
    let value = json_or_text(value);
    match (kind, &value) {
        ("registers" | "multi-registers", _) => Ok(json!({"set": value})),
        ("flags", Value::Bool(true)) => Ok(json!({"enable": true})),
        ("flags", Value::Bool(false)) => Ok(json!({"disable": true})),
        ("flags", _) => Err("a flag is true or false".into()),
        ("documents", _) => Ok(value),
        ("counters", _) => Err("a counter cannot be assigned; use `atoll incr`".into()),
        ("sets", _) => Err("a set cannot be assigned; use `atoll add` and `atoll remove`".into()),
        _ => Err(format!("{kind} cannot be assigned")),
    }
}

fn fields(values: &[String]) -> Result<Value, String> {
    let mut update = Map::new();
    let mut remove = Vec::new();
    for text in values {
        let Some((field, value)) = text.split_once('=').filter(|(field, _)| !field.is_empty())
        else {
            return Err(format!("expected field=value, got {text:?}"));
        };
        if value.is_empty() {
            remove.push(field.to_string());
            continue;
        }
        let signed = value.starts_with(['+', '-']).then(|| value.parse::<i64>().ok()).flatten();
        let operation = match (signed, json_or_text(value)) {
            (Some(by), _) => counted(by),
            (None, Value::Bool(true)) => json!({"enable": true}),
            (None, Value::Bool(false)) => json!({"disable": true}),
            (None, Value::Object(operation)) if is_operation(&operation) => operation.into(),
            (None, value) => json!({"set": value}),
        };
        update.insert(field.into(), operation);
    }
    let mut body = Map::new();
    if !update.is_empty() {
        body.insert("update".into(), update.into());
    }
    if !remove.is_empty() {
        body.insert("remove".into(), json!(remove));
    }
    Ok(body.into())
}

fn is_operation(object: &Map<String, Value>) -> bool {
    let verbs = ["increment", "decrement", "set", "enable", "disable", "add", "remove"];
    !object.is_empty() && object.keys().all(|key| verbs.contains(&key.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, values: &[&str], expected: Value) {
        let values: Vec<String> = values.iter().map(|v| v.to_string()).collect();
        assert_eq!(assignment(kind, &values), Ok(expected));
    }

    #[test]
    fn assignments_by_kind() {
        check("registers", &["Hello"], json!({"set": "Hello"}));
        check("registers", &["\"7\""], json!({"set": "7"}));
        check("multi-registers", &["{\"a\":1}"], json!({"set": {"a": 1}}));
        check("flags", &["false"], json!({"disable": true}));
        check(
            "maps",
            &["title=A", "likes=+2", "n=7", "seen=true", "tags={\"add\":[\"x\"]}", "old="],
            json!({"update": {"title": {"set": "A"}, "likes": {"increment": 2}, "n": {"set": 7},
                "seen": {"enable": true}, "tags": {"add": ["x"]}}, "remove": ["old"]}),
        );
        assert!(assignment("counters", &["1".into()]).is_err());
        assert!(assignment("flags", &["yes".into()]).is_err());
        assert!(assignment("registers", &["1".into(), "2".into()]).is_err());
        assert!(assignment("maps", &["=1".into()]).is_err());
    }
}
