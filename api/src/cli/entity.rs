//! The name of an entity on the command line: `kind/collection/id`.

use std::fmt;
use std::str::FromStr;

use atoll_store::name::Kind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stays as it is in a path segment (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `kind/collection/id`; everything after the second slash is the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// `counters` and so on.
    pub kind: String,
    /// The collection.
    pub collection: String,
    /// The id, not encoded.
    pub id: String,
}

impl FromStr for Entity {
    type Err = String;

    fn from_str(text: &str) -> Result<Entity, String> {
        let mut parts = text.splitn(3, '/').map(str::to_string);
        let (Some(kind), Some(collection), Some(id)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err("expected kind/collection/id, for example counters/likes/post-42".into());
        };
        if collection.is_empty() || id.is_empty() {
            return Err("collection and id may not be empty".into());
        }
        known(&kind)?;
        Ok(Entity { kind, collection, id })
    }
}

/// Whether the contract knows the kind; if not, the nearest one is named.
pub fn known(kind: &str) -> Result<(), String> {
    let mut kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    kinds.extend(["documents", "entities"]);
    if kinds.contains(&kind) {
        return Ok(());
    }
    let near = kinds
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, kind).total_cmp(&strsim::jaro_winkler(b, kind)));
    let near = near.copied().filter(|near| strsim::jaro_winkler(near, kind) > 0.75);
    Err(match near {
        Some(near) => format!("unknown kind `{kind}`; did you mean `{near}`?"),
        None => format!("unknown kind `{kind}`; the kinds are {}", kinds.join(", ")),
    })
}

/// A path segment, encoded.
pub fn segment(text: &str) -> String {
    match text {
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => utf8_percent_encode(text, SEGMENT).to_string(),
    }
}

impl Entity {
    /// Its address at any server.
    pub fn path(&self) -> String {
        format!("/v1/{}/{}/{}", self.kind, segment(&self.collection), segment(&self.id))
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.collection, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        let entity: Entity = "counters/likes/a/b c".parse().expect("a good name");
        assert_eq!(entity.path(), "/v1/counters/likes/a%2Fb%20c");
        assert_eq!(entity.to_string(), "counters/likes/a/b c");
        let wrong = |text: &str| text.parse::<Entity>().expect_err("refused");
        assert_eq!(wrong("counter/a/b"), "unknown kind `counter`; did you mean `counters`?");
        assert!(wrong("counters/a").starts_with("expected kind/collection/id"));
        assert_eq!(wrong("counters//b"), "collection and id may not be empty");
    }
}
