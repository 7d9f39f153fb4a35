//! Groups without a council: what they keep, what they refuse, and what chance they take.

use atoll_store::backend::memory::Memory;
use proptest::collection::vec;
use proptest::prelude::*;

use super::nonsense::{any_byte, message, node};
use super::starts::{Clearance, GRACE_MS, Hello, Starts};
use super::*;

const GROUP: u64 = 7;

fn name(disk: u64) -> Name {
    Name { group: GROUP, disk, chance: 42 + disk }
}

fn any(_: &[u8]) -> bool {
    true
}

/// Groups of disks from 1 on, each with its disk; messages arrive at once.
struct Net {
    groups: Vec<Group>,
    disks: Vec<Memory>,
    applied: Vec<Vec<Applied>>,
    now: Millis,
    /// What does not arrive.
    lost: fn(&Message) -> bool,
}

impl Net {
    fn new(count: u64) -> Net {
        let mut writes = Vec::new();
        let founder = Group::create(name(1), node(1), "start".into(), any, &mut writes);
        let mut groups = vec![founder];
        groups.extend((2..=count).map(|disk| Group::join(name(disk), any)));
        let disks: Vec<Memory> = (0..count).map(|_| Memory::new()).collect();
        disks[0].commit(&writes).unwrap();
        let applied = vec![Vec::new(); groups.len()];
        let mut net = Net { groups, disks, applied, now: 0, lost: |_| false };
        net.step(1, Event::Campaign);
        net
    }

    fn step(&mut self, disk: u64, event: Event) {
        let mut queue = vec![(disk, event)];
        while let Some((disk, event)) = queue.pop() {
            let place = disk as usize - 1;
            let effects = self.groups[place].step(self.now, event);
            self.disks[place].commit(&effects.writes).unwrap();
            self.applied[place].extend(effects.applied);
            let group = &mut self.groups[place];
            if group.wants_snapshot() {
                let mut writes = Vec::new();
                group.compact("snapshot".into(), &mut writes);
                self.disks[place].commit(&writes).unwrap();
            }
            let arrive = effects.sends.into_iter().filter(|(_, message)| !(self.lost)(message));
            queue.extend(arrive.map(|(_, m)| (m.to, Event::Received(node(disk), m))));
        }
    }

    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.now += TICK_MS;
            (1..=self.groups.len() as u64).for_each(|disk| self.step(disk, Event::Tick));
        }
    }

    fn reload(&self, disk: u64) -> Result<(Group, Vec<Applied>), RecordError> {
        Group::load(&self.disks[disk as usize - 1], name(disk), any)
    }

    /// Three voters that have agreed on a command.
    fn of_three() -> Net {
        let mut net = Net::new(3);
        for disk in [2, 3] {
            net.step(1, Event::Change(Change::Learner(disk, node(disk))));
            net.run(5);
        }
        let joint = Change::Joint { promote: [2, 3].into(), remove: [].into() };
        net.step(1, Event::Change(joint));
        net.step(1, Event::Change(Change::Settle));
        net.run(5);
        net.step(1, Event::Propose("one".into()));
        net.run(5);
        net
    }
}

fn command(text: &'static str) -> Applied {
    Applied::Command(text.into())
}

#[test]
fn one_voter_decides_in_the_same_step() {
    let mut net = Net::new(1);
    assert!(net.groups[0].leads() && net.groups[0].is_settled());
    net.step(1, Event::Propose("one".into()));
    assert_eq!(net.applied[0], [command("one")]);
    let (group, applied) = net.reload(1).unwrap();
    assert_eq!(applied, [Applied::State("start".into()), command("one")]);
    assert_eq!(group.promised(), net.groups[0].promised());
}

#[test]
fn learners_become_voters_and_all_apply_the_same() {
    let net = Net::of_three();
    for disk in 1..=3 {
        let group = &net.groups[disk as usize - 1];
        assert_eq!(group.config().voters, [1, 2, 3].into());
        assert!(!group.config().is_joint());
        assert_eq!(group.leader(), Some(1));
        assert_eq!(net.applied[disk as usize - 1].last(), Some(&command("one")));
        assert_eq!(net.reload(disk).unwrap().0.promised(), group.promised());
    }
}

#[test]
fn a_lost_snapshot_is_sent_again() {
    let mut net = Net::new(2);
    net.lost = |message| matches!(message.kind, Kind::Snapshot(_));
    net.step(1, Event::Change(Change::Learner(2, node(2))));
    net.run(30);
    assert_eq!(net.groups[1].applied(), 0);
    net.lost = |_| false;
    net.run(30);
    assert_eq!(net.groups[1].applied(), net.groups[0].applied());
    assert!(net.groups[0].has_all(2));
}

