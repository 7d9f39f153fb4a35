//! Deliberate bugs: what the tests must catch, to be worth something.
//!
//! A bug is switched on for the whole process, and only in a build with the feature `mutants`,
//! which nothing that is shipped has: there [`Mutant::is_on`] is `false` at compile time.
//!
//! Each is one `if` at the place where such a bug would be made; where it needs more code than
//! that, the code is here. `diverge_next` is no bug of the product: it breaks one copy, for the
//! product to notice.

#[cfg(feature = "mutants")]
use crate::name::EntityKey;
use crate::operation::Operation;

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mutant {
    /// Equal vectors are taken for equal data: digests are never compared.
    TrustVectors = 1,
    /// One operation in a hundred raises the vector and is logged, and has no effect.
    DropOperation,
    /// What was committed is not flushed.
    SkipFlush,
    /// The origin of a start is made of the node's id instead of drawn.
    ReuseDots,
    /// An operation behind a gap is applied, and what it waited for is taken for seen.
    ApplyOutOfOrder,
    /// Replies leave before the commit.
    AnswerEarly,
    /// Operations and acknowledgements leave before the commit.
    ShipEarly,
    /// Vectors are not compared: what was lost at the end of a connection is not asked for.
    ForgetResend,
    /// A counter's epoch is dropped as soon as it is closed.
    CollectEarly,
    /// A stamp is the wall clock alone, be it behind what was seen.
    TrustWallClock,
    /// A subscription resumed in its own journal starts one position too far.
    ResumeOffByOne,
    /// An increment that comes twice counts twice.
    MergeTwice,
    /// The vector of a transferred shard rises to the last chunk's instead of the first's.
    ChunkVector,
    /// To remove one path removes all that its dot wrote.
    SplitUpdate,
    /// The log is trimmed where no checkpoint holds it.
    TrimEarly,
    /// A damaged record is taken for an absent entity.
    ServeDamaged,
    /// Two operations with one request hash both count.
    CountRetries,
    /// What expired is dropped by each node for itself, without an operation.
    ExpireSilently,
    /// A joining replica says at once that it has caught up.
    JoinUncaught,
    /// A copy is given up before the recorded replicas have what it has.
    DropEarly,
    /// An origin is retired as soon as one region has all of it.
    RetireEarly,
    /// An end is agreed on without the replicas that have not told what they have.
    EndUnheard,
    /// A read at a level answers what it found, whoever lacks it.
    RepairLost,
    /// A level counts the replicas that can be reached instead of the recorded ones.
    CountLive,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Mutant] = &[
        Mutant::TrustVectors,
        Mutant::DropOperation,
        Mutant::SkipFlush,
        Mutant::ReuseDots,
        Mutant::ApplyOutOfOrder,
        Mutant::AnswerEarly,
        Mutant::ShipEarly,
        Mutant::ForgetResend,
        Mutant::CollectEarly,
        Mutant::TrustWallClock,
        Mutant::ResumeOffByOne,
        Mutant::MergeTwice,
        Mutant::ChunkVector,
        Mutant::SplitUpdate,
        Mutant::TrimEarly,
        Mutant::ServeDamaged,
        Mutant::CountRetries,
        Mutant::ExpireSilently,
        Mutant::JoinUncaught,
        Mutant::DropEarly,
        Mutant::RetireEarly,
        Mutant::EndUnheard,
        Mutant::RepairLost,
        Mutant::CountLive,
    ];

    /// Its name on command lines and in reports.
    pub fn name(self) -> &'static str {
        self.label().0
    }

    /// The rule of the architecture that it breaks, if it is one of those with a number.
    pub fn rule(self) -> Option<&'static str> {
        self.label().1
    }

    /// The one with a name.
    pub fn parse(name: &str) -> Option<Mutant> {
        Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }

    fn label(self) -> (&'static str, Option<&'static str>) {
        match self {
            Mutant::TrustVectors => ("trust-vectors", None),
            Mutant::DropOperation => ("drop-operation", Some("R2")),
            Mutant::SkipFlush => ("skip-flush", Some("R1")),
            Mutant::ReuseDots => ("reuse-dots", None),
            Mutant::ApplyOutOfOrder => ("apply-out-of-order", Some("R2")),
            Mutant::AnswerEarly => ("answer-early", Some("R1")),
            Mutant::ShipEarly => ("ship-early", Some("R1")),
            Mutant::ForgetResend => ("forget-resend", None),
            Mutant::CollectEarly => ("collect-early", Some("R4")),
            Mutant::TrustWallClock => ("trust-wall-clock", Some("R5")),
            Mutant::ResumeOffByOne => ("resume-off-by-one", None),
            Mutant::MergeTwice => ("merge-twice", None),
            Mutant::ChunkVector => ("chunk-vector", Some("R3")),
            Mutant::SplitUpdate => ("split-update", Some("R6")),
            Mutant::TrimEarly => ("trim-early", Some("R7")),
            Mutant::ServeDamaged => ("serve-damaged", Some("R8")),
            Mutant::CountRetries => ("count-retries", Some("R10")),
            Mutant::ExpireSilently => ("expire-silently", Some("R11")),
            Mutant::JoinUncaught => ("join-uncaught", Some("R12")),
            Mutant::DropEarly => ("drop-early", Some("R12")),
            Mutant::RetireEarly => ("retire-early", Some("R9")),
            Mutant::EndUnheard => ("end-unheard", Some("R9")),
            Mutant::RepairLost => ("repair-lost", None),
            Mutant::CountLive => ("count-live", Some("R12")),
        }
    }

    /// Whether it is switched on.
    #[cfg(feature = "mutants")]
    #[inline]
    pub fn is_on(self) -> bool {
        switch::ON.load(std::sync::atomic::Ordering::Relaxed) == self as u8
    }

    /// Whether it is switched on: never, in this build.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }

    /// Switches this one on, or all off.
    #[cfg(feature = "mutants")]
    pub fn switch(on: Option<Mutant>) {
        switch::ON.store(on.map_or(0, |on| on as u8), std::sync::atomic::Ordering::Relaxed);
    }
}

