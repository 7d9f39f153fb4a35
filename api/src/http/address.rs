//! Addresses in paths: strict percent-decoding and the parts of `/v1/{kind}/{collection}/{id}`.
//!
//! Invariants:
//! 1. A path is split at its raw slashes before it is decoded: `%2F` is part of an id.
//! 2. `encode` is the inverse of `decode` for every id.

use std::borrow::Cow;

use atoll_store::name::{Collection, EntityKey, Kind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::problem::{Code, Problem};

/// First segments behind `/v1` that are routes of their own and never a kind.
const RESERVED: [&str; 8] =
    ["batch", "behaviours", "changes", "cluster", "collections", "operations", "topics", "ws"];
/// Kinds that the contract names and this version does not serve.
const LATER: [&str; 2] = ["documents", "entities"];

/// Everything but the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The kind of that name.
pub fn kind(name: &str) -> Result<Kind, Problem> {
    if let Some(kind) = Kind::parse(name) {
        return Ok(kind);
    }
    if LATER.contains(&name) {
        return Err(Problem::new(Code::NotImplemented, format!("{name} are not implemented yet")));
    }
    if RESERVED.contains(&name) {
        return Err(Problem::new(Code::UnknownRoute, "there is no such route; see /openapi.json"));
    }
    let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let name: String = name.chars().take(80).collect();
    let detail = format!("{name:?} is not one of {}", known.join(", "));
    Err(Problem::new(Code::UnknownKind, detail))
}

/// The entity that a raw path `/v1/{kind}/{collection}/{id}` names.
pub fn entity(path: &str) -> Result<EntityKey, Problem> {
    let mut parts = parts(path)?;
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(collection), Some(id), None) => {
            let kind = kind(name)?;
            Ok(EntityKey::parse(kind, &decode(collection)?, &decode(id)?)?)
        }
        _ => Err(unknown_route()),
    }
}

/// The collection that a raw path `/v1/{kind}/{collection}` names.
pub fn collection(path: &str) -> Result<(Kind, Collection), Problem> {
    let mut parts = parts(path)?;
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(collection), None) => {
            let kind = kind(name)?;
            Ok((kind, Collection::parse(&decode(collection)?)?))
        }
        _ => Err(unknown_route()),
    }
}

fn parts(path: &str) -> Result<std::str::Split<'_, char>, Problem> {
    path.strip_prefix("/v1/").map(|rest| rest.split('/')).ok_or_else(unknown_route)
}

fn unknown_route() -> Problem {
    Problem::new(Code::UnknownRoute, "expected /v1/{kind}/{collection}/{id}")
}

/// Decodes percent escapes, strictly: a bad escape or bad UTF-8 is a 400.
pub fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|d| char::from(d).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(Problem::bad("expected two hexadecimal digits after % in the address"));
        };
        out.push((high * 16 + low) as u8);
    }
    let text = String::from_utf8(out);
    text.map(Cow::Owned).map_err(|_| Problem::bad("the address is not UTF-8 once decoded"))
}

/// Percent-encodes an id for a path or a CloudEvents subject.
pub fn encode(id: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(id, ENCODED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(path: &str) -> Code {
        entity(path).expect_err(path).code
    }

    #[test]
    fn a_slash_can_be_part_of_an_id() {
        let key = entity("/v1/counters/likes/a%2Fb%20%c3%A9").expect("valid");
        assert_eq!((key.kind, key.id.as_str()), (Kind::Counters, "a/b é"));
        assert_eq!(entity("/v1/sets/c/a+b:@").expect("valid").id.as_str(), "a+b:@");
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        assert_eq!(code("/v1/widgets/a/b"), Code::UnknownKind);
        assert_eq!(code("/v1/documents/a/b"), Code::NotImplemented);
        assert_eq!(code("/v1/cluster/a/b"), Code::UnknownRoute);
        assert_eq!(code("/v1/sets/a/b/c"), Code::UnknownRoute);
        assert_eq!(code("/v1/sets/A/b"), Code::BadRequest);
        assert_eq!(code("/v1/sets/a/"), Code::BadRequest);
        for bad in ["%", "%2", "%zz", "%+1", "%ff", "%c3"] {
            assert_eq!(code(&format!("/v1/sets/a/{bad}")), Code::BadRequest, "{bad}");
        }
        assert_eq!(code(&format!("/v1/sets/a/{}", "x".repeat(257))), Code::TooLarge);
    }

    proptest! {
        #[test]
        fn encoding_round_trips(id in "\\PC{1,40}") {
            let encoded = encode(&id).to_string();
            prop_assert!(encoded.is_ascii() && !encoded.contains('/'));
            prop_assert_eq!(decode(&encoded).expect("valid"), id);
        }

        #[test]
        fn garbage_never_panics(path in "\\PC{0,60}") {
            let _ = (entity(&path), collection(&path), entity(&format!("/v1/sets/a/{path}")));
        }
    }
}
