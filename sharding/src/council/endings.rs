//! What nodes tell of origins that ended (R9): each asks until a record shows it, the leader
//! gathers, and decides once all who count have told.
//!
//! Invariants:
//! 1. Of what a node told of one origin at one stage the newest counts, whichever way it took, and
//!    only in the start of the node that membership knows: a disk may have been emptied between.
//! 2. An end is agreed on, or reached, when for every slot every node of its present set, the next
//!    one too, has told so of this slot. For an agreement it must have known this very set: of a
//!    former one it may since have taken more.
//! 3. What was gathered is memory: the next leader hears it again within a second.
//! 4. All of it is bounded, and what its node no longer asks for lapses.
//!
//! Left out: what nodes may tell when, which is replication's.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::placement::{End, Ending, Held, Stage};
use atoll_replication::transport::NodeId;
use atoll_store::dot::{Hlc, Millis, Origin};
use atoll_store::mutant::Mutant;

use super::Council;
use super::ends::{ENDED_MAX, ENDS_MAX, Step};
use super::message::{Message, Report};
use super::plan::Outlook;
use super::state::{Command, State};
use super::talk::REPORT_MS;

/// What a node's core does not ask for again lapses after so long; it asks at every tick.
const LAPSE_MS: Millis = 30_000;
/// Origins that a leader gathers of: all that may have an end, and as many that are to get one.
const GATHERED_MAX: usize = 2 * ENDS_MAX;
/// Nodes that are not recorded and may be lost, counted at a time.
const STRANGERS_MAX: usize = 256;
/// Most steps of one proposal.
const STEPS_MAX: usize = 64;

/// The slots that something is told of, each with the epoch of its set where that matters.
fn slots(ending: &Ending) -> Vec<(u16, u64)> {
    match ending {
        Ending::Holds { slots, .. } => {
            slots.iter().map(|(slot, held)| (*slot, held.epoch)).collect()
        }
        Ending::Reached { slots, .. } => slots.iter().map(|slot| (*slot, 0)).collect(),
        Ending::Ended { .. } | Ending::Orphan { .. } | Ending::Retired { .. } => Vec::new(),
    }
}

/// What this node asks for.
#[derive(Default)]
pub(super) struct Asked {
    /// Orders what was asked for in this start.
    serial: u64,
    wishes: BTreeMap<(Origin, Stage), Wish>,
}

struct Wish {
    ending: Ending,
    serial: u64,
    /// When it is to be sent next.
    next: Millis,
    /// When it was asked for last.
    asked: Millis,
}

impl Asked {
    /// Asks for something, in place of what was asked for of the same origin at the same stage.
    fn take(&mut self, now: Millis, ending: Ending) {
        let subject @ (origin, stage) = ending.subject();
        if stage != Stage::Retired && self.wishes.contains_key(&(origin, Stage::Retired)) {
            return;
        }
        if let Some(wish) = self.wishes.get_mut(&subject) {
            wish.asked = now;
            if wish.ending != ending {
                self.serial += 1;
                // A set has changed, and others may wait for this; a later clock can wait.
                if slots(&wish.ending) != slots(&ending) {
                    wish.next = 0;
                }
                (wish.ending, wish.serial) = (ending, self.serial);
            }
            return;
        }
        let most = if stage == Stage::Ended { ENDED_MAX } else { ENDS_MAX };
        if self.wishes.keys().filter(|(_, other)| *other == stage).count() >= most {
            return;
        }
        if stage == Stage::Retired {
            self.wishes.retain(|(other, _), _| *other != origin);
        }
        self.serial += 1;
        self.wishes.insert(subject, Wish { ending, serial: self.serial, next: 0, asked: now });
    }

    /// What is to be sent now, with its place in the order.
    fn due(&mut self, now: Millis, shown: Shown) -> Vec<(u64, Ending)> {
        let lapsed = |wish: &Wish| now.saturating_sub(wish.asked) >= LAPSE_MS;
        self.wishes.retain(|_, wish| !lapsed(wish) && !shown.shows(&wish.ending));
        let due = self.wishes.values_mut().filter(|wish| now >= wish.next);
        due.map(|wish| {
            wish.next = now + REPORT_MS;
            (wish.serial, wish.ending.clone())
        })
        .collect()
    }
}

/// What the newest record says of ends.
#[derive(Clone, Copy)]
struct Shown<'a> {
    ended: &'a BTreeMap<Origin, BTreeSet<String>>,
    ends: &'a BTreeMap<Origin, End>,
}

