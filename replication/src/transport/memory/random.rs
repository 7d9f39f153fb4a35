//! The simulated network's source of chance: SplitMix64 (Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", 2014). Small, and the same on every machine; not for keys.

pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform from `min` to `max`, both included; `min` if the range is empty.
    pub(super) fn between(&mut self, min: u64, max: u64) -> u64 {
        let drawn = self.next();
        match max.checked_sub(min).map(|width| width.checked_add(1)) {
            None => min,
            Some(None) => drawn,
            Some(Some(count)) => min + drawn % count,
        }
    }

    /// True with this probability. Draws always, so that a setting does not shift later draws.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        let mut random = Random::new(1_234_567);
        let drawn = [random.next(), random.next()];
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn ranges_include_their_ends() {
        let mut random = Random::new(0);
        let drawn: Vec<u64> = (0..100).map(|_| random.between(3, 5)).collect();
        assert!((3..=5).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| (3..=5).contains(n)));
        assert_eq!(random.between(7, 2), 7);
        assert!((0..100).all(|_| !random.chance(0.0) && random.chance(1.0)));
    }
}
