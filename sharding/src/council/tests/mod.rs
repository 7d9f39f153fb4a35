//! Councils of whole regions, in one thread under seeds.

mod chaos;
mod origins;
mod world;

use super::*;
use world::{World, id};

#[test]
fn a_region_of_one_node_waits_for_nobody() {
    let mut world = World::new(1);
    world.add(1, 1);
    world.form(0, 16);
    let record = world.newest().clone();
    assert_eq!(record.version, Version { epoch: 1, number: 1 });
    assert!(world.council(0).leads(), "in its first step");
    assert!(record.slots.iter().all(|slot| slot.current == [id(0)].into()));
    world.crash(0);
    world.start(0);
    world.step(0, Event::Tick);
    assert!(world.council(0).leads(), "and after a restart");
    assert_eq!(world.council(0).record(), Some(record));
}

#[test]
fn a_region_forms_once() {
    let mut world = World::formed(2, 1, 4);
    let settings = Settings { factor: 3, slots: 4 };
    let council = world.places[0].council.as_mut().unwrap();
    assert!(matches!(council.form(7, settings), Err(CouncilError::Formed(_))));
    world.add(1, 1);
    let other = world.places[1].council.as_mut().unwrap();
    let none = Settings { factor: 0, slots: 4 };
    let error = other.form(7, none).unwrap_err().to_string();
    assert!(error.contains("cluster.replicas"), "{error}");
}

#[test]
fn few_nodes_hold_everything() {
    for nodes in 2..=3 {
        let world = World::formed(3, nodes, 16);
        assert_eq!(world.loads(), vec![16; nodes]);
        assert_eq!(world.voters().len(), if nodes == 3 { 3 } else { 1 });
        world.check_rest();
    }
}

#[test]
fn a_region_grows_from_one_to_ten() {
    let mut world = World::formed(4, 1, 64);
    world.add(2, 3);
    world.settle();
    world.check_rest();
    world.add(7, 3);
    world.settle();
    world.check_rest();
    assert_eq!(world.voters().len(), 5);
    assert!(world.most_moving <= 4, "throttled: {}", world.most_moving);
}

#[test]
fn an_eleventh_node_takes_its_share_and_nothing_else_moves() {
    let mut world = World::new(5);
    world.add(10, 1);
    world.form(0, 64);
    world.settle();
    world.check_rest();
    world.moved.clear();
    world.add(1, 1);
    world.settle();
    world.check_rest();
    let moved = world.moved.len();
    assert!(moved <= (64usize * 3).div_ceil(11), "{moved} moved");
    assert!(world.moved.iter().all(|(_, node)| *node == id(10)));
}

#[test]
fn a_dead_node_is_replaced_and_its_return_takes_nothing_back() {
    let mut world = World::formed(6, 5, 16);
    world.crash(1);
    world.run(20_000);
    assert!(world.newest().slots.iter().any(|slot| slot.receives(id(1))), "waited for");
    world.settle();
    world.run(20_000);
    world.settle();
    assert!(!world.newest().slots.iter().any(|slot| slot.receives(id(1))));
    assert!(world.newest().nodes.contains_key(&id(1)), "and is still of the region");
    world.check_rest();
    world.start(1);
    world.settle();
    world.check_rest();
}

#[test]
fn a_dead_node_that_nobody_can_replace_stays_recorded_until_it_is_given_up() {
    let mut world = World::formed(7, 3, 8);
    world.crash(2);
    world.run(120_000);
    assert!(world.newest().slots.iter().all(|slot| slot.current.len() == 3));
    world.may_shrink = true;
    world.run(600_000);
    world.settle();
    assert!(world.newest().slots.iter().all(|slot| slot.current.len() == 2));
    assert!(!world.newest().nodes.contains_key(&id(2)));
    assert_eq!(world.voters().len(), 1, "an even number has more to lose");
    world.may_shrink = false;
    world.start(2);
    world.settle();
    world.check_rest();
    assert_eq!(world.voters().len(), 3);
}

