//! Random numbers that are the same on every machine and in every version.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
///
/// It is small enough for each direction of each connection to have its own, so that what happens
/// on one shifts nothing on another.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

/// What a stream of random numbers is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Scheduler = 1,
    Faults,
    Host,
    Ports,
    Connection,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// Returns the stream of a seed for one purpose; `which` tells apart streams that have the
    /// same.
    pub(crate) fn new(seed: u64, purpose: Purpose, which: &[u64]) -> Self {
        let start = mix(seed ^ mix(purpose as u64));
        Self(which.iter().fold(start, |state, word| mix(state ^ mix(word.wrapping_add(GOLDEN)))))
    }

    /// Returns where the stream stands; [`at`] continues it.
    pub(crate) fn state(&self) -> u64 {
        self.0
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = step(self.0);
        mix(self.0)
    }

    /// Returns a number below `bound`, or 0 if that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns a number from `low` up to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        if low >= high { low } else { low + self.below(high - low + 1) }
    }

    /// Is true with this probability. One that is never or always true draws nothing.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        if probability <= 0.0 || probability >= 1.0 {
            return probability >= 1.0;
        }
        // 53 bits: all of them exact in an `f64`, so that every machine agrees.
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }
}

/// Returns the state after `state`.
pub(crate) fn step(state: u64) -> u64 {
    state.wrapping_add(GOLDEN)
}

/// Returns the number that a state stands for.
pub(crate) fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The reference implementation's first numbers for the seed 1234567.
        let mut random = Random(1_234_567);
        let numbers = [random.next(), random.next(), random.next()];
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_which() {
        let firsts = [
            Random::new(1, Purpose::Host, &[1]).next(),
            Random::new(2, Purpose::Host, &[1]).next(),
            Random::new(1, Purpose::Faults, &[1]).next(),
            Random::new(1, Purpose::Host, &[2]).next(),
            Random::new(1, Purpose::Host, &[1, 0]).next(),
        ];
        let unique: std::collections::BTreeSet<_> = firsts.iter().collect();
        assert_eq!(unique.len(), firsts.len());
    }

    #[test]
    fn ranges_hold_their_ends() {
        let mut random = Random(7);
        let drawn: std::collections::BTreeSet<_> = (0..200).map(|_| random.between(3, 5)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(random.between(9, 9), 9);
        assert_eq!((0..1000).filter(|_| random.chance(0.0)).count(), 0);
        assert_eq!((0..1000).filter(|_| random.chance(1.0)).count(), 1000);
        let tenth = (0..10_000).filter(|_| random.chance(0.1)).count();
        assert!((900..1100).contains(&tenth), "{tenth}");
    }
}
