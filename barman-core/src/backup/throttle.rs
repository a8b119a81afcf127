//! [`Throttle`]: most bytes a second over all workers.

use std::sync::Mutex;
use std::time::Duration;

use crate::ctx::{Cancel, Cancelled, Clock};

/// How often a wait looks at the second of its flags: a large file may have to wait for many minutes.
const LOOK: Duration = Duration::from_millis(200);

/// A bandwidth limit shared by workers. Each piece of data reserves its time on one line; who comes too early waits.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_second: Option<u64>,
    /// When the line is free again.
    free_at: Mutex<Duration>,
}

impl Throttle {
    /// A limit in bytes a second; `None` and 0 are no limit.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|b| *b > 0), free_at: Mutex::default() }
    }

    /// Waits until `bytes` more may pass, or until one of the flags is set.
    pub(crate) fn take(
        &self,
        bytes: usize,
        clock: &dyn Clock,
        cancels: [&Cancel; 2],
    ) -> Result<(), Cancelled> {
        let Some(rate) = self.bytes_per_second else { return Ok(()) };
        let now = clock.monotonic();
        let mut wait = {
            let mut free_at = self.free_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let begin = (*free_at).max(now);
            *free_at = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            begin.saturating_sub(now)
        };
        let [first, second] = cancels;
        while !wait.is_zero() {
            second.check()?;
            let step = wait.min(LOOK);
            clock.pause(step, first)?;
            wait -= step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use time::{OffsetDateTime, UtcOffset};

    /// Advances only by pauses.
    struct Stepping(AtomicU64);

    impl Clock for Stepping {
        fn now(&self) -> OffsetDateTime {
            OffsetDateTime::UNIX_EPOCH
        }
        fn offset_at(&self, _: OffsetDateTime) -> UtcOffset {
            UtcOffset::UTC
        }
        fn pause(&self, length: Duration, cancel: &Cancel) -> Result<(), Cancelled> {
            self.0.fetch_add(length.as_millis() as u64, Ordering::SeqCst);
            cancel.check()
        }
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::SeqCst))
        }
    }

    #[test]
    fn ten_pieces_take_the_time_of_nine() {
        let clock = Stepping(AtomicU64::new(0));
        let throttle = Throttle::new(Some(1000));
        for _ in 0..10 {
            throttle.take(100, &clock, [&Cancel::new(), &Cancel::new()]).unwrap();
        }
        assert_eq!(clock.monotonic(), Duration::from_millis(900));
    }

    #[test]
    fn a_long_wait_ends_by_either_flag() {
        for set in 0..2 {
            let clock = Stepping(AtomicU64::new(0));
            let flags = [Cancel::new(), Cancel::new()];
            let throttle = Throttle::new(Some(1));
            throttle.take(3600, &clock, [&flags[0], &flags[1]]).unwrap();
            flags[set].cancel();
            assert_eq!(throttle.take(1_000_000, &clock, [&flags[0], &flags[1]]), Err(Cancelled));
            assert!(clock.monotonic() < Duration::from_secs(10));
        }
    }

    #[test]
    fn no_limit_never_waits() {
        let clock = Stepping(AtomicU64::new(0));
        for limit in [None, Some(0)] {
            Throttle::new(limit).take(1 << 40, &clock, [&Cancel::new(), &Cancel::new()]).unwrap();
        }
        assert_eq!(clock.monotonic(), Duration::ZERO);
    }
}
