//! Subscriptions: NDJSON records as they arrive, resumed after a break.
//!
//! Invariants:
//! 1. A resumed feed continues after the last cursor that was handed out: nothing is skipped.
//! 2. A feed ends only by `error` records that say so, by a refusal, or by the caller; a broken
//!    connection is mended in between, with a growing pause.
//!
//! Left out: server-sent events, which carry the same records in more bytes.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderName};
use serde_json::Value;

use super::{Call, Client, ClientError};

/// First pause before a broken feed is opened again; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause: a server that is back is noticed within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Longest line, in bytes: above the largest document.
const LINE_MAX: usize = 64 << 20;

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `snapshot`, `ready`, `change`, `delete`, `progress`, `reset` or `error`.
    pub name: String,
    /// Where to resume after it.
    pub cursor: Option<String>,
    /// The CloudEvent, or what the record carries instead.
    pub data: Value,
    /// The whole line.
    pub line: String,
}

impl Event {
    fn parse(line: &str) -> Option<Event> {
        let record: Value = serde_json::from_str(line).ok()?;
        Some(Event {
            name: record["event"].as_str()?.to_string(),
            cursor: record["cursor"].as_str().map(str::to_string),
            data: record["data"].clone(),
            line: line.to_string(),
        })
    }

    /// The entity's part of the record: `{kind, collection, id, value, version, ...}`.
    pub fn entity(&self) -> &Value {
        match &self.data["data"] {
            Value::Null => &self.data,
            data => data,
        }
    }
}

/// A subscription that mends itself.
pub struct Feed {
    client: Client,
    call: Call,
    cursor: Option<String>,
    body: Option<Incoming>,
    buffer: Vec<u8>,
    pause: Duration,
    /// Whether a connection was ever opened: before that, failures are the caller's.
    opened: bool,
    mend: bool,
}

impl Feed {
    /// A feed of what `call` names, resumed after `cursor` if given. With `mend`, breaks are
    /// mended; without, they are errors.
    pub fn new(client: Client, call: Call, cursor: Option<String>, mend: bool) -> Feed {
        let call = call.header(ACCEPT, "application/x-ndjson");
        let (body, buffer) = (None, Vec::new());
        Feed { client, call, cursor, body, buffer, pause: PAUSE, opened: false, mend }
    }

    /// The next record; waits for it.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(line) = self.line() {
                if let Some(event) = Event::parse(&line) {
                    self.pause = PAUSE;
                    self.cursor = event.cursor.clone().or(self.cursor.take());
                    return Ok(event);
                }
                continue;
            }
            if self.body.is_none() {
                self.open().await?;
            }
            if let Err(error) = self.fill().await {
                self.body = None;
                self.buffer.clear();
                if !self.mend {
                    return Err(error);
                }
                self.rest().await;
            }
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        loop {
            let mut call = self.call.clone();
            if let Some(cursor) = &self.cursor {
                call = call.header(HeaderName::from_static("last-event-id"), cursor.clone());
            }
            match self.client.open(&call).await {
                Ok(response) => {
                    self.body = Some(response.into_body());
                    self.opened = true;
                    return Ok(());
                }
                Err(error) if !(self.mend && self.opened && passing(&error)) => return Err(error),
                Err(_) => self.rest().await,
            }
        }
    }

    async fn rest(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    async fn fill(&mut self) -> Result<(), ClientError> {
        let Some(body) = &mut self.body else { return Ok(()) };
        let cause = match body.frame().await {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { return Ok(()) };
                if self.buffer.len() + data.len() <= LINE_MAX {
                    self.buffer.extend_from_slice(&data);
                    return Ok(());
                }
                "a line is longer than 64 MiB".to_string()
            }
            Some(Err(error)) => error.to_string(),
            None => "the stream ended".to_string(),
        };
        Err(ClientError::Unreachable { url: self.client.url().into(), cause })
    }

    /// The next whole line in the buffer that is not blank.
    fn line(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim().to_string();
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

/// Whether waiting may help.
fn passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Refused(problem) => problem.status >= 500 || problem.status == 429,
        _ => false,
    }
}
