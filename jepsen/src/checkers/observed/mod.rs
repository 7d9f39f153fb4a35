//! Observed removes: what is added stays until a remove that has seen it, and then is gone.
//!
//! A write adds elements (its own adds of them, whoever else adds the same) and removes others:
//! those that its node held, or those that it names. An element is there as long as an add of it
//! is left. What can be known from outside:
//! 1. A node *holds* a write that it acknowledged, or that a read there could only show because of
//!    it, until its disk fails ([`Memory`]).
//! 2. A write *surely removed* an add that it names, or that its node held before it began: at its
//!    own node at once, and everywhere in the end. (If another write had removed it before, then
//!    this one does not again, and a third node may learn of this one first.)
//! 3. A write *possibly removed* an add that it names, or that it covers, unless it had ended
//!    before the add began; and only if what it adds itself is there or possibly removed too.
//! 4. An add that a node held and did not show is gone there for ever.
//!
//! So each read is judged: what it shows has an add (*phantom*) that was not surely removed at this
//! node (*back*); what this node held, if it is not shown, was possibly removed (*lost*, or *torn*
//! if it is part of a write that this very read shows). A final read must hold all that was
//! acknowledged or that any node held, and nothing that was removed anywhere.
//!
//! Left out: which of several adds of one element a read shows, unless only one is possible; and
//! what nodes know of each other without a client's read: faults in these are missed.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::entity::{Entity, Event, acknowledged, end, is_final};
use super::memory::{Memory, node_of};
use crate::history::Pair;

mod element;

pub(super) use element::{Element, Part, Pattern};

/// What a write does.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// What it adds.
    pub(super) adds: BTreeSet<Element>,
    /// What it removes.
    pub(super) removes: Vec<Pattern>,
    /// Whether it removes what it names, held or not.
    pub(super) by_name: bool,
    /// Adds of others that its own stand for from now on, if its node held them.
    pub(super) supersedes: Vec<Pattern>,
}

/// A span of lines within which something was seen.
type Span = (u64, u64);
/// A write, and the number of an element that it adds.
type Add = (usize, usize);

/// What is known of one entity, up to some line.
pub(super) struct Known<'a> {
    /// Each with its node.
    writes: Vec<(Pair<'a>, String, Effect)>,
    memory: &'a Memory,
    /// All elements that are added, numbered.
    elements: Vec<Element>,
    numbers: BTreeMap<Element, usize>,
    /// By write: what it adds.
    adds: Vec<Vec<usize>>,
    /// By element: who adds it.
    adders: Vec<Vec<usize>>,
    removers: Vec<usize>,
    /// By node: writes that it held, since when.
    held: BTreeMap<String, BTreeMap<usize, Vec<Span>>>,
    /// By node: adds that it held and did not show.
    gone: BTreeMap<String, BTreeMap<Add, Vec<Span>>>,
    /// By add: the writes that surely removed it.
    removed_by: BTreeMap<Add, Vec<usize>>,
}

/// What became of an add, as one read must show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is there.
    There,
    /// Nobody knows.
    Unknown,
    /// It is not there.
    Gone,
}

/// A read and what it shows.
pub(super) struct Sight<'a> {
    read: Pair<'a>,
    node: String,
    shown: BTreeSet<usize>,
    /// Writes that it shows, since nothing else explains it.
    shows: BTreeSet<usize>,
}

