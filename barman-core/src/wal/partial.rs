//! Unfinished segments: how far each can be trusted, and its content as a server will read it.

use std::io::{self, Read};

use camino::Utf8PathBuf;

use super::stored::{self, Clusters};
use super::{LocalWalArchive, PartialWal, WalError};
use crate::model::{SegmentName, SegmentSize, WalFileName};

/// Bytes read at once.
const READ: usize = 256 << 10;

impl LocalWalArchive {
    /// What there is of a segment that never became whole: in `streaming/`, in the archive, in `incoming/`. Where there are
    /// several, the one that goes furthest.
    pub(super) fn find_unfinished(
        &self,
        segment: SegmentName,
        size: SegmentSize,
    ) -> Result<Option<PartialWal>, WalError> {
        let paths = &self.shared.paths;
        let partial = WalFileName::Partial(segment);
        let mut best: Option<PartialWal> = None;
        for path in [
            paths.streaming_directory.join(partial.to_string()),
            paths.file(&partial),
            paths.incoming_directory.join(partial.to_string()),
        ] {
            let found = self.judge_partial(segment, size, path)?;
            if let Some(found) = found
                && best.as_ref().is_none_or(|best| best.valid_until < found.valid_until)
            {
                best = Some(found);
            }
        }
        Ok(best)
    }

    fn judge_partial(
        &self,
        segment: SegmentName,
        size: SegmentSize,
        path: Utf8PathBuf,
    ) -> Result<Option<PartialWal>, WalError> {
        let shared = &self.shared;
        let (stat, stored) = match (shared.disk.stat(&path), stored::open(shared, &path)) {
            (Ok(stat), Ok(stored)) => (stat, stored),
            // It moved into the archive, or there is none.
            (Err(e), _) | (_, Err(WalError::Io(e))) if e.is_not_found() => return Ok(None),
            (Err(e), _) => return Err(e.into()),
            (_, Err(e)) => return Err(e),
        };
        let Some(facts) = stored::examine(shared, segment, Clusters::Known, &path, stored.plain)? else {
            return Ok(None);
        };
        // Without a whole record it says nothing.
        let begins = segment.start(size).filter(|_| facts.records > 0 || facts.last_record.is_some());
        Ok(begins.filter(|begins| facts.valid_until > *begins).map(|_| PartialWal {
            name: segment,
            path,
            valid_until: facts.valid_until,
            last_record: facts.last_record,
            mtime: stat.mtime,
            size: stat.size,
        }))
    }

    /// The valid part of it, then zeros up to the size of a segment: what a server takes for the end of its WAL.
    pub(super) fn read_unfinished(
        &self,
        partial: &PartialWal,
        size: SegmentSize,
    ) -> Result<Box<dyn Read + Send>, WalError> {
        let stored = stored::open(&self.shared, &partial.path)?;
        let start = partial.name.start(size).unwrap_or_default();
        let valid = partial.valid_until.checked_distance(start).unwrap_or(0).min(size.bytes());
        let whole = Whole { inner: stored.plain.take(valid), missing: valid };
        Ok(Box::new(whole.chain(io::repeat(0).take(size.bytes() - valid))))
    }
}

/// Fails where the source ends too early: zeros in the middle would be the end of the WAL.
struct Whole<R> {
    inner: R,
    missing: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(READ);
        let count = self.inner.read(&mut buffer[..wanted])?;
        self.missing -= count as u64;
        if count == 0 && wanted > 0 && self.missing > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the unfinished segment was cut meanwhile",
            ));
        }
        Ok(count)
    }
}
