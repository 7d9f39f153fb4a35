//! Random changes of every kind beside the workload: what no client could check, the ledger does.

use atoll_store::command::{Change, Command, FieldCommand, RequestHash, Value};
use atoll_store::name::{EntityKey, Kind};

use crate::random::Random;

/// The collection of these changes.
pub(super) const COLLECTION: &str = "noise";

/// The entities of random changes: two of each kind.
pub(super) fn keys() -> Vec<EntityKey> {
    let parse = |kind, id| EntityKey::parse(kind, COLLECTION, id).expect("a valid name");
    let of = |kind: Kind| ["a", "b"].map(|id| parse(kind, id));
    Kind::ALL.into_iter().flat_map(of).collect()
}

fn value(text: &str) -> Value {
    Value::copy_from_slice(format!("\"{text}\"").as_bytes())
}

fn members(random: &mut Random, big: bool) -> (Vec<Value>, Vec<Value>) {
    let mut some = |most: usize| -> Vec<Value> {
        let count = random.below(most);
        let one = |_| {
            let padding = if big && random.one_in(3) { random.below(900) } else { 0 };
            value(&format!("m{}{}", random.below(12), "x".repeat(padding)))
        };
        (0..count).map(one).collect()
    };
    (some(4), some(3))
}

fn text(random: &mut Random) -> Value {
    value(&format!("v{}", random.below(5)))
}

fn amounts(random: &mut Random) -> (u128, u128) {
    (random.below(100) as u128, if random.one_in(3) { random.below(100) as u128 } else { 0 })
}

fn field(random: &mut Random, big: bool) -> FieldCommand {
    match random.below(4) {
        0 => {
            let (plus, minus) = amounts(random);
            FieldCommand::Count { plus, minus }
        }
        1 => FieldCommand::Set(text(random)),
        2 => FieldCommand::Enable(random.one_in(2)),
        _ => {
            let (add, remove) = members(random, big);
            FieldCommand::Members { add, remove }
        }
    }
}

fn command(random: &mut Random, kind: Kind, big: bool) -> Command {
    if random.one_in(8) {
        return Command::Delete;
    }
    match kind {
        Kind::Counters => {
            let (plus, minus) = amounts(random);
            Command::Count { plus, minus }
        }
        Kind::Registers | Kind::MultiRegisters => Command::Set(text(random)),
        Kind::Flags => Command::Enable(random.one_in(2)),
        Kind::Sets => {
            let (add, remove) = members(random, big);
            Command::Members { add, remove }
        }
        Kind::Maps => {
            let name = |random: &mut Random| ["f", "g", "h"][random.below(3)].to_owned();
            let remove = (0..random.below(2)).map(|_| name(random)).collect();
            let update = (0..random.below(3)).map(|_| (name(random), field(random, big))).collect();
            Command::Fields { update, remove }
        }
    }
}

/// A change of one entity: one to three commands, at times with a key, at times to expire.
pub(super) fn change(random: &mut Random, big: bool) -> Change {
    let key = random.pick(&keys()).clone();
    let length = 1 + random.below(3) * random.below(2);
    let commands = (0..length).map(|_| command(random, key.kind, big)).collect();
    let hash = RequestHash { key: random.below(6) as u128, request: random.below(2) as u64 };
    let hash = random.one_in(6).then_some(hash);
    let ttl_ms = random.one_in(10).then(|| random.between(1, 6_000));
    Change { key, commands, hash, ttl_ms }
}
