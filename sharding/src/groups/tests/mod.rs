//! Groups of several nodes: what they agree on, when they sleep, how they move.

mod chaos;
mod golden;
mod machine;
mod nonsense;
mod rest;
mod starts;
mod world;

use atoll_replication::placement::Placement;

use super::*;
use world::{DETECT_MS, Judge, World, id};

fn first() -> ShardId {
    ShardId { placement: 0, slot: 0 }
}

/// Proposes at the owner, and lets time pass, until so many proposals were acknowledged.
fn fill(world: &mut World, group: ShardId, count: usize) {
    let goal = world.judge.acks + count;
    while world.judge.acks < goal {
        if let Some(owner) = world.owner(group) {
            (0..10).for_each(|_| world.propose(owner, group));
        }
        world.run(50);
    }
}

#[test]
fn one_voter_decides_alone() {
    let mut world = World::new(1, 1, 2);
    world.run(100);
    assert_eq!(world.owner(first()), Some(0));
    world.propose(0, first());
    world.run(100);
    assert_eq!(world.judge.acks, 1);
    world.settle();
}

#[test]
fn groups_grow_to_the_recorded_replicas_and_agree() {
    let mut world = World::formed(1, 3, 2, 4);
    for group in world.groups.clone() {
        let owner = world.owner(group).unwrap();
        (0..20).for_each(|_| world.propose(owner, group));
    }
    world.settle();
    assert_eq!(world.judge.acks, 80);
}

#[test]
fn idle_groups_send_nothing_and_wait_for_nothing() {
    let mut world = World::formed(2, 3, 1, 64);
    let sent = world.sent;
    world.run(600_000);
    assert_eq!(world.sent, sent, "not a frame in ten minutes");
    for place in world.up() {
        assert_eq!(world.places[place].groups.as_ref().unwrap().deadline(), None);
    }
    let owner = world.owner(first()).unwrap();
    world.propose(owner, first());
    world.run(200);
    assert_eq!(world.judge.acks, 1, "it wakes for a command");
    let other = ShardId { placement: 0, slot: 7 };
    assert!(world.view(owner, other).unwrap().asleep, "and nobody else");
    world.settle();
}

#[test]
fn nobody_sleeps_while_somebody_who_is_there_lacks_something() {
    let mut world = World::formed(10, 3, 0, 1);
    let owner = world.owner(first()).unwrap();
    let other = (owner + 1) % 3;
    world.blind = true;
    world.cut.extend([(owner, other), (other, owner)]);
    fill(&mut world, first(), 5);
    world.run(600);
    let awake = |world: &World| !world.view(owner, first()).unwrap().asleep;
    assert!(awake(&world), "it is there, and lacks what was said");
    world.heal();
    world.settle();
    assert!(!awake(&world));
}

#[test]
fn all_of_a_step_goes_to_a_peer_in_one_frame() {
    let mut world = World::new(3, 3, 64);
    for seating in world.seating.values_mut() {
        seating.voters = [0, 1, 2].into();
    }
    world.settle();
    let owner = world.owner(first()).unwrap();
    let sent = world.sent;
    let owned = world.groups.clone().into_iter().filter(|g| world.owner(*g) == Some(owner));
    let owned: Vec<ShardId> = owned.collect();
    assert!(owned.len() > 10);
    let command = || bytes::Bytes::from("x");
    let propose = |group: &ShardId| Event::Propose { group: *group, ticket: 1, command: command() };
    world.step(owner, owned.iter().map(propose).collect());
    world.flush(owner);
    assert_eq!(world.sent, sent + 2);
}

#[test]
fn the_owner_of_a_sleeping_group_is_replaced_within_a_second_of_the_word_that_it_is_gone() {
    for seed in 0..20 {
        let mut world = World::formed(seed, 3, 1, 8);
        let before = world.owner(first()).unwrap();
        world.crash(before);
        world.run(DETECT_MS - 200);
        let asleep = |place: &usize| world.view(*place, first()).unwrap().asleep;
        assert!(world.up().iter().all(asleep), "nobody asks for votes without the word");
        world.run(1_200);
        for group in world.groups.clone() {
            assert!(world.owner(group).is_some(), "{group} has an owner");
        }
    }
}

#[test]
fn the_owner_of_a_busy_group_is_replaced_by_itself() {
    let mut took = Vec::new();
    for seed in 0..40 {
        let mut world = World::formed(seed, 3, 0, 1);
        fill(&mut world, first(), 5);
        let owner = world.owner(first()).unwrap();
        world.crash(owner);
        // Membership says nothing: it is slower.
        world.blind = true;
        let before = world.now;
        while world.owner(first()).is_none() {
            world.run(10);
        }
        took.push(world.now - before);
        fill(&mut world, first(), 5);
    }
    took.sort_unstable();
    println!("{took:?} ms");
    assert!(took[20] <= 1_300 && took[39] <= 3_000, "{took:?} ms");
}

