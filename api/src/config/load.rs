//! Reads the configuration file and the environment into a checked [`Config`].
//!
//! Invariants:
//! 1. Every error names the key, where it was written, and what to write instead.
//! 2. The environment wins over the file, the file over the defaults.
//!
//! Left out: formats other than TOML, and includes.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat, Source, Value, ValueKind};
use serde_json::{Value as Json, json};

use super::Config;
use super::check;
use super::keys::{Key, Shape};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read: check the path and its permissions.
    #[error("cannot read the configuration {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: std::io::Error,
    },
    /// The file is no TOML: mend the line that the message names.
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        message: String,
    },
    /// No such key: use the one that is proposed, or remove it.
    #[error("{place}: unknown key `{key}`{}", hint(nearest))]
    Unknown {
        /// `section.key`.
        key: String,
        /// File and line, or the variable.
        place: String,
        /// The known key most like it.
        nearest: Option<&'static str>,
    },
    /// The value does not fit the key: write what is expected.
    #[error("{place}: `{key}` is {found}, but must be {expected}")]
    Value {
        /// `section.key`.
        key: String,
        /// File and line, or the variable.
        place: String,
        /// What is there.
        found: String,
        /// What must be there.
        expected: String,
    },
    /// Two keys contradict each other: change one of them.
    #[error("{0}")]
    Contradiction(String),
}

fn hint(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(key) => format!("; did you mean `{key}`?"),
        None => "; `atoll config check` without a file prints all keys".into(),
    }
}

/// Where values come from, to say so in errors.
struct Origin {
    path: Option<PathBuf>,
    text: String,
}

pub(super) fn load(
    file: Option<&Path>,
    environment: Option<HashMap<String, String>>,
) -> Result<Config, ConfigError> {
    let origin = Origin::read(file)?;
    let mut found: BTreeMap<String, (Value, String)> = BTreeMap::new();
    if let Some(path) = &origin.path {
        let source = File::from_str(&origin.text, FileFormat::Toml);
        let syntax = |e: config::ConfigError| ConfigError::Syntax {
            path: path.clone(),
            message: e.to_string(),
        };
        for (section, value) in source.collect().map_err(syntax)? {
            flatten(section, value, |name| origin.place(name), &mut found);
        }
    }
    let variables = Environment::with_prefix("ATOLL")
        .prefix_separator("__")
        .separator("__")
        .source(environment);
    let variables = variables.collect().expect("variables are read without parsing");
    for (name, value) in variables {
        flatten(name, value, variable, &mut found);
    }
    let mut sections = json!({});
    for (name, (value, place)) in found {
        let key = Key::find(&name).ok_or_else(|| ConfigError::Unknown {
            nearest: Key::nearest(&name),
            key: name.clone(),
            place: place.clone(),
        })?;
        let (section, field) = name.split_once('.').expect("known keys have a section");
        sections[section][field] = checked(key, &value, &place)?;
    }
    let config: Config = serde_json::from_value(sections).map_err(contradiction)?;
    check::consistent(&config)?;
    Ok(config)
}

fn contradiction(error: serde_json::Error) -> ConfigError {
    ConfigError::Contradiction(error.to_string())
}

impl Origin {
    fn read(file: Option<&Path>) -> Result<Origin, ConfigError> {
        let Some(path) = file else { return Ok(Origin { path: None, text: String::new() }) };
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Unreadable { path: path.into(), cause })?;
        if let Err(error) = text.parse::<toml::Table>() {
            let message = error.to_string().trim_end().to_string();
            return Err(ConfigError::Syntax { path: path.into(), message });
        }
        Ok(Origin { path: Some(path.into()), text })
    }

    /// `file:line` of a key, by a scan for its section and name.
    fn place(&self, name: &str) -> String {
        let file = self.path.as_deref().unwrap_or(Path::new("configuration")).display();
        let (section, field) = name.split_once('.').unwrap_or(("", name));
        let mut current = String::new();
        for (index, line) in self.text.lines().enumerate() {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[') {
                current = header.trim_end_matches(']').trim().to_lowercase();
                if field.is_empty() && current == section {
                    return format!("{file}:{}", index + 1);
                }
            } else if let Some((left, _)) = line.split_once('=') {
                let left = left.trim().to_lowercase();
                if (current == section && left == field) || left == name {
                    return format!("{file}:{}", index + 1);
                }
            }
        }
        file.to_string()
    }
}

fn variable(name: &str) -> String {
    format!("environment ATOLL__{}", name.to_uppercase().replace('.', "__"))
}

