//! Crashes at every commit: whatever was committed and flushed is there again, and nothing else
//! has to be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_store::backend::Backend;
use atoll_store::backend::memory::Memory;
use atoll_store::backend::sled::Sled;
use atoll_store::command::{Command, View};
use atoll_store::dot::{Hlc, Origin, VersionVector};
use atoll_store::engine::Options;
use atoll_store::entity::{Item, RETRY_WINDOW_MS};
use atoll_store::name::{EntityKey, Kind};
use atoll_store::retire::{Retirement, Settled};
use atoll_store::shard::ShardId;
use common::random::{EVERYTHING, LASTING, Mix, Random, changes, keys};
use common::{Node, Pending, SHARD, Seed, change, key, options, value};

/// Everything that a node shows.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    vectors: BTreeMap<ShardId, VersionVector>,
    entities: Vec<(Option<View>, u128)>,
}

const SLOTS: u16 = 3;

fn shards() -> impl Iterator<Item = ShardId> {
    (0..SLOTS).map(|slot| ShardId { placement: 0, slot })
}

fn shown(node: &mut Node, keys: &[EntityKey]) -> Shown {
    let vectors = shards().map(|id| (id, node.engine.vector(id))).collect();
    let entities = keys.iter().map(|key| (node.view(key), node.sum(key))).collect();
    Shown { vectors, entities }
}

fn narrow(random: &mut Random) -> Options {
    Options {
        slots: SLOTS,
        cache_bytes: [0, 5_000, 1 << 20][random.below(3)],
        checkpoint_bytes: [0, 300, 2_000][random.below(3)],
        log_soft_bytes: [0, 500, 1 << 20][random.below(3)],
        log_hard_bytes: [0, 1_000, 1 << 20][random.below(3)],
        ..options()
    }
}

/// Random writes and housekeeping; one commit, not flushed.
fn step(random: &mut Random, node: &mut Node, keys: &[EntityKey]) -> Pending {
    step_of(random, node, keys, EVERYTHING)
}

fn step_of(random: &mut Random, node: &mut Node, keys: &[EntityKey], mix: Mix) -> Pending {
    node.now += random.below(2_000) as u64;
    for _ in 0..random.below(3) {
        let asked = changes(random, node, keys, mix);
        let _refused = node.stage(&asked);
    }
    match random.below(8) {
        0 => node.engine.checkpoint_all(),
        1..=4 => {
            let upto = random.below(40) as u64;
            node.engine.maintain(|_, dot| dot.sequence <= upto);
        }
        _ => {}
    }
    node.write_out()
}

/// Digests, readers and expiries agree with the states.
fn check_sound(node: &mut Node, keys: &[EntityKey]) {
    for id in shards() {
        let (digest, present) = node.digest_anew(id, keys);
        assert_eq!(node.engine.digest(id), (Some(digest), present), "digest of {id}");
    }
    for slot in 0..SLOTS {
        for (key, image) in node.reader.list_all(slot, None, 0, 999).unwrap() {
            assert_eq!(image.version(), node.sum(&key), "readers see {key}");
        }
    }
    let expiring = |key: &&EntityKey| node.engine.expired(u64::MAX, 999).contains(key);
    let listed: Vec<_> = keys.iter().filter(expiring).cloned().collect();
    for key in keys {
        let expires = node.engine.entity(key).unwrap().expires_at().is_some();
        assert_eq!(listed.contains(key), expires, "{key} is listed as expiring");
    }
}

/// A run of `commits` commits that crashes after the last of them, as often as asked for.
fn check_crashes(seed: u64, commits: usize, crashes: usize) {
    check_crashes_by(seed, commits, crashes, step);
}

fn check_crashes_by(
    seed: u64,
    commits: usize,
    crashes: usize,
    step: impl Fn(&mut Random, &mut Node, &[EntityKey]) -> Pending,
) -> (Memory, Vec<EntityKey>) {
    let _seed = Seed(seed);
    let mut random = Random(seed);
    let keys = keys();
    let memory = Memory::new();
    let mut options = narrow(&mut random);
    let mut node = Node::on(&memory, options, 1);
    for crash in 0..crashes {
        let mut models = vec![shown(&mut node, &keys)];
        let mut pending = Vec::new();
        for _ in 0..commits {
            pending.push(step(&mut random, &mut node, &keys));
            models.push(shown(&mut node, &keys));
            if random.one_in(2) {
                node.flush(std::mem::take(&mut pending));
                models.drain(..models.len() - 1);
            }
        }
        let kept = random.below(memory.unflushed() + 1);
        memory.crash_keeping(kept);
        let now = node.now;
        drop(node);
        options = Options { cache_bytes: narrow(&mut random).cache_bytes, ..options };
        node = Node::on(&memory, options, 2 + crash as u64);
        node.now = now;
        let again = shown(&mut node, &keys);
        // A commit that staged nothing writes no batch: several models may be of one.
        assert!(models.contains(&again), "crash {crash}: {kept} of {} kept", models.len() - 1);
        check_sound(&mut node, &keys);
    }
    (memory, keys)
}