#[test]
fn moves_that_wait_for_the_dead_do_not_keep_those_from_being_given_up() {
    let mut world = World::new(30);
    world.limits.moves = 1;
    world.add(1, 1);
    world.form(0, 16);
    world.add(6, 1);
    world.settle();
    // Two of three replicas of some slot, and one voter of five at most.
    let voters = world.voters();
    let votes = |place: &usize| usize::from(voters.contains(&id(*place)));
    let together = |one: usize, other: usize| {
        let slots = world.newest().slots.iter();
        slots.filter(|slot| slot.counts(id(one)) && slot.counts(id(other))).count()
    };
    let pairs = (0..7).flat_map(|one| (0..one).map(move |other| (one, other)));
    let mut pairs = pairs.filter(|(one, other)| votes(one) + votes(other) < 2);
    let (one, other) = pairs.find(|(one, other)| together(*one, *other) > 1).unwrap();
    world.may_shrink = true;
    world.crash(one);
    world.crash(other);
    world.run(600_000);
    world.settle();
    world.check_rest();
    let gone = |node: usize| !world.newest().nodes.contains_key(&id(node));
    assert!(gone(one) && gone(other));
}

#[test]
fn an_operator_need_not_wait() {
    let mut world = World::formed(8, 3, 8);
    assert!(matches!(world.council(0).may_evict(id(2)), Err(CouncilError::Alive(_))));
    assert!(matches!(world.council(0).may_evict(id(9)), Err(CouncilError::Unknown(_))));
    world.crash(2);
    world.run(5_000);
    world.council(1).may_evict(id(2)).unwrap();
    world.may_shrink = true;
    world.step(1, Event::Evict(id(2)));
    world.settle();
    assert!(!world.newest().nodes.contains_key(&id(2)));
    assert!(world.newest().slots.iter().all(|slot| slot.current.len() == 2));
}

#[test]
fn a_node_that_leaves_hands_over_first() {
    for leaver in 0..4 {
        let mut world = World::formed(9 + leaver as u64, 4, 16);
        world.leave(leaver);
        world.settle();
        assert!(world.council(leaver).is_released(id(leaver)));
        assert!(!world.newest().nodes.contains_key(&id(leaver)));
        assert!(!world.voters().contains(&id(leaver)));
        assert!(world.newest().slots.iter().all(|slot| slot.current.len() == 3));
    }
}

#[test]
fn moves_one_at_a_time_come_to_the_same_end() {
    let mut world = World::new(12);
    world.limits.moves = 1;
    world.add(6, 3);
    world.form(0, 4);
    world.settle();
    world.check_rest();
    (0..3).for_each(|place| world.leave(place));
    world.settle();
    (0..3).for_each(|place| world.crash(place));
    world.check_rest();
    assert_eq!(world.most_moving, 1);
}

#[test]
fn where_all_hold_all_a_node_may_leave_as_long_as_another_stays() {
    let mut world = World::formed(13, 3, 8);
    world.may_shrink = true;
    for leaver in [0, 1] {
        world.leave(leaver);
        world.settle();
        assert!(world.council(leaver).is_released(id(leaver)));
        world.crash(leaver);
    }
    world.leave(2);
    world.run(60_000);
    assert!(!world.council(2).is_released(id(2)), "the last copy stays");
    assert!(world.newest().slots.iter().all(|slot| slot.current == [id(2)].into()));
}

#[test]
fn a_leaver_that_comes_back_stays() {
    let mut world = World::formed(14, 1, 8);
    world.leave(0);
    world.run(5_000);
    assert!(!world.council(0).is_released(id(0)));
    world.crash(0);
    world.start(0);
    world.add(1, 3);
    world.settle();
    assert_eq!(world.loads(), [8, 8]);
}

