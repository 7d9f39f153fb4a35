//! Batches over several nodes: each gets the operations on what it holds, in their order.
//!
//! Invariants:
//! 1. Every operation has a result of its own; where its node gave none, that is a problem that
//!    says whether it may have been applied.
//! 2. An operation is sent again only if it was not sent, was refused with 503, or has a key (R10),
//!    which stays the one of its place in the client's batch.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::transport::NodeId;
use atoll_store::name::EntityKey;
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use futures_util::future::join_all;
use hyper::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::super::App;
use super::super::problem::{Code, Problem};
use super::channel::Failed;
use super::{Ask, Forwarder, PLACES, REFUSED, Share, Slots, forwarder, unreachable};

/// How often what one node did not do is asked of others.
const ROUNDS: u32 = 3;

/// Results by place, as JSON.
type Results = BTreeMap<usize, Bytes>;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    operations: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answers<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Status {
    status: u16,
}

/// What is left to do, and what came of the rest.
struct Work<'a> {
    operations: Vec<&'a RawValue>,
    /// Place and slot of each operation without a result.
    left: Vec<(usize, u16)>,
    results: Results,
    failed: BTreeSet<NodeId>,
    /// Operations that were sent and not answered.
    lost: BTreeSet<usize>,
}

/// The results of the operations at these places, which other nodes hold.
pub(in super::super) async fn batch(
    app: &App,
    parts: &Parts,
    body: &[u8],
    places: Vec<(usize, EntityKey)>,
    keyed: bool,
) -> Result<Results, Problem> {
    if places.is_empty() {
        return Ok(Results::new());
    }
    let forwarder = forwarder(app, parts)?;
    let ask = Ask::new(parts, Bytes::new())?.writing(keyed);
    let Batch { operations } = serde_json::from_slice(body).map_err(|_| Problem::internal())?;
    let slot = |(place, key): (usize, EntityKey)| (place, app.node.slot(&key));
    let mut work = Work {
        operations,
        left: places.into_iter().map(slot).collect(),
        results: Results::new(),
        failed: BTreeSet::new(),
        lost: BTreeSet::new(),
    };
    for round in 0..ROUNDS {
        let part: Slots = work.left.iter().map(|(_, slot)| *slot).collect();
        let Some(shares) = forwarder.shares(app, &part, &work.failed) else { break };
        let now = Instant::now();
        let share = ask.deadline.saturating_duration_since(now) / (ROUNDS - round);
        let deadline = if keyed { now + share } else { ask.deadline };
        work.round(forwarder, &ask, deadline, &shares).await;
        if work.left.is_empty() {
            break;
        }
    }
    Ok(work.finish(&ask))
}

impl Work<'_> {
    /// Asks every node for its share.
    async fn round(
        &mut self,
        forwarder: &Forwarder,
        ask: &Ask,
        deadline: Instant,
        shares: &[Share],
    ) {
        let mine = |share: &Share| -> Vec<usize> {
            let here = self.left.iter().filter(|(_, slot)| share.part.has(*slot));
            here.map(|(place, _)| *place).collect()
        };
        let asked: Vec<(NodeId, Vec<usize>)> =
            shares.iter().filter_map(|share| Some((share.node?, mine(share)))).collect();
        let each = asked.iter().map(|(node, places)| {
            let ask = self.ask(ask, places, deadline);
            async move { forwarder.one(&ask?, *node).await }
        });
        let answers = join_all(each).await;
        for ((node, places), answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(answer) => self.take(node, &places, &answer),
                Err(Failed::Unsent) => drop(self.failed.insert(node)),
                Err(Failed::Lost) => self.lose(node, &places, ask),
            }
        }
        // What came to be held here meanwhile is refused: its client may repeat it at once.
        for share in shares.iter().filter(|share| share.node.is_none()) {
            let moved = Problem::new(Code::NotReplica, "the shard has just moved here");
            let places = self.left.iter().filter(|(_, slot)| share.part.has(*slot));
            let places: Vec<usize> = places.map(|(place, _)| *place).collect();
            self.settle(&places, &moved);
        }
    }

    /// The request for the operations at some places.
    fn ask(&self, ask: &Ask, places: &[usize], deadline: Instant) -> Result<Ask, Failed> {
        let mut body = b"{\"operations\":[".to_vec();
        let mut names = String::new();
        for (at, place) in places.iter().enumerate() {
            if at > 0 {
                body.push(b',');
                names.push(',');
            }
            body.extend_from_slice(self.operations[*place].get().as_bytes());
            names.push_str(&place.to_string());
        }
        body.extend_from_slice(b"]}");
        let ask = ask.clone().with_body(body).until(deadline);
        ask.with(PLACES, &names).map_err(|_| Failed::Unsent)
    }

    /// Takes what a node answered for its operations.
    fn take(&mut self, node: NodeId, places: &[usize], answer: &Response<Bytes>) {
        let (status, body) = (answer.status(), answer.body());
        if status == REFUSED {
            self.failed.insert(node);
            return;
        }
        let answers: Option<Answers<'_>> = match status {
            StatusCode::OK => serde_json::from_slice(body).ok(),
            _ => None,
        };
        let Some(answers) = answers.filter(|answers| answers.results.len() == places.len()) else {
            tracing::warn!(%node, %status, "a node refused a part of a batch");
            return self.settle(places, &Problem::internal());
        };
        for (place, result) in places.iter().zip(answers.results) {
            let json = body.slice_ref(result.get().as_bytes());
            let status = serde_json::from_str(result.get()).map_or(500, |Status { status }| status);
            self.results.insert(*place, json);
            if status == REFUSED.as_u16() {
                // Kept, in case nobody else does it.
                self.failed.insert(node);
            } else {
                self.left.retain(|(left, _)| left != place);
            }
        }
    }

    /// No answer came: done with, unless it can be sent again.
    fn lose(&mut self, node: NodeId, places: &[usize], ask: &Ask) {
        self.failed.insert(node);
        match ask.repeatable {
            true => self.lost.extend(places),
            false => self.settle(places, &ask.lost()),
        }
    }

    /// Gives operations a problem for their result.
    fn settle(&mut self, places: &[usize], problem: &Problem) {
        let json = result(problem);
        self.results.extend(places.iter().map(|place| (*place, json.clone())));
        self.left.retain(|(left, _)| !places.contains(left));
    }

    /// The results; a problem for what nobody did.
    fn finish(mut self, ask: &Ask) -> Results {
        let (lost, never) = (result(&ask.lost()), result(&unreachable()));
        for (place, _) in &self.left {
            if self.lost.contains(place) {
                self.results.insert(*place, lost.clone());
            } else {
                self.results.entry(*place).or_insert_with(|| never.clone());
            }
        }
        self.results
    }
}

/// A problem as the result of an operation.
fn result(problem: &Problem) -> Bytes {
    let mut out = Vec::with_capacity(384);
    problem.write_result(&mut out);
    out.into()
}
