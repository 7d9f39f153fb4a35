//! Several regions, and what they cost.

use std::collections::BTreeSet;

use atoll_sharding::membership::{Event, State};

use crate::world::{World, address, id};

const UP: Option<State> = Some(State::Up);
const DOWN: Option<State> = Some(State::Down);
const REGIONS: [&str; 5] = ["eu", "us", "ap", "sa", "af"];

/// The first node of a region: each has room for 20.
fn first(region: u8) -> u8 {
    region * 20 + 1
}

fn of(region: u8, count: u8) -> Vec<u8> {
    (first(region)..first(region) + count).collect()
}

fn start(world: &mut World, number: u8) {
    let region = (number - 1) / 20;
    let mut config = world.config(number, REGIONS[usize::from(region)]);
    // One region is everybody's gateway.
    config.seeds = if region == 0 { BTreeSet::new() } else { BTreeSet::from([address(1)]) };
    world.start_as(number, config, &[first(region)]);
    world.event(number, Event::Ready);
}

fn regions(seed: u64, regions: u8, count: u8) -> World {
    let mut world = World::new(seed);
    for region in 0..regions {
        of(region, count).into_iter().for_each(|number| start(&mut world, number));
    }
    world
}

fn settled(seed: u64, count: u8, nodes: u8) -> World {
    let mut world = regions(seed, count, nodes);
    let took = world.run_until(30_000, |world| world.agree(State::Up));
    assert!(took.is_some(), "seed {seed}: not everybody knows everybody");
    world.run(2_000);
    world
}

/// Whether a node says that a region is within reach.
fn reaches(world: &World, number: u8, region: &str) -> bool {
    world.nodes[&number].core.regions().any(|told| told.name == region && told.reachable)
}