#[test]
fn moves_go_on_under_the_next_leader() {
    for seed in 20..24 {
        let mut world = World::formed(seed, 5, 32);
        world.add(3, 3);
        world.run(2_000 + 200 * seed);
        let leader = world.leader().expect("somebody leads");
        world.crash(leader);
        world.settle();
        world.start(leader);
        world.settle();
        world.check_rest();
    }
}

#[test]
fn voters_are_spread_over_zones_and_replaced() {
    let mut world = World::formed(31, 6, 8);
    let zones = |world: &World| {
        let record = world.newest();
        let zones = world.voters().into_iter().map(|node| record.nodes[&node].zone.clone());
        zones.collect::<BTreeSet<_>>()
    };
    assert_eq!((world.voters().len(), zones(&world).len()), (3, 3));
    let lost = world.voters()[0];
    let place = (0..6).find(|place| id(*place) == lost).unwrap();
    world.crash(place);
    world.run(20_000);
    world.settle();
    world.run(20_000);
    world.settle();
    assert!(!world.voters().contains(&lost));
    assert_eq!((world.voters().len(), zones(&world).len()), (3, 3));
}

#[test]
fn a_founder_that_loses_power_while_it_forms_forms_again() {
    let mut world = World::new(32);
    world.add(2, 2);
    let settings = Settings { factor: 3, slots: 4 };
    let council = world.places[0].council.as_mut().unwrap();
    council.form(7, settings).unwrap();
    // Nothing was durable, so nobody can have heard of it.
    world.places[0].council = None;
    world.places[0].disk.crash();
    world.start(0);
    assert!(!world.council(0).is_formed());
    world.form(0, 4);
    world.crash(0);
    world.start(0);
    assert!(world.council(0).is_formed(), "what was published is durable");
    world.settle();
    assert_eq!(world.loads(), [4, 4]);
}

#[test]
fn two_councils_of_one_region_refuse_each_other() {
    let mut world = World::new(33);
    world.add(2, 2);
    world.cut = [(0, 1), (1, 0)].into();
    world.form(0, 4);
    let settings = Settings { factor: 3, slots: 4 };
    world.places[1].council.as_mut().unwrap().form(99, settings).unwrap();
    world.cut.clear();
    let effects = world.places[1].council.as_mut().unwrap().step(world.now, Event::Tick);
    assert!(effects.record.is_some_and(|record| record.council == 99));
    // The other's notice, as it would arrive.
    let mut notices = Vec::new();
    for place in 0..2 {
        let member = |at: usize| Member {
            node: id(at),
            name: String::new(),
            zone: String::new(),
            roles: Roles { replica: false, voter: false },
            disk: 0,
            start: 0,
            liveness: Liveness::Up,
        };
        let now = world.now;
        let council = world.places[place].council.as_mut().unwrap();
        let effects = council.step(now, Event::Members(vec![member(0), member(1)]));
        notices.extend(effects.sends.into_iter().map(|(to, frame)| (id(place), to, frame)));
    }
    for (from, to, frame) in notices {
        let place = usize::from(to == id(1));
        let now = world.now;
        let council = world.places[place].council.as_mut().unwrap();
        let effects = council.step(now, Event::Received(from, frame));
        let trouble = council.view().trouble.unwrap().to_string();
        assert!(trouble.contains("two councils"), "{trouble}");
        assert!(effects.view.is_some() && effects.writes.is_empty(), "and nothing else");
    }
}

