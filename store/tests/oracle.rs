//! The same histories through the `crdts` crate, and through a plain model of maps.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use atoll_store::command::{Command, FieldCommand, FieldView, Value, View};
use atoll_store::name::{EntityKey, Kind};
use common::random::{Mix, PLAIN, Random, command};
use common::{Node, SHARD, Seed, change, count, key};
use crdts::{CmRDT, CvRDT, MVReg, Orswot, PNCounter};

/// One node's copies in the crate: a flag is a set of one possible member.
#[derive(Clone, Default)]
struct Twin {
    counter: PNCounter<u64>,
    set: Orswot<Value, u64>,
    flag: Orswot<u8, u64>,
    register: MVReg<Value, u64>,
}

impl Twin {
    fn merge(&mut self, other: &Twin) {
        self.counter.merge(other.counter.clone());
        self.set.merge(other.set.clone());
        self.flag.merge(other.flag.clone());
        self.register.merge(other.register.clone());
    }

    fn run(&mut self, actor: u64, kind: Kind, command: &Command) {
        match (kind, command) {
            (Kind::Counters, Command::Count { plus, minus }) => {
                let plus = self.counter.inc_many(actor, u64::try_from(*plus).unwrap());
                self.counter.apply(plus);
                let minus = self.counter.dec_many(actor, u64::try_from(*minus).unwrap());
                self.counter.apply(minus);
            }
            (Kind::MultiRegisters, Command::Set(value)) => {
                let context = self.register.read_ctx().derive_add_ctx(actor);
                let write = self.register.write(value.clone(), context);
                self.register.apply(write);
            }
            (Kind::Flags, Command::Enable(on)) => toggle(&mut self.flag, actor, 1, *on),
            (Kind::Sets, Command::Members { add, remove }) => {
                remove.iter().for_each(|value| toggle(&mut self.set, actor, value.clone(), false));
                add.iter().for_each(|value| toggle(&mut self.set, actor, value.clone(), true));
            }
            other => panic!("{other:?}"),
        }
    }

    fn view(&self, kind: Kind) -> View {
        match kind {
            Kind::Counters => View::Counter(self.counter.read().to_string().parse().unwrap()),
            Kind::Flags => View::Flag(self.flag.contains(&1).val),
            Kind::Sets => {
                let members: BTreeSet<Value> = self.set.read().val.into_iter().collect();
                View::Set(members.into_iter().collect())
            }
            _ => {
                let values: BTreeSet<Value> = self.register.read().val.into_iter().collect();
                View::MultiRegister(values.into_iter().collect(), Vec::new())
            }
        }
    }
}

fn toggle<M: Clone + Ord + std::hash::Hash>(
    set: &mut Orswot<M, u64>,
    actor: u64,
    member: M,
    on: bool,
) {
    let operation = if on {
        set.add(member, set.read_ctx().derive_add_ctx(actor))
    } else {
        let context = set.contains(&member).derive_rm_ctx();
        set.rm(member, context)
    };
    set.apply(operation);
}

/// What the crate cannot say, left out: dots.
fn comparable(view: Option<View>) -> Option<View> {
    view.map(|view| match view {
        View::MultiRegister(values, _) => View::MultiRegister(values, Vec::new()),
        other => other,
    })
}

fn plain(random: &mut Random, kind: Kind) -> Command {
    match command(random, kind, &[], PLAIN) {
        Command::Count { .. } => count(random.below(200) as i128 - 100),
        Command::SetSeen(value, _) => Command::Set(value),
        other => other,
    }
}

#[test]
fn plain_histories_show_what_the_crate_shows() {
    let kinds = [Kind::Counters, Kind::MultiRegisters, Kind::Flags, Kind::Sets];
    for seed in 0..80 {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let mut nodes = [1, 2, 3].map(Node::new);
        let mut twins = [0; 3].map(|_| Twin::default());
        for _ in 0..80 {
            let at = random.below(3);
            if random.one_in(4) {
                // The crate's copies exchange whole states, ours operations or states.
                let from = (at + 1 + random.below(2)) % 3;
                let [to, other] = nodes.get_disjoint_mut([at, from]).unwrap();
                if random.one_in(2) {
                    to.sync(other);
                }
                to.merge_from(other, [30, 300, 3000][random.below(3)]);
                let other = twins[from].clone();
                twins[at].merge(&other);
            } else {
                let kind = *random.pick(&kinds);
                let command = plain(&mut random, kind);
                nodes[at].write(&key(kind, "e"), command.clone());
                twins[at].run(at as u64, kind, &command);
            }
            for kind in kinds {
                if let Some(view) = comparable(nodes[at].view(&key(kind, "e"))) {
                    assert_eq!(view, twins[at].view(kind), "{kind} at {at}");
                }
            }
        }
    }
}

