//! Discovery and forming against what they meet in the field: a DNS server, an etcd, and an API
//! server of Kubernetes, each on this machine.
//!
//! The API server is ours, and speaks the real format; the etcd is the real program, and its
//! tests say so and do nothing where there is none.

mod dns;
mod etcd;
mod kubernetes;

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_replication::transport::NodeId;
use atoll_sharding::discovery::formation::{Claim, Formation, Formed, Place};
use atoll_sharding::discovery::{Method, Registration, watch};
use tokio::sync::watch::{Receiver, channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Discovery at work, until it is dropped.
struct Watching {
    seen: Receiver<BTreeSet<String>>,
    task: AbortHandle,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn registration(node: u8, address: &str) -> Registration {
    Registration {
        node: NodeId([node; 16]),
        name: format!("eu-{node}"),
        region: "eu".into(),
        address: address.into(),
    }
}

impl Watching {
    fn start(method: Method, me: Registration) -> Self {
        let (out, seen) = channel(BTreeSet::new());
        let task = tokio::spawn(async move { watch(method, &me, out).await }).abort_handle();
        Self { seen, task }
    }

    /// Waits until exactly these are known.
    async fn sees(&mut self, addresses: &[&str]) {
        let wanted: BTreeSet<String> = addresses.iter().map(|a| (*a).to_owned()).collect();
        let met = timeout(PATIENCE, self.seen.wait_for(|seen| *seen == wanted)).await;
        let met = met.is_ok_and(|met| met.is_ok());
        assert!(met, "wanted {wanted:?}, sees {:?}", *self.seen.borrow());
    }

    /// What is known now.
    fn now(&self) -> Vec<String> {
        self.seen.borrow().iter().cloned().collect()
    }
}

fn claim(node: u8) -> Claim {
    Claim {
        cluster: "reef".into(),
        region: "eu".into(),
        node: NodeId([node; 16]),
        council: u64::from(node),
        slots: 64,
        replicas: 3,
    }
}

/// Many nodes start at the same time, each on its own: one of them forms, and all know which.
/// Then the founder confirms, and whoever comes later joins.
async fn one_of_many_forms(place: impl Fn() -> Place) -> Formed {
    let started: Vec<_> = (1..=8)
        .map(|node| {
            let formation = Formation::new(place(), claim(node));
            tokio::spawn(async move { (node, formation.claim().await) })
        })
        .collect();
    let mut answers = Vec::new();
    for one in started {
        let (node, answer) = one.await.expect("it does not panic");
        answers.push((node, answer.expect("the place answers")));
    }
    let founders: Vec<_> = answers.iter().filter(|(_, formed)| formed.by_me).collect();
    let [(founder, formed)] = founders[..] else { panic!("not one founder: {answers:?}") };
    assert!(answers.iter().all(|(_, other)| other.record == formed.record), "{answers:?}");
    let record = formed.record.clone().expect("it was created");
    assert_eq!((record.founder, record.council), (NodeId([*founder; 16]), u64::from(*founder)));

    let formation = Formation::new(place(), claim(*founder));
    let confirmed = formation.confirm(&record).await.expect("the place answers");
    assert!(confirmed.by_me && confirmed.record.as_ref().is_some_and(|record| record.formed));
    let late = Formation::new(place(), claim(99)).claim().await.expect("the place answers");
    assert_eq!((late.by_me, &late.record), (false, &confirmed.record));
    confirmed
}

/// A founder creates the record and is not seen again: another takes over, and the first one,
/// should it come back, finds that out before its council could work.
async fn an_abandoned_record_is_taken_over(place: impl Fn() -> Place) {
    let gone = Formation::new(place(), claim(1));
    let record = gone.claim().await.expect("the place answers").record.expect("it was created");
    let other = Formation::new(place(), claim(2));
    let taken = other.settled(Duration::ZERO).await.expect("the place answers");
    assert!(taken.by_me);
    let back = gone.confirm(&record).await.expect("the place answers");
    assert_eq!((back.by_me, &back.record), (false, &taken.record));
    let record = taken.record.expect("it was replaced");
    assert!(other.confirm(&record).await.expect("the place answers").by_me);
    let joined = gone.settled(Duration::ZERO).await.expect("the place answers");
    assert_eq!(joined.record.map(|record| (record.council, record.formed)), Some((2, true)));
}

/// A founder confirms while another node takes over, at every phase against each other: one of
/// them has the region's council.
async fn a_founder_and_who_takes_over_are_not_both_confirmed(place: impl Fn(&str) -> Place) {
    for phase in 0..24 {
        let place = place(&format!("phase-{phase}"));
        let slow = Formation::new(place.clone(), claim(1));
        let other = Formation::new(place, claim(2));
        let record = slow.claim().await.expect("the place answers").record.expect("created");
        let founder = tokio::spawn(async move {
            for _ in 0..phase / 4 {
                slow.claim().await.expect("the place answers");
            }
            for _ in 0..phase % 4 {
                tokio::task::yield_now().await;
            }
            slow.confirm(&record).await.expect("the place answers")
        });
        let taken = other.settled(Duration::ZERO).await.expect("the place answers");
        let confirmed = match taken.record.as_ref().filter(|_| taken.by_me) {
            Some(record) => other.confirm(record).await.expect("the place answers").by_me,
            None => false,
        };
        let founder = founder.await.expect("it does not panic");
        assert_ne!(founder.by_me, confirmed, "phase {phase}: {taken:?}, {founder:?}");
    }
}