#[test]
fn an_owner_that_is_cut_off_commits_nothing_and_answers_no_read() {
    let mut world = World::formed(4, 3, 0, 1);
    let owner = world.owner(first()).unwrap();
    for other in (0..3).filter(|other| *other != owner) {
        world.cut.extend([(owner, other), (other, owner)]);
    }
    let (acks, reads) = (world.judge.acks, world.judge.reads);
    world.propose(owner, first());
    world.read(owner, first());
    world.run(5_000);
    assert_eq!((world.judge.acks, world.judge.reads), (acks, reads));
    assert_eq!(world.judge.lost, 1, "it cannot know what becomes of the command");
    let next = world.owner(first()).unwrap();
    assert_ne!(next, owner, "the others have gone on");
    world.read(next, first());
    world.run(200);
    assert_eq!(world.judge.reads, reads + 1);
    world.heal();
    world.settle();
}

#[test]
fn a_node_that_leaves_hands_its_groups_over() {
    for seed in 0..10 {
        let mut world = World::formed(seed, 3, 0, 8);
        let owner = world.owner(first()).unwrap();
        world.step(owner, vec![Event::HandOver]);
        world.run(500);
        for group in world.groups.clone() {
            let next = world.owner(group);
            assert!(next.is_some_and(|next| next != owner), "{group} seed {seed} {next:?}");
        }
    }
}

#[test]
fn who_lacks_too_much_takes_the_state_in_chunks_and_goes_on_after_a_restart() {
    let mut world = World::formed(5, 3, 1, 1);
    world.crash(3);
    fill(&mut world, first(), 300);
    world.settle_up();
    let base = world.view(world.owner(first()).unwrap(), first()).unwrap().base;
    assert!(base > 200, "the log does not wait for who is away: {base}");
    world.start(3);
    let mut staged = 0;
    while staged < 20 {
        world.run(10);
        staged = world.places[3].machine.staged;
    }
    world.crash(3);
    world.start(3);
    world.settle();
    let all = staged + world.places[3].machine.staged;
    assert!((75..90).contains(&all), "{all} chunks of 4 for about 300 commands");
    assert_eq!(world.judge.installs, 4, "three at first, and this one");
}

#[test]
fn logs_are_bounded_in_memory_and_on_disk() {
    let mut world = World::new(6, 3, 1);
    world.limits = Limits { trim: 100, keep: 100_000 };
    for place in 0..3 {
        world.crash(place);
        world.start(place);
    }
    world.seating.get_mut(&first()).unwrap().voters = [0, 1, 2].into();
    world.padding = 4_000;
    world.settle();
    let owner = world.owner(first()).unwrap();
    let away = (owner + 1) % 3;
    let installs = world.judge.installs;
    for other in (0..3).filter(|other| *other != away) {
        world.cut.extend([(away, other), (other, away)]);
    }
    world.run(DETECT_MS);
    // Membership does not know: the log is kept for it.
    world.blind = true;
    fill(&mut world, first(), 300);
    let view = world.view(owner, first()).unwrap();
    assert!(view.bytes < 600_000, "{} of more than a million bytes are in memory", view.bytes);
    world.blind = false;
    world.heal();
    world.settle();
    assert_eq!(world.judge.installs, installs, "what it lacked was read from the disk");
    fill(&mut world, first(), 300);
    world.settle();
    let (_, records) = world.places[owner].disk.holds();
    assert!(records[&b'q'] < 250, "{records:?}");
    assert!(world.view(owner, first()).unwrap().bytes < 20_000, "asleep");
}

#[test]
fn r12_who_should_vote_are_the_current_replicas_of_the_home_region() {
    use atoll_replication::placement::{RegionPlacement, Replicas, Seat};
    let mut placement = Placement::default();
    for (region, base) in [("eu", 0), ("us", 10)] {
        let nodes: BTreeMap<NodeId, Seat> = (base..base + 4)
            .map(|place| {
                let disk = place as u64 + 100;
                (id(place), Seat { name: String::new(), zone: String::new(), disk })
            })
            .collect();
        let set = |places: [usize; 2]| places.into_iter().map(|at| id(base + at)).collect();
        let slots =
            vec![Replicas { epoch: 2, current: set([0, 1]), next: Some(set([1, 2])), struck: 0 }];
        let region = region.to_owned();
        let record = RegionPlacement { region, nodes, slots, ..RegionPlacement::default() };
        let version = atoll_replication::placement::Version { epoch: 1, number: 1 };
        placement.take(RegionPlacement { version, ..record });
    }
    let found = seats(&placement, "eu");
    let disks = |seats: &BTreeMap<u64, NodeId>| seats.keys().copied().collect::<Vec<_>>();
    assert_eq!(disks(&found[&first()].voters), [100, 101]);
    assert_eq!(disks(&found[&first()].learners), [102, 110, 111, 112]);
    assert!(seats(&placement, "asia").is_empty(), "nobody may form a group elsewhere");
}
