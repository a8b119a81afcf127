//! [`ProgressSink`]: where an operation reports what it does.

/// How serious a message is; the CLI maps them to Barman's levels and streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// For those who look for a fault.
    Debug,
    /// What Barman prints while it works.
    Info,
    /// Something the user should know or do.
    Warning,
    /// Something went wrong for one item; the operation goes on and its outcome lists the item.
    Error,
}

/// What a progress count counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files.
    Files,
    /// WAL segments.
    Segments,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A sentence for the user, in Barman's words where Barman has one.
    Message {
        /// How serious.
        level: Level,
        /// One line or several.
        text: &'a str,
    },
    /// A stage of long work begins.
    StageStarted {
        /// What is done, in words ("Copying files").
        stage: &'a str,
        /// How much there is, where it is known.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// More of the current stage is done.
    Advanced {
        /// How much more, in the unit of the stage.
        by: u64,
    },
    /// The current stage ended.
    StageFinished,
}

/// Receives events, from any thread. It must return quickly and must not panic.
pub trait ProgressSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: &Event<'_>);
}

/// A sink that drops everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl ProgressSink for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
