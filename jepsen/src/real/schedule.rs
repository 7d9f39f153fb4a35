//! When faults begin and end: drawn from the seed, for each kind by itself. Pure.
//!
//! Invariants:
//! 1. A kind's schedule depends on the seed, its name, the time limit and how many kinds there
//!    are; not on what the others do.
//! 2. The first fault of every kind begins within the first half of the run.
//! 3. What one fault draws does not depend on how the faults before it went.

use std::time::Duration;

use super::fault::Fault;
use crate::random::Random;

/// One fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Act {
    /// When it begins, from the start of the run.
    pub(crate) at: Duration,
    /// How long it lasts.
    pub(crate) length: Duration,
    /// The seed of its other choices.
    pub(crate) seed: u64,
}

/// The faults of one kind, of `kinds` in this run.
pub(crate) fn draw(fault: Fault, kinds: usize, limit: Duration, seed: u64) -> Vec<Act> {
    let named = fault
        .name()
        .bytes()
        .fold(seed, |hash, byte| Random::new(hash.wrapping_add(byte.into())).bits());
    let mut random = Random::new(named);
    let limit = limit.as_millis() as u64;
    let (shortest, longest) = fault.lengths_ms();
    // Short runs have short faults, and many kinds leave each other room.
    let most = (limit / 3).max(1);
    let pause = (limit / 12).clamp(200, 5_000) * (3 + kinds as u64) / 4;
    let mut at = random.between(limit / 20, limit / 20 + pause.min(limit / 3));
    let mut acts = Vec::new();
    loop {
        let length = random.between(shortest, longest).min(most);
        if at + length > limit && !acts.is_empty() {
            return acts;
        }
        let ms = Duration::from_millis;
        acts.push(Act { at: ms(at), length: ms(length), seed: random.bits() });
        at += length + random.between(pause / 2, pause * 3 / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_each_kind_its_own() {
        let minute = Duration::from_secs(60);
        let kill = draw(Fault::Kill, 1, minute, 7);
        assert_eq!(kill, draw(Fault::Kill, 1, minute, 7));
        assert_ne!(kill, draw(Fault::Kill, 1, minute, 8));
        assert_ne!(kill[0].seed, draw(Fault::Pause, 1, minute, 7)[0].seed);
        assert!(kill.len() >= 3, "{kill:?}");
    }

    #[test]
    fn faults_of_a_kind_follow_each_other_and_begin_early() {
        for (seconds, kinds, seed) in [(5, 2, 1), (20, 1, 2), (60, 14, 3), (600, 5, 4)] {
            let limit = Duration::from_secs(seconds);
            for fault in Fault::ALL {
                let acts = draw(*fault, kinds, limit, seed);
                assert!(acts[0].at <= limit / 2, "{fault:?} {acts:?}");
                let apart = |two: &[Act]| two[0].at + two[0].length < two[1].at;
                assert!(acts.windows(2).all(apart), "{fault:?} {acts:?}");
            }
        }
    }
}
