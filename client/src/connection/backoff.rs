//! How long to wait before the next try: longer each time, and never the same for two callers.

use std::time::Duration;

use rand::Rng;

const FIRST: Duration = Duration::from_millis(50);
const MAX: Duration = Duration::from_secs(2);

/// The pauses of one call.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    before: Option<Duration>,
}

impl Backoff {
    /// The next pause, spread between the first pause and three times the one before. A delay that the server asked
    /// for is kept to, and spread upwards by a quarter.
    pub(crate) fn next(&mut self, asked: Option<Duration>, random: &mut impl Rng) -> Duration {
        if let Some(asked) = asked {
            return asked.min(MAX * 5).mul_f64(random.random_range(1.0..1.25));
        }
        let most = self.before.map_or(FIRST * 2, |before| (before * 3).min(MAX));
        let pause = random.random_range(FIRST..=most.max(FIRST * 2));
        self.before = Some(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds_and_a_servers_wish_is_kept() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            let pause = backoff.next(None, &mut random);
            assert!((FIRST..=MAX).contains(&pause), "{pause:?}");
        }
        let asked = Duration::from_millis(400);
        let pause = backoff.next(Some(asked), &mut random);
        assert!((asked..asked * 2).contains(&pause), "{pause:?}");
    }
}
