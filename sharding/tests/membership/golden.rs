//! Scripts of a whole region: what happens, `---`, and which changes every node told, when.
//!
//! `UPDATE_GOLDEN=1 cargo test -p atoll-sharding --test membership` writes them anew.
//!
//! ```text
//! start <node> <region> [<node> that it discovers]...
//! ready | leave | stop | kill | hangup <node>
//! pause <node> <ms>
//! part <node>,<node>... <node>,<node>...      heal
//! wait <ms>
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;

use atoll_sharding::membership::Event;

use crate::world::World;

fn numbers(list: &str) -> Vec<u8> {
    list.split(',').map(|number| number.parse().unwrap()).collect()
}

fn run(world: &mut World, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let node = |place: usize| -> u8 { words[place].parse().unwrap() };
    let ms = |place: usize| -> u64 { words[place].parse().unwrap() };
    match words[0] {
        "start" => {
            let discovers: Vec<u8> = (3..words.len()).map(node).collect();
            world.start(node(1), words[2], &discovers);
        }
        "ready" => world.event(node(1), Event::Ready),
        "leave" => world.event(node(1), Event::Leave),
        "stop" => world.stop(node(1)),
        "kill" => world.kill(node(1)),
        "hangup" => world.hang_up(node(1)),
        "pause" => world.pause(node(1), ms(2)),
        "part" => world.part(&numbers(words[1]), &numbers(words[2])),
        "heal" => world.heal(),
        "wait" => world.run(ms(1)),
        other => panic!("no such word: {other}"),
    }
}

/// Each line of a script with the changes that it led to: after how many ms, by whom.
fn play(input: &str) -> String {
    let mut world = World::new(1);
    let mut out = String::new();
    for line in input.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        writeln!(out, "> {line}").unwrap();
        let (start, told) = (world.now, world.told.len());
        run(&mut world, line);
        for told in &world.told[told..] {
            let (name, state) = (&told.member.name, told.member.state.name());
            writeln!(out, "{:>6} n{} shows {name} {state}", told.at - start, told.by).unwrap();
        }
    }
    out
}

#[test]
fn scripts_play_as_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/membership/golden");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 3, "{paths:?}");
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        let input = script.split("---\n").next().unwrap();
        let played = format!("{input}---\n{}", play(input));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, played).unwrap();
        } else {
            assert!(script == played, "{}:\n{played}", path.display());
        }
    }
}
