//! The real time.

use std::time::{Duration, Instant};

use barman_core::ctx::{Cancel, Cancelled, Clock};
use time::{OffsetDateTime, UtcOffset};

/// How long a pause goes on before cancellation is looked at again.
const STEP: Duration = Duration::from_millis(50);

/// The system's clock, in the zone of the process (`TZ`, else `/etc/localtime`).
pub(crate) struct SystemClock {
    zone: Option<tz::TimeZone>,
    start: Instant,
}

impl SystemClock {
    pub(crate) fn new() -> Self {
        let zone = match std::env::var("TZ") {
            Ok(text) if !text.is_empty() => tz::TimeZone::from_posix_tz(&text).ok(),
            _ => tz::TimeZone::local().ok(),
        };
        Self { zone, start: Instant::now() }
    }
}

#[allow(clippy::disallowed_methods, reason = "the one door to the wall clock")]
impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc();
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
        let end = Instant::now() + length;
        loop {
            cancel.check()?;
            let left = end.saturating_duration_since(Instant::now());
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
