//! The part of EDN that histories use, as JSON values: a reader and a writer.
//!
//! nil, booleans, numbers, strings, keywords, vectors, lists, sets and maps. What JSON cannot say
//! is read as its nearest: a keyword or a symbol is a string, a list or a set an array, a key that
//! is no string or keyword its text. Written, a map's key is a keyword where it can be one.
//!
//! Left out: characters, ratios, tagged literals and comments are refused.

use serde_json::{Map, Value};

use super::{Op, Type};

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 64;

/// An operation as an EDN map.
pub fn op_to_string(op: &Op) -> String {
    let process = match Value::from(op.process) {
        Value::String(name) => keyword(&name),
        number => number.to_string(),
    };
    let kind = match op.kind {
        Type::Invoke => "invoke",
        Type::Ok => "ok",
        Type::Fail => "fail",
        Type::Info => "info",
    };
    let (index, time, f) = (op.index, op.time, keyword(&op.f));
    let mut text = format!("{{:index {index} :time {time} :process {process} :type :{kind} :f {f}");
    text.push_str(" :value ");
    write(&op.value, &mut text);
    if let Some(error) = &op.error {
        text.push_str(" :error ");
        write(error, &mut text);
    }
    if let Some(node) = &op.node {
        text.push_str(" :node ");
        text.push_str(&Value::from(node.as_str()).to_string());
    }
    text.push('}');
    text
}

/// Reads an operation from an EDN map.
pub fn op_from_str(line: &str) -> Result<Op, String> {
    serde_json::from_value(from_str(line)?).map_err(|e| e.to_string())
}

/// Reads one EDN value.
pub fn from_str(text: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.skip_blanks();
    if reader.rest.is_empty() { Ok(value) } else { Err(reader.problem("the end")) }
}

/// Appends a value as EDN.
pub fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("nil"),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place > 0 { " " } else { "" });
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (place, (key, item)) in fields.iter().enumerate() {
                out.push_str(if place > 0 { " " } else { "" });
                out.push_str(&keyword(key));
                out.push(' ');
                write(item, out);
            }
            out.push('}');
        }
    }
}

/// A keyword, or a string where the name cannot be a keyword.
fn keyword(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.?!*+/".contains(c);
    let letter = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    if letter && name.chars().all(plain) {
        format!(":{name}")
    } else {
        Value::from(name).to_string()
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }

    fn problem(&self, expected: &str) -> String {
        let near: String = self.rest.chars().take(20).collect();
        format!("expected {expected} at {near:?}")
    }

    fn take(&mut self, prefix: &str) -> bool {
        let found = self.rest.strip_prefix(prefix);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(self.problem("less nesting"));
        }
        self.skip_blanks();
        if self.rest.starts_with('"') {
            return self.string();
        }
        if self.take("[") {
            return Ok(Value::Array(self.items("]", depth)?));
        }
        if self.take("(") {
            return Ok(Value::Array(self.items(")", depth)?));
        }
        if self.take("#{") {
            return Ok(Value::Array(self.items("}", depth)?));
        }
        if self.take("{") {
            return self.map(depth);
        }
        self.atom()
    }

    fn items(&mut self, close: &str, depth: usize) -> Result<Vec<Value>, String> {
        let mut items = Vec::new();
        loop {
            self.skip_blanks();
            if self.take(close) {
                return Ok(items);
            }
            items.push(self.value(depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, String> {
        let items = self.items("}", depth)?;
        if items.len() % 2 == 1 {
            return Err(self.problem("a value for each key, before"));
        }
        let name = |key: &Value| key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        let fields = items.chunks(2).map(|pair| (name(&pair[0]), pair[1].clone()));
        Ok(Value::Object(fields.collect::<Map<_, _>>()))
    }

    /// A string; EDN's escapes are JSON's, except that a line may end inside.
    fn string(&mut self) -> Result<Value, String> {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        let (end, _) = end.ok_or_else(|| self.problem("a closed string"))?;
        let (text, rest) = self.rest.split_at(end + 1);
        let text = text.replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
        let value = serde_json::from_str(&text).map_err(|_| self.problem("a string"))?;
        self.rest = rest;
        Ok(value)
    }

    /// nil, a boolean, a number, a keyword or a symbol.
    fn atom(&mut self) -> Result<Value, String> {
        let ends = |c: char| c.is_whitespace() || ",()[]{}\";#\\".contains(c);
        let (atom, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        let value = match atom {
            "" => return Err(self.problem("a value")),
            "nil" => Value::Null,
            "true" => true.into(),
            "false" => false.into(),
            _ => self.word(atom)?,
        };
        self.rest = rest;
        Ok(value)
    }

    fn word(&self, atom: &str) -> Result<Value, String> {
        if let Some(name) = atom.strip_prefix(':').filter(|name| !name.is_empty()) {
            return Ok(name.into());
        }
        let digits = atom.trim_start_matches(['-', '+']);
        if digits.starts_with(|c: char| c.is_ascii_digit()) {
            let number = atom.trim_start_matches('+').trim_end_matches(['N', 'M']);
            return serde_json::from_str(number).map_err(|_| self.problem("a number"));
        }
        if atom.starts_with(|c: char| c.is_alphabetic() || "*!_?<=>$&%-+./".contains(c)) {
            return Ok(atom.into());
        }
        Err(self.problem("a value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(text: &str, expected: Value) {
        assert_eq!(from_str(text).unwrap(), expected, "{text}");
    }

    #[test]
    fn every_form_is_read() {
        check(" nil ", Value::Null);
        check("[true, false]", json!([true, false]));
        check("(1 -2 +3 4N 2.5 1e3)", json!([1, -2, 3, 4, 2.5, 1e3]));
        check("#{:a :b/c}", json!(["a", "b/c"]));
        check("{:a 1 \"b c\" {} 3 nil}", json!({"a": 1, "b c": {}, "3": null}));
        check("\"\\\"\\\\ \\u00e9\n\"", json!("\"\\ é\n"));
    }

    #[test]
    fn what_is_not_a_value_is_refused() {
        let deep = "[".repeat(100_000);
        for bad in ["", "{", "[1", "{:a}", "\"x", "1 2", ":", "#inst \"x\"", "1/2", "\\a", &deep] {
            assert!(from_str(bad).is_err(), "{bad:.20}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{0,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_round_trip(value in values()) {
            let mut text = String::new();
            write(&value, &mut text);
            prop_assert!(!text.contains('\n'));
            prop_assert_eq!(from_str(&text).unwrap(), value);
        }

        #[test]
        fn garbage_never_panics(text in ".*") {
            let _ = from_str(&text);
            let _ = op_from_str(&text);
        }
    }
}