#[test]
fn what_was_flushed_survives_a_crash_at_every_commit_of_small_runs() {
    for seed in 0..12 {
        for commits in 0..20 {
            check_crashes(seed, commits, 1);
        }
    }
}

#[test]
fn what_was_flushed_survives_many_crashes() {
    for seed in 100..140 {
        check_crashes(seed, 12, 6);
    }
}

/// One step more: origins of earlier starts are retired, clocks settle, what is left is swept.
fn retiring_step(random: &mut Random, node: &mut Node, keys: &[EntityKey]) -> Pending {
    let starts: Vec<Origin> = node.engine.starts().iter().map(|(origin, _)| *origin).collect();
    let ended: Vec<Origin> = starts[..starts.len() - 1].to_vec();
    let left: Vec<Origin> =
        ended.into_iter().filter(|origin| !node.engine.is_retired(*origin)).collect();
    if !left.is_empty() && random.one_in(3) {
        let origin = *random.pick(&left);
        let last = |id: ShardId| (id.slot, node.engine.sequence(id, origin));
        let finals = Some(shards().map(last).filter(|(_, last)| *last > 0).collect());
        let at = node.stamp();
        node.engine.retire(vec![Retirement { origin, at, finals }], |_| true);
    }
    if random.one_in(2) {
        let known = node.engine.roll().0;
        node.engine.settle(Settled { clock: node.stamp(), known });
    }
    if random.one_in(10) {
        node.now += 26 * 3_600_000;
        node.engine.close_retries(Hlc::at(node.now - RETRY_WINDOW_MS));
    }
    let counters = |key: &&EntityKey| matches!(key.kind, Kind::Counters | Kind::Maps);
    let counters: Vec<EntityKey> = keys.iter().filter(counters).cloned().collect();
    let mix = if random.one_in(3) { EVERYTHING } else { LASTING };
    step_of(random, node, &counters, mix)
}

/// Every entity that is absent and not vacant on the disk is listed, and nothing else is.
fn check_listed(memory: &Memory, keys: &[EntityKey]) {
    let mut node = Node::on(memory, Options { slots: SLOTS, ..options() }, 999);
    node.checkpoint();
    let records = memory.scan(b"e", b"f", 999).unwrap();
    let recorded = |key: &&EntityKey| records.iter().any(|(at, _)| at[7..] == key.bytes());
    let absent = keys.iter().filter(recorded).filter(|key| node.sum(key) == 0);
    let absent: BTreeSet<Vec<u8>> = absent.map(EntityKey::bytes).collect();
    let listed = memory.scan(b"g", b"h", 999).unwrap();
    let count = listed.len();
    let listed: BTreeSet<Vec<u8>> = listed.iter().map(|(at, _)| at[15..].to_vec()).collect();
    assert_eq!((&listed, count), (&absent, absent.len()), "what is listed once");
}

#[test]
fn r9_folding_and_sweeping_survive_a_crash_at_every_commit() {
    let (mut folded, mut listed) = (0, 0);
    for seed in 400..425 {
        for commits in [3, 10, 25] {
            let (memory, keys) = check_crashes_by(seed, commits, 16, retiring_step);
            check_listed(&memory, &keys);
            listed += memory.scan(b"g", b"h", 999).unwrap().len();
            let mut node = Node::on(&memory, Options { slots: SLOTS, ..options() }, 1000);
            let items = |key: &EntityKey| -> Vec<Item> {
                node.engine.entity(key).unwrap().items(None, None).collect()
            };
            let all: Vec<Item> = keys.iter().flat_map(items).collect();
            folded += all.iter().filter(|item| matches!(item, Item::Folded(..))).count();
        }
    }
    assert!(folded > 10 && listed > 10, "{folded} folded, {listed} listed: runs that say nothing");
}

