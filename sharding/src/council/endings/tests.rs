//! What is asked for, heard and decided of origins that ended, case by case.

use super::*;
use crate::council::{Liveness, Member, Roles, Settings};
use crate::raft::TICK_MS;

const A: NodeId = NodeId([1; 16]);
const B: NodeId = NodeId([2; 16]);
const C: NodeId = NodeId([3; 16]);
const X: Origin = Origin(7);
const START: u64 = 9;

fn obey(state: &mut State, commands: Vec<Command>) {
    state.apply(&postcard::to_stdvec(&commands).unwrap());
}

/// Two slots of one replica each, at A; B is admitted.
fn state() -> State {
    let mut state = State::new("eu", 1, Settings { factor: 2, slots: 2 });
    state.seat_founder(A, "a", "z", 1, Roles::ALL);
    let (name, zone, roles) = ("b".to_owned(), "z".to_owned(), Roles::ALL);
    obey(&mut state, vec![Command::Admit { node: B, name, zone, disk: 2, roles }]);
    state
}

fn join(state: &mut State, slot: u16, node: NodeId) {
    let epoch = state.slots[usize::from(slot)].replicas.epoch;
    obey(state, vec![Command::Next { slot, epoch, next: [A, node].into() }]);
}

fn holds(slots: &[(u16, u64)]) -> Ending {
    known(slots, |_| 1)
}

/// What a node has, where it knows these epochs of the slots.
fn known(slots: &[(u16, u64)], epoch: impl Fn(u16) -> u64) -> Ending {
    let held = |(slot, last): &(u16, u64)| (*slot, Held { epoch: epoch(*slot), last: *last });
    Ending::Holds { origin: X, slots: slots.iter().map(held).collect() }
}

fn reached(at: u64, slots: &[u16]) -> Ending {
    Ending::Reached { origin: X, at: Hlc(at), slots: slots.iter().copied().collect() }
}

fn ended(origin: Origin) -> Ending {
    Ending::Ended { origin, regions: ["eu".to_owned()].into() }
}

/// A leader, and the reports that reached it.
struct Leader {
    state: State,
    gathered: Gathered,
    members: BTreeMap<NodeId, Member>,
    serial: u64,
}

impl Leader {
    fn new(state: State) -> Leader {
        let member = |node: NodeId| Member {
            node,
            name: "n".into(),
            zone: "z".into(),
            roles: Roles::ALL,
            disk: u64::from(node.0[0]),
            start: START,
            liveness: Liveness::Up,
        };
        let members = [A, B].map(|node| (node, member(node))).into();
        Leader { state, gathered: Gathered::default(), members, serial: 0 }
    }

    fn told(&mut self, node: NodeId, start: u64, serial: u64, ending: Ending) {
        self.gathered.take(0, &self.state, Told { node, start, serial, ending });
    }

    fn tell(&mut self, node: NodeId, ending: Ending) {
        self.serial += 1;
        self.told(node, START, self.serial, ending);
    }

    /// A node tells what it has, as one that knows the present sets.
    fn hold(&mut self, node: NodeId, slots: &[(u16, u64)]) {
        let sets = &self.state.slots;
        let epoch = |slot| sets.get(usize::from(slot)).map_or(0, |slot| slot.replicas.epoch);
        let told = known(slots, epoch);
        self.tell(node, told);
    }

    fn steps(&self) -> Vec<Command> {
        let outlook = Outlook {
            state: &self.state,
            members: &self.members,
            lives: &BTreeMap::new(),
            reports: &BTreeSet::new(),
            gathered: &self.gathered,
            group: &BTreeSet::new(),
            moves: 4,
        };
        outlook.endings()
    }

    /// Decides, and records it; answers what of the origin is recorded then.
    fn decide(&mut self, now: Millis) -> Option<End> {
        self.gathered.prune(now, &self.state);
        let steps = self.steps();
        obey(&mut self.state, steps);
        self.gathered.prune(now, &self.state);
        self.state.ends.ends.get(&X).cloned()
    }

    fn agreed(&mut self, finals: &[(u16, u64)]) {
        let end = self.decide(0).expect("agreed");
        let finals: BTreeMap<u16, u64> = finals.iter().copied().collect();
        assert_eq!(end, End { finals, reached: false, at: Hlc(0) });
    }
}

