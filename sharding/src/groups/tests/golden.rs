//! One script: a group is formed, grows, is asked for something, sleeps, loses its owner.
//!
//! `GOLDEN=write` writes it anew.

use super::*;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/groups/tests/life.txt");

/// News, in words.
pub(super) fn told(news: &News) -> String {
    match news {
        News::Committed { entry, ticket, .. } => {
            let whose = ticket.map_or(String::new(), |ticket| format!(", ticket {ticket}"));
            let Entry { term, index, bytes } = entry;
            format!("committed {index} of term {term}: {bytes:?}{whose}")
        }
        News::Owner { term, .. } => format!("owner in term {term}"),
        News::NotOwner { leader, .. } => {
            format!("not owner, that is {:?}", leader.map(|node| node.0[0] - 1))
        }
        News::Readable { ticket, index, .. } => format!("ticket {ticket} may read at {index}"),
        News::Refused { ticket, .. } => format!("ticket {ticket} refused"),
        News::Lost { ticket, .. } => format!("ticket {ticket} lost"),
        News::Installed { index, .. } => format!("has the state at {index}"),
        News::Left { .. } => "left".to_owned(),
    }
}

/// A frame, in words.
pub(super) fn said(frame: &[u8]) -> String {
    let (_, parts) = message::decode(frame).unwrap();
    let word = |part: &Part| match part {
        Part::Hello(_) => "hello".to_owned(),
        Part::Answer { stale, .. } => format!("answer, stale {stale}"),
        Part::Who => "who".to_owned(),
        Part::Raft { message, .. } => message.describe(),
        Part::Sleep { index, .. } => format!("sleep at {index}"),
        Part::Slept { index, .. } => format!("slept at {index}"),
        Part::Wake { .. } => "wake".to_owned(),
        Part::Want { at, .. } => format!("want the state at {}", at.index),
        Part::Chunk { chunk, .. } => match chunk.as_ref().map(|chunk| &chunk.next) {
            Some(None) => "the last chunk".to_owned(),
            Some(_) => "a chunk".to_owned(),
            None => "no chunk".to_owned(),
        },
        Part::Ask { .. } => "ask who is in it".to_owned(),
        Part::Rolls(_) => "tell who is in it".to_owned(),
    };
    parts.iter().map(word).collect::<Vec<_>>().join("; ")
}

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
