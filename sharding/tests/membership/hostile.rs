//! What nobody should send, and what does not fit.

use std::collections::BTreeSet;

use atoll_sharding::membership::{ConfigError, Event, Membership, State};
use bytes::Bytes;
use proptest::prelude::*;

use crate::world::{World, address, id};

/// Datagrams and frames that a node of a small region really sends.
fn samples() -> (Vec<Bytes>, Vec<Bytes>) {
    let mut world = World::region(8, 4);
    world.run(2_000);
    let (mut datagrams, mut frames) = (Vec::new(), Vec::new());
    let node = world.nodes.get_mut(&2).unwrap();
    for at in 0..40 {
        let now = world.now + at * 100;
        let event = match at {
            3 => Event::Disconnected(id(4)),
            5 => Event::Connected(id(4)),
            9 => Event::Leave,
            39 => Event::Stop,
            _ => Event::Tick,
        };
        let effects = node.core.step(now, event);
        datagrams.extend(effects.datagrams.into_iter().map(|(_, bytes)| bytes));
        frames.extend(effects.frames.into_iter().map(|(_, frame)| frame));
    }
    assert!(datagrams.len() > 20 && frames.len() > 5);
    (datagrams, frames)
}

/// A change to bytes: some replaced, then cut.
fn spoil(bytes: &Bytes, places: &[(usize, u8)], keep: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    for (place, byte) in places {
        let length = bytes.len();
        bytes[place % length] = *byte;
    }
    bytes.truncate(keep % (2 * bytes.len()));
    bytes.into()
}

type Spoiled = (bool, usize, Vec<(usize, u8)>, usize);

fn any_spoiled() -> impl Strategy<Value = Vec<Spoiled>> {
    let places = proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4);
    proptest::collection::vec((any::<bool>(), any::<usize>(), places, any::<usize>()), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn spoiled_datagrams_and_frames_never_panic(spoiled in any_spoiled()) {
        let (datagrams, frames) = samples();
        let mut world = World::region(9, 4);
        world.run(1_500);
        let start = world.now;
        let node = world.nodes.get_mut(&1).unwrap();
        for (count, (framed, which, places, keep)) in spoiled.into_iter().enumerate() {
            let now = start + count as u64 * 30;
            let of = if framed { &frames } else { &datagrams };
            let bytes = spoil(&of[which % of.len()], &places, keep);
            let event = match framed {
                true => Event::Frame(id(2), bytes),
                false => Event::Datagram(id(2), bytes),
            };
            node.core.step(now, event);
        }
        while let Some(now) = node.core.deadline().filter(|now| *now < start + 8_000) {
            node.core.step(now, Event::Tick);
        }
        prop_assert!(node.core.members().count() < 80);
    }

    #[test]
    fn garbage_never_panics(
        garbage in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
    ) {
        let mut world = World::region(9, 2);
        world.run(1_000);
        for bytes in garbage {
            let mut formed = bytes.clone();
            formed.insert(0, 1);
            let (now, node) = (world.now, world.nodes.get_mut(&1).unwrap());
            for bytes in [bytes, formed] {
                node.core.step(now, Event::Frame(id(2), bytes.clone().into()));
                node.core.step(now, Event::Datagram(id(2), bytes.into()));
            }
        }
    }
}

#[test]
fn a_frame_that_is_none_is_the_peers_fault() {
    let mut world = World::region(1, 2);
    world.run(1_000);
    let effects = world
        .nodes
        .get_mut(&1)
        .unwrap()
        .core
        .step(world.now, Event::Frame(id(2), Bytes::from_static(b"\x09what")));
    assert_eq!(effects.reject, [(id(2), "a membership frame of unknown form")]);
}

#[test]
fn a_node_speaks_in_its_own_name_only() {
    let mut world = World::region(8, 4);
    world.run(3_000);
    let mut said = None;
    let node = world.nodes.get_mut(&2).unwrap();
    for _ in 0..40 {
        let now = node.core.deadline().unwrap();
        let effects = node.core.step(now, Event::Tick);
        said = said.or(effects.datagrams.into_iter().find(|(to, _)| *to == id(1)));
    }
    let (_, bytes) = said.expect("in 10 s everybody is probed");
    let answers = |world: &mut World, from: u8| {
        let node = world.nodes.get_mut(&1).unwrap();
        node.core.step(world.now, Event::Datagram(id(from), bytes.clone())).datagrams.len()
    };
    assert_eq!(answers(&mut world, 3), 0, "a probe in another's name");
    assert_eq!(answers(&mut world, 2), 1);
}

#[test]
fn members_above_the_bound_are_refused() {
    let mut world = World::new(1);
    for number in 1..=8 {
        let mut config = world.config(number, "eu");
        config.members_max = 5;
        world.start_as(number, config, &[1]);
        world.event(number, Event::Ready);
    }
    world.run(10_000);
    for node in world.nodes.values() {
        assert_eq!(node.core.members().count(), 5);
    }
    assert!(world.show(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5], Some(State::Up)), "who came first");
}

#[test]
fn the_same_seed_and_events_give_the_same_effects() {
    let play = || {
        let mut world = World::region(11, 5);
        world.loss = 50;
        world.run(4_000);
        world.kill(3);
        world.run(8_000);
        let sent: Vec<(u64, u64)> = world.nodes.values().map(|node| node.sent).collect();
        (format!("{:?}", world.told), sent)
    };
    assert_eq!(play(), play());
}

#[test]
fn a_configuration_that_cannot_work_says_what_is_wrong() {
    let refused = |change: fn(&mut atoll_sharding::membership::Config)| {
        let mut config = World::new(1).config(1, "eu");
        change(&mut config);
        Membership::new(config).err().map(|error| error.to_string())
    };
    assert_eq!(refused(|_| ()), None);
    let told = refused(|config| config.address = "a".repeat(300)).unwrap();
    assert!(told.contains("address: longer than 255 bytes"), "{told}");
    let told = refused(|config| config.timing.doubt_ms = 9_000).unwrap();
    assert!(told.contains("doubt_ms must be below suspect_ms"), "{told}");
    assert_eq!(
        Membership::new({
            let mut config = World::new(1).config(1, "");
            config.roles = BTreeSet::new();
            config
        })
        .err(),
        Some(ConfigError::Own("region: empty"))
    );
}

#[test]
fn discovered_addresses_are_dialled_until_they_answer_or_vanish() {
    let mut world = World::new(1);
    world.start(1, "eu", &[2, 3]);
    let dialled =
        |world: &World| -> Vec<String> { world.nodes[&1].dialled.iter().cloned().collect() };
    assert_eq!(dialled(&world), [address(2), address(3)]);
    world.event(1, Event::Discovered(BTreeSet::from([address(1), address(3)])));
    assert_eq!(dialled(&world), [address(3)], "never its own");
    world.start(3, "eu", &[]);
    world.event(3, Event::Ready);
    world.run(3_000);
    world.event(1, Event::Discovered(BTreeSet::new()));
    assert_eq!(dialled(&world), [address(3)], "a member, found or not");
    // A name in front of members, as of a gateway.
    let gateway = "gateway:7401".to_owned();
    world.event(1, Event::Discovered(BTreeSet::from([gateway.clone()])));
    assert_eq!(dialled(&world), [gateway.clone(), address(3)]);
    world.event(1, Event::Answered { address: gateway.clone(), peer: id(3) });
    assert_eq!(dialled(&world), [address(3)], "it answered");
    world.kill(3);
    world.run(8_000);
    assert_eq!(dialled(&world), [gateway], "whoever is behind it now");
}
