//! Random commands of every kind, from a seed.

use atoll_store::command::{Change, Command, FieldCommand, RequestHash, Value};
use atoll_store::dot::Dot;
use atoll_store::name::{EntityKey, Kind};

use super::{Node, key, value};

/// SplitMix64 (Steele, Lea, Flood 2014).
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

    pub fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What random histories may contain.
#[derive(Clone, Copy)]
pub struct Mix {
    /// One command in so many is a delete, or removes fields; 0 for none.
    pub deletes: usize,
    /// Request hashes.
    pub keyed: bool,
    /// Times to live.
    pub ttl: bool,
}

pub const EVERYTHING: Mix = Mix { deletes: 7, keyed: true, ttl: true };
pub const PLAIN: Mix = Mix { deletes: 0, keyed: false, ttl: false };
/// Counters that grow old before they are deleted.
pub const LASTING: Mix = Mix { deletes: 30, keyed: true, ttl: false };

/// Two entities of each kind.
pub fn keys() -> Vec<EntityKey> {
    let of = |kind: Kind| ["a", "b"].map(|id| key(kind, id));
    Kind::ALL.into_iter().flat_map(of).collect()
}

fn member(random: &mut Random) -> Value {
    match random.below(12) {
        0 => value(&"long".repeat(50)),
        n => value(&format!("m{n}")),
    }
}

fn members(random: &mut Random) -> (Vec<Value>, Vec<Value>) {
    let add = (0..random.below(4)).map(|_| member(random)).collect();
    let remove = (0..random.below(3)).map(|_| member(random)).collect();
    (add, remove)
}

fn amounts(random: &mut Random) -> (u128, u128) {
    let mut amount = |one_in| if random.one_in(one_in) { random.below(100) as u128 } else { 0 };
    let (plus, minus) = (amount(1), amount(3));
    if random.one_in(8) { (plus << 90, minus << 88) } else { (plus, minus) }
}

fn text(random: &mut Random) -> Value {
    value(&format!("v{}", random.below(5)))
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

/// A command for a kind; `seen` are dots that a client of a multi-register may name.
pub fn command(random: &mut Random, kind: Kind, seen: &[Dot], mix: Mix) -> Command {
    if mix.deletes > 0 && random.one_in(mix.deletes) {
        return Command::Delete;
    }
    match kind {
        Kind::Counters => {
            let (plus, minus) = amounts(random);
            Command::Count { plus, minus }
        }
        Kind::MultiRegisters if random.one_in(3) => {
            let some = seen.iter().copied().filter(|_| random.one_in(2)).collect();
            Command::SetSeen(text(random), some)
        }
        Kind::Registers | Kind::MultiRegisters => Command::Set(text(random)),
        Kind::Flags => Command::Enable(random.one_in(2)),
        Kind::Sets => {
            let (add, remove) = members(random);
            Command::Members { add, remove }
        }
        Kind::Maps => {
            let rare = mix.deletes > 0 && random.one_in(1 + mix.deletes / 10);
            let removes = if rare { random.below(2) } else { 0 };
            let remove = (0..removes).map(|_| name(random)).collect();
            let update = (0..random.below(3)).map(|_| (name(random), field(random))).collect();
            Command::Fields { update, remove }
        }
    }
}

/// A change of one entity at a node: one to three commands.
pub fn change(random: &mut Random, node: &mut Node, key: &EntityKey, mix: Mix) -> Change {
    let seen = match node.view(key) {
        Some(atoll_store::command::View::MultiRegister(_, dots)) => dots,
        _ => Vec::new(),
    };
    let length = 1 + random.below(3) * random.below(2);
    let commands = (0..length).map(|_| command(random, key.kind, &seen, mix)).collect();
    let hash = RequestHash { key: random.below(3) as u128, request: random.below(2) as u64 };
    let hash = (mix.keyed && random.one_in(4)).then_some(hash);
    let ttl_ms = (mix.ttl && random.one_in(10)).then(|| 1 + random.below(60_000) as u64);
    Change { key: key.clone(), commands, hash, ttl_ms }
}

/// The changes of one operation: mostly one, at times several entities.
pub fn changes(random: &mut Random, node: &mut Node, keys: &[EntityKey], mix: Mix) -> Vec<Change> {
    let mut chosen = vec![random.pick(keys).clone()];
    if random.one_in(6) {
        let shard = node.engine.shard_of(&chosen[0]);
        for _ in 0..random.below(3) {
            let other = random.pick(keys);
            if !chosen.contains(other) && node.engine.shard_of(other) == shard {
                chosen.push(other.clone());
            }
        }
    }
    chosen.iter().map(|key| change(random, node, key, mix)).collect()
}