/// Brings nested tables to `section.key`; deeper ones keep their dots and turn out unknown.
fn flatten(
    name: String,
    value: Value,
    place: impl Fn(&str) -> String + Copy,
    into: &mut BTreeMap<String, (Value, String)>,
) {
    match value.kind {
        ValueKind::Table(fields) => {
            for (field, value) in fields {
                flatten(format!("{name}.{field}"), value, place, into);
            }
        }
        _ => {
            let place = place(&name);
            into.insert(name, (value, place));
        }
    }
}

/// The value as the key's type, or an error that says what to write.
fn checked(key: &Key, value: &Value, place: &str) -> Result<Json, ConfigError> {
    let from_variable = place.starts_with("environment ");
    let refuse = || ConfigError::Value {
        key: key.name.into(),
        place: place.into(),
        found: describe(&value.kind),
        expected: key.shape.expected(),
    };
    let text = match &value.kind {
        ValueKind::String(text) => Some(text.as_str()),
        _ => None,
    };
    match key.shape {
        Shape::Count(..) | Shape::Port => {
            let (low, high) = key.shape.range();
            let number = match &value.kind {
                ValueKind::I64(n) => u64::try_from(*n).ok(),
                ValueKind::U64(n) => Some(*n),
                ValueKind::String(text) if from_variable => text.trim().parse().ok(),
                _ => None,
            };
            let number = number.filter(|n| (low..=high).contains(n)).ok_or_else(refuse)?;
            Ok(json!(number))
        }
        Shape::Flag => {
            let flag = match &value.kind {
                ValueKind::Boolean(flag) => Some(*flag),
                ValueKind::String(text) if from_variable => text.trim().parse().ok(),
                _ => None,
            };
            Ok(json!(flag.ok_or_else(refuse)?))
        }
        Shape::Endpoints | Shape::Translations | Shape::Urls | Shape::Choices(_) => {
            let items = list(value, from_variable).ok_or_else(refuse)?;
            let good = match key.shape {
                Shape::Choices(words) => {
                    !items.is_empty() && items.iter().all(|i| words.contains(&i.as_str()))
                }
                Shape::Urls => items.iter().all(|i| is_url(i)),
                Shape::Translations => items.iter().all(|i| {
                    i.split_once('=').is_some_and(|(a, b)| is_endpoint(a) && is_endpoint(b))
                }),
                _ => items.iter().all(|i| is_endpoint(i)),
            };
            if good { Ok(json!(items)) } else { Err(refuse()) }
        }
        _ => {
            let text = text.ok_or_else(refuse)?;
            if fits(key.shape, text) { Ok(json!(text)) } else { Err(refuse()) }
        }
    }
}

fn fits(shape: Shape, text: &str) -> bool {
    match shape {
        Shape::Text(required) => !required || !text.is_empty(),
        Shape::Word => is_word(text),
        Shape::Name => text.is_empty() || is_word(text),
        Shape::Choice(words) => words.contains(&text),
        Shape::Url => text.is_empty() || is_url(text),
        Shape::Server => text.is_empty() || text.parse::<SocketAddr>().is_ok(),
        Shape::Prefix => text.starts_with('/') && !text.ends_with('/') && !text.contains(' '),
        // The parser takes any single word for the name of a module.
        Shape::Filter => {
            let word = |part: &str| !part.contains('=') && part.parse::<tracing::Level>().is_err();
            tracing_subscriber::EnvFilter::try_new(text).is_ok() && !text.split(',').all(word)
        }
        Shape::Listen => text.parse::<SocketAddr>().is_ok(),
        Shape::Endpoint => text.is_empty() || is_endpoint(text),
        Shape::Endpoints
        | Shape::Translations
        | Shape::Urls
        | Shape::Choices(_)
        | Shape::Count(..)
        | Shape::Port
        | Shape::Flag => false,
    }
}

fn is_word(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    (1..=63).contains(&text.len()) && text.chars().all(good)
}

/// `http://host` or `https://host`, perhaps with a port, and nothing behind.
fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let plain = |rest: &str| !rest.is_empty() && !rest.contains(['/', ' ', '?', '#', '@']);
    rest.is_some_and(|rest| plain(rest) && text.parse::<axum::http::Uri>().is_ok())
}

fn is_endpoint(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(' ') && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn list(value: &Value, from_variable: bool) -> Option<Vec<String>> {
    match &value.kind {
        ValueKind::Array(items) => items
            .iter()
            .map(|item| match &item.kind {
                ValueKind::String(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        ValueKind::String(text) if from_variable => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(items.map(str::to_string).collect())
        }
        _ => None,
    }
}

fn describe(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => format!("the text \"{text}\""),
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| item.to_string()).collect();
            format!("the list [{}]", items.join(", "))
        }
        ValueKind::Table(_) => "a table".into(),
        ValueKind::Nil => "empty".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