/// Judges the reads of an entity; `look` says what a read shows, and is then shown what is known.
pub(super) fn judge<'a>(
    entity: &Entity<'a>,
    memory: &'a Memory,
    effects: Vec<Effect>,
    verdict: &mut Verdict,
    mut shown: impl FnMut(&Pair<'a>, &mut Verdict) -> Option<BTreeSet<Element>>,
    mut look: impl FnMut(&Known<'a>, &Sight<'a>, &mut Verdict),
) {
    let mut known = Known::new(entity, memory, effects);
    for event in entity.events() {
        match event {
            Event::WriteBegins(write) => known.remove(write),
            Event::WriteEnds(write) => known.acknowledge(write),
            Event::ReadBegins(_) => {}
            Event::ReadEnds(read) => {
                let read = entity.reads[read];
                let Some(shown) = shown(&read, verdict) else { continue };
                for element in shown.iter().filter(|one| !known.numbers.contains_key(one)) {
                    let what = format!("{}: {element} was read, and not added", entity.key);
                    verdict.blame(&read, what);
                }
                let sight = known.see(read, &shown);
                known.judge(&sight, &entity.key, verdict);
                look(&known, &sight, verdict);
                known.learn(sight);
            }
        }
    }
}

impl<'a> Known<'a> {
    fn new(entity: &Entity<'a>, memory: &'a Memory, effects: Vec<Effect>) -> Known<'a> {
        let writes = entity.writes.iter().zip(effects);
        let writes: Vec<_> = writes.map(|(pair, does)| (*pair, node_of(pair), does)).collect();
        let all: BTreeSet<&Element> = writes.iter().flat_map(|(.., does)| &does.adds).collect();
        let elements: Vec<Element> = all.into_iter().cloned().collect();
        let numbers: BTreeMap<Element, usize> =
            elements.iter().cloned().enumerate().map(|(number, one)| (one, number)).collect();
        let mut adders = vec![Vec::new(); elements.len()];
        let mut adds = Vec::new();
        for (place, (_, _, effect)) in writes.iter().enumerate() {
            let added: Vec<usize> = effect.adds.iter().map(|one| numbers[one]).collect();
            added.iter().for_each(|element| adders[*element].push(place));
            adds.push(added);
        }
        let removes = |(place, (_, _, effect)): (usize, &(_, _, Effect))| {
            (!effect.removes.is_empty()).then_some(place)
        };
        let removers = writes.iter().enumerate().filter_map(removes).collect();
        let (held, gone, removed_by) = Default::default();
        Known { writes, memory, elements, numbers, adds, adders, removers, held, gone, removed_by }
    }

    fn pair(&self, write: usize) -> &Pair<'a> {
        &self.writes[write].0
    }

    /// A write begins: whatever else, it removes what its node holds now.
    fn remove(&mut self, write: usize) {
        let (pair, node, effect) = &self.writes[write];
        let mut removed = Vec::new();
        let covers = |patterns: &[Pattern], element| patterns.iter().any(|p| p.covers(element));
        if effect.by_name {
            for (number, element) in self.elements.iter().enumerate() {
                if covers(&effect.removes, element) {
                    removed.extend(self.adders[number].iter().map(|add| (*add, number)));
                }
            }
        }
        for add in self.held.get(node).into_iter().flat_map(BTreeMap::keys) {
            if !self.holds(node, *add, pair.invoke.index, end(pair)) {
                continue;
            }
            for number in &self.adds[*add] {
                let element = &self.elements[*number];
                let named = !effect.by_name && covers(&effect.removes, element);
                if named || covers(&effect.supersedes, element) {
                    removed.push((*add, *number));
                }
            }
        }
        for add in removed.into_iter().filter(|(add, _)| *add != write) {
            self.removed_by.entry(add).or_default().push(write);
        }
    }

    fn acknowledge(&mut self, write: usize) {
        let (pair, node, _) = &self.writes[write];
        let span = (pair.invoke.index, end(pair));
        remember(self.memory, self.held.entry(node.clone()).or_default(), node, write, span);
    }

    /// Whether a node held a write before `from`, and still at `to`.
    fn holds(&self, node: &str, write: usize, from: u64, to: u64) -> bool {
        let spans = self.held.get(node).and_then(|held| held.get(&write));
        spans.is_some_and(|spans| self.lasts(spans, node, from, to))
    }

    fn lasts(&self, spans: &[Span], node: &str, from: u64, to: u64) -> bool {
        spans.iter().any(|span| span.1 < from && self.memory.keeps(node, span.0, to))
    }

    /// Which writes a read shows for certain.
    fn see(&self, read: Pair<'a>, shown: &BTreeSet<Element>) -> Sight<'a> {
        let node = node_of(&read);
        let shown = shown.iter().filter_map(|element| self.numbers.get(element)).copied();
        let mut sight = Sight { read, node, shown: shown.collect(), shows: BTreeSet::new() };
        let mut shows = BTreeSet::new();
        for element in &sight.shown {
            let mut left = self.candidates(*element, &sight);
            if let (Some(only), None) = (left.next(), left.next()) {
                shows.insert(only);
            }
        }
        sight.shows = shows;
        sight
    }

    /// The adds that a read may show an element by.
    fn candidates<'s>(
        &'s self,
        element: usize,
        sight: &'s Sight<'a>,
    ) -> impl Iterator<Item = usize> + 's {
        self.adds_before(element, sight).filter(move |add| !self.is_removed(*add, element, sight))
    }

    fn adds_before<'s>(
        &'s self,
        element: usize,
        sight: &'s Sight<'a>,
    ) -> impl Iterator<Item = usize> + 's {
        let adds = self.adders[element].iter().copied();
        adds.filter(|add| self.pair(*add).invoke.index < end(&sight.read))
    }

    /// Whether the state that a read shows certainly has a write in it.
    fn is_applied(&self, write: usize, sight: &Sight<'_>) -> bool {
        let (from, to) = (sight.read.invoke.index, end(&sight.read));
        if sight.shows.contains(&write) || self.holds(&sight.node, write, from, to) {
            return true;
        }
        let pair = self.pair(write);
        let everywhere = acknowledged(pair) && end(pair) < from;
        let elsewhere = || self.held.keys().any(|node| self.holds(node, write, from, to));
        is_final(&sight.read) && (everywhere || elsewhere())
    }

    fn is_removed(&self, add: usize, element: usize, sight: &Sight<'_>) -> bool {
        let key = (add, element);
        let mut removers = self.removed_by.get(&key).into_iter().flatten();
        // What another had removed before is not removed again: elsewhere, that one may be missing,
        // as it may be here once the disk was lost and is filled again.
        let counts = |remover: usize| {
            let (pair, node, _) = &self.writes[remover];
            let since = || self.memory.keeps(node, pair.invoke.index, end(&sight.read));
            is_final(&sight.read) || (*node == sight.node && since())
        };
        if removers.any(|remover| counts(*remover) && self.is_applied(*remover, sight)) {
            return true;
        }
        let (from, to) = (sight.read.invoke.index, end(&sight.read));
        self.gone.iter().any(|(node, gone)| {
            let concerns = *node == sight.node || is_final(&sight.read);
            let spans = gone.get(&key).filter(|_| concerns);
            spans.is_some_and(|spans| self.lasts(spans, node, from, to))
        })
    }

    /// What became of an add, as the read must show it.
    pub(super) fn fate(&self, add: usize, element: &Element, sight: &Sight<'_>) -> Fate {
        self.numbers.get(element).map_or(Fate::Gone, |number| self.fate_of(add, *number, sight))
    }

    fn fate_of(&self, add: usize, element: usize, sight: &Sight<'_>) -> Fate {
        if self.is_removed(add, element, sight) {
            Fate::Gone
        } else if self.is_applied(add, sight) && !self.may_be_removed(add, element, sight) {
            Fate::There
        } else {
            Fate::Unknown
        }
    }

    /// Whether a write that may be in the state which a read shows may have removed an add.
    fn may_be_removed(&self, add: usize, element: usize, sight: &Sight<'_>) -> bool {
        let mut tried = BTreeSet::new();
        let mut open = vec![(add, element)];
        while let Some((add, element)) = open.pop() {
            for remover in self.removers_of(add, element, sight) {
                if !tried.insert(remover) {
                    continue;
                }
                // A remover that cannot be seen must itself have been removed, by another.
                match self.adds[remover][..] {
                    [own] if self.misses(sight, own) && !self.is_applied(remover, sight) => {
                        open.push((remover, own));
                    }
                    _ => return true,
                }
            }
        }
        false
    }

    /// Whether a read would show an element that is there, and does not.
    fn misses(&self, sight: &Sight<'_>, element: usize) -> bool {
        !self.elements[element].hides() && !sight.shown.contains(&element)
    }

    /// Writes that may have seen an add, and remove what they see.
    fn removers_of<'s>(
        &'s self,
        add: usize,
        element: usize,
        sight: &'s Sight<'a>,
    ) -> impl Iterator<Item = usize> + 's {
        let element = &self.elements[element];
        let begun = self.pair(add).invoke.index;
        self.removers.iter().copied().filter(move |remover| {
            let (pair, _, effect) = &self.writes[*remover];
            let in_time = pair.invoke.index < end(&sight.read);
            let may_see = effect.by_name || end(pair) > begun;
            let covers = || effect.removes.iter().any(|pattern| pattern.covers(element));
            *remover != add && in_time && may_see && covers()
        })
    }

    fn judge(&mut self, sight: &Sight<'a>, key: &str, verdict: &mut Verdict) {
        for number in &sight.shown {
            let element = &self.elements[*number];
            if self.adds_before(*number, sight).next().is_none() {
                let what = format!("{key}: {element} was read, and not added");
                verdict.blame(&sight.read, what);
            } else if self.candidates(*number, sight).next().is_none() {
                let what = format!("{key}: {element} was removed, and is back");
                verdict.blame(&sight.read, what);
            }
        }
        let (mut gone, mut lost) = (Vec::new(), BTreeSet::new());
        for (write, adds) in self.adds.iter().enumerate() {
            let missing = || adds.iter().copied().filter(|element| self.misses(sight, *element));
            if missing().next().is_none() || !self.is_applied(write, sight) {
                continue;
            }
            for element in missing() {
                match self.fate_of(write, element, sight) {
                    Fate::There if lost.insert(element) => {
                        verdict.blame(&sight.read, self.loss(write, element, sight, key));
                    }
                    Fate::Unknown => gone.push((write, element)),
                    Fate::There | Fate::Gone => {}
                }
            }
        }
        let (node, span) = (&sight.node, (sight.read.invoke.index, end(&sight.read)));
        for add in gone {
            remember(self.memory, self.gone.entry(node.clone()).or_default(), node, add, span);
        }
    }

    fn loss(&self, write: usize, element: usize, sight: &Sight<'_>, key: &str) -> String {
        let element = &self.elements[element];
        let (pair, from) = (self.pair(write), sight.read.invoke.index);
        let index = pair.invoke.index;
        if acknowledged(pair) && end(pair) < from && is_final(&sight.read) {
            format!("{key}: {element} was acknowledged, and is lost")
        } else if sight.shows.contains(&write) {
            format!("{key}: {element} is not there, and the rest of operation {index} is")
        } else {
            format!("{key}: {element} was here, and is lost")
        }
    }

    fn learn(&mut self, sight: Sight<'a>) {
        let (node, span) = (&sight.node, (sight.read.invoke.index, end(&sight.read)));
        for write in sight.shows {
            remember(self.memory, self.held.entry(node.clone()).or_default(), node, write, span);
        }
    }
}

impl<'a> Sight<'a> {
    /// The read.
    pub(super) fn read(&self) -> &Pair<'a> {
        &self.read
    }
}

/// Keeps the earliest span, and a later one only where the earlier may be forgotten.
fn remember<K: Ord>(
    memory: &Memory,
    facts: &mut BTreeMap<K, Vec<Span>>,
    node: &str,
    fact: K,
    span: Span,
) {
    let spans = facts.entry(fact).or_default();
    if spans.last().is_none_or(|last| !memory.keeps(node, last.0, span.1)) {
        spans.push(span);
    }
}

#[cfg(test)]
mod tests;
