//! Deliberate bugs: what the tests must catch, to be worth something.
//!
//! A bug is switched on for the whole process, and only in a build with the feature `mutants`,
//! which nothing that is shipped has: there [`Mutant::is_on`] is `false` at compile time.
//!
//! Left out: bugs of a driver (what is flushed, sent and answered when), which a simulator puts
//! there itself.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mutant {
    /// Equal vectors are taken for equal data: digests are never compared.
    TrustVectors = 1,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Mutant] = &[Mutant::TrustVectors];

    /// Its name on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mutant::TrustVectors => "trust-vectors",
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

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::atomic::AtomicU8;

    /// The one that is on; 0 for none.
    pub(super) static ON: AtomicU8 = AtomicU8::new(0);
}
