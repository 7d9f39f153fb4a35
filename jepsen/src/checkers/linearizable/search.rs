//! The search for an order: what the entity may be after each acknowledgement.
//!
//! Wing and Gong's search (1993) with Lowe's memory of what was tried (2017), breadth first: a
//! configuration is a state with the calls that took effect early. When a call is acknowledged,
//! each configuration in which it has not taken effect is continued, by it and by whatever else
//! is open before it (just in time), and all others are dropped. None left: no order exists.
//!
//! Invariants:
//! 1. Open reads take effect as soon as a state answers them so: that never shuts out another
//!    order, since they change nothing.
//! 2. Of configurations that differ only in calls of unknown fate, those that used more than
//!    another are dropped: such calls need never take effect.
//! 3. Equal calls of unknown fate take effect in the order of their invocations.
//! 4. The order of the search is that of the history: its work is the same every time.

use std::collections::BTreeMap;

use super::model::Model;

/// A call, from its invocation to its acknowledgement.
#[derive(Clone, Debug)]
pub(super) struct Item<C> {
    /// Its place among the operations of its key.
    pub(super) operation: usize,
    /// The call.
    pub(super) call: C,
    /// Where it began.
    pub(super) began: u64,
    /// Where it was acknowledged; none: it takes effect at any time from then on, or never.
    pub(super) ended: Option<u64>,
}

/// What was found.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome<S> {
    /// There is an order.
    Linear {
        /// What the entity may be at the end, but for what is open.
        states: Vec<S>,
        /// The items that are not acknowledged.
        open: Vec<usize>,
    },
    /// There is none.
    Stuck,
    /// The bound of work was met.
    TooMuch,
}

/// A state, and the open items that took effect in it: known and unknown ones, in order.
#[derive(Clone, Debug)]
struct Configuration<S> {
    state: S,
    done: Vec<u32>,
    used: Vec<u32>,
}

/// Distinct configurations, without those that others make needless.
#[derive(Debug)]
struct Configurations<S>(BTreeMap<(S, Vec<u32>), Vec<Vec<u32>>>);

impl<S: Clone + Ord> Configurations<S> {
    fn new() -> Self {
        Configurations(BTreeMap::new())
    }

    /// Whether it is new, and worth going on with.
    fn insert(&mut self, configuration: Configuration<S>) -> bool {
        let Configuration { state, done, used } = configuration;
        let least = self.0.entry((state, done)).or_default();
        if least.iter().any(|other| is_subset(other, &used)) {
            return false;
        }
        least.retain(|other| !is_subset(&used, other));
        least.push(used);
        true
    }

    fn into_vec(self) -> Vec<Configuration<S>> {
        let each = self.0.into_iter().flat_map(|((state, done), all)| {
            all.into_iter().map(move |used| {
                let (state, done) = (state.clone(), done.clone());
                Configuration { state, done, used }
            })
        });
        each.collect()
    }
}

/// Whether all of one sorted list is in the other.
fn is_subset(one: &[u32], other: &[u32]) -> bool {
    one.len() <= other.len() && one.iter().all(|item| other.binary_search(item).is_ok())
}

fn has(sorted: &[u32], item: usize) -> bool {
    sorted.binary_search(&(item as u32)).is_ok()
}

fn put(sorted: &mut Vec<u32>, item: usize) {
    if let Err(place) = sorted.binary_search(&(item as u32)) {
        sorted.insert(place, item as u32);
    }
}

/// Looks for an order of the items; each step takes one off `work`.
pub(super) fn search<M: Model>(
    model: &M,
    items: &[Item<M::Call>],
    work: &mut u64,
) -> Outcome<M::State> {
    let mut events: Vec<(u64, usize)> = Vec::new();
    for (place, item) in items.iter().enumerate() {
        events.push((item.began, place));
        events.extend(item.ended.map(|end| (end, place)));
    }
    events.sort_unstable();
    let mut configurations = Configurations::new();
    let (done, used) = (Vec::new(), Vec::new());
    configurations.insert(Configuration { state: model.start(), done, used });
    let mut search =
        Search { model, items, twins: twins(items), open: Vec::new(), configurations, work };
    for (index, item) in events {
        let going = match items[item].ended == Some(index) {
            false => search.begin(item),
            true => search.end(item),
        };
        match going {
            Some(true) => {}
            Some(false) => return Outcome::Stuck,
            None => return Outcome::TooMuch,
        }
    }
    let states = search.configurations.0.into_keys().map(|(state, _)| state);
    let mut states: Vec<M::State> = states.collect();
    states.dedup();
    Outcome::Linear { states, open: search.open }
}