#[test]
fn sled_holds_the_same_as_the_model() {
    for seed in 200..203 {
        let _seed = Seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let open = || Arc::new(Sled::open(dir.path(), 1 << 20).unwrap());
        let mut random = Random(seed);
        let keys = keys();
        let options = narrow(&mut random);
        let mut node = Node::open(open(), options, 1);
        for start in 2..5 {
            for _ in 0..15 {
                let pending = step(&mut random, &mut node, &keys);
                node.flush(vec![pending]);
            }
            let (before, now) = (shown(&mut node, &keys), node.now);
            drop(node);
            node = Node::open(open(), options, start);
            node.now = now;
            assert_eq!(shown(&mut node, &keys), before);
            check_sound(&mut node, &keys);
        }
    }
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A disk put back to an older copy diverges from nobody: its new start writes as a new origin,
/// and what it forgot comes back from a peer.
#[test]
fn a_restored_older_copy_converges() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let likes = key(Kind::Counters, "likes");
    let mut peer = Node::new(9);
    let mut node = Node::open(Arc::new(Sled::open(dir.path(), 1 << 20).unwrap()), options(), 1);
    node.write(&likes, common::count(1));
    peer.sync(&node);
    drop(node);
    copy_dir(dir.path(), copy.path());
    let mut node = Node::open(Arc::new(Sled::open(dir.path(), 1 << 20).unwrap()), options(), 2);
    node.write(&likes, common::count(10));
    peer.sync(&node);
    drop(node);
    let mut old = Node::open(Arc::new(Sled::open(copy.path(), 1 << 20).unwrap()), options(), 3);
    assert_eq!(old.view(&likes), Some(View::Counter(1)));
    assert_eq!(old.engine.starts().iter().map(|start| start.0.0).collect::<Vec<_>>(), [1, 3]);
    old.write(&likes, common::count(100));
    old.sync(&peer);
    peer.sync(&old);
    assert_eq!(old.view(&likes), Some(View::Counter(111)));
    assert_eq!(old.vector().sequence(Origin(3)), 1);
    common::assert_equal(&mut [old, peer], &[likes], "synced");
}

fn numbered(range: std::ops::Range<usize>) -> Command {
    let add = range.map(|n| value(&format!("member number {n:06}"))).collect();
    Command::Members { add, remove: Vec::new() }
}

#[test]
fn a_large_set_is_saved_in_pieces() {
    let memory = Memory::new();
    let large = key(Kind::Sets, "large");
    let mut node = Node::on(&memory, options(), 1);
    for start in (0..20_000).step_by(2_000) {
        node.stage(&[change(&large, vec![numbered(start..start + 2_000)])]).unwrap();
        node.commit();
    }
    let all = node.checkpoint();
    assert!(all > 500_000, "{all} bytes for all of it");
    for (from, to) in [(20_000, 20_001), (5, 6), (30_000, 30_001)] {
        node.write(&large, numbered(from..to));
        let bytes = node.checkpoint();
        assert!(bytes < 100_000, "{bytes} bytes for one member");
    }
    let gone = (3_000..4_500).map(|n| value(&format!("member number {n:06}"))).collect();
    node.write(&large, Command::Members { add: Vec::new(), remove: gone });
    node.checkpoint();
    let before = (node.view(&large), node.sum(&large), node.engine.digest(SHARD));
    let mut node = node.restart(2);
    assert_eq!((node.view(&large), node.sum(&large), node.engine.digest(SHARD)), before);
    let Some(View::Set(members)) = &before.0 else { panic!("a set") };
    assert_eq!(members.len(), 20_002 - 1_500);
    // A delete leaves none of its pieces behind.
    node.write(&large, Command::Delete);
    node.checkpoint();
    let left = atoll_store::backend::Backend::scan(&memory, b"p", b"q", 9).unwrap();
    assert!(left.is_empty());
    assert_eq!(node.restart(3).view(&large), None);
}

/// Pieces that split, empty and vanish, against a model, with a restart after each checkpoint.
#[test]
fn pieces_follow_random_changes() {
    let large = key(Kind::Sets, "large");
    for seed in 300..303 {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let mut node = Node::new(1);
        let mut model = std::collections::BTreeSet::new();
        for round in 0..12 {
            let width = [10, 900, 2_500][random.below(3)];
            let start = random.below(6_000);
            let values: Vec<_> = (start..start + width)
                .map(|n| value(&format!("{n:05}{}", "x".repeat(40))))
                .collect();
            let (add, remove) = if random.one_in(2) {
                model.extend(values.iter().cloned());
                (values, Vec::new())
            } else {
                model.retain(|member| !values.contains(member));
                (Vec::new(), values)
            };
            node.write(&large, Command::Members { add, remove });
            if random.one_in(2) {
                node.checkpoint();
                node = node.restart(round + 2);
            }
            let members = model.iter().cloned().collect();
            assert_eq!(node.view(&large), Some(View::Set(members)), "round {round}");
        }
    }
}
