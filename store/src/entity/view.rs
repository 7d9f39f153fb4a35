//! What a read shows of an entity, by kind.

use std::collections::BTreeMap;

use super::{Entity, Epoch, Folded};
use crate::command::{FieldType, FieldView, Value, View};
use crate::dot::Dot;
use crate::name::Kind;
use crate::operation::{EpochKey, Field, Leaf, Path, Payload};

type Live<'a> = (&'a (Path, Dot), &'a Payload);

impl Entity {
    /// What is shown; `None` if the entity is absent.
    pub fn view(&self, kind: Kind) -> Option<View> {
        if !self.is_present() {
            return None;
        }
        Some(match kind {
            Kind::Counters => View::Counter(self.counter(&None)),
            Kind::Registers => View::Register(self.register(&None)?),
            Kind::MultiRegisters => self.multi_register(),
            Kind::Flags => View::Flag(self.flag(&None)),
            Kind::Sets => View::Set(self.members(&None)),
            Kind::Maps => View::Map(self.fields()),
        })
    }

    /// Sums of increments and decrements of a counter, as far as no delete has seen them.
    pub(crate) fn counted(&self, field: &Option<Field>) -> (u128, u128) {
        let path = Path { field: field.clone(), leaf: Leaf::Count };
        let folded = self.folded_open(&path);
        let (mut plus, mut minus) = folded.map_or((0, 0), |folded| (folded.plus, folded.minus));
        for (_, epoch) in self.path_epochs(&path).filter(|(_, epoch)| epoch.is_open()) {
            let (more, less) = epoch.shown();
            plus = plus.saturating_add(more);
            minus = minus.saturating_add(less);
        }
        for (_, payload) in self.at(&path) {
            if let Payload::Count { plus: more, minus: less } = payload {
                plus = plus.saturating_add(*more);
                minus = minus.saturating_add(*less);
            }
        }
        (plus, minus)
    }

    fn counter(&self, field: &Option<Field>) -> i128 {
        let (plus, minus) = self.counted(field);
        let difference = plus.abs_diff(minus);
        let bounded = i128::try_from(difference).unwrap_or(i128::MAX);
        if plus >= minus { bounded } else { -bounded }
    }

    fn register(&self, field: &Option<Field>) -> Option<Value> {
        let path = Path { field: field.clone(), leaf: Leaf::Value };
        let stamped = |((_, dot), payload): Live<'_>| match payload {
            Payload::Value { stamp, value } => Some(((*stamp, *dot), value.clone())),
            _ => None,
        };
        let winner = self.at(&path).filter_map(stamped).max_by_key(|(stamp, _)| *stamp);
        winner.map(|(_, value)| value)
    }

    fn multi_register(&self) -> View {
        let path = Path { field: None, leaf: Leaf::Value };
        let mut values = Vec::new();
        let mut dots = Vec::new();
        for ((_, dot), payload) in self.at(&path) {
            if let Payload::Value { value, .. } = payload {
                values.push(value.clone());
                dots.push(*dot);
            }
        }
        values.sort();
        values.dedup();
        View::MultiRegister(values, dots)
    }

    fn flag(&self, field: &Option<Field>) -> bool {
        self.at(&Path { field: field.clone(), leaf: Leaf::Enabled }).next().is_some()
    }

    fn members(&self, field: &Option<Field>) -> Vec<Value> {
        let from = Path { field: field.clone(), leaf: Leaf::Member(Value::new()) };
        let live = self.live.range((from, Dot::MIN)..);
        let mut members: Vec<Value> = Vec::new();
        for ((path, _), _) in live.take_while(|((path, _), _)| path.field == *field) {
            if let Leaf::Member(member) = &path.leaf
                && members.last() != Some(member)
            {
                members.push(member.clone());
            }
        }
        members
    }

    fn fields(&self) -> BTreeMap<String, FieldView> {
        let live = self.live.keys().filter_map(|(path, _)| path.field.as_ref());
        let open = self.epochs.iter().filter(|(_, epoch)| epoch.is_open());
        let open = open.filter_map(|(key, _)| key.path.field.as_ref());
        let folded = self.folded.iter().filter(|(_, folded)| !folded.closed);
        let folded = folded.filter_map(|(path, _)| path.field.as_ref());
        let mut types: BTreeMap<&str, Vec<&Field>> = BTreeMap::new();
        for field in live.chain(open).chain(folded) {
            let held = types.entry(&field.name).or_default();
            if !held.contains(&field) {
                held.push(field);
            }
        }
        types.into_iter().map(|(name, held)| (name.to_owned(), self.field(held))).collect()
    }

    fn field(&self, mut held: Vec<&Field>) -> FieldView {
        held.sort();
        let shown = held[0].clone();
        let kind = shown.kind;
        let scope = Some(shown);
        let view = match kind {
            FieldType::Counter => View::Counter(self.counter(&scope)),
            FieldType::Flag => View::Flag(self.flag(&scope)),
            FieldType::Register => match self.register(&scope) {
                Some(value) => View::Register(value),
                None => View::Register(Value::from_static(b"null")),
            },
            FieldType::Set => View::Set(self.members(&scope)),
        };
        let conflicts = held[1..].iter().map(|field| field.kind).collect();
        FieldView { shown: kind, view, conflicts }
    }

    /// The live payloads of a map's field, of all its types.
    pub(crate) fn field_live<'a>(&'a self, name: &str) -> impl Iterator<Item = Live<'a>> {
        let name: std::sync::Arc<str> = name.into();
        let field = Field { name: name.clone(), kind: FieldType::Counter };
        let from = Path { field: Some(field), leaf: Leaf::Presence };
        self.live
            .range((from, Dot::MIN)..)
            .take_while(move |((path, _), _)| path.field.as_ref().is_some_and(|f| f.name == name))
    }

    /// What a map's counter field has open: its epochs, and what of them was folded.
    pub(crate) fn field_open(
        &self,
        name: &str,
    ) -> (Path, impl Iterator<Item = (&EpochKey, &Epoch)>, Option<&Folded>) {
        let field = Field { name: name.into(), kind: FieldType::Counter };
        let path = Path { field: Some(field), leaf: Leaf::Count };
        let folded = self.folded_open(&path);
        let from = EpochKey { path: path.clone(), origin: crate::dot::Origin(0), first: 0 };
        let within = path.clone();
        let epochs = self.epochs.range(from..).take_while(move |(key, _)| key.path == within);
        (path, epochs.filter(|(_, epoch)| epoch.is_open()), folded)
    }
}
