//! Records of a stream to bytes: server-sent events or JSON lines, around CloudEvents 1.0.
//!
//! Invariants:
//! 1. A record is one frame, written without a tree; an entity's value is its shared rendering.
//! 2. `data:` holds no newline: all JSON here is on one line.

use std::fmt::Write as _;

use atoll_store::name::EntityKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::accept::Form;
use super::address::encode;
use super::json::write_string;
use super::render;
use crate::node::{Changed, Cursor, Record};

/// A record as this node tells it, or as another told it.
pub(super) enum Told {
    Here(Record),
    There(Carried),
}

/// A record of an entity that another node told.
pub(super) struct Carried {
    event: &'static str,
    cloud_event: CloudEvent,
}

/// A CloudEvent, less what is the same in all of ours, and its id.
#[derive(Deserialize)]
struct CloudEvent {
    #[serde(rename = "type")]
    name: String,
    source: String,
    #[serde(default)]
    subject: String,
    time: String,
    /// As it came.
    data: Box<RawValue>,
}

impl CloudEvent {
    /// Whether what goes into frames without escapes needs none.
    fn is_plain(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        [&self.name, &self.subject, &self.time].iter().all(|text| text.bytes().all(plain))
    }
}

#[derive(Deserialize)]
struct Line {
    event: String,
    cursor: String,
    data: CloudEvent,
}

#[derive(Deserialize)]
struct Failure {
    code: String,
}

/// Why a stream ends, as far as this version knows.
const CODES: [&str; 5] = ["draining", "moved", "overloaded", "quarantined", "unavailable"];

impl Told {
    /// Reads a line that a node of this cluster wrote; `None`: it is none.
    pub(super) fn parse(line: &[u8]) -> Option<(Told, Cursor)> {
        let Line { event, cursor, data } = serde_json::from_slice(line).ok()?;
        let cursor = Cursor::parse(&cursor)?;
        let told = match event.as_str() {
            "ready" => Told::Here(Record::Ready),
            "progress" => Told::Here(Record::Progress),
            "reset" => Told::Here(Record::Reset),
            "error" => {
                let Failure { code } = serde_json::from_str(data.data.get()).ok()?;
                let known = CODES.into_iter().find(|known| *known == code);
                Told::Here(Record::Ended(known.unwrap_or("unavailable")))
            }
            other => {
                let event = ["snapshot", "change", "delete"].into_iter().find(|e| *e == other)?;
                let cloud_event = Some(data).filter(CloudEvent::is_plain)?;
                Told::There(Carried { event, cloud_event })
            }
        };
        Some((told, cursor))
    }
}

/// How the records of one stream are written.
pub(super) struct Frames {
    form: Form,
    scope: &'static str,
    subject: String,
    source: String,
}

impl Frames {
    /// Frames from a node; records without an entity are of type `dev.atoll.<scope>.<record>`
    /// and have this subject, already encoded, unless it is empty.
    pub(super) fn new(form: Form, scope: &'static str, subject: String, source: &str) -> Frames {
        Frames { form, scope, subject, source: source.into() }
    }

