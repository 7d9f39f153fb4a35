//! Requests that a node leads to another: what it does not hold, a node that does is asked.
//!
//! Invariants:
//! 1. One hop at most, between two nodes that are connected; what is cut meanwhile is lost.
//! 2. An operation is recorded as done by the node that did it.

use atoll::http::problem::Code;
use atoll::node::Holders;
use atoll_replication::transport::NodeId;
use atoll_store::dot::Origin;
use atoll_store::name::EntityKey;
use atoll_store::shard::ShardId;

use super::ask::{self, Pending};
use super::world::World;
use crate::workloads::{Answer, Request};

/// Most ms that a request, or its answer, is under way between two nodes.
const HOP_MS: u64 = 20;

/// A request at a node.
pub(super) struct Asked {
    request: Request,
    /// The client's node, in the run that was asked.
    home: (usize, Origin),
    /// The node that it was led to.
    hop: Option<usize>,
    stage: Stage,
}

enum Stage {
    /// On its way to the other node.
    Goes(u64),
    /// Asked, of the shard and the run of the node: it may answer and stop in one turn.
    Waits(Box<(Pending, ShardId, Origin)>),
    /// On its way back.
    Returns(u64, Answer),
}

impl Asked {
    /// When it goes on by itself.
    pub(super) fn next_at(&self) -> Option<u64> {
        match &self.stage {
            Stage::Goes(at) | Stage::Returns(at, _) => Some(*at),
            Stage::Waits(_) => None,
        }
    }

    /// Whether more than one disk has what is acknowledged: it is not lost with that one.
    pub(super) fn is_at_level(&self) -> bool {
        matches!(self.request, Request::At(level, _) if level != "one")
    }

    /// The machine that does it.
    pub(super) fn at(&self) -> usize {
        self.hop.unwrap_or(self.home.0)
    }
}

/// What comes of a look at a request.
pub(super) enum Look {
    /// Nothing yet.
    Waits,
    /// This, to the client.
    Answered(Answer),
    /// A write was done: the shard and the run of the node, and whether by an earlier try.
    Wrote(ShardId, Origin, ask::Wrote),
}

fn entity(request: &Request) -> EntityKey {
    match request.bare() {
        Request::At(..) => unreachable!("it has one level"),
        Request::Read { entity, .. } | Request::Write { entity, .. } => ask::key(entity),
        Request::Poll { .. } => unreachable!("a poll is no single request"),
    }
}

impl World {
    /// Asks a node that runs, or the one that it leads to.
    pub(super) fn request(&mut self, home: usize, request: &Request) -> Result<Asked, String> {
        let Some(running) = &self.machines[home].running else { return Err("unreachable".into()) };
        let origin = running.origin;
        let here = running.node.holders(&entity(request)) == Holders::Here;
        let request = request.clone();
        let mut asked =
            Asked { request, home: (home, origin), hop: None, stage: Stage::Goes(self.time) };
        match here {
            true => asked.stage = self.ask_at(home, &asked.request).ok_or("unreachable")?,
            false => self.lead(&mut asked)?,
        }
        Ok(asked)
    }

    fn ask_at(&self, at: usize, request: &Request) -> Option<Stage> {
        let running = self.machines[at].running.as_ref()?;
        let shard = running.driver.core().engine().shard_of(&entity(request));
        let pending = ask::ask(&running.node, request);
        Some(Stage::Waits(Box::new((pending, shard, running.origin))))
    }

    /// Sends a request to a node that holds what it is about.
    fn lead(&mut self, asked: &mut Asked) -> Result<(), String> {
        let key = entity(&asked.request);
        let to = self.holder(asked.home.0, &key).ok_or("not-a-replica")?;
        if !self.are_connected(asked.home.0, to) {
            return Err("unreachable".into());
        }
        asked.hop = Some(to);
        asked.stage = Stage::Goes(self.time + self.random.between(1, HOP_MS));
        self.coverage.hit("request led elsewhere");
        Ok(())
    }

    /// The machine to which a node leads for an entity.
    pub(super) fn holder(&self, at: usize, key: &EntityKey) -> Option<usize> {
        match self.machines[at].running.as_ref()?.node.holders(key) {
            Holders::Here => Some(at),
            Holders::Elsewhere(nodes) => nodes.iter().find_map(|node| self.machine(*node)),
        }
    }

    pub(super) fn machine(&self, node: NodeId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id() == node)
    }

    pub(super) fn are_connected(&self, one: usize, other: usize) -> bool {
        self.network.is_connected(self.machines[one].id(), self.machines[other].id())
    }

    /// Looks what became of a request.
    pub(super) fn look(&mut self, asked: &mut Asked) -> Look {
        let (time, (home, origin)) = (self.time, asked.home);
        let lost = || Look::Answered(Answer::Lost("the connection was cut".into()));
        let runs = |at: usize| self.machines[at].running.as_ref().map(|running| running.origin);
        if asked.hop.is_some() && runs(home) != Some(origin) {
            return lost();
        }
        match &mut asked.stage {
            Stage::Goes(at) | Stage::Returns(at, _) if *at > time => Look::Waits,
            Stage::Goes(_) => {
                let to = asked.at();
                let reached = self.are_connected(home, to) && self.machines[to].is_up(time);
                match self.ask_at(to, &asked.request).filter(|_| reached) {
                    None => lost(),
                    Some(stage) => {
                        asked.stage = stage;
                        self.look(asked)
                    }
                }
            }
            Stage::Waits(waits) => {
                let at = asked.hop.unwrap_or(home);
                let Some((answer, wrote)) = waits.0.poll(self.machines[at].wall(time)) else {
                    return Look::Waits;
                };
                let (shard, origin) = (waits.1, waits.2);
                self.answered(asked, answer);
                wrote.map_or(Look::Waits, |wrote| Look::Wrote(shard, origin, wrote))
            }
            Stage::Returns(_, answer) => {
                let answer = answer.clone();
                match asked.hop {
                    Some(at) if !self.are_connected(home, at) => lost(),
                    _ => Look::Answered(answer),
                }
            }
        }
    }

    /// A node has answered: the answer goes back; or it does not hold what it was asked for any
    /// more, and leads to who does.
    fn answered(&mut self, asked: &mut Asked, answer: Answer) {
        let elsewhere = Answer::Refused(Code::NotReplica.as_str().into());
        if asked.hop.is_none() && answer == elsewhere {
            match self.lead(asked) {
                Ok(()) => return,
                Err(why) => asked.stage = Stage::Returns(self.time, Answer::Refused(why)),
            }
            return;
        }
        let late = match asked.hop {
            Some(_) => self.random.between(1, HOP_MS),
            None => 0,
        };
        asked.stage = Stage::Returns(self.time + late, answer);
    }
}
