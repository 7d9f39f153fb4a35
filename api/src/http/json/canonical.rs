//! The canonical form of a JSON value: RFC 8785 (JCS), byte for byte.
//!
//! Invariant: two values are equal as I-JSON exactly if their canonical bytes are.

use bytes::Bytes;

use super::Json;

/// A value in canonical form.
pub type Canonical = Bytes;

/// The value nests deeper than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooDeep;

/// The canonical form of `json`, which may nest at most `depth` levels of arrays and objects.
pub fn canonical(json: &Json<'_>, depth: usize) -> Result<Canonical, TooDeep> {
    let mut out = Vec::with_capacity(32);
    write_canonical(&mut out, json, depth)?;
    Ok(out.into())
}

/// Appends the canonical form.
pub fn write_canonical(out: &mut Vec<u8>, json: &Json<'_>, depth: usize) -> Result<(), TooDeep> {
    match json {
        Json::Null => out.extend_from_slice(b"null"),
        Json::Bool(true) => out.extend_from_slice(b"true"),
        Json::Bool(false) => out.extend_from_slice(b"false"),
        Json::Number(_, value) => {
            out.extend_from_slice(ryu_js::Buffer::new().format_finite(*value).as_bytes());
        }
        Json::String(text) => write_string(out, text),
        Json::Array(items) => {
            let depth = depth.checked_sub(1).ok_or(TooDeep)?;
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(out, item, depth)?;
            }
            out.push(b']');
        }
        Json::Object(members) => {
            let depth = depth.checked_sub(1).ok_or(TooDeep)?;
            out.push(b'{');
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, name);
                out.push(b':');
                write_canonical(out, value, depth)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// Appends a string with its quotes, escaping only what RFC 8785 escapes.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut written = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..index]);
        written = index + 1;
        write_escape(out, byte);
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
