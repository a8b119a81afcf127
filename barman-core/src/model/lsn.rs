//! [`Lsn`]: a byte position in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use super::{ParseError, SegmentNo, SegmentSize};

/// A log sequence number: a byte position in the write-ahead log of one timeline history.
///
/// Text form `X/X` (two hexadecimal 32-bit halves), as `pg_lsn` prints it. Arithmetic is checked and named; there is
/// no `From<u64>` so that a plain number never becomes a position by accident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Position 0, PostgreSQL's `InvalidXLogRecPtr`.
    pub const INVALID: Self = Self(0);

    /// The position `bytes` from the beginning of the log.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the beginning of the log.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is PostgreSQL's "no position".
    pub const fn is_invalid(self) -> bool {
        self.0 == 0
    }

    /// The segment that holds the byte at this position.
    pub fn segment(self, size: SegmentSize) -> SegmentNo {
        SegmentNo::new(self.0 >> size.log2())
    }

    /// The segment that holds the byte *before* this position: where a record that ends here lies
    /// (PostgreSQL's `XLByteToPrevSeg`). At a segment boundary this is the earlier segment.
    pub fn previous_segment(self, size: SegmentSize) -> SegmentNo {
        SegmentNo::new(self.0.saturating_sub(1) >> size.log2())
    }

    /// Offset of this position inside its segment, in bytes.
    pub fn offset(self, size: SegmentSize) -> u64 {
        self.0 & (size.bytes() - 1)
    }

    /// This position moved forward, or `None` past the end of the 64-bit log.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// Bytes from `earlier` to here, or `None` when `earlier` is later.
    pub fn checked_distance(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// The first position of a segment, or `None` past the end of the log.
    pub fn segment_start(segment: SegmentNo, size: SegmentSize) -> Option<Self> {
        segment.get().checked_mul(size.bytes()).map(Self)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::new("LSN", text);
        let (high, low) = text.split_once('/').ok_or_else(fail)?;
        let half = |part: &str| {
            let digits = !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        Ok(Self(half(high).ok_or_else(fail)? << 32 | half(low).ok_or_else(fail)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trip(bytes: u64) {
            let lsn = Lsn::new(bytes);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
        }
    }

    #[test]
    fn boundaries_belong_to_the_segment_before_or_after() {
        let size = SegmentSize::DEFAULT;
        let boundary: Lsn = "0/7000000".parse().unwrap();
        assert_eq!(boundary.segment(size).get(), 7);
        assert_eq!(boundary.previous_segment(size).get(), 6);
        assert_eq!(boundary.offset(size), 0);
        assert_eq!("0/7000001".parse::<Lsn>().unwrap().previous_segment(size).get(), 7);
    }

    #[test]
    fn rejects_what_postgresql_rejects() {
        for bad in ["", "/", "0", "0/", "/0", "G/0", "0/123456789", "0/0/0", "+1/0", " 0/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
