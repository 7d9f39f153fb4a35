//! One region.

use std::collections::BTreeSet;

use atoll_sharding::membership::{Event, State};

use crate::world::{World, id};

const UP: Option<State> = Some(State::Up);
const DOWN: Option<State> = Some(State::Down);

/// A region in which everybody shows everybody up.
fn settled(seed: u64, count: u8) -> World {
    let mut world = World::region(seed, count);
    let took = world.run_until(20_000, |world| world.agree(State::Up));
    assert!(took.is_some(), "seed {seed}: the region of {count} did not form");
    world
}

fn most(times: &[u64], share: usize) -> u64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() - 1) * share / 100]
}

#[test]
fn a_region_finds_itself_through_one_address() {
    let mut world = World::region(1, 10);
    let took = world.run_until(5_000, |world| world.agree(State::Up));
    println!("a region of 10 agrees after {took:?} ms");
    assert!(took.is_some());
    for number in world.numbers() {
        assert_eq!(world.links_of(number), 9, "connected to all");
        assert_eq!(world.nodes[&number].core.counts()[&State::Up], 10);
    }
}

#[test]
fn a_killed_node_is_down_everywhere_within_5_s() {
    let mut times = Vec::new();
    for seed in 0..100 {
        let mut world = settled(seed, 10);
        world.loss = 10;
        let phase = world.random.below(1_000);
        world.run(phase);
        for victim in [3, 7] {
            let at = world.now;
            world.kill(victim);
            let others = world.numbers();
            let took = world.run_until(5_000, |world| world.show(&others, &[victim], DOWN));
            let took = took.unwrap_or_else(|| panic!("seed {seed}: {victim} is not down"));
            let wrong = world.told_since(at, &[State::Suspect, State::Down]);
            let name = format!("n{victim} ");
            assert!(wrong.iter().all(|told| told.contains(&name)), "seed {seed}: {wrong:?}");
            times.push(took);
            let other = 10;
            world.start(victim, "eu", &[other]);
            world.event(victim, Event::Ready);
            let back = world.run_until(5_000, |world| world.agree(State::Up));
            assert!(back.is_some(), "seed {seed}: {victim} is not back");
        }
    }
    let [median, tail, worst] = [50, 99, 100].map(|share| most(&times, share));
    println!("{} kills: half within {median} ms, 99 % {tail}, all {worst}", times.len());
}

#[test]
fn a_pause_of_1_s_makes_nobody_suspect() {
    for seed in 0..10 {
        let mut world = settled(seed, 10);
        world.loss = 10;
        world.run(3_000);
        let at = world.now;
        for number in world.numbers() {
            world.pause(number, 1_000);
            let gap = 1_000 + world.random.below(1_500);
            world.run(gap);
        }
        world.run(4_000);
        let told = world.told_since(at, &State::ALL);
        assert!(told.is_empty(), "seed {seed}: {told:?}");
    }
}

#[test]
fn a_pause_of_1_s_of_half_the_region_makes_nobody_suspect() {
    for seed in 0..10 {
        let mut world = settled(seed, 10);
        world.run(3_000);
        let at = world.now;
        (1..=5).for_each(|number| world.pause(number, 1_000));
        world.run(6_000);
        let told = world.told_since(at, &State::ALL);
        assert!(told.is_empty(), "seed {seed}: {told:?}");
    }
}

#[test]
fn a_node_that_slept_for_long_comes_back_and_condemns_nobody() {
    let mut world = settled(4, 10);
    let at = world.now;
    world.pause(5, 20_000);
    world.run(8_000);
    let others: Vec<u8> = world.numbers().into_iter().filter(|number| *number != 5).collect();
    assert!(world.show(&others, &[5], DOWN));
    let back = world.run_until(20_000, |world| world.agree(State::Up));
    assert!(back.is_some());
    world.run(5_000);
    let wrong = world.told_since(at, &[State::Suspect, State::Down]);
    assert!(wrong.iter().all(|told| told.contains("n5 ")), "{wrong:?}");
}

/// Its timers are over when it wakes, and the refutation is still to be read.
#[test]
fn a_node_that_slept_through_a_refutation_condemns_nobody() {
    for seed in 0..20 {
        let mut world = settled(seed, 10);
        let at = world.now;
        world.pause(5, 900);
        world.run(800);
        (1..=4).for_each(|number| world.pause(number, 3_000));
        world.run(8_000);
        let told = world.told_since(at, &[State::Suspect, State::Down]);
        let told: Vec<&String> = told.iter().filter(|told| told.contains("n5 ")).collect();
        assert!(told.is_empty(), "seed {seed}: {told:?}");
    }
}