#[test]
fn r9_an_end_is_agreed_on_once_every_replica_of_every_slot_has_told() {
    let mut leader = Leader::new(state());
    join(&mut leader.state, 1, B);
    leader.hold(A, &[(0, 5), (1, 3)]);
    assert_eq!(leader.decide(0), None, "B, which joins slot 1, has not told");
    leader.hold(B, &[(0, 8)]);
    assert_eq!(leader.decide(0), None, "not of slot 1");
    leader.hold(B, &[(0, 8), (1, 4)]);
    leader.agreed(&[(0, 5), (1, 4)]);
    leader.hold(B, &[(0, 8), (1, 9)]);
    leader.agreed(&[(0, 5), (1, 4)]);
}

#[test]
fn r9_finals_name_no_slot_of_which_nobody_has_anything() {
    let mut leader = Leader::new(state());
    leader.hold(A, &[(0, 0), (1, 3)]);
    leader.agreed(&[(1, 3)]);
}

#[test]
fn r9_of_two_words_of_a_node_the_newer_counts() {
    let mut leader = Leader::new(state());
    leader.told(A, START, 2, holds(&[(0, 5), (1, 3)]));
    leader.told(A, START, 1, holds(&[(0, 4), (1, 3)]));
    leader.agreed(&[(0, 5), (1, 3)]);
}

#[test]
fn r9_what_a_node_told_in_another_start_does_not_count() {
    let mut leader = Leader::new(state());
    leader.told(A, START - 1, 8, holds(&[(0, 5), (1, 3)]));
    assert_eq!(leader.decide(0), None);
    leader.told(A, START, 1, holds(&[(0, 2), (1, 3)]));
    leader.agreed(&[(0, 2), (1, 3)]);
}

#[test]
fn r9_what_a_node_told_as_a_replica_of_another_set_does_not_count() {
    let mut leader = Leader::new(state());
    join(&mut leader.state, 0, B);
    let epoch = leader.state.slots[0].replicas.epoch;
    leader.hold(B, &[(0, 8)]);
    leader.tell(A, known(&[(0, 5), (1, 3)], |slot| if slot == 0 { epoch - 1 } else { 1 }));
    assert_eq!(leader.decide(0), None, "A may have taken more since, of who is not in the set now");
    leader.hold(A, &[(0, 9), (1, 3)]);
    leader.agreed(&[(0, 9), (1, 3)]);
}

#[test]
fn r9_it_is_reached_once_every_replica_of_the_present_sets_has_it() {
    let mut leader = Leader::new(state());
    leader.hold(A, &[(0, 5), (1, 3)]);
    leader.agreed(&[(0, 5), (1, 3)]);
    join(&mut leader.state, 0, B);
    leader.tell(A, reached(30, &[0, 1]));
    assert!(!leader.decide(0).unwrap().reached, "B has joined meanwhile");
    leader.tell(B, reached(20, &[]));
    assert!(!leader.decide(0).unwrap().reached, "it has not told of slot 0");
    leader.tell(B, reached(20, &[0]));
    let end = leader.decide(0).unwrap();
    assert_eq!((end.reached, end.at), (true, Hlc(30)));
    join(&mut leader.state, 1, B);
    assert!(leader.decide(0).unwrap().reached, "who joins later copies it");
}

#[test]
fn r9_a_decision_about_other_sets_does_nothing() {
    let mut leader = Leader::new(state());
    leader.hold(A, &[(0, 5), (1, 3)]);
    let steps = leader.steps();
    assert_eq!(steps.len(), 1);
    join(&mut leader.state, 0, B);
    obey(&mut leader.state, steps);
    assert!(leader.state.ends.ends.is_empty());
}

#[test]
fn what_is_of_no_slot_or_of_no_seat_is_not_heard() {
    let mut leader = Leader::new(state());
    leader.hold(A, &[(0, 5), (1, 3), (2, 1)]);
    leader.tell(A, reached(1, &[0, 1, 2]));
    assert!(leader.gathered.words.is_empty() && !leader.gathered.is_fresh());
    let mut council = council();
    council.state = Some(state());
    council.gather(C, START, 1, ended(X));
    assert!(!council.gathered.is_fresh());
    council.gather(B, START, 1, ended(X));
    assert!(council.gathered.is_fresh());
}

