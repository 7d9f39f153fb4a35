//! How one run differs from others, beside chance.

use super::layout::Kind;
use crate::random::Random;

/// How a run differs from others, beside chance: drawn from the seed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mood {
    /// Small logs, so that they are trimmed before everybody has them.
    pub(super) tiny_logs: bool,
    pub(super) harsh_links: bool,
    pub(super) rollbacks: bool,
    pub(super) rot: bool,
    pub(super) skew: bool,
    pub(super) pods: bool,
    /// Machines die for good, with what only they have.
    pub(super) deaths: bool,
    pub(super) full_disks: bool,
    pub(super) big: bool,
    /// Most ms between two faults, and between two operations of a client.
    pub(super) fault_ms: u64,
    pub(super) think_ms: u64,
}

impl Mood {
    pub(super) fn draw(random: &mut Random, kind: Kind) -> Mood {
        let rot = random.one_in(4);
        Mood {
            tiny_logs: random.one_in(2),
            harsh_links: random.one_in(2),
            rollbacks: !rot && random.one_in(2),
            rot,
            skew: random.one_in(2),
            pods: !rot && random.one_in(6),
            full_disks: random.one_in(4),
            big: random.one_in(2),
            fault_ms: random.between(300, 2_500),
            think_ms: random.between(30, 300),
            deaths: kind == Kind::Councils && !rot && !random.one_in(3),
        }
    }
}