#[test]
fn a_link_that_loses_every_datagram_makes_nobody_suspect() {
    for seed in 0..10 {
        let mut world = settled(seed, 10);
        let at = world.now;
        world.muted.insert((2, 7));
        world.run(20_000);
        let told = world.told_since(at, &State::ALL);
        assert!(told.is_empty(), "seed {seed}: {told:?}");
    }
}

/// Neither datagrams nor frames of membership pass; whatever else does tells that its sender lives.
#[test]
fn a_node_from_which_only_other_bytes_come_is_not_suspected() {
    for seed in 0..10 {
        let mut world = settled(seed, 10);
        let at = world.now;
        (1..=10).filter(|other| *other != 7).for_each(|other| {
            world.muted.insert((other.min(7), other.max(7)));
            world.clogged.insert((other.min(7), other.max(7)));
        });
        for _ in 0..80 {
            for other in (1..=10).filter(|other| *other != 7) {
                world.event(other, Event::Heard(id(7)));
                world.event(7, Event::Heard(id(other)));
            }
            world.run(250);
        }
        let told = world.told_since(at, &State::ALL);
        assert!(told.is_empty(), "seed {seed}: {told:?}");
    }
}

#[test]
fn a_clean_disconnection_alone_condemns_nobody() {
    for seed in 0..10 {
        let mut world = settled(seed, 10);
        let at = world.now;
        for _ in 0..5 {
            world.hang_up(4);
            world.run(2_000);
        }
        let told = world.told_since(at, &State::ALL);
        assert!(told.is_empty(), "seed {seed}: {told:?}");
    }
}

