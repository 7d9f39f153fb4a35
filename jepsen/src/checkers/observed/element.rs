//! What can be added and removed, and how a remove says what it means.

use std::fmt;

/// Something that is there or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::checkers) struct Element {
    /// The field of a map; empty where there are none.
    pub(in crate::checkers) field: String,
    /// What of it.
    pub(in crate::checkers) part: Part,
}

/// What of a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::checkers) enum Part {
    /// That it exists.
    Presence,
    /// That a flag is enabled.
    Enabled,
    /// A member of a set, as JSON.
    Member(String),
    /// The value of a register, as JSON; others may be shown in its place.
    Value(String),
    /// A step of a counter, by the place of its write; never shown itself.
    Step(usize),
}

/// Which elements a write removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::checkers) enum Pattern {
    /// One.
    One(Element),
    /// All of a field.
    Field(String),
    /// All values of a field.
    Values(String),
    /// Everything.
    All,
}

impl Element {
    /// A member of an entity without fields.
    pub(in crate::checkers) fn member(json: impl ToString) -> Element {
        Element { field: String::new(), part: Part::Member(json.to_string()) }
    }

    /// Whether it may be there and not be shown.
    pub(in crate::checkers) fn hides(&self) -> bool {
        matches!(self.part, Part::Value(_) | Part::Step(_))
    }
}

impl Pattern {
    /// Whether it means this element.
    pub(in crate::checkers) fn covers(&self, element: &Element) -> bool {
        match self {
            Pattern::One(one) => one == element,
            Pattern::Field(field) => *field == element.field,
            Pattern::Values(field) => {
                *field == element.field && matches!(element.part, Part::Value(_))
            }
            Pattern::All => true,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        match &self.part {
            Part::Presence => write!(f, "field {field}"),
            Part::Enabled => write!(f, "{field} enabled"),
            Part::Member(member) if field.is_empty() => write!(f, "{member}"),
            Part::Member(member) => write!(f, "{member} in {field}"),
            Part::Value(value) => write!(f, "{field} = {value}"),
            Part::Step(place) => write!(f, "step {place} of {field}"),
        }
    }
}
