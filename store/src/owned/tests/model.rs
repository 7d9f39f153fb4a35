//! Random entries on two replicas, one of which commits late and crashes, beside a model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append { id: u8, key: u8, events: u8, old: bool, hours: u8 },
    Snapshot { id: u8 },
    Erase { id: u8 },
    Flush,
    Crash(u8),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4u8, 0..12u8, 0..4u8, prop::bool::weighted(0.1), 0..4u8)
            .prop_map(|(id, key, events, old, hours)| Step::Append { id, key, events, old, hours }),
        2 => (0..4u8).prop_map(|id| Step::Snapshot { id }),
        1 => (0..4u8).prop_map(|id| Step::Erase { id }),
        2 => Just(Step::Flush),
        1 => (0..4u8).prop_map(Step::Crash),
        1 => Just(Step::Sweep),
    ]
}

/// What the copy should be: the simplest thing that has the same rules.
#[derive(Default)]
struct Model {
    revisions: BTreeMap<String, u64>,
    events: BTreeMap<String, Vec<(u64, String)>>,
    keys: BTreeMap<(String, String), (Millis, u64)>,
    clock: Millis,
}

impl Model {
    fn apply(&mut self, entry: &Entry) -> Option<Void> {
        self.clock = self.clock.max(entry.at);
        let id = entry.name.id.as_str().to_string();
        let revision = self.revisions.get(&id).copied().unwrap_or(0);
        if let Body::Append(Append { command_id, keyed: Some(_), .. }) = &entry.body {
            let found = self.keys.get(&(id.clone(), command_id.clone()));
            if let Some((_, at)) = found.filter(|(at, _)| at + WINDOW_MS >= self.clock) {
                return Some(Void::Remembered(*at));
            }
        }
        let gone = self.events.get(&id).is_none_or(Vec::is_empty);
        if revision != entry.base || (gone && matches!(entry.body, Body::Snapshot(_))) {
            return Some(Void::Base(revision));
        }
        match &entry.body {
            Body::Append(append) => {
                let log = self.events.entry(id.clone()).or_default();
                let new = (revision + 1..).zip(&append.events);
                log.extend(new.map(|(n, e)| (n, String::from_utf8_lossy(&e.data).into())));
                let after = revision + append.events.len() as u64;
                if append.keyed.is_some() {
                    let key = (id.clone(), append.command_id.clone());
                    self.keys.insert(key, (self.clock, after));
                }
                self.revisions.insert(id, after);
            }
            Body::Snapshot(_) => {}
            Body::Erase => {
                self.events.remove(&id);
                self.keys.retain(|(of, _), _| *of != id);
            }
        }
        None
    }
}

/// Runs steps on a replica that commits late and crashes, beside one that commits at once.
fn check_model(steps: &[Step]) {
    let (mut prompt, mut late) = (Replica::new(), Replica::new());
    let mut model = Model::default();
    let (mut log, mut at): (Vec<Bytes>, Millis) = (Vec::new(), 1_000);
    for step in steps {
        let base = |id: &u8| model.revisions.get(&format!("e{id}")).copied().unwrap_or(0);
        let mut entry = match step {
            Step::Append { id, key, events, old, hours } => {
                at += Millis::from(*hours) * HOUR;
                let key = (*key > 3).then(|| format!("k{key}"));
                let texts: Vec<String> = (0..*events).map(|n| format!("{n}@{at}")).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let base = base(id).saturating_sub(u64::from(*old));
                append(&format!("e{id}"), base, key.as_deref(), &texts)
            }
            Step::Snapshot { id } => snapshot(&format!("e{id}"), base(id), "state"),
            Step::Erase { id } => erase(&format!("e{id}"), base(id)),
            Step::Flush => {
                late.memory.flush().unwrap();
                late.copy.settle(u64::MAX);
                continue;
            }
            Step::Crash(kept) => {
                late.memory.crash_keeping((*kept).into());
                late = Replica::on(late.memory);
                continue;
            }
            Step::Sweep => {
                prompt.sweep();
                continue;
            }
        };
        entry.at = at;
        let applied = prompt.apply(&entry);
        assert_eq!(applied.void, model.apply(&entry), "{entry:?}");
        log.push(entry.encode().unwrap());
        replay(&mut late, &log);
    }
    replay(&mut late, &log);
    prompt.sweep();
    late.sweep();
    assert_eq!(late.raw(), prompt.raw());
    for (id, events) in &model.events {
        let expected: Vec<String> = events.iter().map(|(n, text)| format!("{n}:{text}")).collect();
        assert_eq!(prompt.texts(id, 1, 9_999), expected);
    }
    for ((id, key), (at, revision)) in &model.keys {
        let answer = prompt.answer(id, key, model.clock).map(|a| a.revision);
        assert_eq!(answer, (at + WINDOW_MS >= model.clock).then_some(*revision));
    }
}

/// Applies what a replica lacks, and commits it without a flush, the newest not even that.
fn replay(replica: &mut Replica, log: &[Bytes]) {
    let from = replica.copy.position().index as usize;
    for (index, bytes) in log.iter().enumerate().skip(from) {
        let applied = replica.copy.apply(index as u64 + 1, 1, bytes).unwrap();
        replica.memory.commit(&applied.writes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replicas_agree_with_each_other_and_with_the_model(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        check_model(&steps);
    }

    #[test]
    fn garbage_is_never_an_entry_that_panics(bytes: Vec<u8>) {
        let mut framed = vec![1];
        framed.extend(&bytes);
        let _ = (Entry::decode(&bytes), Entry::decode(&framed));
    }

    #[test]
    fn names_order_and_part_their_keys(a in "[a\0\u{1}é]{1,5}", b in "[a\0\u{1}é]{1,5}") {
        let (left, right) = (name(&a), name(&b));
        let of = |name| keys::of(SHARD, keys::HEAD, name);
        prop_assert_eq!(left.cmp(&right), of(&left).cmp(&of(&right)));
        prop_assert!(a == b || !of(&left).starts_with(&of(&right)));
        prop_assert_eq!(keys::name(&of(&left)), Some(left.clone()));
        // Whatever is under one name ends before the next begins.
        let end = keys::end(of(&left));
        let events = keys::end(keys::of(SHARD, keys::EVENTS, &left));
        prop_assert!(keys::snapshot(SHARD, &left, u64::MAX) < events);
        prop_assert!(left >= right || end <= of(&right));
    }
}
