//! Linearizability: operations take effect one at a time, each between its invocation and its
//! acknowledgement.
//!
//! Each key is judged alone, which is enough (Herlihy and Wing 1990), against a [`Model`].
//! 1. What failed took no effect. What ended as `:info`, or never, may take effect at any time
//!    after its invocation, or never.
//! 2. A violation names the shortest prefix that has no order: the operation whose end makes it
//!    so, what the entity could be before, and what else was pending.
//! 3. Above a bound of work a key is *unknown*: neither good nor bad. The bound is a number of
//!    steps, not a time: the same history has the same verdict on every machine.
//!
//! Unknown operations that nothing looks at cost little; many that all changed what is read make
//! the search exponential, and end at the bound.

mod model;
mod search;
#[cfg(test)]
mod tests;

pub use model::{Counter, CounterCall, List, ListCall, Model, Register, RegisterCall};

use super::Verdict;
use super::keyed::{Keys, Operation, partition};
use crate::history::{History, Type};
use search::{Item, Outcome, search};

/// Most steps of a search, of all keys together.
pub const WORK_MAX: u64 = 20_000_000;
/// Most states and pending operations that a violation names.
const NAMED_MAX: usize = 8;

/// Judges a history against a model.
pub fn check<M: Model>(history: &History, keys: Keys) -> Verdict {
    check_within::<M>(history, keys, WORK_MAX)
}

/// Judges a history with at most `work` steps.
pub fn check_within<M: Model>(history: &History, keys: Keys, work: u64) -> Verdict {
    let mut verdict = Verdict::default();
    let mut left = work;
    for (key, operations) in partition(history, M::FUNCTIONS, keys, &mut verdict) {
        let happened = |operation: &Operation<'_>| operation.outcome() != Type::Fail;
        let operations = operations.into_iter().filter(happened).collect();
        let subject = Subject::<M>::new(&key, operations, &mut verdict);
        subject.judge(&mut left, &mut verdict);
    }
    verdict.counted.insert("steps".into(), (work - left) as f64);
    verdict
}

/// One key.
struct Subject<'a, M: Model> {
    key: &'a str,
    operations: Vec<Operation<'a>>,
    model: M,
    items: Vec<Item<M::Call>>,
}

impl<'a, M: Model> Subject<'a, M> {
    fn new(key: &'a str, operations: Vec<Operation<'a>>, verdict: &mut Verdict) -> Self {
        let mut model = M::default();
        let mut items = Vec::new();
        for (place, operation) in operations.iter().enumerate() {
            match model.call(operation) {
                Ok(Some(call)) => items.push(Item {
                    operation: place,
                    call,
                    began: operation.began(),
                    ended: operation.acknowledged(),
                }),
                Ok(None) => {}
                Err(problem) => verdict.blame(&operation.pair, format!("{key}{problem}")),
            }
        }
        Subject { key, operations, model, items }
    }

    fn judge(mut self, left: &mut u64, verdict: &mut Verdict) {
        let all = self.items.clone();
        match self.search(&all, left) {
            Outcome::Linear { .. } => verdict.judged += all.len(),
            Outcome::Stuck => {
                verdict.judged += all.len();
                self.blame(left, verdict);
            }
            Outcome::TooMuch => {
                let what = format!("{}{} operations are too much work", self.key, all.len());
                verdict.unknown.push(what);
            }
        }
    }

    fn search(&mut self, items: &[Item<M::Call>], work: &mut u64) -> Outcome<M::State> {
        self.model.learn(&items.iter().map(|item| &item.call).collect::<Vec<_>>());
        search(&self.model, items, work)
    }

    /// The end of the shortest prefix without an order. Every prefix of a good history is good,
    /// so it is looked for by halving. A model that looks ahead sees nothing of what comes after.
    fn shortest(&mut self, left: &mut u64) -> u64 {
        let mut ends: Vec<u64> = self.items.iter().filter_map(|item| item.ended).collect();
        ends.sort_unstable();
        let (mut good, mut bad) = (0, ends.len().saturating_sub(1));
        while good < bad {
            let middle = good + (bad - good) / 2;
            match self.search(&self.prefix(ends[middle]), left) {
                Outcome::Linear { .. } => good = middle + 1,
                Outcome::Stuck => bad = middle,
                Outcome::TooMuch => break,
            }
        }
        ends.get(bad).copied().unwrap_or(0)
    }

    /// The items as one knew them at the end of a line.
    fn prefix(&self, last: u64) -> Vec<Item<M::Call>> {
        let mut items = self.items.clone();
        items.retain_mut(|item| {
            item.ended = item.ended.filter(|end| *end <= last);
            let unanswered = M::is_read(&item.call) && item.ended.is_none();
            item.began <= last && !unanswered
        });
        items
    }

    /// Names the first end that no order explains, and what could be before it.
    fn blame(&mut self, left: &mut u64, verdict: &mut Verdict) {
        let end = self.shortest(left);
        let Some(last) = self.items.iter().find(|item| item.ended == Some(end)) else { return };
        let last = last.operation;
        let items = self.prefix(end - 1);
        let (states, open) = match self.search(&items, left) {
            Outcome::Linear { states, open } => (states, open),
            _ => (Vec::new(), Vec::new()),
        };
        let open = open.into_iter().map(|item| items[item].operation);
        let pending = open.filter(|other| *other != last).map(|o| self.operations[o].describe());
        let operation = &self.operations[last];
        let what = format!(
            "{}{} cannot be linearized; the state could be {}; pending: {}",
            self.key,
            operation.describe(),
            some(states.iter().map(|state| self.model.show(state))),
            some(pending),
        );
        verdict.blame(&operation.pair, what);
    }
}

/// The first of them, and how many more there are.
fn some(all: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        all.truncate(NAMED_MAX);
        all.push(format!("{more} more"));
    }
    if all.is_empty() { "nothing".into() } else { all.join(", ") }
}
