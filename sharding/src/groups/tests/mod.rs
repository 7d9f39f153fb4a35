//! Groups of several nodes: what they agree on, when they sleep, how they move.

mod machine;
mod world;

use super::*;
use world::World;

fn first() -> ShardId {
    ShardId { placement: 0, slot: 0 }
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
        for _ in 0..20 {
            world.propose(owner, group);
        }
    }
    world.settle();
    assert_eq!(world.judge.acks, 80);
}
