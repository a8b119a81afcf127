//! The real time, in the zone of the process.

use std::time::Duration;

use barman_core::ctx::{Cancel, Cancelled, Clock, SystemClock};
use time::{OffsetDateTime, UtcOffset};

/// The system's clock, in the zone of the process (`TZ`, else `/etc/localtime`), summer time included.
pub(crate) struct ZonedClock {
    zone: Option<tz::TimeZone>,
    clock: SystemClock,
}

impl ZonedClock {
    #[allow(clippy::disallowed_methods, reason = "the environment of the process is read here")]
    pub(crate) fn new() -> Self {
        let zone = match std::env::var("TZ") {
            Ok(text) if !text.is_empty() => tz::TimeZone::from_posix_tz(&text).ok(),
            _ => tz::TimeZone::local().ok(),
        };
        Self { zone, clock: SystemClock::utc() }
    }
}

impl Clock for ZonedClock {
    fn now(&self) -> OffsetDateTime {
        let now = self.clock.now();
        now.to_offset(self.offset_at(now))
    }

    fn offset_at(&self, instant: OffsetDateTime) -> UtcOffset {
        let seconds = self
            .zone
            .as_ref()
            .and_then(|zone| zone.find_local_time_type(instant.unix_timestamp()).ok().map(|t| t.ut_offset()));
        seconds.and_then(|s| UtcOffset::from_whole_seconds(s).ok()).unwrap_or(UtcOffset::UTC)
    }

    fn pause(&self, length: Duration, cancel: &Cancel) -> Result<(), Cancelled> {
        self.clock.pause(length, cancel)
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}
