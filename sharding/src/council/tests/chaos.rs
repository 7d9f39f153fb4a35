//! Many seeds of faults, after which all must be well again.

use atoll_store::backend::memory::Snapshot;

use super::world::World;
use super::*;

/// A region of a few nodes that replaces and forgets soon.
fn region(seed: u64) -> World {
    let mut world = World::new(seed);
    world.limits = Limits { replace_after_ms: 4_000, forget_after_ms: 12_000, moves: 4 };
    let nodes = 2 + world.random.below(4) as usize;
    world.add(nodes, 3);
    world.form(0, 6);
    world.may_shrink = true;
    world.run(3_000);
    world
}

/// Heals everything, and waits for rest.
fn heal(world: &mut World) {
    world.loss = 0;
    world.cut.clear();
    for place in 0..world.places.len() {
        if !world.is_up(place) {
            world.start(place);
        }
    }
    let before = world.newest().version;
    world.settle();
    for place in world.up() {
        let node = world.places[place].id;
        if world.council(place).is_released(node) {
            world.crash(place);
        }
    }
    assert!(world.newest().version >= before, "what was published is not taken back");
    world.check_rest();
    world.check_retired();
}

fn fault(world: &mut World) {
    let count = world.places.len() as u64;
    let place = world.random.below(count) as usize;
    let other = world.random.below(count) as usize;
    match world.random.below(12) {
        0..=2 if world.is_up(place) => world.crash(place),
        0..=4 if !world.is_up(place) => world.start(place),
        3 => {
            if let Some(leader) = world.leader() {
                world.crash(leader);
            }
        }
        5 | 6 if place != other => drop(world.cut.insert((place, other))),
        7 => world.cut.clear(),
        8 if count < 7 => world.add(1, 3),
        9 if world.is_up(place) && world.random.percent(30) => world.leave(place),
        10 => world.loss = world.random.below(20),
        _ => world.rename(place),
    }
    for _ in 0..world.random.below(3) {
        world.end_origin();
    }
    let time = 200 + 20 * world.random.below(150);
    world.run(time);
}

#[test]
fn r12_r9_what_is_recorded_survives_crashes_cuts_and_loss() {
    let (mut retired, mut compared) = (0, 0);
    for seed in 0..100 {
        let mut world = region(seed);
        for _ in 0..12 {
            fault(&mut world);
        }
        heal(&mut world);
        retired += world.over();
        compared += world.origins.compared;
    }
    assert!(retired > 800 && compared > 10_000, "{retired} origins retired, {compared} compared");
}

/// A node loses power, and comes back with an older copy of its disk, while the others are
/// there. Whatever it had voted for and acknowledged since, it must not contradict.
fn put_back(world: &mut World, copies: &[Vec<Snapshot>]) {
    let place = world.random.below(copies.len() as u64) as usize;
    if world.is_up(place) {
        world.crash(place);
    }
    world.loss = 0;
    world.cut.clear();
    for other in (0..copies.len()).filter(|other| *other != place) {
        if !world.is_up(other) {
            world.start(other);
        }
    }
    let older = world.random.below(copies[place].len() as u64) as usize;
    world.places[place].disk.restore(&copies[place][older]);
    world.start(place);
    world.run(5_000);
}

#[test]
fn r13_an_older_copy_of_a_disk_neither_votes_twice_nor_loses_what_it_acknowledged() {
    let mut gave_up = 0;
    for seed in 0..60 {
        let mut world = World::formed(seed, 3, 2);
        world.limits = Limits { replace_after_ms: 600_000, ..Limits::default() };
        // Who gave up a disk has to catch up again.
        world.may_shrink = true;
        let mut copies = vec![Vec::new(); 3];
        for _ in 0..12 {
            for (place, copies) in copies.iter_mut().enumerate() {
                if world.random.percent(60) || copies.is_empty() {
                    copies.push(world.copy(place));
                }
            }
            let place = world.random.below(3) as usize;
            match world.random.below(6) {
                0 => put_back(&mut world, &copies),
                1 if world.is_up(place) => world.crash(place),
                1 | 2 if !world.is_up(place) => world.start(place),
                2 => drop(world.cut.insert((place, (place + 1) % 3))),
                3 => world.cut.clear(),
                _ => world.rename(place),
            }
            let time = 100 + 20 * world.random.below(60);
            world.run(time);
            let trouble = |place: &usize| world.council(*place).view().trouble.is_some();
            gave_up += world.up().iter().filter(|place| trouble(place)).count();
        }
        world.cut.clear();
        (0..3).filter(|place| !world.is_up(*place)).collect::<Vec<_>>().into_iter().for_each(|p| {
            world.start(p);
        });
        let before = world.newest().version;
        world.settle();
        assert!(world.newest().version >= before, "what was published is not taken back");
    }
    assert!(gave_up > 10, "older copies were noticed {gave_up} times");
}

/// The leader and one voter know what the third has missed. Both lose power, and the voter comes
/// back with an older copy: with the third it would be a majority that knows nothing of it.
#[test]
fn r13_an_older_copy_is_no_majority_with_who_missed_what_it_had_acknowledged() {
    for seed in 0..20 {
        let mut world = World::formed(seed, 3, 2);
        world.limits = Limits { replace_after_ms: 600_000, ..Limits::default() };
        // Who gave up a disk has to catch up again.
        world.may_shrink = true;
        let leader = world.leader().expect("somebody leads");
        let (voter, third) = ((leader + 1) % 3, (leader + 2) % 3);
        let copy = world.copy(voter);
        world.crash(voter);
        world.start(voter);
        world.settle();
        world.cut = (0..3).flat_map(|other| [(third, other), (other, third)]).collect();
        world.cut.remove(&(third, third));
        for _ in 0..3 {
            world.rename(leader);
            world.run(1_000);
        }
        let before = world.newest().version;
        world.crash(leader);
        world.crash(voter);
        world.cut.clear();
        world.places[voter].disk.restore(&copy);
        world.start(voter);
        world.run(20_000);
        assert_eq!(world.leader(), None, "one voter is left of three");
        assert!(world.council(voter).view().trouble.is_some());
        world.start(leader);
        world.rename(third);
        world.settle();
        assert!(world.newest().version > before, "and goes on from there");
        assert_eq!(world.voters().len(), 3);
    }
}
