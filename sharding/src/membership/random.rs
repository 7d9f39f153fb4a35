//! Chance from a seed: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", 2014), also as the generator that the SWIM crate asks for. The same on every
//! machine; not for keys.

use rand_core::{Infallible, TryRng};

/// A generator; equal seeds draw equal numbers.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below a bound; 0 if there is nothing below it.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let drawn = self.next();
        if bound == 0 { 0 } else { drawn % bound }
    }

    /// One of them.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let place = usize::try_from(self.below(of.len() as u64)).ok()?;
        of.get(place).copied()
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.next().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand_core::Rng;

    use super::*;

    #[test]
    fn it_is_splitmix64() {
        let mut random = Random::new(1_234_567);
        let drawn = [random.next(), random.next()];
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn every_way_to_draw_is_seeded() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        let (mut a, mut b) = ([0; 13], [0; 13]);
        one.fill_bytes(&mut a);
        other.fill_bytes(&mut b);
        assert_eq!(a, b);
        assert_eq!(one.next_u32(), other.next_u32());
        assert_eq!(one.next_u64(), other.next_u64());
        let mut seen = [1, 2, 3].map(|_| one.pick(&[4, 5, 6]));
        seen.sort_unstable();
        assert!(seen.iter().all(Option::is_some));
        assert_eq!(one.pick::<u8>(&[]), None);
    }
}
