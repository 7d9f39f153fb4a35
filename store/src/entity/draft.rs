//! From commands to one effect: what a client asked, in terms of the dots that it saw here.
//!
//! Invariants:
//! 1. (R6) The effects of all commands fold to at most one payload per path.
//! 2. An update that leaves nothing else leaves its own dot as the presence of the entity or
//!    field, in place of those it saw; only a delete, or a field's remove, leaves none.
//! 3. A refusal changes nothing: the entity is only read.
//!
//! A draft costs by the commands, not by the entity (but for deletes, and near the limits).

use std::collections::{BTreeMap, BTreeSet};

use super::{Entity, Folded};
use crate::command::{Change, Command, FieldCommand, FieldType, Refusal, Value};
use crate::dot::{Dot, Hlc, Millis};
use crate::name::Kind;
use crate::operation::{Effect, EpochKey, FOLDED, Field, Leaf, Path, Payload, Tally};

/// Limits checked where a write is accepted, never where it is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Members of a set. Default 100,000: larger sets are slow to read whole.
    pub set_members: usize,
    /// Fields of a map. Default 10,000, for the same reason.
    pub map_fields: usize,
    /// Remembered retries of an entity. Default 100,000; above: 429.
    pub retry_keys: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { set_members: 100_000, map_fields: 10_000, retry_keys: 100_000 }
    }
}

/// An effect in the making, seen against the entity as it is here.
pub struct Draft<'a> {
    entity: &'a Entity,
    dot: Dot,
    stamp: Hlc,
    keyed: bool,
    wiped: bool,
    deletes: Option<Vec<Dot>>,
    removes: BTreeMap<Path, Vec<Dot>>,
    closes: BTreeMap<EpochKey, Tally>,
    adds: BTreeMap<Path, Payload>,
    counts: BTreeMap<Path, (u128, u128)>,
    scopes: BTreeSet<Option<Field>>,
}

impl<'a> Draft<'a> {
    /// The effect of `change` on `entity`, to be stamped with `dot` and `stamp`.
    pub fn effect(
        entity: &'a Entity,
        change: &Change,
        dot: Dot,
        stamp: Hlc,
        now: Millis,
        limits: &Limits,
    ) -> Result<Effect, Refusal> {
        let mut draft = Draft {
            entity,
            dot,
            stamp,
            keyed: change.hash.is_some(),
            wiped: false,
            deletes: None,
            removes: BTreeMap::new(),
            closes: BTreeMap::new(),
            adds: BTreeMap::new(),
            counts: BTreeMap::new(),
            scopes: BTreeSet::new(),
        };
        if entity.expires_at().is_some_and(|at| at <= now) {
            draft.wipe();
        }
        for command in &change.commands {
            draft.run(change.key.kind, command)?;
        }
        draft.expire(change, now);
        draft.check(change.key.kind, limits)?;
        draft.leave_presence();
        Ok(draft.finish())
    }

    fn run(&mut self, kind: Kind, command: &Command) -> Result<(), Refusal> {
        match (kind, command) {
            (_, Command::Delete) => self.wipe(),
            (Kind::Counters, Command::Count { plus, minus }) => {
                self.count(None, *plus, *minus)?;
            }
            (Kind::Registers | Kind::MultiRegisters, Command::Set(value)) => {
                self.assign(None, value);
            }
            (Kind::MultiRegisters, Command::SetSeen(value, seen)) => self.set_seen(value, seen),
            (Kind::Flags, Command::Enable(on)) => self.enable(None, *on),
            (Kind::Sets, Command::Members { add, remove }) => self.members(None, add, remove),
            (Kind::Maps, Command::Fields { update, remove }) => self.fields(update, remove)?,
            _ => return Err(Refusal::WrongKind(kind.as_str())),
        }
        Ok(())
    }

