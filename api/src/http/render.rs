//! Images to JSON: written by hand, once per image, shared by all readers.
//!
//! Invariants:
//! 1. A body ends with `"version":"<version>"}`: its ETag is a slice of it.
//! 2. Values are spliced in as they are: the store holds canonical JSON.

use std::io::Write as _;

use atoll_store::command::{FieldType, View};
use atoll_store::entity::Image;
use atoll_store::name::{EntityKey, Kind};
use atoll_store::transfer::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::json::write_string;
use super::version;

/// Largest integer that clients may read as a JSON number.
const SAFE_MAX: u128 = 9_007_199_254_740_991;

/// The body for an entity as it is at `now`; the image must not be absent then.
pub fn entity(key: &EntityKey, image: &Image, now: u64) -> Bytes {
    image.rendered(|| {
        let mut out = Vec::with_capacity(192);
        write_entity(&mut out, key, image.version(), image.view(key.kind, now).as_ref());
        out.into()
    })
}

/// The body for an entity with its CRDT, postcard in base64: for exports.
pub fn with_state(key: &EntityKey, image: &Image, now: u64) -> Bytes {
    let view = image.view(key.kind, now);
    let mut out = Vec::with_capacity(512);
    write_head(&mut out, key);
    match &view {
        Some(view) => {
            write_view(&mut out, view);
            write_conflicts(&mut out, view);
        }
        None => out.extend_from_slice(b"null"),
    }
    let state = State::whole(key.clone(), image.entity());
    let state = postcard::to_stdvec(&state).expect("a state encodes to memory");
    let _ = write!(out, ",\"state\":\"{}\"", STANDARD.encode(state));
    write_version(&mut out, &version_of(key.kind, image.version(), view.as_ref()));
    out.push(b'}');
    out.into()
}

/// The body for an entity without its value, for a client that prefers `return=minimal`.
pub fn minimal(key: &EntityKey, image: &Image, now: u64) -> Bytes {
    let mut out = Vec::with_capacity(192);
    write_name(&mut out, key);
    // Only a multi-register's version needs more than the hash.
    let view = (key.kind == Kind::MultiRegisters).then(|| image.view(key.kind, now)).flatten();
    write_version(&mut out, &version_of(key.kind, image.version(), view.as_ref()));
    out.push(b'}');
    out.into()
}

/// The body for an entity that is gone: `DELETE`, and the records of a stream.
pub fn absent(key: &EntityKey, image: &Image, existed: Option<bool>) -> Bytes {
    let mut out = Vec::with_capacity(192);
    write_head(&mut out, key);
    out.extend_from_slice(b"null");
    if let Some(existed) = existed {
        let _ = write!(out, ",\"existed\":{existed}");
    }
    write_version(&mut out, &version_of(key.kind, image.version(), None));
    out.push(b'}');
    out.into()
}

/// The ETag in a body, with its quotes.
pub fn etag(body: &Bytes) -> Bytes {
    let end = body.len().saturating_sub(1);
    let text = &body[..end.saturating_sub(1)];
    let start = text.iter().rposition(|b| *b == b'"').unwrap_or(end);
    body.slice(start..end)
}

/// The version of a view of that kind.
pub fn version_of(kind: Kind, hash: u128, view: Option<&View>) -> String {
    match (kind, view) {
        (_, Some(View::MultiRegister(_, dots))) => version::text(hash, Some(dots)),
        (Kind::MultiRegisters, _) => version::text(hash, Some(&[])),
        _ => version::text(hash, None),
    }
}

fn write_entity(out: &mut Vec<u8>, key: &EntityKey, hash: u128, view: Option<&View>) {
    write_head(out, key);
    match view {
        Some(view) => {
            write_view(out, view);
            write_conflicts(out, view);
        }
        None => out.extend_from_slice(b"null"),
    }
    write_version(out, &version_of(key.kind, hash, view));
    out.push(b'}');
}

fn write_head(out: &mut Vec<u8>, key: &EntityKey) {
    write_name(out, key);
    out.extend_from_slice(b",\"value\":");
}

fn write_name(out: &mut Vec<u8>, key: &EntityKey) {
    let (kind, collection) = (key.kind.as_str(), key.collection.as_str());
    let _ = write!(out, "{{\"kind\":\"{kind}\",\"collection\":\"{collection}\",\"id\":");
    write_string(out, key.id.as_str());
}

fn write_version(out: &mut Vec<u8>, version: &str) {
    let _ = write!(out, ",\"version\":\"{version}\"");
}

