//! [`Judged`]: a reader that fails at the end of a WAL segment that is not the one its name promises (I24).

use std::io::{self, Read};

use crate::format::wal_page::{Expectations, Validator};
use crate::model::{BackupInfo, SegmentName};

/// What a segment that a backup is restored with must be. A version of PostgreSQL that nobody knew yet is believed.
pub(crate) fn expected_segment(backup: &BackupInfo, name: SegmentName) -> Expectations {
    Expectations {
        system_id: backup.systemid,
        accept_unknown_magic: true,
        check_records: true,
        ..Expectations::new(name, backup.xlog_segment_size)
    }
}

/// Passes the plain bytes of a segment on and judges them. The read that brings the last byte fails when they are not
/// sound, so that a copy of a damaged segment is never finished, however its reader stops.
pub(super) struct Judged<R> {
    inner: R,
    name: String,
    /// Bytes still to come.
    left: u64,
    /// Until the verdict.
    validator: Option<Validator>,
}

impl<R: Read> Judged<R> {
    /// A reader of the segment that is expected.
    pub(super) fn new(inner: R, expected: Expectations) -> Self {
        let (name, left) = (expected.name.to_string(), expected.size.bytes());
        Self { inner, name, left, validator: Some(Validator::new(expected)) }
    }

    fn verdict(&mut self) -> io::Result<()> {
        let Some(Err(problem)) = self.validator.take().map(Validator::finish) else { return Ok(()) };
        let text = format!(
            "the archived WAL segment {} is not sound: {problem}; put a sound copy in its place with put-wal, or restore \
             with --get-wal, which asks for the segment only when replay comes to it",
            self.name
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

impl<R: Read> Read for Judged<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(validator) = &mut self.validator {
            validator.push(&buffer[..count]);
        }
        let over = count as u64 > self.left;
        self.left = self.left.saturating_sub(count as u64);
        if self.left == 0 || over || count == 0 && !buffer.is_empty() {
            self.verdict()?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::wal_page::synthetic;
    use crate::model::{PgVersion, SegmentName, SegmentNo, SegmentSize, SystemId, Timeline};

    fn read(bytes: &[u8], system: u64, piece: usize) -> io::Result<usize> {
        let size = SegmentSize::from_bytes(1 << 20).unwrap();
        let name: SegmentName = "000000010000000000000003".parse().unwrap();
        let expected = Expectations {
            system_id: Some(SystemId::new(system)),
            check_records: true,
            ..Expectations::new(name, size)
        };
        let mut reader = Judged::new(bytes, expected);
        let (mut buffer, mut taken) = (vec![0; piece], 0);
        // As a copy of known length does: it never reads beyond.
        while taken < 1 << 20 {
            match reader.read(&mut buffer)? {
                0 => break,
                count => taken += count,
            }
        }
        Ok(taken)
    }

    #[test]
    fn i24_a_segment_that_is_not_sound_is_never_copied_to_its_end() {
        let segment = synthetic::segment(
            Timeline::FIRST,
            SegmentNo::new(3),
            SegmentSize::from_bytes(1 << 20).unwrap(),
            SystemId::new(7),
            PgVersion::new(170_000),
        );
        let mut flipped = segment.clone();
        flipped[500_000] ^= 1;
        let cut = &segment[..500_000];
        for piece in [1 << 20, 65_536, 1000] {
            assert_eq!(read(&segment, 7, piece).unwrap(), 1 << 20);
            for (bad, system) in [(&flipped[..], 7), (cut, 7), (&segment, 8), (&[], 7)] {
                let error = read(bad, system, piece).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(error.to_string().contains("000000010000000000000003 is not sound"), "{error}");
            }
        }
    }
}
