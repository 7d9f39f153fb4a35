//! What an entity does, one operation at a time: the sequential meaning that is searched for.
//!
//! Invariants:
//! 1. A step is a function of state and call; `None` means that the call could not have been
//!    answered so in that state.
//! 2. What [`Model::is_read`] calls a read leaves every state as it is.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde_json::Value;

use crate::checkers::FINAL_READ;
use crate::checkers::keyed::Operation;

/// The sequential meaning of an entity. One value of it judges one key.
pub trait Model: Default {
    /// A call with its answer, as far as it is known.
    type Call: Clone + PartialEq + Debug;
    /// What the entity holds.
    type State: Clone + Ord + Debug;

    /// The functions that it knows.
    const FUNCTIONS: &'static [&'static str];

    /// The call of an operation that did not fail; none if it tells nothing, as a read without
    /// an answer.
    fn call(&mut self, operation: &Operation<'_>) -> Result<Option<Self::Call>, String>;

    /// Is shown all calls before the first step.
    fn learn(&mut self, _calls: &[&Self::Call]) {}

    /// The state before any call.
    fn start(&self) -> Self::State;

    /// The state after a call; none if it could not have been answered so.
    fn step(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;

    /// Whether the call changes no state.
    fn is_read(call: &Self::Call) -> bool;

    /// A state, for people.
    fn show(&self, state: &Self::State) -> String;
}

/// Values by small numbers: what is compared often.
#[derive(Debug, Default)]
struct Values {
    numbers: BTreeMap<String, u32>,
    texts: Vec<String>,
}

impl Values {
    fn number(&mut self, value: &Value) -> u32 {
        let text = value.to_string();
        if let Some(number) = self.numbers.get(&text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        number
    }
}

fn is_read(f: &str) -> bool {
    f == "read" || f == FINAL_READ
}

/// A register: `write` with a value, `read`, `cas` with `[expected, new]`. It begins as null.
#[derive(Debug)]
pub struct Register {
    values: Values,
}

/// A call of a register; values by number.
#[derive(Clone, Debug, PartialEq)]
pub enum RegisterCall {
    /// It showed this.
    Read(u32),
    /// Assigns.
    Write(u32),
    /// Assigns the second if it holds the first.
    Cas(u32, u32),
}

impl Default for Register {
    fn default() -> Register {
        let mut values = Values::default();
        values.number(&Value::Null);
        Register { values }
    }
}

impl Model for Register {
    type Call = RegisterCall;
    type State = u32;

    const FUNCTIONS: &'static [&'static str] = &["write", "read", "cas", FINAL_READ];

    fn call(&mut self, operation: &Operation<'_>) -> Result<Option<RegisterCall>, String> {
        let argument = operation.argument;
        Ok(match operation.f() {
            "write" => Some(RegisterCall::Write(self.values.number(argument))),
            "cas" => match argument.as_array().map(Vec::as_slice) {
                Some([old, new]) => {
                    let old = self.values.number(old);
                    Some(RegisterCall::Cas(old, self.values.number(new)))
                }
                _ => return Err(format!("{argument} is not [expected, new]")),
            },
            _ => operation.result.map(|shown| RegisterCall::Read(self.values.number(shown))),
        })
    }

    fn start(&self) -> u32 {
        0
    }

    fn step(&self, state: &u32, call: &RegisterCall) -> Option<u32> {
        match call {
            RegisterCall::Read(shown) => (state == shown).then_some(*state),
            RegisterCall::Write(value) => Some(*value),
            RegisterCall::Cas(old, new) => (state == old).then_some(*new),
        }
    }

    fn is_read(call: &RegisterCall) -> bool {
        matches!(call, RegisterCall::Read(_))
    }

    fn show(&self, state: &u32) -> String {
        self.values.texts[*state as usize].clone()
    }
}

/// A counter: `add` with an integer, `read` of the sum. It begins as 0, or null.
#[derive(Debug, Default)]
pub struct Counter;

/// A call of a counter.
#[derive(Clone, Debug, PartialEq)]
pub enum CounterCall {
    /// It showed this.
    Read(i128),
    /// Adds.
    Add(i128),
}

impl Model for Counter {
    type Call = CounterCall;
    type State = i128;

    const FUNCTIONS: &'static [&'static str] = &["add", "read", FINAL_READ];

    fn call(&mut self, operation: &Operation<'_>) -> Result<Option<CounterCall>, String> {
        let integer = |value: &Value| match value {
            Value::Null => Ok(0),
            value => value.as_i64().map(i128::from).ok_or(format!("{value} is no integer")),
        };
        if is_read(operation.f()) {
            return operation.result.map(|shown| integer(shown).map(CounterCall::Read)).transpose();
        }
        integer(operation.argument).map(|by| Some(CounterCall::Add(by)))
    }

    fn start(&self) -> i128 {
        0
    }

    fn step(&self, state: &i128, call: &CounterCall) -> Option<i128> {
        match call {
            CounterCall::Read(shown) => (state == shown).then_some(*state),
            CounterCall::Add(by) => Some(state + by),
        }
    }

    fn is_read(call: &CounterCall) -> bool {
        matches!(call, CounterCall::Read(_))
    }

    fn show(&self, state: &i128) -> String {
        state.to_string()
    }
}

/// A list: `append` with an element, `read` of all of them. It begins empty, or null.
///
/// Up to the longest read the order of the elements is known, and beyond it no read looks: so a
/// state is how much of that read there is, or that there is more.
#[derive(Debug, Default)]
pub struct List {
    values: Values,
    longest: Vec<u32>,
}

/// A call of a list; elements by number.
#[derive(Clone, Debug, PartialEq)]
pub enum ListCall {
    /// It showed these.
    Read(Vec<u32>),
    /// Appends.
    Append(u32),
}

impl Model for List {
    type Call = ListCall;
    type State = usize;

    const FUNCTIONS: &'static [&'static str] = &["append", "read", FINAL_READ];

    fn call(&mut self, operation: &Operation<'_>) -> Result<Option<ListCall>, String> {
        if !is_read(operation.f()) {
            return Ok(Some(ListCall::Append(self.values.number(operation.argument))));
        }
        match operation.result {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(ListCall::Read(Vec::new()))),
            Some(Value::Array(shown)) => {
                let shown = shown.iter().map(|element| self.values.number(element));
                Ok(Some(ListCall::Read(shown.collect())))
            }
            Some(other) => Err(format!("{other} is no array")),
        }
    }

    fn learn(&mut self, calls: &[&ListCall]) {
        self.longest.clear();
        for call in calls {
            if let ListCall::Read(shown) = call
                && shown.len() > self.longest.len()
            {
                self.longest = shown.clone();
            }
        }
    }

    fn start(&self) -> usize {
        0
    }

    fn step(&self, state: &usize, call: &ListCall) -> Option<usize> {
        match call {
            ListCall::Read(shown) => {
                let same = shown.len() == *state && self.longest[..*state] == **shown;
                same.then_some(*state)
            }
            ListCall::Append(element) => match self.longest.get(*state) {
                Some(next) => (next == element).then_some(state + 1),
                None => Some(self.longest.len() + 1),
            },
        }
    }

    fn is_read(call: &ListCall) -> bool {
        matches!(call, ListCall::Read(_))
    }

    fn show(&self, state: &usize) -> String {
        let known = &self.longest[..(*state).min(self.longest.len())];
        let mut texts: Vec<&str> =
            known.iter().map(|number| self.values.texts[*number as usize].as_str()).collect();
        if *state > self.longest.len() {
            texts.push("..");
        }
        format!("[{}]", texts.join(","))
    }
}
