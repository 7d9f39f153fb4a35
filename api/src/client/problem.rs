//! The errors of the contract (RFC 9457), as a client sees them.
//!
//! Left out: nothing of the body is lost; what has no field here stays in `body`.

use std::fmt;

use serde_json::{Value, json};

/// What the server said instead of a good answer.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The machine-readable code, `not-found`; empty if the server gave none.
    pub code: String,
    /// What it says to people.
    pub detail: String,
    /// The whole body; an object made up from the text if it was no JSON.
    pub body: Value,
}

impl Problem {
    /// Reads a problem; a body of any other form becomes its detail.
    pub fn parse(status: u16, body: &[u8]) -> Problem {
        let text = String::from_utf8_lossy(body);
        let body: Value = match serde_json::from_str(&text) {
            Ok(Value::Object(fields)) => Value::Object(fields),
            _ => json!({"status": status, "detail": text.trim()}),
        };
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_string();
        let detail = match field("detail") {
            detail if detail.is_empty() => field("title"),
            detail => detail,
        };
        Problem { status, code: field("code"), detail, body }
    }

    /// Whether the entity, or whatever was asked for, is not there.
    pub fn is_absent(&self) -> bool {
        self.status == 404 && matches!(self.code.as_str(), "not-found" | "")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if let Some(outcome) = self.body["outcome"].as_str() {
            write!(f, " (outcome: {outcome}")?;
            if self.body["retryable"] == true {
                write!(f, ", may be retried")?;
            }
            write!(f, ")")?;
        }
        Ok(())
    }
}