#[test]
fn a_log_that_was_cut_short_begins_after_its_snapshot() {
    let mut net = Net::new(1);
    let (old, new) = (String::from("old").repeat(40_000), "new");
    for state in [old.as_str(), new] {
        net.step(1, Event::Propose("command".into()));
        let mut writes = Vec::new();
        net.groups[0].compact(state.to_owned().into(), &mut writes);
        net.disks[0].commit(&writes).unwrap();
        assert_eq!(net.groups[0].entries_kept(), 0);
        net.step(1, Event::Propose("after".into()));
        let (_, applied) = net.reload(1).unwrap();
        assert_eq!(applied, [Applied::State(state.to_owned().into()), command("after")]);
    }
    let mut writes = Vec::new();
    net.groups.remove(0).remove(&mut writes);
    net.disks[0].commit(&writes).unwrap();
    assert!(net.disks[0].scan(b"", b"~", 9).unwrap().is_empty(), "nothing is left behind");
}

#[test]
fn a_damaged_or_gapped_log_does_not_load() {
    let entry = |index: u64| [&b"r"[..], &GROUP.to_be_bytes(), b"e", &index.to_be_bytes()].concat();
    let net = Net::of_three();
    assert!(net.disks[1].corrupt(&entry(5), 20));
    assert!(matches!(net.reload(2), Err(RecordError::Damaged(_))));
    let net = Net::of_three();
    net.disks[1].commit(&[(entry(5), None)]).unwrap();
    assert!(matches!(net.reload(2), Err(RecordError::Damaged(_))));
    let mut writes = Vec::new();
    Group::forget(&net.disks[1], GROUP, &mut writes).unwrap();
    net.disks[1].commit(&writes).unwrap();
    assert_eq!(net.reload(2).unwrap().0.promised(), (0, 0));
}

#[test]
fn a_gap_where_nothing_was_agreed_on_does_not_load_either() {
    let mut net = Net::of_three();
    net.lost = |_| true;
    let (_, end) = net.groups[0].promised();
    net.step(1, Event::Propose("two".into()));
    net.step(1, Event::Propose("three".into()));
    assert_eq!(net.reload(1).unwrap().0.uncommitted(), ["two", "three"]);
    let entry = [&b"r"[..], &GROUP.to_be_bytes(), b"e", &(end + 1).to_be_bytes()].concat();
    net.disks[0].commit(&[(entry, None)]).unwrap();
    assert!(matches!(net.reload(1), Err(RecordError::Damaged(_))));
}

#[test]
fn the_same_seed_gives_the_same_elections() {
    let elections = || {
        let mut net = Net::of_three();
        net.lost = |message| message.from == 1 || message.to == 1;
        let mut seen = Vec::new();
        for _ in 0..60 {
            net.run(1);
            let state = |group: &Group| (group.term(), group.leader(), group.attempts);
            seen.push(net.groups.iter().map(state).collect::<Vec<_>>());
        }
        assert!(net.groups[1].leads() || net.groups[2].leads());
        seen
    };
    assert_eq!(elections(), elections());
}

