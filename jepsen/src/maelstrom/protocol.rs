//! What Maelstrom's networks carry: one JSON object a line, with a source, a destination, a body.
//!
//! Left out: message ids of a node's own. Nothing here asks anything and awaits the answer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who sent it.
    pub src: String,
    /// Who is to have it.
    pub dest: String,
    /// An object with a `type`.
    pub body: Value,
}

impl Message {
    /// The type of its body; empty if it has none.
    pub fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }
}

/// Maelstrom's errors. All but [`Code::Timeout`] and [`Code::Crash`] are definite: the operation
/// has not happened, and will not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No answer in time.
    Timeout = 0,
    /// There is no such node.
    NodeNotFound = 1,
    /// This node does not do that.
    NotSupported = 10,
    /// Not now.
    TemporarilyUnavailable = 11,
    /// The request cannot be read.
    MalformedRequest = 12,
    /// Something broke; nobody knows what happened.
    Crash = 13,
    /// Refused.
    Abort = 14,
    /// There is no such key.
    KeyDoesNotExist = 20,
    /// There is such a key.
    KeyAlreadyExists = 21,
    /// The value is not the one expected.
    PreconditionFailed = 22,
    /// Another transaction came between.
    TransactionConflict = 30,
}

impl Code {
    /// Whether an error with this number says that nothing happened. Numbers that are not known
    /// say nothing.
    pub fn is_definite(number: u64) -> bool {
        matches!(number, 1 | 10 | 11 | 12 | 14 | 20 | 21 | 22 | 30)
    }
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Which kind.
    pub(super) code: Code,
    /// For people.
    pub(super) text: String,
}

impl Problem {
    /// A problem.
    pub(super) fn new(code: Code, text: impl Into<String>) -> Problem {
        Problem { code, text: text.into() }
    }
}

/// Who asked, and for what: where an answer goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    client: String,
    id: Value,
    kind: String,
}

impl Asked {
    /// What a request asks.
    pub(super) fn by(request: &Message) -> Asked {
        let (client, kind) = (request.src.clone(), request.kind().to_owned());
        Asked { client, id: request.body["msg_id"].clone(), kind }
    }

    /// The answer of a node: the fields of the result, or an error.
    pub(super) fn answer(&self, node: &str, result: Result<Value, Problem>) -> Message {
        let mut body = match result {
            Ok(fields) => fields,
            Err(Problem { code, text }) => json!({"code": code as u64, "text": text}),
        };
        let kind =
            if body["code"].is_null() { format!("{}_ok", self.kind) } else { "error".into() };
        body["type"] = kind.into();
        body["in_reply_to"] = self.id.clone();
        Message { src: node.into(), dest: self.client.clone(), body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_what_they_answer() {
        let line = r#"{"src":"c1","dest":"n1","body":{"type":"read","msg_id":7},"id":3}"#;
        let request: Message = serde_json::from_str(line).unwrap();
        let asked = Asked::by(&request);
        let body = |result| serde_json::to_value(asked.answer("n1", result)).unwrap();
        let ok = json!({"type": "read_ok", "in_reply_to": 7, "value": [1]});
        assert_eq!(body(Ok(json!({"value": [1]}))), json!({"src": "n1", "dest": "c1", "body": ok}));
        let error = json!({"type": "error", "in_reply_to": 7, "code": 10, "text": "no"});
        let problem = Problem::new(Code::NotSupported, "no");
        assert_eq!(body(Err(problem))["body"], error);
    }

    #[test]
    fn only_timeouts_and_crashes_are_indefinite() {
        let all = [
            Code::Timeout,
            Code::NodeNotFound,
            Code::NotSupported,
            Code::TemporarilyUnavailable,
            Code::MalformedRequest,
            Code::Crash,
            Code::Abort,
            Code::KeyDoesNotExist,
            Code::KeyAlreadyExists,
            Code::PreconditionFailed,
            Code::TransactionConflict,
        ];
        let indefinite = all.into_iter().filter(|code| !Code::is_definite(*code as u64));
        assert_eq!(indefinite.collect::<Vec<_>>(), [Code::Timeout, Code::Crash]);
        assert!(!Code::is_definite(1_000));
    }
}
