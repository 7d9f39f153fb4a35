//! Well-formed nonsense, and damage, of a peer whose start was recognised.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::groups::message::{Roll, Speaker, decode, encode};
use crate::raft::Config;
use crate::raft::nonsense::message;

fn at() -> impl Strategy<Value = At> {
    (0u64..12, 0u64..4).prop_map(|(index, term)| At { index, term })
}

fn roll() -> impl Strategy<Value = Roll> {
    let ids = || proptest::collection::btree_set(0u64..5, 0..3);
    (0u64..3, 0u64..12, at(), ids(), ids()).prop_map(|(group, index, until, voters, learners)| {
        let config = Config { voters, learners, ..Config::default() };
        Roll { group, index, until, config, peers: BTreeMap::new() }
    })
}

fn part() -> impl Strategy<Value = Part> {
    let (group, bytes) = (|| 0u64..3, || vec(proptest::num::u8::ANY, 0..9));
    let chunk = (bytes(), proptest::option::of(bytes()))
        .prop_map(|(records, next)| Chunk { records: records.into(), next: next.map(Into::into) });
    prop_oneof![
        8 => (group(), message()).prop_map(|(group, message)| Part::Raft { group, message }),
        1 => (group(), 0u64..4, 0u64..12)
            .prop_map(|(group, term, index)| Part::Sleep { group, term, index }),
        1 => (group(), 0u64..4, 0u64..12)
            .prop_map(|(group, term, index)| Part::Slept { group, term, index }),
        1 => group().prop_map(|group| Part::Wake { group }),
        1 => (group(), at(), bytes())
            .prop_map(|(group, at, after)| Part::Want { group, at, after: after.into() }),
        2 => (group(), at(), bytes(), proptest::option::of(chunk)).prop_map(
            |(group, at, after, chunk)| Part::Chunk { group, at, after: after.into(), chunk }
        ),
        1 => vec(group(), 0..3).prop_map(|groups| Part::Ask { groups }),
        1 => vec(roll(), 0..3).prop_map(Part::Rolls),
    ]
}

/// A frame of a real node, with other parts: ids of disks are places.
fn forged(world: &World, from: usize, to: usize, part: &Part) -> bytes::Bytes {
    let groups = world.places[from].groups.as_ref().unwrap();
    let speaker = Speaker { disk: world.disk_id(from), nonce: groups.starts.nonce() };
    let part = match part.clone() {
        Part::Raft { group, message } => {
            let message = message.readdressed(speaker.disk, world.disk_id(to));
            Part::Raft { group, message }
        }
        part => part,
    };
    encode(speaker, &[part]).remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn nonsense_never_panics(parts in vec((0usize..4, 0usize..4, part()), 1..40)) {
        let mut world = World::formed(9, 3, 1, 2);
        // What lies about the log may be believed: only panics count from here on.
        world.judged = false;
        for (from, to, part) in parts {
            if world.places[from].groups.is_none() || from == to {
                continue;
            }
            let frame = forged(&world, from, to, &part);
            prop_assert!(decode(&frame).is_some());
            world.step(to, vec![Event::Received(id(from), frame)]);
            world.run(30);
        }
        world.run(2_000);
    }

    #[test]
    fn garbage_never_panics(bytes in vec(proptest::num::u8::ANY, 0..200)) {
        let mut world = World::formed(9, 2, 0, 1);
        world.step(0, vec![Event::Received(id(1), bytes.into())]);
        world.run(100);
    }
}
