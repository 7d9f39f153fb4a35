//! One change of one entity, from what a request says; the same for single writes and batches.
//!
//! Invariant: a `Change` that comes out holds at least one command, valid for its kind.

use atoll_store::command::{Change, Command};
use atoll_store::dot::Dot;
use atoll_store::name::{EntityKey, Kind};
use bytes::Bytes;

use super::json::{Json, canonical};
use super::limits::Limits;
use super::operations::{assignment, operations};
use super::problem::{Code, Problem};
use super::request::{Asked, hash};
use super::{App, render, version};
use crate::node::Written;

/// Levels that may wrap a stored value: batch, operation, update, field, list.
const WRAPPING: usize = 8;

/// A method that changes an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Operations.
    Post,
    /// Assignment.
    Put,
    /// Observed remove.
    Delete,
}

impl Verb {
    pub(super) fn parse(method: &str) -> Option<Verb> {
        [Verb::Post, Verb::Put, Verb::Delete].into_iter().find(|verb| verb.as_str() == method)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Verb::Post => "POST",
            Verb::Put => "PUT",
            Verb::Delete => "DELETE",
        }
    }
}

/// What a request says besides its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    /// Time to live, ms.
    pub ttl_ms: Option<u64>,
    /// `If-Match`.
    pub if_match: Option<&'a str>,
    /// `Idempotency-Key`.
    pub key: Option<&'a str>,
}

/// How deep a body may nest.
pub(super) fn body_depth(limits: &Limits) -> usize {
    limits.json_depth + WRAPPING
}

/// The change that is asked for.
pub fn change(
    entity: EntityKey,
    verb: Verb,
    body: &Json<'_>,
    terms: &Terms<'_>,
    limits: &Limits,
) -> Result<Change, Problem> {
    let seen = seen(entity.kind, verb, terms.if_match)?;
    let commands = match verb {
        Verb::Post => operations(entity.kind, body, seen, limits)?,
        Verb::Put => match assignment(entity.kind, body, seen, limits)? {
            Some(command) => vec![command],
            None => return Err(Problem::method("PUT", methods(entity.kind))),
        },
        Verb::Delete => vec![Command::Delete],
    };
    let hash = match terms.key {
        None => None,
        Some(key) => {
            let depth = body_depth(limits);
            let body = match verb {
                Verb::Delete => Bytes::new(),
                _ => canonical(body, depth).map_err(|_| Problem::too_large("too deep"))?,
            };
            let if_match = terms.if_match.unwrap_or_default();
            let method = verb.as_str();
            Some(hash(&entity, key, &Asked { method, ttl_ms: terms.ttl_ms, if_match, body: &body }))
        }
    };
    Ok(Change { key: entity, commands, hash, ttl_ms: terms.ttl_ms })
}

/// The methods of an entity of that kind.
pub(super) fn methods(kind: Kind) -> &'static str {
    match kind {
        Kind::Registers | Kind::MultiRegisters | Kind::Flags => "GET, HEAD, POST, PUT, DELETE",
        Kind::Counters | Kind::Sets | Kind::Maps => "GET, HEAD, POST, DELETE",
    }
}

/// Refuses `PUT` on a kind without assignment.
pub(super) fn check_method(kind: Kind, verb: Verb) -> Result<(), Problem> {
    let allow = methods(kind);
    match verb == Verb::Put && !allow.contains("PUT") {
        true => Err(Problem::method("PUT", allow)),
        false => Ok(()),
    }
}

fn seen(kind: Kind, verb: Verb, if_match: Option<&str>) -> Result<Option<Vec<Dot>>, Problem> {
    let Some(if_match) = if_match else { return Ok(None) };
    if kind != Kind::MultiRegisters {
        let detail = format!(
            "{kind} are multi-master and have no global compare-and-set; \
             use entities, which have one owner, for If-Match"
        );
        return Err(Problem::new(Code::NoCompareAndSet, detail));
    }
    if verb == Verb::Delete {
        return Err(Problem::bad("If-Match does not go with DELETE, which removes what it sees"));
    }
    version::seen(if_match).map(Some)
}

/// The body that answers a change.
///
/// A client that prefers a minimal one gets no value: of a large entity, that is most of the cost.
pub(super) fn answer(
    app: &App,
    key: &EntityKey,
    verb: Verb,
    written: &Written,
    minimal: bool,
) -> Bytes {
    let now = app.node.now();
    if verb == Verb::Delete {
        return render::absent(key, &written.image, Some(written.existed));
    }
    if written.image.is_absent(now) {
        return render::absent(key, &written.image, None);
    }
    if minimal {
        return render::minimal(key, &written.image, now);
    }
    render::entity(key, &written.image, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;

    fn ask(kind: Kind, verb: Verb, terms: &Terms<'_>) -> Result<Change, Problem> {
        let key = EntityKey::parse(kind, "c", "a").expect("valid");
        let json = parse(br#"{"set": 1}"#, 9).expect("JSON");
        change(key, verb, &json, terms, &Limits::default())
    }

    #[test]
    fn compare_and_set_is_for_owned_entities() {
        let terms = Terms { if_match: Some("*"), ..Terms::default() };
        let problem = ask(Kind::Registers, Verb::Post, &terms).expect_err("no CAS");
        assert_eq!(problem.code, Code::NoCompareAndSet);
        assert!(format!("{problem:?}").contains("entities"));
        let problem = ask(Kind::MultiRegisters, Verb::Post, &terms).expect_err("not an ETag");
        assert_eq!(problem.code, Code::BadRequest);
        let etag = format!("\"{}\"", version::text(1, Some(&[Dot::MIN])));
        let terms = Terms { if_match: Some(&etag), ..Terms::default() };
        let change = ask(Kind::MultiRegisters, Verb::Post, &terms).expect("valid");
        assert!(matches!(&change.commands[..], [Command::SetSeen(_, dots)] if dots == &[Dot::MIN]));
        assert!(ask(Kind::MultiRegisters, Verb::Delete, &terms).is_err());
    }

    #[test]
    fn some_kinds_have_no_assignment() {
        let problem = ask(Kind::Counters, Verb::Put, &Terms::default()).expect_err("no PUT");
        assert_eq!(problem.code, Code::MethodNotAllowed);
    }

    #[test]
    fn a_key_makes_a_hash() {
        let terms = Terms { key: Some("k"), ..Terms::default() };
        let hash = |verb| ask(Kind::Registers, verb, &terms).expect("valid").hash;
        assert!(hash(Verb::Post).is_some() && hash(Verb::Post) == hash(Verb::Post));
        assert_ne!(hash(Verb::Post), hash(Verb::Delete));
        assert_eq!(ask(Kind::Registers, Verb::Put, &Terms::default()).expect("valid").hash, None);
    }
}
