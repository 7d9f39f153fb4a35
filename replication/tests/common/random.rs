//! Chance, and random changes of every kind, from a seed.

use atoll_store::command::{Change, Command, FieldCommand, RequestHash, Value};
use atoll_store::name::{EntityKey, Kind};

use super::{key, value};

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// The entities of random changes: two of each kind.
pub fn keys() -> Vec<EntityKey> {
    let of = |kind: Kind| ["a", "b"].map(|id| key(kind, id));
    Kind::ALL.into_iter().flat_map(of).collect()
}

fn members(random: &mut Random) -> (Vec<Value>, Vec<Value>) {
    let mut some = |most: usize| -> Vec<Value> {
        let count = random.below(most);
        (0..count).map(|_| value(&format!("m{}", random.below(12)))).collect()
    };
    (some(4), some(3))
}

fn text(random: &mut Random) -> Value {
    value(&format!("v{}", random.below(5)))
}

fn amounts(random: &mut Random) -> (u128, u128) {
    (random.below(100) as u128, if random.one_in(3) { random.below(100) as u128 } else { 0 })
}

fn field(random: &mut Random) -> FieldCommand {
    match random.below(4) {
        0 => {
            let (plus, minus) = amounts(random);
            FieldCommand::Count { plus, minus }
        }
        1 => FieldCommand::Set(text(random)),
        2 => FieldCommand::Enable(random.one_in(2)),
        _ => {
            let (add, remove) = members(random);
            FieldCommand::Members { add, remove }
        }
    }
}

fn name(random: &mut Random) -> String {
    ["f", "g", "h"][random.below(3)].to_owned()
}

/// A command for a kind.
pub fn command(random: &mut Random, kind: Kind) -> Command {
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
            let (add, remove) = members(random);
            Command::Members { add, remove }
        }
        Kind::Maps => {
            let remove = (0..random.below(2)).map(|_| name(random)).collect();
            let update = (0..random.below(3)).map(|_| (name(random), field(random))).collect();
            Command::Fields { update, remove }
        }
    }
}

/// A change of one entity: one to three commands, at times with a key, at times to expire.
pub fn change(random: &mut Random, keys: &[EntityKey]) -> Change {
    let key = random.pick(keys).clone();
    let length = 1 + random.below(3) * random.below(2);
    let commands = (0..length).map(|_| command(random, key.kind)).collect();
    let hash = RequestHash { key: random.below(6) as u128, request: random.below(2) as u64 };
    let hash = random.one_in(6).then_some(hash);
    let ttl_ms = random.one_in(10).then(|| random.between(1, 6_000));
    Change { key, commands, hash, ttl_ms }
}
