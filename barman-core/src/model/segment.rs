//! [`SegmentSize`] and [`SegmentNo`]: how the write-ahead log is cut into files.

use std::fmt;

use super::ParseError;

/// The size of a WAL segment: a power of two from 1 MiB to 1 GiB (`IsValidWalSegSize` in PostgreSQL's
/// `xlog_internal.h`), kept as its logarithm. It is a property of the cluster since PostgreSQL 11 and is always read
/// from the server or from the backup, never assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u8);

impl SegmentSize {
    /// 16 MiB, what a cluster has unless `initdb --wal-segsize` said otherwise.
    pub const DEFAULT: Self = Self(24);

    /// The size of so many bytes, or an error when it is not a power of two from 1 MiB to 1 GiB.
    pub fn from_bytes(bytes: u64) -> Result<Self, ParseError> {
        if bytes.is_power_of_two() && (20..=30).contains(&bytes.trailing_zeros()) {
            Ok(Self(bytes.trailing_zeros() as u8))
        } else {
            Err(ParseError::new("WAL segment size in bytes", bytes.to_string()))
        }
    }

    /// Bytes in a segment.
    pub fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Binary logarithm of the size in bytes.
    pub fn log2(self) -> u32 {
        u32::from(self.0)
    }

    /// How many segments share one "log" part of a name (`XLogSegmentsPerXLogId`): 4 GiB / size.
    pub fn segments_per_log(self) -> u64 {
        1 << (32 - self.log2())
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.bytes() >> 20)
    }
}

/// The number of a segment from the beginning of the log. Arithmetic is done on it; names are only text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(u64);

impl SegmentNo {
    /// The `number`-th segment, counted from 0 (PostgreSQL's first real segment is 1).
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The segment after this one, or `None` at the end of the 64-bit log.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// The segment before this one, or `None` for the first.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_in_range() {
        for (bytes, ok) in [
            (1 << 20, true),
            (1 << 30, true),
            (16 << 20, true),
            (1 << 19, false),
            (1 << 31, false),
            (3 << 20, false),
            (0, false),
        ] {
            assert_eq!(SegmentSize::from_bytes(bytes).is_ok(), ok, "{bytes}");
        }
        assert_eq!(SegmentSize::DEFAULT.segments_per_log(), 256);
        assert_eq!(SegmentSize::from_bytes(1 << 20).unwrap().segments_per_log(), 4096);
    }
}
