//! Query parameters: known, single, well-formed, or a 400 that names them.

use std::borrow::Cow;

use super::address::decode;
use super::problem::{Code, Problem};
use crate::node::{Demand, Level};

/// Longest TTL in seconds: a hundred years of 365 days.
const TTL_MAX_S: u64 = 100 * 365 * 86_400;
/// Longest `timeout` in milliseconds.
const TIMEOUT_MAX_MS: u64 = 30_000;
/// The `timeout` of a request that names none, in milliseconds.
pub(super) const TIMEOUT_MS: u64 = 2_000;

/// The parameters of one request.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Parses a raw query, refusing what is not in `allowed` and what is given twice.
    pub fn parse(raw: Option<&'a str>, allowed: &[&str]) -> Result<Query<'a>, Problem> {
        let mut query = Query::default();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (form_decode(name)?, form_decode(value)?);
            if !allowed.contains(&name.as_ref()) {
                return Err(unknown(&name, allowed));
            }
            if query.text(&name).is_some() {
                return Err(Problem::bad(format!("query parameter {name} is given twice")));
            }
            query.0.push((name, value));
        }
        Ok(query)
    }

    /// A parameter's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    /// A whole number within a range.
    pub fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(number) if digits && (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(expected(name, text, &format!("a whole number from {min} to {max}"))),
        }
    }

    /// `true` or `false`; absent means false.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(expected(name, text, "true or false")),
        }
    }

    /// A comma-separated list; absent or empty means none.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.text(name).unwrap_or_default().split(',').filter(|item| !item.is_empty())
    }

    /// `ttl` in milliseconds.
    pub fn ttl_ms(&self) -> Result<Option<u64>, Problem> {
        Ok(self.number("ttl", 1, TTL_MAX_S)?.map(|seconds| seconds * 1000))
    }

    /// `consistency` and `timeout`; a request that names no level has this one.
    pub fn demand(&self, level: Level) -> Result<Demand, Problem> {
        let timeout_ms = self.number("timeout", 1, TIMEOUT_MAX_MS)?.unwrap_or(TIMEOUT_MS);
        let Some(name) = self.text("consistency") else { return Ok(Demand { level, timeout_ms }) };
        let refuse = || expected("consistency", name, &Level::ALL.map(Level::as_str).join(", "));
        Ok(Demand { level: Level::parse(name).ok_or_else(refuse)?, timeout_ms })
    }

    /// The same where this version serves the level `one` only.
    pub fn check_one(&self) -> Result<(), Problem> {
        match self.demand(Level::One)?.level {
            Level::One => Ok(()),
            level => {
                let level = level.as_str();
                let detail = format!("consistency {level} is not implemented for lists yet");
                Err(Problem::new(Code::NotImplemented, detail))
            }
        }
    }
}

/// Form encoding: percent escapes, and `+` for a space.
fn form_decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    if !text.contains('+') {
        return decode(text);
    }
    Ok(Cow::Owned(decode(&text.replace('+', " "))?.into_owned()))
}

fn unknown(name: &str, allowed: &[&str]) -> Problem {
    let name: String = name.chars().take(80).collect();
    let allowed = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
    Problem::bad(format!("unknown query parameter {name:?}; allowed here: {allowed}"))
}

fn expected(name: &str, got: &str, expected: &str) -> Problem {
    let got: String = got.chars().take(80).collect();
    Problem::bad(format!("query parameter {name} is {got:?}; expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] = &["ttl", "timeout", "consistency", "prefix", "values", "kinds"];

    fn parse(raw: &str) -> Query<'_> {
        Query::parse(Some(raw), ALLOWED).expect(raw)
    }

    #[test]
    fn parameters_are_decoded_and_typed() {
        let query = parse("ttl=60&prefix=a%2Fb+c&values=true&kinds=sets,,maps&");
        assert_eq!(query.ttl_ms().expect("valid"), Some(60_000));
        assert_eq!(query.text("prefix"), Some("a/b c"));
        assert!(query.flag("values").expect("valid"));
        assert_eq!(query.list("kinds").collect::<Vec<_>>(), ["sets", "maps"]);
        let asked = parse("consistency=each_quorum&timeout=30000").demand(Level::One);
        let expected = Demand { level: Level::EachQuorum, timeout_ms: 30_000 };
        assert_eq!(asked.expect("valid"), expected);
        let asked = parse("").demand(Level::LocalQuorum).expect("valid");
        assert_eq!(asked, Demand { level: Level::LocalQuorum, timeout_ms: 2_000 });
    }

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        let unknown = Query::parse(Some("tll=1"), ALLOWED).expect_err("unknown");
        let text = format!("{unknown:?}");
        assert!(text.contains("tll") && text.contains("timeout"), "{text}");
        assert!(Query::parse(Some("ttl=1&ttl=2"), ALLOWED).is_err());
        assert!(Query::parse(Some("ttl=%zz"), ALLOWED).is_err());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for bad in ["ttl=0", "ttl=-1", "ttl=1.5", "ttl=", "ttl=+1", "ttl=99999999999999999999"] {
            assert!(parse(bad).ttl_ms().is_err(), "{bad}");
        }
        for bad in ["timeout=0", "timeout=30001", "consistency=most", "consistency="] {
            let problem = parse(bad).demand(Level::One).expect_err(bad);
            assert_eq!(problem.code, Code::BadRequest, "{bad}");
        }
        let later = parse("consistency=all").check_one().expect_err("later");
        assert_eq!(later.code, Code::NotImplemented);
    }
}
