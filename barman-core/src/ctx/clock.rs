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
