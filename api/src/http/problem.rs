//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! Invariants:
//! 1. A 4xx changed nothing: its outcome is `not-applied`.
//! 2. Whatever is retryable carries `Retry-After`.
//! 3. Every code that the surface can answer is in [`Code::ALL`], and so in its description.

use std::fmt::Write as _;

use atoll_store::command::Refusal;
use atoll_store::name::NameError;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::json::{JsonError, write_string};
use crate::node::{ReadError, Unmet, WriteError};

macro_rules! codes {
    ($($variant:ident $status:literal $name:literal $retry:literal $title:literal,)*) => {
        /// What went wrong, as a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// The status that goes with the code.
            pub fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// The code's name, as clients see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// A short text that never varies.
            pub fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }

            /// Seconds to wait before the same request may succeed; 0 if it will not.
            pub fn retry_after(self) -> u32 {
                match self { $(Code::$variant => $retry,)* }
            }
        }
    };
}

codes! {
    BadRequest 400 "bad-request" 0 "The request is malformed",
    NoCompareAndSet 400 "no-compare-and-set" 0 "This kind has no compare-and-set",
    NotFound 404 "not-found" 0 "There is no such entity",
    UnknownKind 404 "unknown-kind" 0 "There is no such kind",
    UnknownRoute 404 "unknown-route" 0 "There is no such route",
    MethodNotAllowed 405 "method-not-allowed" 0 "The route has no such method",
    NotAcceptable 406 "not-acceptable" 0 "No acceptable representation",
    RequestTimeout 408 "request-timeout" 1 "The body did not arrive in time",
    KindConflict 409 "kind-conflict" 0 "The field has another type",
    TooLarge 413 "too-large" 0 "A limit would be passed",
    UnsupportedMediaType 415 "unsupported-media-type" 0 "The body has an unsupported type",
    KeyReused 422 "idempotency-key-reused" 0 "The key was used with another request",
    CounterOverflow 422 "counter-overflow" 0 "The counter would leave its range",
    RateLimited 429 "rate-limited" 1 "Too many requests",
    Internal 500 "internal" 0 "The server failed",
    OutcomeUnknown 500 "outcome-unknown" 0 "The outcome is unknown",
    NotImplemented 501 "not-implemented" 0 "Not implemented",
    Behind 503 "behind" 1 "This node has not seen what the write names",
    ClockSkew 503 "clock-skew" 5 "This node's clock is wrong",
    Draining 503 "draining" 1 "This node is stopping",
    NotEnoughReplicas 503 "not-enough-replicas" 1 "Too few replicas can be reached",
    NotLive 503 "not-live" 5 "The node's loop has stopped",
    NotReplica 503 "not-a-replica" 1 "This node holds no replica of the shard",
    NotReady 503 "not-ready" 1 "The node is not ready",
    Overloaded 503 "overloaded" 1 "The node has too much to do",
    Quarantined 503 "quarantined" 5 "The stored state waits for repair",
    Unreachable 503 "replica-unreachable" 1 "No replica of the shard can be reached",
    ConsistencyTimeout 504 "consistency-timeout" 1 "Too few replicas answered in time",
    NoAnswer 504 "no-answer" 1 "No answer came from the replicas in time",
    DiskFull 507 "disk-full" 30 "The disk is full",
}

/// One problem: a code, and what is particular to this request.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The code.
    pub code: Code,
    detail: String,
    outcome: &'static str,
    retry_after: u32,
    instance: String,
    allow: Option<&'static str>,
    extra: Vec<(&'static str, String)>,
}