impl Shown<'_> {
    /// Whether what was asked for is recorded, or without object.
    fn shows(self, ending: &Ending) -> bool {
        let (origin, stage) = ending.subject();
        let (ended, end) = (self.ended.contains_key(&origin), self.ends.get(&origin));
        match stage {
            Stage::Ended => ended || end.is_some(),
            Stage::Holds => end.is_some(),
            Stage::Reached => end.is_some_and(|end| end.reached),
            Stage::Retired => !ended && end.is_none(),
        }
    }
}

/// What a leader has heard.
#[derive(Default)]
pub(super) struct Gathered {
    /// What one node's word is enough for.
    asked: BTreeMap<Origin, Step>,
    words: BTreeMap<Origin, Words>,
    /// Something is new since the last decision.
    fresh: bool,
}

/// What nodes have told of an origin.
#[derive(Default)]
struct Words {
    holds: BTreeMap<NodeId, Word<BTreeMap<u16, Held>>>,
    reached: BTreeMap<NodeId, Word<(Hlc, BTreeSet<u16>)>>,
    /// When anybody told anything.
    heard: Millis,
}

struct Word<T> {
    start: u64,
    serial: u64,
    told: T,
}

/// Takes a word, unless it is older than what is known, or the same.
fn hear<T>(words: &mut BTreeMap<NodeId, Word<T>>, node: NodeId, word: Word<T>) -> bool {
    let newer = |known: &Word<T>| known.start != word.start || known.serial < word.serial;
    let new = words.get(&node).is_none_or(newer);
    if new {
        words.insert(node, word);
    }
    new
}

/// A report of an ending.
struct Told {
    node: NodeId,
    start: u64,
    serial: u64,
    ending: Ending,
}

impl Gathered {
    /// Whether something is new since the last decision.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub(super) fn clear(&mut self) {
        *self = Gathered::default();
    }

    /// A decision has looked at it.
    pub(super) fn rest(&mut self) {
        self.fresh = false;
    }

    fn take(&mut self, now: Millis, state: &State, told: Told) {
        let Told { node, start, serial, ending } = told;
        let (origin, _) = ending.subject();
        let slots = state.settings.slots;
        match ending {
            Ending::Ended { regions, .. } => self.ask(state, origin, Step::Ended(regions)),
            Ending::Retired { .. } => self.ask(state, origin, Step::Retired),
            Ending::Holds { slots: told, .. } if told.keys().all(|slot| *slot < slots) => {
                let word = Word { start, serial, told };
                if let Some(words) = self.words(now, origin) {
                    let new = hear(&mut words.holds, node, word);
                    self.fresh |= new;
                }
            }
            Ending::Reached { at, slots: told, .. } if told.iter().all(|slot| *slot < slots) => {
                let word = Word { start, serial, told: (at, told) };
                if let Some(words) = self.words(now, origin) {
                    let new = hear(&mut words.reached, node, word);
                    self.fresh |= new;
                }
            }
            // Whoever tells waits for it to become an end.
            Ending::Holds { .. } | Ending::Reached { .. } | Ending::Orphan { .. } => {}
        }
    }

    /// Notes a step that is to be taken, if it can be; the last step replaces others.
    fn ask(&mut self, state: &State, origin: Origin, step: Step) {
        let retired = self.asked.get(&origin) == Some(&Step::Retired);
        let room = self.asked.len() < ENDS_MAX || self.asked.contains_key(&origin);
        if !retired && room && state.ends.may(origin, &step, state.changes()) {
            self.fresh |= self.asked.insert(origin, step.clone()) != Some(step);
        }
    }

    fn words(&mut self, now: Millis, origin: Origin) -> Option<&mut Words> {
        if self.words.len() >= GATHERED_MAX && !self.words.contains_key(&origin) {
            return None;
        }
        let words = self.words.entry(origin).or_default();
        words.heard = now;
        Some(words)
    }

    /// Forgets what is without object by now.
    pub(super) fn prune(&mut self, now: Millis, state: &State) {
        let changes = state.changes();
        self.asked.retain(|origin, step| state.ends.may(*origin, step, changes));
        self.words.retain(|origin, words| {
            let end = state.ends.ends.get(origin);
            match end {
                Some(_) => words.holds.clear(),
                None => words.reached.clear(),
            }
            let open = end.is_none_or(|end| !end.reached) && !state.ends.is_retired(*origin);
            let lapsed = now.saturating_sub(words.heard) >= LAPSE_MS;
            open && !lapsed && !(words.holds.is_empty() && words.reached.is_empty())
        });
    }
}

