//! Many seeds of faults, after which all must be well again.

use super::world::World;
use super::*;

/// Proposals and reads, here and there.
fn traffic(world: &mut World) {
    for _ in 0..world.random.below(12) {
        let group = world.groups[world.random.below(world.groups.len() as u64) as usize];
        let anywhere = world.random.below(world.places.len() as u64) as usize;
        let place = match world.random.percent(85) {
            true => world.owner(group).unwrap_or(anywhere),
            false => anywhere,
        };
        match world.random.percent(70) {
            true => world.propose(place, group),
            false => world.read(place, group),
        }
    }
}

/// Other nodes should vote, and receive.
fn reseat(world: &mut World) {
    let group = world.groups[world.random.below(world.groups.len() as u64) as usize];
    let mut places: Vec<usize> = (0..world.places.len()).collect();
    for at in 0..places.len() {
        let other = at + world.random.below((places.len() - at) as u64) as usize;
        places.swap(at, other);
    }
    let seating = world.seating.get_mut(&group).unwrap();
    seating.voters = places.iter().take(3).copied().collect();
    seating.learners = places.iter().skip(3).take(1).copied().collect();
}

fn fault(world: &mut World) {
    let count = world.places.len() as u64;
    let place = world.random.below(count) as usize;
    let other = world.random.below(count) as usize;
    let group = world.groups[world.random.below(world.groups.len() as u64) as usize];
    match world.random.below(16) {
        0 | 1 if world.is_up(place) => world.crash(place),
        0..=3 if !world.is_up(place) => world.start(place),
        2 => {
            if let Some(owner) = world.owner(group) {
                world.crash(owner);
            }
        }
        3 => world.places[place].paused = world.now + 200 + 20 * world.random.below(100),
        4 | 5 if place != other => drop(world.cut.insert((place, other))),
        6 => world.cut.clear(),
        7 => world.loss = world.random.below(25),
        8 => world.doubled = world.random.below(30),
        9 => world.slow = world.random.below(30),
        10 | 11 => reseat(world),
        12 => {
            let node = world::id(other);
            world.step(place, vec![Event::Transfer { group, node }]);
        }
        13 => world.step(place, vec![Event::Wake(group)]),
        14 => {
            // Everybody at once.
            for place in world.up() {
                world.crash(place);
            }
        }
        _ => {}
    }
    for _ in 0..4 {
        traffic(world);
        let time = 50 + 10 * world.random.below(40);
        world.run(time);
    }
}

fn chaos(seed: u64) -> World {
    let mut world = World::formed(seed, 3, 2, 3);
    for _ in 0..14 {
        fault(&mut world);
    }
    world.heal();
    world.settle();
    world
}

/// `SEEDS=from..until` plays others.
fn seeds() -> std::ops::Range<u64> {
    let named = std::env::var("SEEDS").ok();
    let range = named.as_deref().and_then(|text| text.split_once(".."));
    range.map_or(0..40, |(from, until)| from.parse().unwrap()..until.parse().unwrap())
}

#[test]
fn what_is_committed_survives_crashes_cuts_loss_and_moves() {
    let mut sum = Judge::default();
    for seed in seeds() {
        println!("seed {seed}");
        let world = chaos(seed);
        let judge = &world.judge;
        sum.acks += judge.acks;
        sum.reads += judge.reads;
        sum.lost += judge.lost;
        sum.installs += judge.installs;
        sum.left += judge.left;
        sum.owned += judge.owned;
        let gave_up: usize = world.places.iter().map(|place| place.gave_up).sum();
        assert_eq!(gave_up, 0, "nobody lost a disk, seed {seed}");
    }
    let Judge { acks, reads, lost, installs, left, owned, .. } = &sum;
    println!("{acks} acks {reads} reads {lost} lost {installs} installs {left} left {owned} owned");
    assert!(*acks > 2_000 && *reads > 800 && *lost > 30, "there was traffic");
    assert!(*installs > 300 && *left > 40 && *owned > 200, "there was change");
}
