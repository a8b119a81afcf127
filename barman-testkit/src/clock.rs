//! [`StepClock`]: time that only moves when the test or a pause moves it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barman_core::ctx::{Cancel, Cancelled, Clock};
use time::{OffsetDateTime, UtcOffset};

/// A clock for tests: each reading may step it on by a fixed amount, each pause moves it by the pause's length at once.
///
/// ```
/// use std::time::Duration;
///
/// use barman_core::ctx::{Cancel, Clock};
/// use barman_testkit::clock::StepClock;
/// use time::macros::datetime;
///
/// let clock = StepClock::at(datetime!(2024-02-29 12:00 UTC)).step(Duration::from_secs(1));
/// assert_eq!(clock.now(), datetime!(2024-02-29 12:00 UTC));
/// assert_eq!(clock.now(), datetime!(2024-02-29 12:00:01 UTC));
/// clock.pause(Duration::from_secs(3600), &Cancel::new()).unwrap();
/// assert_eq!(clock.now(), datetime!(2024-02-29 13:00:02 UTC));
/// assert_eq!(clock.pauses(), [Duration::from_secs(3600)]);
/// ```
#[derive(Debug)]
pub struct StepClock {
    state: Mutex<State>,
    offset: UtcOffset,
    step: Duration,
    patience: Duration,
    cancel_at: Option<usize>,
}

#[derive(Debug)]
struct State {
    now: OffsetDateTime,
    elapsed: Duration,
    pauses: Vec<Duration>,
}

impl StepClock {
    /// A clock that shows this instant until it is moved; its offset is the local zone, all year round.
    pub fn at(now: OffsetDateTime) -> StepClock {
        StepClock {
            state: Mutex::new(State { now, elapsed: Duration::ZERO, pauses: Vec::new() }),
            offset: now.offset(),
            step: Duration::ZERO,
            patience: Duration::ZERO,
            cancel_at: None,
        }
    }

    /// Moves on by `step` after each reading of [`Clock::now`], so that no two readings are equal.
    #[must_use]
    pub fn step(mut self, step: Duration) -> StepClock {
        self.step = step;
        self
    }

    /// Makes each pause also last really, at most this long. For code that waits for a real server, which needs real time.
    #[must_use]
    pub fn really_pausing(mut self, at_most: Duration) -> StepClock {
        self.patience = at_most;
        self
    }

    /// Cancels the operation in its n-th pause (counted from 1).
    #[must_use]
    pub fn cancel_in_pause(mut self, n: usize) -> StepClock {
        self.cancel_at = Some(n);
        self
    }

    /// Moves the time on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now += by;
        state.elapsed += by;
    }

    /// Sets the time, also backwards, as an administrator might. [`Clock::monotonic`] does not notice.
    pub fn set(&self, now: OffsetDateTime) {
        self.state().now = now.to_offset(self.offset);
    }

    /// The lengths of all pauses so far.
    pub fn pauses(&self) -> Vec<Duration> {
        self.state().pauses.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for StepClock {
    fn now(&self) -> OffsetDateTime {
        let now = self.state().now;
        self.advance(self.step);
        now
    }

    fn offset_at(&self, _instant: OffsetDateTime) -> UtcOffset {
        self.offset
    }

    fn pause(&self, length: Duration, cancel: &Cancel) -> Result<(), Cancelled> {
        cancel.check()?;
        let count = {
            let mut state = self.state();
            state.pauses.push(length);
            state.pauses.len()
        };
        std::thread::sleep(length.min(self.patience));
        self.advance(length);
        if self.cancel_at == Some(count) {
            cancel.cancel();
        }
        cancel.check()
    }

    fn monotonic(&self) -> Duration {
        self.state().elapsed
    }
}