impl Outlook<'_> {
    /// The steps that origins which ended can take: retired ones go first and make room.
    pub(super) fn endings(&self) -> Vec<Command> {
        let state = self.state;
        let changes = state.changes();
        let (last, first): (Vec<_>, Vec<_>) = (self.gathered.asked.iter())
            .map(|(origin, step)| (*origin, step.clone()))
            .partition(|(_, step)| *step == Step::Retired);
        let told = self.gathered.words.iter();
        let told = told.filter_map(|(origin, words)| {
            let step = match state.ends.ends.contains_key(origin) {
                false => Step::Agreed { changes, finals: self.finals(words)? },
                true => Step::Reached { changes, at: self.reached(words)? },
            };
            Some((*origin, step))
        });
        let steps = last.into_iter().chain(told).chain(first);
        let can = steps.filter(|(origin, step)| state.ends.may(*origin, step, changes));
        can.take(STEPS_MAX).map(|(origin, step)| Command::End { origin, step }).collect()
    }

    /// The highest sequences of each slot, once all its replicas have told as such.
    fn finals(&self, words: &Words) -> Option<BTreeMap<u16, u64>> {
        let mut finals = BTreeMap::new();
        for (number, slot) in (0..).zip(&self.state.slots) {
            for node in slot.replicas.all() {
                let told = self.believed(&words.holds, node).and_then(|held| held.get(&number));
                let told = told.filter(|held| held.epoch == slot.replicas.epoch);
                if told.is_none() && Mutant::EndUnheard.is_on() {
                    continue;
                }
                let highest: &mut u64 = finals.entry(number).or_default();
                *highest = told?.last.max(*highest);
            }
        }
        Some(finals)
    }

    /// The highest clock, once each replica of each slot has all of it.
    fn reached(&self, words: &Words) -> Option<Hlc> {
        let mut highest = Hlc::default();
        for (number, slot) in (0..).zip(&self.state.slots) {
            for node in slot.replicas.all() {
                let (at, slots) = self.believed(&words.reached, node)?;
                highest = slots.contains(&number).then_some(highest.max(*at))?;
            }
        }
        Some(highest)
    }

    /// What a node told in its present start.
    fn believed<'a, T>(&self, words: &'a BTreeMap<NodeId, Word<T>>, node: NodeId) -> Option<&'a T> {
        let word = words.get(&node)?;
        let present = self.members.get(&node).is_none_or(|member| member.start == word.start);
        present.then_some(&word.told)
    }
}

impl Council {
    /// This node asks for something.
    pub(super) fn ask(&mut self, now: Millis, endings: Vec<Ending>) {
        self.strangers.retain(|_, told| now.saturating_sub(*told) < LAPSE_MS);
        for ending in endings {
            if let Some(ending) = self.unless_it_returns(now, ending) {
                self.asked.take(now, ending);
            }
        }
    }

    /// What to ask for now: of an orphan, nothing until its node has been away for so long that a
    /// recorded one would be given up.
    fn unless_it_returns(&mut self, now: Millis, ending: Ending) -> Option<Ending> {
        let Ending::Orphan { origin, node, regions } = ending else { return Some(ending) };
        if self.strangers.len() < STRANGERS_MAX || self.strangers.contains_key(&node) {
            self.strangers.insert(node, now);
        }
        let since = *self.down.get(&node)?;
        let lost = now.saturating_sub(since) >= self.options.limits.forget_after_ms;
        lost.then_some(Ending::Ended { origin, regions })
    }

    /// Hears, as the leader, what a node asks for.
    pub(super) fn gather(&mut self, node: NodeId, start: u64, serial: u64, ending: Ending) {
        let Some(state) = &self.state else { return };
        if state.seats.contains_key(&node) {
            self.gathered.take(self.stepped, state, Told { node, start, serial, ending });
        }
    }

    /// Tells the leader what this node asks for and is due.
    pub(super) fn tell_endings(&mut self, now: Millis) {
        let own = self.state.as_ref().map(|state| {
            (state.version, Shown { ended: &state.ends.ended, ends: &state.ends.ends })
        });
        let told = self
            .told
            .as_ref()
            .map(|record| (record.version, Shown { ended: &record.ended, ends: &record.ends }));
        let newest = own.into_iter().chain(told).max_by_key(|(version, _)| *version);
        let Some((_, shown)) = newest else { return };
        let due = self.asked.due(now, shown);
        if due.is_empty() {
            return;
        }
        let super::Options { node, start, .. } = self.options;
        let to = self.hearers();
        for (serial, ending) in due {
            if self.leads() {
                self.gather(node, start, serial, ending);
                continue;
            }
            let report = Report::Ending { node, start, serial, ending };
            let message = Message::Report { report, forwarded: false };
            to.iter().for_each(|node| self.send(*node, &message));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
