//! What every [`Clock`] must do.

use std::time::Duration;

use barman_core::ctx::{Cancel, Clock};
use time::macros::datetime;

/// Time does not go back, pauses pass on this clock and end early when they are cancelled, and local times and instants
/// are turned into each other.
///
/// Pauses a few milliseconds of the clock's own time.
pub fn clock(subject: &dyn Clock) {
    let cancel = Cancel::new();
    let (measured, shown) = (subject.monotonic(), subject.now());
    let length = Duration::from_millis(5);
    subject.pause(length, &cancel).unwrap();
    assert!(subject.monotonic() >= measured + length, "a pause is at least as long as it was asked for");
    assert!(subject.now() >= shown, "time went back");
    subject.pause(Duration::ZERO, &cancel).unwrap();

    cancel.cancel();
    let measured = subject.monotonic();
    assert!(subject.pause(Duration::from_secs(3600), &cancel).is_err(), "a cancelled pause is an error");
    assert!(subject.monotonic() - measured < Duration::from_secs(60), "and ends early");

    for instant in [datetime!(2026-01-15 12:00 UTC), datetime!(2026-07-15 12:00 UTC)] {
        let local = subject.to_local(instant);
        assert_eq!(local, instant, "the same instant in another zone");
        assert_eq!(local.offset(), subject.offset_at(instant));
        let (date, time) = (local.date(), local.time());
        assert_eq!(subject.resolve_local(date.with_time(time)), instant);
    }
    let now = subject.now();
    assert_eq!(now.offset(), subject.offset_at(now), "now carries the local offset");
}