#[test]
fn a_lost_majority_is_re_formed_and_the_lost_join_it_as_new() {
    let mut world = World::formed(34, 4, 8);
    let before = world.newest().clone();
    let voters: Vec<usize> = (0..4).filter(|p| world.voters().contains(&id(*p))).collect();
    let other = (0..4).find(|place| !voters.contains(place)).unwrap();
    for survivor in [voters[0], other] {
        for place in 0..4 {
            if place != survivor {
                world.crash(place);
            }
        }
        world.run(10_000);
        assert_eq!(world.leader(), None);
        let chance = world.random.next();
        world.places[survivor].council.as_mut().unwrap().recover(chance).unwrap();
        world.step(survivor, Event::Tick);
        assert!(world.council(survivor).leads(), "alone, at once");
        assert!(world.newest().version.epoch > before.version.epoch);
        assert_eq!(world.newest().nodes, before.nodes, "the record is kept");
        (0..4).filter(|place| *place != survivor).for_each(|place| world.start(place));
        world.settle();
        world.check_rest();
        assert_eq!(world.voters().len(), 3);
    }
}

/// How long it takes, in a region of three nodes that moves one replica at a time, until many
/// origins that end are over, and until nodes that join have their share.
fn takes(origins: usize, joiners: usize) -> (Millis, Millis) {
    let mut world = World::new(36);
    world.limits.moves = 1;
    world.add(3, 3);
    world.form(0, 16);
    world.settle();
    (0..origins).for_each(|_| world.end_origin());
    world.add(joiners, 3);
    let begun = world.now;
    let (mut over, mut balanced) = (None, None);
    while over.is_none() || balanced.is_none() {
        world.run(200);
        assert!(world.now < begun + 300_000, "{} are over, {:?}", world.over(), world.loads());
        let (passed, loads) = (world.now - begun, world.loads());
        if world.ends_rest() && world.over() == origins {
            over.get_or_insert(passed);
        }
        let share = (16 * 3_usize).div_ceil(loads.len());
        if loads.iter().sum::<usize>() == 16 * 3 && loads.iter().all(|load| *load <= share) {
            balanced.get_or_insert(passed);
        }
    }
    over.zip(balanced).expect("both are over")
}

#[test]
fn r9_many_origins_that_end_and_moves_do_not_wait_for_each_other() {
    let (over, _) = takes(200, 0);
    let (_, balanced) = takes(0, 2);
    let together = takes(200, 2);
    // One after the other would take the sum of both.
    assert!(together.0.max(together.1) < (over + balanced) * 3 / 4, "{together:?} together");
    assert!(together.1 <= balanced * 2, "{together:?} together, {over} and {balanced} alone");
}

#[test]
fn r9_late_news_of_a_retired_origin_does_not_begin_it_again() {
    let mut world = World::formed(38, 5, 1);
    let needed = |place: &usize| {
        world.leader() == Some(*place) || world.newest().slots[0].receives(id(*place))
    };
    let late = (0..5).find(|place| !needed(place)).unwrap();
    world.cut = (0..5).flat_map(|other| [(late, other), (other, late)]).collect();
    world.end_origin();
    world.run(8_000);
    assert_eq!(world.over(), 1, "the others need it for nothing");
    // It has asked for the end of the origin all the while, and is heard now.
    world.cut.clear();
    world.settle();
    world.check_retired();
}

#[test]
fn r9_a_council_that_is_re_formed_goes_on_with_origins_that_end() {
    let mut world = World::formed(37, 3, 8);
    world.crash(0);
    (0..5).for_each(|_| world.end_origin());
    world.run(5_000);
    let before = world.newest().clone();
    assert_eq!((before.ended.len(), before.ends.len()), (5, 0), "one replica has not told");
    world.crash(1);
    let chance = world.random.next();
    world.places[2].council.as_mut().unwrap().recover(chance).unwrap();
    world.step(2, Event::Tick);
    assert_eq!(world.newest().ended, before.ended);
    world.start(0);
    world.start(1);
    world.settle();
    assert_eq!(world.over(), 5);
    world.check_retired();
}

#[test]
fn nothing_known_is_nothing_to_recover() {
    let mut world = World::new(35);
    world.add(1, 1);
    let error = world.places[0].council.as_mut().unwrap().recover(1).unwrap_err();
    assert!(matches!(error, CouncilError::NothingKnown));
}