/// The next operation on an entity that this thread applies raises the vector and has no effect,
/// as if a disk had lost it: the product is to notice by digests, and to repair it.
#[cfg(feature = "mutants")]
pub fn diverge_next(entity: EntityKey) {
    switch::DIVERGES.set(Some(entity));
}

/// Takes [`diverge_next`] back; answers whether it was still to come.
#[cfg(feature = "mutants")]
pub fn cancel_divergence() -> bool {
    switch::DIVERGES.take().is_some()
}

/// Whether an operation that is applied now is to have no effect.
#[cfg(feature = "mutants")]
pub(crate) fn loses(operation: &Operation) -> bool {
    let meant = |entity: &mut EntityKey| operation.parts.iter().any(|part| part.key == *entity);
    let diverges = switch::DIVERGES.with_borrow_mut(|next| next.take_if(meant).is_some());
    diverges || (Mutant::DropOperation.is_on() && switch::one_in(100, operation.dot))
}

/// Whether an operation that is applied now is to have no effect: never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn loses(_: &Operation) -> bool {
    false
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::RefCell;
    use std::sync::atomic::AtomicU8;

    use crate::dot::Dot;
    use crate::name::EntityKey;

    /// The one that is on; 0 for none.
    pub(super) static ON: AtomicU8 = AtomicU8::new(0);

    thread_local! {
        pub(super) static DIVERGES: RefCell<Option<EntityKey>> = const { RefCell::new(None) };
    }

    /// The same dots everywhere, and no pattern in them (the finaliser of splitmix64).
    pub(super) fn one_in(count: u64, dot: Dot) -> bool {
        let mut mixed = dot.origin.0 ^ dot.sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)).is_multiple_of(count)
    }
}

#[cfg(feature = "mutants")]
impl crate::engine::Engine {
    /// Drops an entity here and nowhere else, without an operation: [`Mutant::ExpireSilently`].
    pub fn lose(&mut self, key: &crate::name::EntityKey) {
        let id = self.shard_of(key);
        let vanish = |entity: &mut crate::entity::Entity| {
            let ahead = entity.ahead().cloned();
            *entity = crate::entity::Entity::default();
            entity.set_ahead(ahead);
        };
        if self.alter(id, key, vanish) == Ok(true) {
            self.show_merged(id, vec![key.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_none_is_on() {
        for (place, mutant) in Mutant::ALL.iter().enumerate() {
            assert_eq!(*mutant as usize, place + 1, "each is listed, in order");
            assert_eq!(Mutant::parse(mutant.name()), Some(*mutant));
            assert!(!mutant.is_on());
        }
        assert_eq!(Mutant::parse("none"), None);
    }
}
