//! [`Clock`]: the only source of time.

use std::time::Duration;

use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

use super::{Cancel, Cancelled};

/// The time, the local zone and pauses. The CLI gives the real ones, tests a stepping one.
pub trait Clock: Send + Sync {
    /// Now, carrying the local zone's offset of this instant.
    fn now(&self) -> OffsetDateTime;

    /// The local zone's offset at an instant; it differs over the year where there is summer time.
    fn offset_at(&self, instant: OffsetDateTime) -> UtcOffset;

    /// Waits for `length`, or less when `cancel` is set meanwhile (then with an error).
    fn pause(&self, length: Duration, cancel: &Cancel) -> Result<(), Cancelled>;

    /// Seconds and fractions from an arbitrary beginning that never goes back, for measuring how long things take.
    fn monotonic(&self) -> Duration;

    /// The instant at which local clocks show this date and time. Where summer time begins or ends and clocks show it
    /// never or twice, the answer is off by at most that hour.
    fn resolve_local(&self, local: PrimitiveDateTime) -> OffsetDateTime {
        let guess = local.assume_utc();
        let first = local.assume_offset(self.offset_at(guess));
        local.assume_offset(self.offset_at(first))
    }

    /// An instant as local clocks show it.
    fn to_local(&self, instant: OffsetDateTime) -> OffsetDateTime {
        instant.to_offset(self.offset_at(instant))
    }
}

/// How long a pause goes on before cancellation is looked at again.
const STEP: Duration = Duration::from_millis(50);

/// The system's clock with a fixed local offset, for programs that embed the library. It is the only place of the crate
/// that reads the wall clock, and only when a caller hands it to an operation.
#[derive(Debug, Clone)]
pub struct SystemClock {
    offset: UtcOffset,
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose local zone has this offset all year round.
    pub fn new(offset: UtcOffset) -> Self {
        Self { offset, start: std::time::Instant::now() }
    }

    /// A clock whose local zone is UTC.
    pub fn utc() -> Self {
        Self::new(UtcOffset::UTC)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::utc()
    }
}

#[allow(clippy::disallowed_methods, reason = "the one door to the wall clock")]
impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc().to_offset(self.offset)
    }

    fn offset_at(&self, _instant: OffsetDateTime) -> UtcOffset {
        self.offset
    }

    fn pause(&self, length: Duration, cancel: &Cancel) -> Result<(), Cancelled> {
        let end = std::time::Instant::now() + length;
        loop {
            cancel.check()?;
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STEP));
        }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}