    /// The media type of this form.
    pub(super) fn media(&self) -> &'static str {
        match self.form {
            Form::Events => "text/event-stream",
            Form::Lines | Form::Json => "application/x-ndjson",
        }
    }

    /// The heartbeat of this form.
    pub(super) fn heartbeat(&self) -> &'static [u8] {
        if self.form == Form::Events { b": hb\n\n" } else { b"\n" }
    }

    /// Appends the frame of a record at `now`.
    ///
    /// An entity that went absent between its snapshot and now has no frame: its `delete` follows.
    pub(super) fn write(&self, out: &mut Vec<u8>, record: &Record, cursor: &str, now: u64) {
        match record {
            Record::Snapshot(changed) if changed.image.is_absent(now) => {}
            Record::Snapshot(changed) => self.entity(out, "snapshot", changed, cursor, now),
            Record::Changed(changed) if changed.image.is_absent(now) => {
                self.entity(out, "delete", changed, cursor, now);
            }
            Record::Changed(changed) => self.entity(out, "change", changed, cursor, now),
            Record::Ready => self.plain(out, "ready", cursor, now, None),
            Record::Progress => self.plain(out, "progress", cursor, now, None),
            Record::Reset => self.plain(out, "reset", cursor, now, None),
            Record::Ended(code) => self.plain(out, "error", cursor, now, Some(code)),
        }
    }

    /// Appends the frame of a record that another node told, with a cursor of this stream.
    pub(super) fn carry(&self, out: &mut Vec<u8>, carried: &Carried, cursor: &str) {
        let Carried { event, cloud_event } = carried;
        self.frame(out, event, cursor, |out| {
            let CloudEvent { name, source, subject, time, data } = cloud_event;
            write_cloud_event(out, &[name], (source, subject), cursor, time);
            out.extend_from_slice(data.get().as_bytes());
            out.push(b'}');
        });
    }

    fn entity(&self, out: &mut Vec<u8>, event: &str, changed: &Changed, cursor: &str, now: u64) {
        let Changed { key, image, origin_region } = changed;
        let subject = subject(key);
        self.frame(out, event, cursor, |out| {
            self.cloud_event(out, (key.kind.as_str(), event), &subject, cursor, now);
            let body = match image.is_absent(now) {
                true => render::absent(key, image, None),
                false => render::entity(key, image, now),
            };
            // The body is an object: its closing brace moves behind one more member.
            out.extend_from_slice(&body[..body.len().saturating_sub(1)]);
            out.extend_from_slice(b",\"origin_region\":");
            write_string(out, origin_region);
            out.extend_from_slice(b"}}");
        });
    }

    fn plain(&self, out: &mut Vec<u8>, event: &str, cursor: &str, now: u64, code: Option<&str>) {
        self.frame(out, event, cursor, |out| {
            self.cloud_event(out, (self.scope, event), &self.subject, cursor, now);
            match code {
                None => out.extend_from_slice(b"{\"cursor\":"),
                Some(code) => {
                    out.extend_from_slice(b"{\"code\":");
                    write_string(out, code);
                    out.extend_from_slice(b",\"resume\":");
                }
            }
            write_string(out, cursor);
            out.extend_from_slice(b"}}");
        });
    }

    fn frame(&self, out: &mut Vec<u8>, event: &str, cursor: &str, data: impl FnOnce(&mut Vec<u8>)) {
        if self.form == Form::Events {
            for part in ["event: ", event, "\nid: ", cursor, "\ndata: "] {
                out.extend_from_slice(part.as_bytes());
            }
            data(out);
            out.extend_from_slice(b"\n\n");
        } else {
            for part in ["{\"event\":\"", event, "\",\"cursor\":"] {
                out.extend_from_slice(part.as_bytes());
            }
            write_string(out, cursor);
            out.extend_from_slice(b",\"data\":");
            data(out);
            out.extend_from_slice(b"}\n");
        }
    }

    /// Appends a CloudEvent up to the value of its `data`.
    fn cloud_event(
        &self,
        out: &mut Vec<u8>,
        (scope, event): (&str, &str),
        subject: &str,
        cursor: &str,
        now: u64,
    ) {
        let name = ["dev.atoll.", scope, ".", event];
        write_cloud_event(out, &name, (&self.source, subject), cursor, &rfc3339(now));
    }
}

/// Appends a CloudEvent up to the value of its `data`. Its name in parts, subject and time hold
/// nothing that JSON escapes.
fn write_cloud_event(
    out: &mut Vec<u8>,
    name: &[&str],
    (source, subject): (&str, &str),
    cursor: &str,
    time: &str,
) {
    out.extend_from_slice(b"{\"specversion\":\"1.0\",\"type\":\"");
    for part in name {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b"\",\"source\":");
    write_string(out, source);
    if !subject.is_empty() {
        for part in [",\"subject\":\"", subject, "\""] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b",\"id\":");
    write_string(out, cursor);
    for part in [",\"time\":\"", time, "\",\"datacontenttype\":\"application/json\"", ",\"data\":"]
    {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The subject of an entity: kind, collection and percent-encoded id.
pub(super) fn subject(key: &EntityKey) -> String {
    let mut out = String::with_capacity(64);
    let (kind, collection) = (key.kind.as_str(), key.collection.as_str());
    let _ = write!(out, "{kind}/{collection}/{}", encode(key.id.as_str()));
    out
}

/// RFC 3339 in UTC with milliseconds.
///
/// Source of the calendar: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
pub(super) fn rfc3339(millis: u64) -> String {
    let (seconds, ms) = (millis / 1000, millis % 1000);
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(form: Form, record: Record) -> String {
        let frames = Frames::new(form, "sets", "sets/c".into(), "/regions/eu/nodes/n1");
        let cursor = Cursor::nowhere();
        let mut out = Vec::new();
        frames.write(&mut out, &record, cursor.as_str(), 0);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn an_event_has_name_cursor_and_cloud_event() {
        let text = frame(Form::Events, Record::Ready);
        let cursor = Cursor::nowhere();
        let head = format!("event: ready\nid: {}\ndata: ", cursor.as_str());
        let data = text.strip_prefix(&head).expect("an event");
        let json: serde_json::Value = serde_json::from_str(data.trim_end()).expect("JSON");
        let expected = serde_json::json!({
            "specversion": "1.0", "type": "dev.atoll.sets.ready", "source": "/regions/eu/nodes/n1",
            "subject": "sets/c", "id": cursor.as_str(), "time": "1970-01-01T00:00:00.000Z",
            "datacontenttype": "application/json", "data": {"cursor": cursor.as_str()},
        });
        assert_eq!(json, expected);
        assert!(text.ends_with("\n\n"));
    }

    #[test]
    fn a_line_is_one_line() {
        let text = frame(Form::Lines, Record::Ended("draining"));
        assert_eq!(text.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let cursor = Cursor::nowhere();
        assert_eq!((&json["event"], &json["cursor"]), (&"error".into(), &cursor.as_str().into()));
        let data = serde_json::json!({"code": "draining", "resume": cursor.as_str()});
        assert_eq!(json["data"]["data"], data);
    }
}