#[test]
fn a_leader_that_knows_more_of_a_log_than_it_holds_contradicts_it() {
    let net = Net::of_three();
    let (term, end) = net.groups[1].promised();
    let heartbeat = |commit| Message { from: 1, to: 2, term, kind: Kind::Heartbeat { commit } };
    assert!(!net.groups[1].is_contradicted_by(&heartbeat(end)));
    assert!(net.groups[1].is_contradicted_by(&heartbeat(end + 1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Well-formed nonsense, to a leader, a follower, and one that has just joined.
    #[test]
    fn nonsense_never_panics(messages in vec(message(), 1..40)) {
        let mut net = Net::of_three();
        net.groups.push(Group::join(name(4), any));
        net.disks.push(Memory::new());
        net.applied.push(Vec::new());
        for message in messages {
            let bytes = postcard::to_stdvec(&message).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<Message>(&bytes).unwrap(), &message);
            for disk in 1..=4 {
                let message = Message { to: disk, ..message.clone() };
                let _ = net.groups[disk as usize - 1].is_contradicted_by(&message);
                net.step(disk, Event::Received(node(message.from), message));
            }
            net.run(1);
        }
        net.run(40);
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any_byte(), 0..200)) {
        let _ = postcard::from_bytes::<Message>(&bytes);
        let _ = Kept::decode(&bytes);
        let _ = Change::decode(&bytes);
    }
}

fn started(disk: &Memory, chance: u64) -> Starts {
    let mut writes = Vec::new();
    let starts = Starts::open(disk, chance, &mut writes).unwrap();
    disk.commit(&writes).unwrap();
    disk.flush().unwrap();
    starts
}

#[test]
fn r13_a_list_that_lacks_a_start_that_was_seen_is_stale() {
    let (disk, peer) = (Memory::new(), Memory::new());
    let first = started(&disk, 1);
    let older = disk.snapshot();
    let second = started(&disk, 2);
    assert_eq!(first.disk(), second.disk());
    let mut memory = started(&peer, 3);
    let mut writes = Vec::new();
    assert!(memory.recognise(node(1), &first.hello([(GROUP, (1, 1))].into()), &mut writes));
    assert!(memory.recognise(node(1), &second.hello([(GROUP, (1, 1))].into()), &mut writes));
    assert!(memory.knows(node(1), first.disk(), second.nonce()));
    assert!(!memory.knows(node(1), first.disk(), first.nonce()), "an earlier start");
    assert!(!memory.knows(node(2), first.disk(), second.nonce()), "another node");
    peer.commit(&writes).unwrap();
    peer.flush().unwrap();
    disk.restore(&older);
    let mut third = started(&disk, 4);
    let mut writes = Vec::new();
    let mut memory = started(&peer, 5);
    assert!(
        !memory.recognise(node(1), &third.hello([(GROUP, (1, 1))].into()), &mut writes),
        "remembered durably"
    );
    let gone = third.disk();
    third.renew(&mut Vec::new());
    assert_ne!(third.disk(), gone);
    assert!(
        memory.recognise(node(1), &third.hello([(GROUP, (0, 0))].into()), &mut writes),
        "as another disk"
    );
}

#[test]
fn r13_a_copy_of_the_same_start_is_told_by_what_it_has_forgotten() {
    let (disk, peer) = (Memory::new(), Memory::new());
    let first = started(&disk, 1);
    let mut memory = started(&peer, 2);
    let mut writes = Vec::new();
    assert!(memory.recognise(node(1), &first.hello([(GROUP, (3, 10))].into()), &mut writes));
    memory.notice(first.disk(), GROUP, (4, 0));
    assert!(
        memory.recognise(node(1), &first.hello([(GROUP, (3, 10))].into()), &mut writes),
        "it says so again"
    );
    let second = started(&disk, 3);
    for (promised, sound) in [((3, 10), false), ((4, 10), true), ((5, 2), true)] {
        let mut memory = memory.clone();
        let hello = second.hello([(GROUP, promised)].into());
        assert_eq!(memory.recognise(node(1), &hello, &mut writes), sound);
    }
    memory.leave(GROUP);
    let hello = second.hello(BTreeMap::new());
    assert!(memory.recognise(node(1), &hello, &mut writes), "the group is no more");
}

#[test]
fn a_list_of_starts_and_a_memory_of_disks_are_bounded() {
    let disk = Memory::new();
    let starts: Vec<Starts> = (1..400).map(|chance| started(&disk, chance)).collect();
    let hello = starts.last().unwrap().hello([(GROUP, (1, 1))].into());
    assert_eq!(hello.starts.len(), 256);
    let mut memory = started(&Memory::new(), 1);
    let mut writes = Vec::new();
    for other in 1..2_000 {
        let hello = Hello { disk: other, starts: vec![other], promised: BTreeMap::new() };
        assert!(memory.recognise(node(1), &hello, &mut writes));
        memory.prune(|disk| disk == 1, &mut writes);
    }
    assert!(memory.knows(node(1), 1, 1), "in use");
    assert!(memory.knows(node(1), 1_999, 1_999), "seen last");
    assert!(!memory.knows(node(1), 2, 2));
}

#[test]
fn r13_a_start_speaks_once_a_majority_knows_it_and_all_were_waited_for() {
    let config = Config { voters: [1, 2, 3].into(), ..Config::default() };
    let mut clearance = Clearance::default();
    assert!(!clearance.check(0, 1), "of which group?");
    clearance.learn(1, &config);
    assert!(!clearance.check(10, 1));
    assert!(!clearance.check(10 + GRACE_MS, 1), "one of three");
    let mut all = Clearance::default();
    all.learn(1, &config);
    all.answer(2);
    assert!(!all.check(10, 1), "the third may know better");
    clearance.answer(2);
    assert!(clearance.check(10 + GRACE_MS, 1), "two of three, and the third had its time");
    all.answer(3);
    assert!(all.check(11, 1), "all of three");
    let mut alone = Clearance::default();
    alone.learn(1, &Config { voters: [1].into(), ..Config::default() });
    assert!(alone.check(0, 1), "waits for nobody");
    let mut two = Clearance::default();
    two.learn(1, &Config { voters: [1, 2].into(), outgoing: [1].into(), ..Config::default() });
    assert!(!two.check(9 * GRACE_MS, 1), "both sets of a joint configuration");
}