/// Appends one item of a list, with its value if asked.
pub fn write_item(out: &mut Vec<u8>, key: &EntityKey, image: &Image, now: u64, values: bool) {
    let view = image.view(key.kind, now);
    out.extend_from_slice(b"{\"id\":");
    write_string(out, key.id.as_str());
    if let Some(view) = view.as_ref().filter(|_| values) {
        out.extend_from_slice(b",\"value\":");
        write_view(out, view);
        write_conflicts(out, view);
    }
    write_version(out, &version_of(key.kind, image.version(), view.as_ref()));
    out.push(b'}');
}

/// Appends the value that a view shows.
pub fn write_view(out: &mut Vec<u8>, view: &View) {
    match view {
        View::Counter(sum) if sum.unsigned_abs() <= SAFE_MAX => {
            let _ = write!(out, "{sum}");
        }
        View::Counter(sum) => {
            let _ = write!(out, "\"{sum}\"");
        }
        View::Register(value) => out.extend_from_slice(value),
        View::Flag(enabled) => out.extend_from_slice(if *enabled { b"true" } else { b"false" }),
        View::Set(values) | View::MultiRegister(values, _) => {
            write_list(out, b"[]", values, |out, value| out.extend_from_slice(value));
        }
        View::Map(fields) => write_list(out, b"{}", fields, |out, (name, field)| {
            write_string(out, name);
            out.push(b':');
            write_view(out, &field.view);
        }),
    }
}

/// Appends `,"conflicts":{..}` if fields were created with several types at once.
fn write_conflicts(out: &mut Vec<u8>, view: &View) {
    let View::Map(fields) = view else { return };
    let mut conflicts = fields.iter().filter(|(_, field)| !field.conflicts.is_empty()).peekable();
    if conflicts.peek().is_none() {
        return;
    }
    out.extend_from_slice(b",\"conflicts\":");
    write_list(out, b"{}", conflicts, |out, (name, field)| {
        write_string(out, name);
        out.push(b':');
        write_list(out, b"[]", &field.conflicts, |out, other: &FieldType| {
            write_string(out, other.as_str());
        });
    });
}

/// Appends items between brackets, separated by commas.
pub fn write_list<T>(
    out: &mut Vec<u8>,
    brackets: &[u8; 2],
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(brackets[0]);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(brackets[1]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_store::command::{FieldView, Value};
    use atoll_store::dot::Dot;

    fn body(kind: Kind, view: View) -> (String, String) {
        let key = EntityKey::parse(kind, "c", "a\"b").expect("valid");
        let mut out = Vec::new();
        write_entity(&mut out, &key, 7, Some(&view));
        let etag = etag(&Bytes::from(out.clone()));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        (text(&out), text(&etag))
    }

    #[test]
    fn a_body_has_the_members_of_the_contract() {
        let (text, etag) = body(Kind::Counters, View::Counter(-7));
        let version = format!("{:032x}", 7);
        let head = r#"{"kind":"counters","collection":"c","id":"a\"b","value":-7,"#;
        assert_eq!(text, format!("{head}\"version\":\"{version}\"}}"));
        assert_eq!(etag, format!("\"{version}\""));
    }

    #[test]
    fn large_counters_are_strings() {
        let value = |sum| {
            let mut out = Vec::new();
            write_view(&mut out, &View::Counter(sum));
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(value((1 << 53) - 1), "9007199254740991");
        assert_eq!(value(1 << 53), "\"9007199254740992\"");
        assert_eq!(value(-(1 << 53)), "\"-9007199254740992\"");
        assert_eq!(value(i128::MIN), format!("\"{}\"", i128::MIN));
    }

    #[test]
    fn the_etag_of_a_multi_register_names_its_dots() {
        let view = View::MultiRegister(vec![Value::from_static(b"1")], vec![Dot::MAX]);
        let (text, etag) = body(Kind::MultiRegisters, view);
        assert!(text.contains("\"value\":[1]"), "{text}");
        assert_eq!(version::seen(&etag).expect("valid"), [Dot::MAX]);
    }

    #[test]
    fn conflicts_are_shown_only_where_there_are_any() {
        let field =
            |conflicts| FieldView { shown: FieldType::Counter, view: View::Counter(1), conflicts };
        let plain = [("a".to_string(), field(vec![]))];
        let (text, _) = body(Kind::Maps, View::Map(plain.clone().into()));
        assert!(text.contains(r#""value":{"a":1},"version""#), "{text}");
        let both = plain.into_iter().chain([("b".to_string(), field(vec![FieldType::Set]))]);
        let (text, _) = body(Kind::Maps, View::Map(both.collect()));
        assert!(text.contains(r#""value":{"a":1,"b":1},"conflicts":{"b":["set"]},"#), "{text}");
    }
}
