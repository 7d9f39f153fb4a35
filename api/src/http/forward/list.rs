//! Lists over several nodes: each answers for its slots, and the pages merge in byte order.
//!
//! Invariants:
//! 1. A page is complete or there is none: if nobody answers for some slots, it is a problem.
//! 2. Its items are those that one node with all the slots would have listed, byte for byte.

use std::borrow::Cow;
use std::collections::BTreeSet;

use atoll_replication::transport::NodeId;
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::super::App;
use super::super::list::{Asked, Found, Item, here};
use super::super::problem::{Code, Problem};
use super::channel::Failed;
use super::{Ask, Forwarder, REFUSED, SLOTS, Share, Slots, forwarder, unreachable, whole};

/// How often what one node did not answer is asked of others.
const ROUNDS: u32 = 3;

/// What went wrong with a share.
enum Wrong {
    /// Another node may do it.
    Elsewhere,
    /// No answer came.
    Lost,
    /// Nobody will do it.
    Problem(Problem),
}

/// What all nodes together list.
pub(in super::super) async fn list(
    app: &App,
    parts: &Parts,
    asked: &Asked<'_>,
) -> Result<Found, Problem> {
    let forwarder = forwarder(app, parts)?;
    let ask = Ask::new(parts, Bytes::new())?;
    let mut failed: BTreeSet<NodeId> = BTreeSet::new();
    let (mut left, mut found, mut lost) = (whole(app), Vec::new(), false);
    for round in 0..ROUNDS {
        let shares = forwarder.shares(app, &left, &failed).ok_or_else(unreachable)?;
        let now = Instant::now();
        let share = ask.deadline.saturating_duration_since(now) / (ROUNDS - round);
        let deadline = now + share;
        let each = shares.iter().map(|share| one(app, forwarder, &ask, asked, share, deadline));
        let answers = join_all(each).await;
        let mut again = Vec::new();
        for (share, answer) in shares.iter().zip(answers) {
            match answer {
                Ok(page) => found.push(page),
                Err(Wrong::Problem(problem)) => return Err(problem),
                Err(wrong) => {
                    lost |= matches!(wrong, Wrong::Lost);
                    failed.extend(share.node);
                    again.extend_from_slice(share.part.slots());
                }
            }
        }
        if again.is_empty() {
            return Ok(merge(found, asked.limit));
        }
        left = again.into_iter().collect();
    }
    Err(if lost { ask.lost() } else { unreachable() })
}

impl Forwarder {
    /// Few nodes that hold these slots, without those that failed, and without those that did not
    /// answer lately where that can be.
    pub(super) fn shares(
        &self,
        app: &App,
        part: &Slots,
        failed: &BTreeSet<NodeId>,
    ) -> Option<Vec<Share>> {
        let mut avoid = failed.clone();
        avoid.extend(self.suspected());
        let cover = |avoid| app.node.cover(part.slots(), avoid);
        let parts = cover(&avoid).or_else(|| cover(failed))?.into_iter();
        Some(parts.map(|p| Share { node: p.node, part: p.slots.into_iter().collect() }).collect())
    }
}

/// What one node lists of its share.
async fn one(
    app: &App,
    forwarder: &Forwarder,
    ask: &Ask,
    asked: &Asked<'_>,
    share: &Share,
    deadline: Instant,
) -> Result<Found, Wrong> {
    let Some(node) = share.node else {
        return here(app, asked, &share.part).await.map_err(|problem| match problem.code {
            Code::NotReplica => Wrong::Elsewhere,
            _ => Wrong::Problem(problem),
        });
    };
    let ask = ask.clone().with(SLOTS, &share.part.to_string()).map_err(Wrong::Problem)?;
    let answer =
        forwarder.one(&ask.until(deadline), node).await.map_err(|failed| match failed {
            Failed::Unsent => Wrong::Elsewhere,
            Failed::Lost => Wrong::Lost,
        })?;
    match answer.status() {
        StatusCode::OK => read(answer.body()).ok_or(Wrong::Lost),
        REFUSED => Err(Wrong::Elsewhere),
        status => {
            tracing::warn!(%node, %status, "a node refused a part of a list");
            Err(Wrong::Problem(Problem::internal()))
        }
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    #[serde(borrow)]
    cursor: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

/// A page as another node wrote it; `None`: it is none.
fn read(body: &Bytes) -> Option<Found> {
    let page: Page<'_> = serde_json::from_slice(body).ok()?;
    let item = |json: &&RawValue| {
        let Named { id } = serde_json::from_str(json.get()).ok()?;
        Some(Item { id, json: body.slice_ref(json.get().as_bytes()) })
    };
    let items: Option<Vec<Item>> = page.items.iter().map(item).collect();
    Some(Found { items: items?, more: page.cursor.is_some() })
}

fn merge(found: Vec<Found>, limit: usize) -> Found {
    let mut more = found.iter().any(|page| page.more);
    let mut items: Vec<Item> = found.into_iter().flat_map(|page| page.items).collect();
    items.sort_by(|one, other| one.id.cmp(&other.id));
    more |= items.len() > limit;
    items.truncate(limit);
    Found { items, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_item_by_item() {
        let body = r#"{"items":[{"id":"a\"b","value":12345678901234567890,"version":"1"},
            {"id":"c","version":"2"}],"cursor":null}"#;
        let page = read(&Bytes::from(body)).expect("a page");
        let items: Vec<_> = page.items.iter().map(|item| (item.id.as_str(), &item.json)).collect();
        let first = &br#"{"id":"a\"b","value":12345678901234567890,"version":"1"}"#[..];
        assert_eq!(items[0], ("a\"b", &Bytes::from_static(first)));
        assert_eq!(items[1].0, "c");
        assert!(!page.more);
        for bad in ["", "{}", r#"{"items":[1],"cursor":null}"#, r#"{"items":{},"cursor":"x"}"#] {
            assert!(read(&Bytes::from(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn pages_merge_up_to_the_limit() {
        let page = |ids: &[&str], more| Found {
            items: ids.iter().map(|id| Item { id: (*id).to_owned(), json: Bytes::new() }).collect(),
            more,
        };
        let ids = |found: &Found| {
            found.items.iter().map(|item| item.id.clone()).collect::<Vec<_>>().join("")
        };
        let merged = merge(vec![page(&["a", "d"], false), page(&["b", "c"], true)], 3);
        assert_eq!((ids(&merged).as_str(), merged.more), ("abc", true));
        let merged = merge(vec![page(&["a"], false), page(&["b"], false)], 2);
        assert_eq!((ids(&merged).as_str(), merged.more), ("ab", false));
    }
}