#[test]
fn the_same_again_is_nothing_new() {
    let mut leader = Leader::new(state());
    join(&mut leader.state, 0, B);
    leader.told(A, START, 1, holds(&[(0, 5), (1, 3)]));
    leader.tell(B, ended(X));
    assert!(leader.gathered.is_fresh());
    leader.gathered.rest();
    leader.told(A, START, 1, holds(&[(0, 5), (1, 3)]));
    leader.tell(B, ended(X));
    assert!(!leader.gathered.is_fresh());
}

#[test]
fn r9_an_origin_is_retired_once_and_makes_room() {
    let mut leader = Leader::new(state());
    for number in 0..100 {
        leader.tell(A, ended(Origin(number)));
    }
    leader.decide(0);
    assert_eq!(leader.state.ends.ended.len(), ENDED_MAX);
    assert!(leader.steps().is_empty(), "the others wait");
    leader.tell(A, ended(Origin(99)));
    leader.tell(B, Ending::Retired { origin: X });
    leader.tell(B, Ending::Retired { origin: Origin(99) });
    leader.decide(0);
    assert_eq!(leader.state.ends.ended.len(), ENDED_MAX - 1);
    for origin in [X, Origin(99)] {
        leader.tell(A, ended(origin));
    }
    leader.decide(0);
    assert!(!leader.state.ends.ended.contains_key(&X), "late news");
    assert!(leader.state.ends.ended.contains_key(&Origin(99)));
}

#[test]
fn what_nobody_tells_any_more_is_forgotten_and_so_is_what_is_over() {
    let mut leader = Leader::new(state());
    leader.hold(B, &[(0, 5)]);
    leader.decide(LAPSE_MS - 1);
    assert_eq!(leader.gathered.words.len(), 1);
    leader.decide(LAPSE_MS);
    assert!(leader.gathered.words.is_empty());
    leader.hold(A, &[(0, 5), (1, 3)]);
    leader.decide(0);
    leader.tell(A, reached(1, &[0, 1]));
    assert_eq!(leader.gathered.words.len(), 1);
    leader.decide(0);
    assert!(leader.gathered.words.is_empty());
}

#[test]
fn a_leader_gathers_of_so_many_origins() {
    let mut leader = Leader::new(state());
    for number in 0..2_000 {
        leader.tell(B, Ending::Holds { origin: Origin(number), slots: BTreeMap::new() });
        leader.tell(B, ended(Origin(number)));
    }
    assert_eq!(leader.gathered.words.len(), GATHERED_MAX);
    assert_eq!(leader.gathered.asked.len(), ENDS_MAX);
    assert_eq!(leader.steps().len(), STEPS_MAX);
}

/// What a node would send, by a record that says nothing.
fn due(asked: &mut Asked, now: Millis) -> Vec<(u64, Ending)> {
    let (ended, ends) = (BTreeMap::new(), BTreeMap::new());
    asked.due(now, Shown { ended: &ended, ends: &ends })
}

#[test]
fn what_a_node_asks_is_sent_every_second_and_replaced_by_what_is_newer() {
    let mut asked = Asked::default();
    asked.take(0, holds(&[(0, 1)]));
    assert_eq!(due(&mut asked, 0), [(1, holds(&[(0, 1)]))]);
    asked.take(500, holds(&[(0, 2)]));
    assert_eq!(due(&mut asked, REPORT_MS - 1), []);
    assert_eq!(due(&mut asked, REPORT_MS), [(2, holds(&[(0, 2)]))]);
    asked.take(REPORT_MS + 600, holds(&[(0, 2), (1, 2)]));
    assert_eq!(due(&mut asked, REPORT_MS + 600), [(3, holds(&[(0, 2), (1, 2)]))], "of other slots");
    asked.take(REPORT_MS + 600, holds(&[(0, 2), (1, 2)]));
    assert_eq!(due(&mut asked, REPORT_MS + 700), []);
    assert_eq!(due(&mut asked, LAPSE_MS), [(3, holds(&[(0, 2), (1, 2)]))]);
    assert_eq!(due(&mut asked, LAPSE_MS + REPORT_MS + 600), [], "its core asks no more");
    assert_eq!(asked.wishes.len(), 0);
}