/// For each item of unknown fate, the last equal one before it.
fn twins<C: PartialEq>(items: &[Item<C>]) -> Vec<Option<usize>> {
    let twin = |place: usize| {
        let item = &items[place];
        let same = |other: &usize| items[*other].ended.is_none() && items[*other].call == item.call;
        item.ended.is_none().then(|| (0..place).rev().find(same)).flatten()
    };
    (0..items.len()).map(twin).collect()
}

struct Search<'a, M: Model> {
    model: &'a M,
    items: &'a [Item<M::Call>],
    twins: Vec<Option<usize>>,
    /// Begun, and not acknowledged, in order.
    open: Vec<usize>,
    configurations: Configurations<M::State>,
    work: &'a mut u64,
}

impl<M: Model> Search<'_, M> {
    fn is_read(&self, item: usize) -> bool {
        M::is_read(&self.items[item].call)
    }

    /// One step; `None` above the bound of work.
    fn step(&mut self, state: &M::State, item: usize) -> Option<Option<M::State>> {
        *self.work = self.work.checked_sub(1)?;
        Some(self.model.step(state, &self.items[item].call))
    }

    /// `None` above the bound of work, as below.
    fn begin(&mut self, item: usize) -> Option<bool> {
        self.open.push(item);
        if self.is_read(item) {
            let before = std::mem::replace(&mut self.configurations, Configurations::new());
            for mut configuration in before.into_vec() {
                if self.step(&configuration.state, item)?.is_some() {
                    put(&mut configuration.done, item);
                }
                self.configurations.insert(configuration);
            }
        }
        Some(true)
    }

    /// An item is acknowledged: `false` if it cannot have taken effect.
    fn end(&mut self, item: usize) -> Option<bool> {
        let before = std::mem::replace(&mut self.configurations, Configurations::new());
        let (mut next, mut seen) = (Configurations::new(), Configurations::new());
        let mut rest = Vec::new();
        for configuration in before.into_vec() {
            if has(&configuration.done, item) {
                next.insert(without(configuration, item));
            } else {
                seen.insert(configuration.clone());
                rest.push(configuration);
            }
        }
        while let Some(configuration) = rest.pop() {
            for place in 0..self.open.len() {
                let other = self.open[place];
                let Some(after) = self.take(&configuration, other)? else { continue };
                if has(&after.done, item) {
                    next.insert(without(after, item));
                } else if seen.insert(after.clone()) {
                    rest.push(after);
                }
            }
        }
        if next.0.is_empty() {
            return Some(false);
        }
        self.configurations = next;
        self.open.retain(|other| *other != item);
        Some(true)
    }

    /// The configuration after an open item that changes something, if it can be next.
    fn take(
        &mut self,
        before: &Configuration<M::State>,
        item: usize,
    ) -> Option<Option<Configuration<M::State>>> {
        let unknown = self.items[item].ended.is_none();
        let taken = has(&before.done, item) || has(&before.used, item);
        let waits = self.twins[item].is_some_and(|twin| !has(&before.used, twin));
        if taken || waits || self.is_read(item) {
            return Some(None);
        }
        let Some(state) = self.step(&before.state, item)? else { return Some(None) };
        let mut after = Configuration { state, ..before.clone() };
        put(if unknown { &mut after.used } else { &mut after.done }, item);
        for place in 0..self.open.len() {
            let read = self.open[place];
            if self.is_read(read)
                && !has(&after.done, read)
                && self.step(&after.state, read)?.is_some()
            {
                put(&mut after.done, read);
            }
        }
        Some(Some(after))
    }
}

fn without<S>(mut configuration: Configuration<S>, item: usize) -> Configuration<S> {
    configuration.done.retain(|done| *done != item as u32);
    configuration
}