impl Problem {
    /// A problem that changed nothing.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem {
            code,
            detail: detail.into(),
            outcome: "not-applied",
            retry_after: code.retry_after(),
            instance: String::new(),
            allow: None,
            extra: Vec::new(),
        }
    }

    /// A malformed request.
    pub fn bad(detail: impl Into<String>) -> Problem {
        Problem::new(Code::BadRequest, detail)
    }

    /// A limit was passed.
    pub fn too_large(detail: impl Into<String>) -> Problem {
        Problem::new(Code::TooLarge, detail)
    }

    /// A method that the route does not have; `allow` names those it has.
    pub fn method(method: &str, allow: &'static str) -> Problem {
        let detail = format!("{method} is not one of {allow}");
        Problem { allow: Some(allow), ..Problem::new(Code::MethodNotAllowed, detail) }
    }

    /// The nodes that were asked did not answer. A read can be repeated at once; a write may have
    /// been applied, and can be repeated only if it carries an idempotency key.
    pub fn no_answer(write: bool, repeatable: bool) -> Problem {
        let detail = match (write, repeatable) {
            (false, _) => "the replicas that were asked did not answer in time",
            (true, true) => "the write may have been applied; repeat it with the same key",
            (true, false) => {
                "the write may have been applied; with an Idempotency-Key it would be \
                              safe to repeat"
            }
        };
        let problem = Problem::new(Code::NoAnswer, detail);
        let outcome = if write { "unknown" } else { problem.outcome };
        let retry_after = if repeatable { problem.retry_after } else { 0 };
        Problem { outcome, retry_after, ..problem }
    }

    /// A handler that failed: nobody knows how far it came.
    pub fn internal() -> Problem {
        let problem =
            Problem::new(Code::Internal, "the server failed in this request; see its log");
        Problem { outcome: "unknown", ..problem }
    }

    /// Names the request it happened to.
    pub fn at(mut self, instance: &str) -> Problem {
        self.instance = instance.into();
        self
    }

    /// Says where in a body it happened.
    pub fn inside(mut self, place: &str) -> Problem {
        self.detail.insert_str(0, ": ");
        self.detail.insert_str(0, place);
        self
    }

    /// Adds a member of strings.
    pub fn with(mut self, name: &'static str, values: &[String]) -> Problem {
        let mut json = vec![b'['];
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            write_string(&mut json, value);
        }
        json.push(b']');
        self.extra.push((name, String::from_utf8_lossy(&json).into_owned()));
        self
    }

    /// Adds a member of numbers by name.
    fn counting<'a>(
        mut self,
        name: &'static str,
        counts: impl Iterator<Item = (&'a String, usize)>,
    ) -> Problem {
        let mut json = Vec::new();
        for (name, count) in counts {
            json.push(if json.is_empty() { b'{' } else { b',' });
            write_string(&mut json, name);
            json.extend_from_slice(format!(":{count}").as_bytes());
        }
        json.push(b'}');
        self.extra.push((name, String::from_utf8_lossy(&json).into_owned()));
        self
    }

    /// A level that was not met, by replicas of each region: so many of so many.
    fn unmet(unmet: &Unmet) -> Problem {
        let (code, count, name) = match unmet {
            Unmet::Refused(refusal) => return refusal.clone().into(),
            Unmet::Overloaded => return Problem::new(Code::Overloaded, unmet.to_string()),
            Unmet::NotEnough(count) => (Code::NotEnoughReplicas, count, "reachable"),
            Unmet::Late(count) => (Code::ConsistencyTimeout, count, "acknowledged"),
        };
        let did = count.iter().map(|(region, (did, _))| (region, *did));
        let of = count.iter().map(|(region, (_, of))| (region, *of));
        Problem::new(code, unmet.to_string()).counting(name, did).counting("recorded", of)
    }

    /// Says that repeating is safe, for a request that carries an idempotency key.
    pub fn repeatable(mut self, repeatable: bool) -> Problem {
        let again = [Code::OutcomeUnknown, Code::ConsistencyTimeout].contains(&self.code);
        if again && repeatable {
            self.retry_after = 1;
        }
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Appends the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut head = String::with_capacity(128);
        let (code, status) = (self.code.as_str(), self.code.status());
        let _ = write!(head, r#"{{"type":"https://atoll.dev/problems/{code}","title":"#);
        out.extend_from_slice(head.as_bytes());
        write_string(out, self.code.title());
        let retryable = self.retry_after > 0;
        head.clear();
        let _ = write!(head, r#","status":{status},"code":"{code}","outcome":"{}","#, self.outcome);
        let _ = write!(head, r#""retryable":{retryable},"detail":"#);
        out.extend_from_slice(head.as_bytes());
        write_string(out, &self.detail);
        if !self.instance.is_empty() {
            out.extend_from_slice(b",\"instance\":");
            write_string(out, &self.instance);
        }
        for (name, json) in &self.extra {
            out.push(b',');
            write_string(out, name);
            out.push(b':');
            out.extend_from_slice(json.as_bytes());
        }
        out.push(b'}');
    }
}

impl Problem {
    /// Appends it as the result of one operation of a batch.
    pub fn write_result(&self, out: &mut Vec<u8>) {
        let status = self.code.status();
        out.extend_from_slice(format!("{{\"status\":{status},\"body\":").as_bytes());
        self.write(out);
        out.push(b'}');
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(384);
        self.write(&mut body);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.retry_after > 0 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        if let Some(allow) = self.allow {
            let name: HeaderName = header::ALLOW;
            headers.insert(name, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Problem {
        let code = if error.too_deep { Code::TooLarge } else { Code::BadRequest };
        Problem::new(code, format!("the body is not I-JSON: {error}"))
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Problem {
        let too_long = matches!(error, NameError::Id(bytes) if bytes > 0);
        Problem::new(if too_long { Code::TooLarge } else { Code::BadRequest }, error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let code = match refusal {
            Refusal::KindConflict { .. } => Code::KindConflict,
            Refusal::TooLarge { .. } => Code::TooLarge,
            Refusal::TooManyKeys { .. } => Code::RateLimited,
            Refusal::KeyReused => Code::KeyReused,
            Refusal::Overflow => Code::CounterOverflow,
            Refusal::WrongKind(_) => Code::BadRequest,
            Refusal::Behind => Code::Behind,
            Refusal::Elsewhere => Code::NotReplica,
            Refusal::Quarantined => Code::Quarantined,
            Refusal::ClockSkew { .. } => Code::ClockSkew,
            Refusal::DiskFull { .. } => Code::DiskFull,
        };
        Problem::new(code, refusal.to_string())
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        let detail = error.to_string();
        match error {
            WriteError::Refused(refusal) => refusal.into(),
            WriteError::Overloaded => Problem::new(Code::Overloaded, detail),
            WriteError::Draining => Problem::new(Code::Draining, detail),
            // As it is, to repeat it may count it twice.
            WriteError::Unmet(unmet @ Unmet::Late(_)) => {
                Problem { outcome: "applied", retry_after: 0, ..Problem::unmet(&unmet) }
            }
            WriteError::Unmet(unmet) => Problem::unmet(&unmet),
            WriteError::Unknown => {
                Problem { outcome: "unknown", ..Problem::new(Code::OutcomeUnknown, detail) }
            }
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        let code = match &error {
            ReadError::Unmet(unmet) => return Problem::unmet(unmet),
            ReadError::Elsewhere => Code::NotReplica,
            ReadError::Quarantined => Code::Quarantined,
            ReadError::Overloaded => Code::Overloaded,
            ReadError::Draining => Code::Draining,
        };
        Problem::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn body(problem: &Problem) -> serde_json::Value {
        let mut out = Vec::new();
        problem.write(&mut out);
        serde_json::from_slice(&out).expect("a problem is JSON")
    }

    #[test]
    fn a_problem_has_every_member() {
        let problem = Problem::from(WriteError::Unknown).at("/v1/sets/a/\"b").repeatable(true);
        let json = body(&problem.with("reasons", &["x\"".into()]));
        let expected = serde_json::json!({
            "type": "https://atoll.dev/problems/outcome-unknown",
            "title": "The outcome is unknown", "status": 500, "code": "outcome-unknown",
            "outcome": "unknown", "retryable": true, "instance": "/v1/sets/a/\"b",
            "detail": "the node stopped before it answered", "reasons": ["x\""],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_is_retryable_says_when() {
        for code in Code::ALL {
            let response = Problem::new(*code, "x").into_response();
            let json = body(&Problem::new(*code, "x"));
            assert_eq!(json["outcome"], "not-applied");
            let retryable = json["retryable"] == true;
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), retryable);
            assert_eq!(response.status().as_u16(), code.status());
        }
    }

    #[test]
    fn a_level_that_was_not_met_says_who_has_it() {
        let count = |did| -> BTreeMap<String, (usize, usize)> {
            [("eu".to_owned(), (did, 3)), ("us".to_owned(), (0, 1))].into()
        };
        let json = body(&Problem::from(WriteError::Unmet(Unmet::NotEnough(count(1)))));
        assert_eq!(
            (&json["code"], &json["retryable"]),
            (&"not-enough-replicas".into(), &true.into())
        );
        assert_eq!(json["outcome"], "not-applied");
        assert_eq!(json["reachable"], serde_json::json!({"eu": 1, "us": 0}));
        assert_eq!(json["recorded"], serde_json::json!({"eu": 3, "us": 1}));
        let late = || Problem::from(WriteError::Unmet(Unmet::Late(count(2))));
        for keyed in [false, true] {
            let json = body(&late().repeatable(keyed));
            assert_eq!((&json["outcome"], &json["retryable"]), (&"applied".into(), &keyed.into()));
            assert_eq!(json["acknowledged"], serde_json::json!({"eu": 2, "us": 0}));
        }
        let json = body(&Problem::from(ReadError::Unmet(Unmet::Late(count(2)))));
        assert_eq!((&json["outcome"], &json["status"]), (&"not-applied".into(), &504.into()));
        assert_eq!(json["retryable"], true);
    }

    #[test]
    fn refusals_keep_their_codes() {
        let full = Refusal::DiskFull { free: 1, reserve: 2 };
        assert_eq!(Problem::from(full).code, Code::DiskFull);
        let skew = Refusal::ClockSkew { ahead_ms: 900 };
        assert_eq!(Problem::from(skew).status().as_u16(), 503);
        let internal = body(&Problem::internal());
        assert_eq!((&internal["status"], &internal["outcome"]), (&500.into(), &"unknown".into()));
    }
}