#[test]
fn all_of_five_regions_of_20_learn_of_all_and_idle_below_4_kb_a_second() {
    let mut world = regions(1, 5, 20);
    let took = world.run_until(20_000, |world| world.agree(State::Up));
    println!("100 nodes in 5 regions know each other after {took:?} ms");
    assert!(took.is_some());
    world.run(6_000);
    world.nodes.values_mut().for_each(|node| node.sent = (0, 0));
    let seconds = 10;
    world.run(seconds * 1_000);
    let rates = world.nodes.values().map(|node| {
        let (bytes, packets) = node.sent;
        // A packet of its own for each: headers of UDP, IP and QUIC.
        ((bytes + packets * 70) / seconds, bytes / seconds, packets / seconds)
    });
    let rates: BTreeSet<(u64, u64, u64)> = rates.collect();
    let (most, least) = (rates.last().unwrap(), rates.first().unwrap());
    let average = rates.iter().map(|rate| rate.0).sum::<u64>() / rates.len() as u64;
    println!("idle, bytes a second with headers: {average} on average; least and most of");
    println!("(with headers, without, packets): {least:?} {most:?}");
    assert!(most.0 < 4_000, "{most:?}");
    let told = world.told_since(5_000, &State::ALL);
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn news_of_a_region_reaches_all_regions_within_seconds() {
    let mut world = settled(2, 3, 5);
    let victim = first(1) + 3;
    let at = world.now;
    world.kill(victim);
    let all = world.numbers();
    let took = world.run_until(6_000, |world| world.show(&all, &[victim], DOWN));
    println!("a death is known in all regions after {took:?} ms");
    assert!(took.is_some());
    let joined = first(2) + 7;
    start(&mut world, joined);
    let all = world.numbers();
    let took = world.run_until(3_000, |world| world.show(&all, &[joined], UP));
    println!("a newcomer is known in all regions after {took:?} ms");
    assert!(took.is_some());
    world.event(joined, Event::Leave);
    assert!(
        world.run_until(500, |world| world.show(&all, &[joined], Some(State::Leaving))).is_some()
    );
    world.stop(joined);
    let all = world.numbers();
    assert!(world.run_until(500, |world| world.show(&all, &[joined], None)).is_some());
    let wrong = world.told_since(at, &[State::Suspect, State::Down]);
    let name = format!("n{victim} ");
    assert!(wrong.iter().all(|told| told.contains(&name)), "{wrong:?}");
}

#[test]
fn a_region_that_is_cut_off_keeps_its_states_and_is_out_of_reach() {
    let mut world = settled(3, 3, 4);
    let (cut, rest) = (of(1, 4), [of(0, 4), of(2, 4)].concat());
    let (dead, born) = (first(1) + 2, first(1) + 9);
    let at = world.now;
    world.part(&[cut.clone(), vec![born]].concat(), &rest);
    world.run(30_000);
    let told = world.told_since(at, &[State::Suspect, State::Down, State::Gone]);
    assert!(told.is_empty(), "nobody declares a region dead: {told:?}");
    assert!(rest.iter().all(|number| !reaches(&world, *number, "us")));
    assert!(cut.iter().all(|number| !reaches(&world, *number, "eu")));
    assert!(reaches(&world, rest[0], "ap") && reaches(&world, rest[5], "eu"));
    // Life goes on on both sides.
    world.kill(dead);
    start(&mut world, born);
    world.run(10_000);
    assert!(world.show(&[cut[0]], &[dead], DOWN) && world.show(&rest, &[dead], UP));
    world.heal();
    let all = world.numbers();
    let home: Vec<u8> = cut.into_iter().filter(|number| *number != dead).collect();
    let took = world.run_until(30_000, |world| {
        world.show(&all, &[dead], DOWN)
            && world.show(&all, &[born], UP)
            && rest.iter().all(|number| reaches(world, *number, "us"))
            && home.iter().all(|number| reaches(world, *number, "ap"))
    });
    println!("regions agree again {took:?} ms after a cut");
    assert!(took.is_some());
}

/// Stale news of a node that its own region has long forgotten.
#[test]
fn who_was_forgotten_during_a_cut_does_not_come_back_from_outside() {
    let mut world = World::new(4);
    world.timing.forget_after_ms = 20_000;
    for region in 0..3 {
        of(region, 3).into_iter().for_each(|number| start(&mut world, number));
    }
    world.run_until(20_000, |world| world.agree(State::Up)).unwrap();
    let (cut, rest) = (of(1, 3), [of(0, 3), of(2, 3)].concat());
    world.part(&cut, &rest);
    let dead = first(1) + 1;
    world.kill(dead);
    world.run(60_000);
    assert!(world.show(&[cut[0]], &[dead], None), "forgotten at home");
    assert!(world.show(&rest, &[dead], UP), "last known elsewhere");
    world.heal();
    let home: Vec<u8> = cut.into_iter().filter(|number| *number != dead).collect();
    for _ in 0..90 {
        world.run(1_000);
        assert!(world.show(&home, &[dead], None), "it does not come back home");
    }
    assert!(world.agree(State::Up), "and in the end nobody shows it");
}

#[test]
fn relays_that_die_are_replaced() {
    let mut world = settled(5, 2, 5);
    // The first by id are relays.
    let dead = [first(1), first(1) + 1];
    dead.into_iter().for_each(|number| world.kill(number));
    let all = world.numbers();
    let took = world.run_until(15_000, |world| world.show(&all, &dead, DOWN));
    println!("the death of both relays of a region is known elsewhere after {took:?} ms");
    assert!(took.is_some());
    let near = of(0, 5);
    world.run(10_000);
    assert!(near.iter().all(|number| reaches(&world, *number, "us")));
}

#[test]
fn the_role_says_who_relays() {
    let mut world = World::new(6);
    world.timing.spare_ms = 5_000;
    for number in of(0, 6).into_iter().chain(of(1, 6)) {
        let last = (number - 1) % 20 >= 4;
        world.roles.insert(number, if last { "relay" } else { "data" });
        start(&mut world, number);
    }
    world.run_until(20_000, |world| world.agree(State::Up)).unwrap();
    world.run(15_000);
    for one in of(0, 6) {
        for other in of(1, 6) {
            let relays = (one - 1) % 20 >= 4 && (other - 1) % 20 >= 4;
            assert_eq!(world.is_linked(one, other), relays, "{one} {other}");
        }
    }
}

#[test]
fn what_replication_wants_is_dialled_and_what_nobody_wants_is_closed() {
    let mut world = World::new(7);
    world.timing.spare_ms = 5_000;
    for region in 0..3 {
        of(region, 6).into_iter().for_each(|number| start(&mut world, number));
    }
    world.run_until(20_000, |world| world.agree(State::Up)).unwrap();
    world.run(15_000);
    let (from, to) = (first(1) + 5, first(2) + 4);
    assert!(!world.is_linked(from, to), "of no use, and closed");
    let far = |world: &World| {
        let ends = world.numbers();
        let pairs = ends.iter().flat_map(|a| ends.iter().map(move |b| (*a, *b)));
        let pairs = pairs.filter(|(a, b)| a < b && (a - 1) / 20 != (b - 1) / 20);
        pairs.filter(|(a, b)| world.is_linked(*a, *b)).count()
    };
    assert_eq!(far(&world), 3 * 4, "two relays by two, in each of three pairs of regions");
    world.event(from, Event::Wanted(BTreeSet::from([id(to)])));
    world.run(1_000);
    assert!(world.is_linked(from, to));
    let closed = world.closed;
    world.run(20_000);
    assert!(
        world.is_linked(from, to) && closed == world.closed,
        "the other end does not close what is wanted here"
    );
    world.event(from, Event::Wanted(BTreeSet::new()));
    world.run(15_000);
    assert!(!world.is_linked(from, to));
}
