//! Disks that come back older, empty, or unheard.

use atoll_store::backend::memory::{Memory, Snapshot};

use super::*;
use crate::groups::message::{Roll, Speaker, encode};
use crate::raft::Config;

/// A node loses power, and comes back with an older copy of its disk, while the others are there.
fn put_back(world: &mut World, copies: &[Vec<Snapshot>]) {
    let place = world.random.below(copies.len() as u64) as usize;
    if world.is_up(place) {
        world.crash(place);
    }
    world.heal_but(place);
    let older = world.random.below(copies[place].len() as u64) as usize;
    world.places[place].disk.restore(&copies[place][older]);
    world.start(place);
    world.run(5_000);
}

#[test]
fn r13_an_older_copy_of_a_disk_neither_votes_twice_nor_loses_what_it_acknowledged() {
    let mut gave_up = 0;
    for seed in 0..30 {
        let mut world = World::formed(seed, 3, 1, 2);
        let mut copies = vec![Vec::new(); 3];
        for round in 0..8 {
            for (place, copies) in copies.iter_mut().enumerate() {
                copies.push(world.copy(place));
            }
            fill(&mut world, first(), 10);
            let place = world.random.below(3) as usize;
            match world.random.below(4) {
                0 => world.crash(place),
                1 => drop(world.cut.insert((place, (place + 1) % 3))),
                _ => {}
            }
            let time = 100 + 20 * world.random.below(60);
            world.run(time);
            if round % 3 == 2 {
                put_back(&mut world, &copies);
                // A second disk is lost only when the first one was replaced.
                world.heal();
                world.settle();
            }
            world.heal();
        }
        world.settle();
        gave_up += world.places.iter().map(|place| place.gave_up).sum::<usize>();
    }
    assert!(gave_up > 20, "older copies were noticed {gave_up} times");
}

#[test]
fn r13_nothing_committed_is_lost_with_a_minority_of_disks() {
    for seed in 0..20 {
        let mut world = World::formed(seed, 3, 1, 3);
        for _ in 0..4 {
            fill(&mut world, first(), 10);
            let place = world.random.below(4) as usize;
            let disk = world.disk_id(place);
            world.crash(place);
            world.places[place].disk = Memory::new();
            let time = 20 * world.random.below(200);
            world.run(time);
            world.start(place);
            assert_ne!(world.disk_id(place), disk, "an empty disk is another one");
            world.settle();
        }
    }
}

/// The owner and one voter know what the third has missed. Both lose power, and the voter comes
/// back with an older copy: with the third it would be a majority that knows nothing of it.
#[test]
fn r13_an_older_copy_is_no_majority_with_who_missed_what_it_had_acknowledged() {
    for seed in 0..10 {
        let mut world = World::formed(seed, 3, 0, 1);
        let owner = world.owner(first()).expect("somebody owns");
        let (voter, third) = ((owner + 1) % 3, (owner + 2) % 3);
        let copy = world.copy(voter);
        world.crash(voter);
        world.start(voter);
        world.settle();
        for other in [owner, voter] {
            world.cut.extend([(third, other), (other, third)]);
        }
        fill(&mut world, first(), 10);
        world.crash(owner);
        world.crash(voter);
        world.cut.clear();
        world.places[voter].disk.restore(&copy);
        world.start(voter);
        world.run(20_000);
        assert_eq!(world.owner(first()), None, "one voter is left of three");
        assert_eq!(world.places[voter].gave_up, 1);
        world.start(owner);
        world.settle();
    }
}

#[test]
fn r13_a_start_that_nobody_has_recognised_says_nothing_to_its_groups() {
    let mut world = World::formed(7, 3, 0, 2);
    fill(&mut world, first(), 5);
    for other in 1..3 {
        world.cut.extend([(0, other), (other, 0)]);
    }
    world.crash(0);
    world.start(0);
    world.run(10_000);
    assert!(!world.view(0, first()).unwrap().cleared, "alone of three");
    world.cut.clear();
    world.run(1_000);
    assert!(world.view(0, first()).unwrap().cleared);
    world.settle();
    (0..3).for_each(|place| world.crash(place));
    world.start(0);
    world.start(1);
    world.run(2_800);
    assert_eq!(world.owner(first()), None, "the third may know better");
    world.run(3_000);
    assert!(world.owner(first()).is_some(), "it had its time");
    world.heal();
    world.settle();
}

/// A member that the record does not name leaves on the word that it is out, but not on one from
/// before something that it has: it may have acknowledged that as a member again.
#[test]
fn r13_who_has_more_than_the_word_that_it_is_out_stays() {
    let mut world = World::formed(9, 3, 1, 1);
    fill(&mut world, first(), 10);
    world.settle();
    let group = first();
    let others = Seats { voters: [(world.disk_id(0), id(0))].into(), ..Seats::default() };
    world.step(3, vec![Event::Placed([(group, others)].into())]);
    let View { end, term, .. } = world.view(3, group).unwrap();
    let config = Config { voters: [world.disk_id(0)].into(), ..Config::default() };
    let nonce = world.places[0].groups.as_ref().unwrap().starts.nonce();
    let speaker = Speaker { disk: world.disk_id(0), nonce };
    for (index, left) in [(end - 1, 0), (end, 1)] {
        let until = At { index, term };
        let roll = Roll { group: 0, index, until, config: config.clone(), peers: [].into() };
        let frame = encode(speaker, &[Part::Rolls(vec![roll])]).remove(0);
        world.step(3, vec![Event::Received(id(0), frame)]);
        world.flush(3);
        assert_eq!(world.judge.left, left, "told of {index}, and has {end}");
    }
}

/// Who has left a group, and dropped its log, must not vote for somebody who lacks what it had.
/// The voter that missed the change believes that it is still a member.
#[test]
fn r13_who_left_a_group_does_not_vote_for_who_missed_that() {
    let mut world = World::formed(8, 3, 2, 1);
    world.crash(1);
    fill(&mut world, first(), 10);
    let seating = world.seating.get_mut(&first()).unwrap();
    (seating.voters, seating.learners) = ([0, 3, 4].into(), [1].into());
    world.settle_up();
    assert_eq!(world.judge.left, 1, "node 2");
    fill(&mut world, first(), 10);
    world.crash(0);
    world.crash(3);
    world.crash(4);
    world.start(1);
    // The record names node 2 again, but nobody is there who could let it in.
    world.seating.get_mut(&first()).unwrap().learners = [1, 2].into();
    world.run(20_000);
    assert_eq!(world.owner(first()), None, "nodes 1 and 2 were a majority once");
    world.heal();
    world.settle();
}
