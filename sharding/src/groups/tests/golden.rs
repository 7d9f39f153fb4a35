//! One script: a group is formed, grows, is asked for something, sleeps, loses its owner.
//!
//! `GOLDEN=write` writes it anew.

use super::*;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/groups/tests/life.txt");

fn note(world: &mut World, text: &str) {
    let now = world.now;
    world.trace.as_mut().unwrap().push(format!("{now:6} --- {text}"));
}

fn play() -> String {
    let mut world = World::new(42, 3, 1);
    world.trace = Some(Vec::new());
    note(&mut world, "node 0 has formed the group; the record names three");
    world.seating.get_mut(&first()).unwrap().voters = [0, 1, 2].into();
    world.settle();
    note(&mut world, "it sleeps; a command and a read");
    world.propose(0, first());
    world.run(100);
    world.read(0, first());
    world.run(100);
    world.settle();
    note(&mut world, "it sleeps; its owner loses power");
    world.crash(0);
    world.run(3_500);
    note(&mut world, "the owner is back");
    world.start(0);
    world.settle();
    world.trace.unwrap().join("\n") + "\n"
}

#[test]
fn the_life_of_a_group_is_as_it_was_written_down() {
    let played = play();
    if std::env::var("GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(SCRIPT, &played).unwrap();
    }
    let written = std::fs::read_to_string(SCRIPT).unwrap();
    assert_eq!(played, written, "GOLDEN=write writes the script anew");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(play(), play());
}