/// A map at one node, as a document would be changed.
#[derive(Default)]
struct Model(BTreeMap<String, Field>);

#[derive(Clone)]
enum Field {
    Counter(i128),
    Register(Value),
    Flag(bool),
    Set(BTreeSet<Value>),
}

impl Model {
    /// Whether the update was taken; one that is not changes nothing.
    fn run(&mut self, update: &[(String, FieldCommand)], remove: &[String]) -> bool {
        let mut fields = self.0.clone();
        remove.iter().for_each(|name| drop(fields.remove(name)));
        for (name, command) in update {
            let field = fields.entry(name.clone()).or_insert_with(|| empty(command));
            match (field, command) {
                (Field::Counter(sum), FieldCommand::Count { plus, minus }) => {
                    *sum += i128::try_from(*plus).unwrap() - i128::try_from(*minus).unwrap();
                }
                (Field::Register(held), FieldCommand::Set(value)) => *held = value.clone(),
                (Field::Flag(held), FieldCommand::Enable(on)) => *held = *on,
                (Field::Set(held), FieldCommand::Members { add, remove }) => {
                    held.retain(|member| !remove.contains(member));
                    held.extend(add.iter().cloned());
                }
                _ => return false,
            }
        }
        self.0 = fields;
        true
    }

    fn view(&self) -> View {
        let view = |(name, field): (&String, &Field)| {
            let view = match field {
                Field::Counter(sum) => View::Counter(*sum),
                Field::Register(value) => View::Register(value.clone()),
                Field::Flag(on) => View::Flag(*on),
                Field::Set(members) => View::Set(members.iter().cloned().collect()),
            };
            let shown = empty_type(field);
            (name.clone(), FieldView { shown, view, conflicts: Vec::new() })
        };
        View::Map(self.0.iter().map(view).collect())
    }
}

fn empty(command: &FieldCommand) -> Field {
    match command {
        FieldCommand::Count { .. } => Field::Counter(0),
        FieldCommand::Set(value) => Field::Register(value.clone()),
        FieldCommand::Enable(_) => Field::Flag(false),
        FieldCommand::Members { .. } => Field::Set(BTreeSet::new()),
    }
}

fn empty_type(field: &Field) -> atoll_store::command::FieldType {
    use atoll_store::command::FieldType;
    match field {
        Field::Counter(_) => FieldType::Counter,
        Field::Register(_) => FieldType::Register,
        Field::Flag(_) => FieldType::Flag,
        Field::Set(_) => FieldType::Set,
    }
}

/// Writes that follow each other, from node to node: no two are concurrent.
#[test]
fn maps_show_what_a_plain_model_shows() {
    let map: EntityKey = key(Kind::Maps, "m");
    let mix = Mix { deletes: 7, ..PLAIN };
    for seed in 0..80 {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let mut nodes = [1, 2].map(Node::new);
        let mut model: Option<Model> = None;
        for _ in 0..60 {
            let at = random.below(2);
            let [to, from] = nodes.get_disjoint_mut([at, 1 - at]).unwrap();
            to.sync(from);
            assert!(to.vector().contains(&from.vector()));
            let command = command(&mut random, Kind::Maps, &[], mix);
            let taken = to.stage(&[change(&map, vec![command.clone()])]).is_ok();
            to.commit();
            match &command {
                Command::Delete => model = None,
                Command::Fields { update, remove } => {
                    let existed = model.is_some();
                    let mut next = model.take().unwrap_or_default();
                    assert_eq!(next.run(update, remove), taken, "{command:?}");
                    model = (taken || existed).then_some(next);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(to.view(&map), model.as_ref().map(Model::view), "{command:?}");
            assert!(to.engine.digest(SHARD).0.is_some());
        }
    }
}
