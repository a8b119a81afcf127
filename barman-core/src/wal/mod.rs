//! The WAL archive: taking segments in, keeping them sound, giving them out.

mod port;

pub use port::{
    Incoming, IntakeReport, Reclaimed, Taken, TakenHow, WalArchive, WalEntry, WalError, WalIntake, WalRange,
};