    /// Removes everything seen. What the commands before it added goes too.
    fn wipe(&mut self) {
        self.removes.clear();
        self.closes.clear();
        self.adds.clear();
        self.counts.clear();
        self.scopes.clear();
        if self.wiped {
            return;
        }
        self.wiped = true;
        let mut highest: BTreeMap<_, u64> = BTreeMap::new();
        for (_, dot) in self.entity.live.keys() {
            let sequence = highest.entry(dot.origin).or_default();
            *sequence = (*sequence).max(dot.sequence);
        }
        let seen = highest.into_iter().map(|(origin, sequence)| Dot { origin, sequence });
        self.deletes = Some(seen.collect());
    }

    /// The epochs that a wipe closes: with the wipe's own draft they are all seen.
    fn wiped_epochs(&self) -> impl Iterator<Item = (EpochKey, Tally)> + '_ {
        let open = self.entity.epochs.iter().filter(|(_, epoch)| epoch.is_open());
        let open = open.map(|(key, epoch)| (key.clone(), epoch.total));
        let folded = self.entity.folded.iter().filter(|(_, folded)| !folded.closed);
        open.chain(folded.map(|(path, folded)| close_of(path, folded))).filter(|_| self.wiped)
    }

    fn seen(&self, path: &Path) -> Vec<Dot> {
        if self.wiped {
            return Vec::new();
        }
        self.entity.at(path).map(|((_, dot), _)| *dot).collect()
    }

    /// Names what was seen at a path as removed, and takes back what this draft put there.
    fn clear(&mut self, path: &Path) {
        self.adds.remove(path);
        let seen = self.seen(path);
        if !seen.is_empty() {
            self.removes.insert(path.clone(), seen);
        }
    }

    fn touch(&mut self, field: &Option<Field>) {
        self.scopes.insert(None);
        if field.is_some() {
            self.scopes.insert(field.clone());
        }
    }

    fn replace(&mut self, path: Path, payload: Payload) {
        self.touch(&path.field);
        self.clear(&path);
        self.adds.insert(path, payload);
    }

    fn assign(&mut self, field: Option<Field>, value: &Value) {
        let payload = Payload::Value { stamp: self.stamp, value: value.clone() };
        self.replace(Path { field, leaf: Leaf::Value }, payload);
    }

    /// Supersedes exactly the named dots. Those not live here were superseded already.
    fn set_seen(&mut self, value: &Value, named: &[Dot]) {
        self.assign(None, value);
        let path = Path { field: None, leaf: Leaf::Value };
        if let Some(dots) = self.removes.get_mut(&path) {
            dots.retain(|dot| named.contains(dot));
        }
        self.removes.retain(|_, dots| !dots.is_empty());
    }

    fn enable(&mut self, field: Option<Field>, on: bool) {
        let path = Path { field, leaf: Leaf::Enabled };
        if on {
            self.replace(path, Payload::Unit);
        } else {
            self.touch(&path.field);
            self.clear(&path);
        }
    }

    fn members(&mut self, field: Option<Field>, add: &[Value], remove: &[Value]) {
        self.touch(&field);
        for member in remove {
            self.clear(&Path { field: field.clone(), leaf: Leaf::Member(member.clone()) });
        }
        for member in add {
            let path = Path { field: field.clone(), leaf: Leaf::Member(member.clone()) };
            self.replace(path, Payload::Unit);
        }
    }

    fn count(&mut self, field: Option<Field>, plus: u128, minus: u128) -> Result<(), Refusal> {
        self.touch(&field);
        let path = Path { field, leaf: Leaf::Count };
        let before = self.counts.get(&path).copied().unwrap_or_default();
        let sum = |one: u128, two: u128| one.checked_add(two).ok_or(Refusal::Overflow);
        let (plus, minus) = (sum(before.0, plus)?, sum(before.1, minus)?);
        let (held_plus, held_minus) =
            if self.wiped { (0, 0) } else { self.entity.counted(&path.field) };
        let bound = i128::MAX.unsigned_abs();
        if sum(held_plus, plus)? > bound || sum(held_minus, minus)? > bound {
            return Err(Refusal::Overflow);
        }
        self.counts.insert(path, (plus, minus));
        Ok(())
    }

    fn fields(
        &mut self,
        update: &[(String, FieldCommand)],
        remove: &[String],
    ) -> Result<(), Refusal> {
        self.scopes.insert(None);
        for name in remove {
            self.remove_field(name);
        }
        for (name, command) in update {
            self.update_field(name, command)?;
        }
        Ok(())
    }

    fn remove_field(&mut self, name: &str) {
        self.adds.retain(|path, _| !is_field(path, name));
        self.counts.retain(|path, _| !is_field(path, name));
        self.scopes.retain(|scope| scope.as_ref().is_none_or(|field| &*field.name != name));
        if self.wiped {
            return;
        }
        for ((path, dot), _) in self.entity.field_live(name) {
            let dots = self.removes.entry(path.clone()).or_default();
            if !dots.contains(dot) {
                dots.push(*dot);
            }
        }
        let (path, epochs, folded) = self.entity.field_open(name);
        self.closes.extend(epochs.map(|(key, epoch)| (key.clone(), epoch.total)));
        self.closes.extend(folded.map(|folded| close_of(&path, folded)));
    }

    fn update_field(&mut self, name: &str, command: &FieldCommand) -> Result<(), Refusal> {
        let asked = command.field_type();
        let present = self.field_types(name);
        if let Some(actual) = present.first().filter(|_| !present.contains(&asked)) {
            return Err(Refusal::KindConflict {
                field: name.to_owned(),
                actual: actual.as_str(),
                asked: asked.as_str(),
            });
        }
        let field = Some(Field { name: name.into(), kind: asked });
        match command {
            FieldCommand::Count { plus, minus } => self.count(field, *plus, *minus)?,
            FieldCommand::Set(value) => self.assign(field, value),
            FieldCommand::Enable(on) => self.enable(field, *on),
            FieldCommand::Members { add, remove } => self.members(field, add, remove),
        }
        Ok(())
    }

    /// The types that a field has now, with this draft's own changes, lowest first.
    fn field_types(&self, name: &str) -> Vec<FieldType> {
        let mut types = BTreeSet::new();
        let scopes = self.scopes.iter().flatten();
        types.extend(scopes.filter(|field| &*field.name == name).map(|field| field.kind));
        if !self.wiped {
            let removed = |path: &Path, dot: &Dot| {
                self.removes.get(path).is_some_and(|dots| dots.contains(dot))
            };
            let live = self.entity.field_live(name).filter(|((path, dot), _)| !removed(path, dot));
            types.extend(live.filter_map(|((path, _), _)| Some(path.field.as_ref()?.kind)));
            let (path, mut epochs, folded) = self.entity.field_open(name);
            let folded = folded.map(|folded| close_of(&path, folded).0);
            if epochs.any(|(key, _)| !self.closes.contains_key(key))
                || folded.is_some_and(|key| !self.closes.contains_key(&key))
            {
                types.insert(FieldType::Counter);
            }
        }
        types.into_iter().collect()
    }

    fn expire(&mut self, change: &Change, now: Millis) {
        if let Some(ttl_ms) = change.ttl_ms.filter(|_| !self.scopes.is_empty()) {
            let path = Path { field: None, leaf: Leaf::Expiry };
            self.clear(&path);
            let until = now.max(self.stamp.millis()).saturating_add(ttl_ms);
            self.adds.insert(path, Payload::Until(until));
        }
    }

    fn check(&self, kind: Kind, limits: &Limits) -> Result<(), Refusal> {
        let (what, limit) = match kind {
            Kind::Sets => ("the set's members", limits.set_members),
            Kind::Maps => ("the map's fields", limits.map_fields),
            _ => return Ok(()),
        };
        let held = if self.wiped { 0 } else { self.entity.weight() };
        if held + self.adds.len() + self.counts.len() > limit && self.size(kind) > limit {
            return Err(Refusal::TooLarge { what, limit: limit as u64 });
        }
        self.check_field_sets(limits)
    }

    /// How many members or fields there will be, exactly.
    fn size(&self, kind: Kind) -> usize {
        let kept = |path: &&Path| !self.removes.contains_key(*path);
        let held = self.entity.live.keys().map(|(path, _)| path).filter(kept);
        let held: Vec<&Path> = if self.wiped { Vec::new() } else { held.collect() };
        let paths = held.into_iter().chain(self.adds.keys()).chain(self.counts.keys());
        if kind == Kind::Sets {
            let members = paths.filter(|path| matches!(path.leaf, Leaf::Member(_)));
            return members.collect::<BTreeSet<_>>().len();
        }
        let open = self.entity.epochs.iter().filter(|(key, epoch)| {
            !self.wiped && epoch.is_open() && !self.closes.contains_key(*key)
        });
        let folded = self.entity.folded.iter().filter(|(path, folded)| {
            !self.wiped && !folded.closed && !self.closes.contains_key(&close_of(path, folded).0)
        });
        let counted = open.map(|(key, _)| &key.path).chain(folded.map(|(path, _)| path));
        let fields = paths.chain(counted).filter_map(|path| path.field.as_ref());
        fields.map(|field| &field.name).collect::<BTreeSet<_>>().len()
    }

    /// A set inside a map has the limit of a set.
    fn check_field_sets(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.entity.weight() + self.adds.len() <= limits.set_members {
            return Ok(());
        }
        let mut sizes: BTreeMap<&Field, BTreeSet<&Path>> = BTreeMap::new();
        let held = self.entity.live.keys().map(|(path, _)| path).filter(|_| !self.wiped);
        for path in held.filter(|p| !self.removes.contains_key(*p)).chain(self.adds.keys()) {
            if let (Some(field), Leaf::Member(_)) = (&path.field, &path.leaf) {
                sizes.entry(field).or_default().insert(path);
            }
        }
        if sizes.values().any(|members| members.len() > limits.set_members) {
            let limit = limits.set_members as u64;
            return Err(Refusal::TooLarge { what: "a field's members", limit });
        }
        Ok(())
    }

    /// Invariant 2.
    fn leave_presence(&mut self) {
        for scope in std::mem::take(&mut self.scopes) {
            let here =
                |path: &Path| path.leaf != Leaf::Expiry && (scope.is_none() || path.field == scope);
            let held = self.adds.keys().any(here) || self.counts.keys().any(here);
            let path = Path { field: scope.clone(), leaf: Leaf::Presence };
            self.clear(&path);
            if !held {
                self.adds.insert(path, Payload::Unit);
            }
        }
    }

    fn finish(mut self) -> Effect {
        let mut effect = Effect::default();
        let wiped: Vec<_> = self.wiped_epochs().collect();
        for (path, (plus, minus)) in std::mem::take(&mut self.counts) {
            if self.keyed {
                self.adds.insert(path, Payload::Count { plus, minus });
            } else {
                let first = self.epoch_first(&path);
                effect.counts.push((path, first, plus, minus));
            }
        }
        self.closes.extend(wiped);
        effect.deletes = self.deletes.filter(|dots| !dots.is_empty());
        effect.removes = self.removes.into_iter().collect();
        effect.closes = self.closes.into_iter().collect();
        effect.adds = self.adds.into_iter().collect();
        effect
    }

    /// The author's running epoch, or a new one where a delete was seen (R4).
    fn epoch_first(&self, path: &Path) -> u64 {
        let running = self.entity.epochs_of(path, self.dot.origin).last();
        match running {
            Some((key, epoch))
                if epoch.closed.last == 0 && !self.wiped && !self.closes.contains_key(key) =>
            {
                key.first
            }
            _ => self.dot.sequence,
        }
    }
}

/// Names all that was folded in a counter as closed.
fn close_of(path: &Path, folded: &Folded) -> (EpochKey, Tally) {
    let key = EpochKey { path: path.clone(), origin: FOLDED, first: folded.until.0 };
    (key, Tally { last: 0, plus: folded.plus, minus: folded.minus })
}

fn is_field(path: &Path, name: &str) -> bool {
    path.field.as_ref().is_some_and(|field| &*field.name == name)
}
