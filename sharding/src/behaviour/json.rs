//! JSON as it enters and leaves a behaviour: canonical bytes (RFC 8785), within limits.
//!
//! Invariant: two values are equal exactly if their canonical bytes are.

use bytes::Bytes;
use serde_json::Value;

/// Deepest nesting of arrays and objects.
const DEPTH_MAX: usize = 64;

/// The canonical bytes of a text, and its value.
pub(super) fn canonical(text: &[u8]) -> Result<(Bytes, Value), String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| match error.to_string() {
        text if text.contains("hex escape") => "a string is not Unicode".into(),
        text if text.contains("recursion") => too_deep(),
        text => text,
    })?;
    Ok((bytes(&value)?, value))
}

/// The canonical bytes of a value.
pub(super) fn bytes(value: &Value) -> Result<Bytes, String> {
    let mut out = Vec::with_capacity(64);
    write(&mut out, value, DEPTH_MAX)?;
    Ok(out.into())
}

fn too_deep() -> String {
    format!("a value nests deeper than {DEPTH_MAX}")
}

fn write(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), String> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::Number(number) => {
            let number = number.as_f64().ok_or("a number is out of range")?;
            out.extend_from_slice(ryu_js::Buffer::new().format_finite(number).as_bytes());
        }
        Value::String(text) => string(out, text),
        Value::Array(items) => {
            let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(out, item, depth)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                string(out, name);
                out.push(b':');
                write(out, value, depth)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// Strings as serde writes them are as RFC 8785 wants them: short escapes, lower-case hex.
fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string encodes to memory");
}