/// A closed connection saves the wait for a probe to come by.
#[test]
fn a_node_that_hangs_up_and_dies_is_found_sooner() {
    for seed in 0..10 {
        let mut world = settled(seed, 10);
        world.hang_up(4);
        world.kill(4);
        let others = world.numbers();
        let took = world.run_until(5_000, |world| world.show(&others, &[4], DOWN));
        assert!(took.is_some_and(|took| took < 3_000), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_node_that_one_peer_cannot_reach_is_not_dead() {
    let mut world = settled(3, 10);
    let at = world.now;
    world.part(&[2], &[9]);
    world.run(30_000);
    let told = world.told_since(at, &State::ALL);
    assert!(!world.is_linked(2, 9));
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_node_that_one_peer_alone_can_reach_is_not_dead() {
    for seed in 0..5 {
        let mut world = settled(seed, 10);
        let at = world.now;
        world.part(&[9], &[2, 3, 4, 5, 6, 7, 8, 10]);
        world.run(40_000);
        assert_eq!(world.links_of(9), 1);
        let told = world.told_since(at, &[State::Suspect, State::Down]);
        assert!(told.is_empty(), "seed {seed}: {told:?}");
    }
}

#[test]
fn halves_of_a_region_declare_each_other_down_and_rejoin() {
    for seed in 0..5 {
        let mut world = settled(seed, 10);
        let (one, other) = ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]);
        // Not even discovery tells them of each other.
        for number in 1..=10 {
            world.event(number, Event::Discovered(BTreeSet::new()));
        }
        world.part(&one, &other);
        let took = world.run_until(12_000, |world| {
            world.show(&one, &other, DOWN) && world.show(&other, &one, DOWN)
        });
        assert!(took.is_some(), "seed {seed}: the halves still see each other");
        assert!(world.show(&one, &one, UP) && world.show(&other, &other, UP));
        world.run(30_000);
        world.heal();
        let took = world.run_until(20_000, |world| world.agree(State::Up));
        assert!(took.is_some(), "seed {seed}: not one region again");
        println!("halves of a region are one again {took:?} ms after a cut");
    }
}

#[test]
fn the_dead_are_dialled_one_at_a_time_and_no_more_once_forgotten() {
    let mut world = World::new(6);
    world.timing.forget_after_ms = 60_000;
    for number in 1..=6 {
        world.start(number, "eu", &[1]);
        world.event(number, Event::Ready);
    }
    world.run_until(5_000, |world| world.agree(State::Up)).unwrap();
    let dead = [4, 5, 6];
    dead.into_iter().for_each(|number| world.kill(number));
    world.run_until(8_000, |world| world.show(&[1, 2, 3], &dead, DOWN)).unwrap();
    let dialled = |world: &World, number: u8| {
        let dialled = world.nodes[&number].dialled.iter();
        dialled.filter(|address| ["n4", "n5", "n6"].iter().any(|a| address.starts_with(a))).count()
    };
    for _ in 0..45 {
        world.run(1_000);
        assert!((1..=3).all(|number| dialled(&world, number) <= 1));
    }
    let at = world.now;
    world.run(30_000);
    assert!((1..=3).all(|number| dialled(&world, number) == 0));
    assert!(world.agree(State::Up), "the dead are on no list");
    assert_eq!(world.told_since(at, &[State::Gone]).len(), 9, "each told that each is gone");
    world.run(60_000);
    assert!(world.agree(State::Up), "and they do not come back");
}

#[test]
fn a_restarted_node_rejoins_at_once_under_a_higher_incarnation() {
    for seed in 0..20 {
        let mut world = settled(seed, 10);
        let before = world.nodes[&1].core.member(id(8)).unwrap().incarnation;
        let at = world.now;
        world.kill(8);
        world.run(300);
        world.start(8, "eu", &[1]);
        let all = world.numbers();
        let took = world.run_until(1_000, |world| {
            let joining = |by: &u8| {
                let member = world.nodes[by].core.member(id(8));
                member.is_some_and(|m| m.state == State::Joining && m.incarnation > before)
            };
            all.iter().all(joining)
        });
        assert!(took.is_some(), "seed {seed}");
        world.event(8, Event::Ready);
        world.run(5_000);
        assert!(world.agree(State::Up), "seed {seed}");
        let wrong = world.told_since(at, &[State::Suspect, State::Down]);
        assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
    }
}

/// A clock that was set back gives a start a lower number than the last one had.
#[test]
fn a_node_whose_clock_was_set_back_rises_above_what_is_remembered() {
    let mut world = settled(2, 5);
    for again in [false, true] {
        let before = world.nodes[&1].core.member(id(3)).unwrap().incarnation;
        world.kill(3);
        world.run(500);
        let mut config = world.config(3, "eu");
        config.incarnation = if again { before } else { 5 };
        config.zone = format!("elsewhere-{again}");
        world.start_as(3, config, &[1]);
        world.event(3, Event::Ready);
        let took = world.run_until(5_000, |world| world.agree(State::Up));
        assert!(took.is_some());
        let member = world.nodes[&1].core.member(id(3)).unwrap();
        assert!(member.incarnation > before, "{member:?}");
        assert_eq!(member.zone, format!("elsewhere-{again}"));
    }
}

#[test]
fn a_node_that_leaves_is_leaving_and_then_gone() {
    let mut world = settled(9, 10);
    let at = world.now;
    world.event(6, Event::Leave);
    world.run(500);
    let others: Vec<u8> = world.numbers().into_iter().filter(|number| *number != 6).collect();
    assert!(world.show(&others, &[6], Some(State::Leaving)));
    world.run(10_000);
    assert!(world.show(&others, &[6], Some(State::Leaving)), "as long as it takes");
    world.stop(6);
    world.run(100);
    assert!(world.show(&others, &[6], None), "at once");
    world.run(30_000);
    assert!(world.agree(State::Up) && !world.told_since(at, &[State::Gone]).is_empty());
    let wrong = world.told_since(at, &[State::Suspect, State::Down]);
    assert!(wrong.is_empty(), "{wrong:?}");
    let dialled = |number: &u8| world.nodes[number].dialled.contains(&crate::world::address(6));
    assert!(!others.iter().any(dialled));
}

#[test]
fn a_node_that_dies_while_it_leaves_is_gone_not_down() {
    let mut world = settled(9, 5);
    world.event(2, Event::Leave);
    world.run(500);
    world.kill(2);
    world.run(6_000);
    assert!(world.agree(State::Up));
    assert!(world.told_since(0, &[State::Down]).is_empty());
}

#[test]
fn a_node_that_stops_is_down_at_once_and_back_at_once() {
    let mut world = settled(5, 10);
    world.stop(4);
    world.run(100);
    let others = world.numbers();
    assert!(world.show(&others, &[4], DOWN));
    world.start(4, "eu", &[1]);
    world.event(4, Event::Ready);
    let took = world.run_until(1_500, |world| world.agree(State::Up));
    assert!(took.is_some());
}

#[test]
fn a_node_alone_waits_for_nobody() {
    let mut world = World::new(1);
    world.start(1, "eu", &[1]);
    world.run(100);
    assert_eq!(world.state(1, 1), Some(State::Joining));
    world.event(1, Event::Ready);
    world.run(60_000);
    assert_eq!(world.state(1, 1), UP);
    assert!(world.nodes[&1].dialled.is_empty(), "it does not dial itself");
}
