//! What an operation is given by its caller: the time, a place to report progress to, and a way to be stopped.

mod cancel;
mod clock;
mod progress;

pub use cancel::{Cancel, Cancelled};
pub use clock::{Clock, SystemClock};
pub use progress::{Event, Level, ProgressSink, Silent, Unit};

/// What every operation takes along. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// The time and pauses.
    pub clock: &'a dyn Clock,
    /// Where messages and progress go.
    pub progress: &'a dyn ProgressSink,
    /// Whether to stop.
    pub cancel: &'a Cancel,
}

impl Ctx<'_> {
    /// Reports a message that Barman would print at level INFO.
    pub fn info(&self, text: impl AsRef<str>) {
        self.progress.event(&Event::Message { level: Level::Info, text: text.as_ref() });
    }

    /// Reports a message that Barman would print at level WARNING.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.progress.event(&Event::Message { level: Level::Warning, text: text.as_ref() });
    }

    /// Reports a message that Barman would print at level DEBUG.
    pub fn debug(&self, text: impl AsRef<str>) {
        self.progress.event(&Event::Message { level: Level::Debug, text: text.as_ref() });
    }
}
