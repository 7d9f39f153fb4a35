//! JSON values as the surface reads them: strict I-JSON (RFC 7493), parsed by hand.
//!
//! Invariants:
//! 1. An object's members are in the order of RFC 8785 (UTF-16 code units), names distinct.
//! 2. Every number is finite as an f64; its text is kept, so that integers stay exact.
//! 3. Nesting is bounded, so that no input exhausts the stack.
//!
//! Left out: noncharacters, which RFC 7493 forbids and which we let pass; exactness beyond 2^53 in
//! values, which RFC 8785 gives up (the canonical form of 9007199254740993 ends in 2).

mod canonical;
mod parse;

use std::borrow::Cow;

pub use canonical::{Canonical, TooDeep, canonical, write_canonical, write_string};
pub use parse::parse;

/// A JSON value that borrows from the text it was parsed from.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number: its text, and its value.
    Number(&'a str, f64),
    /// A string, unescaped.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object, its members in canonical order.
    Object(Vec<Member<'a>>),
}

/// A name and its value.
pub type Member<'a> = (Cow<'a, str>, Json<'a>);

impl Json<'_> {
    /// What the value is, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(..) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        }
    }
}

/// Why a text is not I-JSON, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at line {line}, column {column}")]
pub struct JsonError {
    /// What is wrong.
    pub message: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Whether the nesting limit was passed: 413 rather than 400.
    pub too_deep: bool,
}

impl JsonError {
    fn at(text: &[u8], offset: usize, message: impl Into<String>) -> JsonError {
        let before = &text[..offset.min(text.len())];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let characters = before[start..].iter().filter(|b| (**b & 0xc0) != 0x80).count();
        JsonError { message: message.into(), line, column: characters + 1, too_deep: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(input: &str) -> String {
        let json = parse(input.as_bytes(), 64).expect(input);
        String::from_utf8(canonical(&json, 64).expect("shallow").to_vec()).expect("UTF-8")
    }

    #[test]
    fn canonical_forms_are_those_of_rfc_8785() {
        let cases = [
            (
                "[1.0, 1e2, -0, 1E-7, 1e21, 333333333.33333329]",
                "[1,100,0,1e-7,1e+21,333333333.3333333]",
            ),
            (r#"{"b":1,"a":{"d":[],"c":null}}"#, r#"{"a":{"c":null,"d":[]},"b":1}"#),
            (r#""\u20ac\u0024\u000F\u000aA'\u0042\"\/\\""#, "\"€$\\u000f\\nA'B\\\"/\\\\\""),
            (
                "{\"\u{fb33}\":1,\"\u{1f600}\":2,\"\\r\":3}",
                "{\"\\r\":3,\"\u{1f600}\":2,\"\u{fb33}\":1}",
            ),
            (" true ", "true"),
            (r#""\ud83d\ude00""#, "\"\u{1f600}\""),
        ];
        for (input, expected) in cases {
            assert_eq!(text(input), expected, "{input}");
        }
    }

    #[test]
    fn what_is_not_i_json_is_refused_with_its_place() {
        let cases: [(&[u8], usize, usize, &str); 15] = [
            (b"", 1, 1, "expected a value"),
            (b"{\"a\":1,\n \"a\":2}", 2, 7, "duplicate name"),
            (b"[1,]", 1, 4, "expected a value"),
            (b"\"\\ud800\"", 1, 2, "surrogate"),
            (b"\"\\ud800\\u0041\"", 1, 2, "surrogate"),
            (b"\"\\udc00\"", 1, 2, "surrogate"),
            (b"1e999", 1, 1, "out of range"),
            (b"01", 1, 2, "after the value"),
            (b"1.", 1, 3, "digit"),
            (b"-", 1, 2, "digit"),
            (b"\"\xff\"", 1, 2, "UTF-8"),
            (b"\"a\nb\"", 1, 3, "control character"),
            (b"nul", 1, 1, "expected a value"),
            (b"{\"a\" 1}", 1, 6, "expected ':'"),
            (b"\"abc", 1, 5, "unterminated"),
        ];
        for (input, line, column, message) in cases {
            let error = parse(input, 64).expect_err(&String::from_utf8_lossy(input));
            assert!(error.message.contains(message), "{error} for {input:?}");
            assert_eq!((error.line, error.column), (line, column), "{error}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(parse(deep(64).as_bytes(), 64).is_ok());
        assert!(parse(deep(65).as_bytes(), 64).expect_err("too deep").too_deep);
        assert!(parse(&[b'['; 1_000_000], 64).expect_err("too deep").too_deep);
        let text = deep(10);
        let json = parse(text.as_bytes(), 64).expect("fine");
        assert!(canonical(&json, 10).is_ok() && canonical(&json, 9).is_err());
    }

    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_string()),
            any::<bool>().prop_map(|b| b.to_string()),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| format!("{f:e}")),
            any::<i64>().prop_map(|i| i.to_string()),
            any::<String>().prop_map(|s| serde_json::to_string(&s).expect("a string")),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let name = any::<String>().prop_map(|s| serde_json::to_string(&s).expect("a string"));
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|v| format!("[{}]", v.join(", "))),
                prop::collection::btree_map(name, inner, 0..4).prop_map(|members| {
                    let members: Vec<_> =
                        members.iter().map(|(k, v)| format!("{k} : {v}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_text_is_its_own_canonical_form(input in any_json()) {
            let once = text(&input);
            prop_assert_eq!(text(&once), once);
        }

        #[test]
        fn canonical_text_means_what_the_input_meant(input in any_json()) {
            let ours: serde_json::Value = serde_json::from_str(&text(&input)).expect("JSON");
            let theirs: serde_json::Value = serde_json::from_str(&input).expect("JSON");
            prop_assert!(alike(&ours, &theirs), "{} {}", ours, theirs);
        }

        #[test]
        fn garbage_never_panics(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&input, 64);
        }

        #[test]
        fn nearly_json_never_panics(input in "[\\[\\]{}\":,\\\\u0-9dDeE+.\\-tfn ]{0,40}") {
            let ours = parse(input.as_bytes(), 64).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&input).is_ok();
            prop_assert!(theirs || !ours, "accepted {}", input);
        }
    }

    fn alike(a: &serde_json::Value, b: &serde_json::Value) -> bool {
        use serde_json::Value::{Array, Number, Object};
        match (a, b) {
            (Number(a), Number(b)) => a.as_f64() == b.as_f64(),
            (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
            (Object(a), Object(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| alike(v, w)))
            }
            _ => a == b,
        }
    }
}