#[test]
fn what_a_node_asks_is_bounded_by_its_stage() {
    let mut asked = Asked::default();
    for number in 0..2_000 {
        asked.take(0, ended(Origin(number)));
        asked.take(0, Ending::Retired { origin: Origin(10_000 + number) });
    }
    asked.take(0, holds(&[]));
    assert_eq!(asked.wishes.len(), ENDED_MAX + ENDS_MAX + 1);
}

#[test]
fn a_record_ends_what_a_node_asks() {
    let end = |reached| BTreeMap::from([(X, End { reached, ..End::default() })]);
    let ended_there = BTreeMap::from([(X, ["eu".to_owned()].into())]);
    let retired = Ending::Retired { origin: X };
    let all = [ended(X), holds(&[]), reached(1, &[]), retired];
    let cases = [
        (BTreeMap::new(), BTreeMap::new(), [false, false, false, true]),
        (ended_there.clone(), BTreeMap::new(), [true, false, false, false]),
        (ended_there.clone(), end(false), [true, true, false, false]),
        (ended_there, end(true), [true, true, true, false]),
        (BTreeMap::new(), end(true), [true, true, true, false]),
    ];
    for (ended, ends, expected) in cases {
        let shown = Shown { ended: &ended, ends: &ends };
        assert_eq!(all.clone().map(|ending| shown.shows(&ending)), expected, "{ended:?} {ends:?}");
    }
}

#[test]
fn who_has_retired_an_origin_asks_nothing_else_of_it() {
    let mut asked = Asked::default();
    asked.take(0, ended(X));
    asked.take(0, Ending::Retired { origin: X });
    asked.take(0, ended(X));
    let wishes: Vec<_> = asked.wishes.keys().collect();
    assert_eq!(wishes, [&(X, Stage::Retired)]);
}

fn council() -> Council {
    let options = crate::council::Options {
        region: "eu".into(),
        node: A,
        name: "a".into(),
        zone: "z".into(),
        roles: Roles::ALL,
        start: START,
        limits: crate::council::Limits::default(),
    };
    Council::open(&atoll_store::backend::memory::Memory::new(), options).unwrap()
}

#[test]
fn who_leads_no_more_forgets_what_it_has_heard() {
    let mut council = council();
    council.state = Some(state());
    council.gather(A, START, 1, holds(&[(0, 1), (1, 1)]));
    assert!(council.gathered.is_fresh());
    council.step(TICK_MS, crate::council::Event::Tick);
    assert!(!council.gathered.is_fresh() && council.gathered.words.is_empty());
}

#[test]
fn r9_what_a_node_began_that_was_never_recorded_ends_once_it_is_lost() {
    let mut council = council();
    council.state = Some(state());
    let here = |node: NodeId, liveness| {
        let (name, zone, roles) = ("n".into(), "z".into(), Roles::ALL);
        Member { node, name, zone, roles, disk: 1, start: START, liveness }
    };
    let orphan = || Ending::Orphan { origin: X, node: C, regions: ["eu".to_owned()].into() };
    let lost = council.options.limits.forget_after_ms;
    let mut asked = |liveness, times: std::ops::Range<Millis>| {
        council.members = [(A, here(A, Liveness::Up)), (C, here(C, liveness))].into();
        for now in times.step_by(TICK_MS as usize) {
            council.watch(now);
            council.ask(now, vec![orphan()]);
        }
        council.asked.wishes.values().map(|wish| wish.ending.clone()).collect::<Vec<_>>()
    };
    assert_eq!(asked(Liveness::Up, 0..2 * lost), [], "it is there");
    assert_eq!(asked(Liveness::Down, 2 * lost..3 * lost), [], "it may come back");
    assert_eq!(asked(Liveness::Up, 3 * lost..3 * lost + TICK_MS), [], "it came back");
    assert_eq!(asked(Liveness::Down, 3 * lost + TICK_MS..4 * lost), []);
    assert_eq!(asked(Liveness::Down, 4 * lost..4 * lost + 3 * TICK_MS), [ended(X)]);
}
