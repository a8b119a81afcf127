//! The WAL records by which people find their way: ends of transactions and restore points. Pure; only what is needed of
//! a record is read.
//!
//! Sources in PostgreSQL: `src/include/access/xlogrecord.h` (headers of a record's data), `src/include/access/xact.h`
//! (`xl_xact_commit`, `xl_xact_abort` and what follows them), `xl_restore_point` in `xlog_internal.h`.

use time::OffsetDateTime;

use crate::model::{Lsn, PgVersion};

/// Bytes in a record header.
const HEADER: usize = super::wal_page::RECORD_HEADER;
/// Resource managers (`rmgrlist.h`).
const XLOG: u8 = 0;
const XACT: u8 = 1;
/// `XLOG_RESTORE_POINT`.
const RESTORE_POINT: u8 = 0x70;
/// `XLOG_XACT_OPMASK`, the operations under it, and `XLOG_XACT_HAS_INFO`.
const OPERATION: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const HAS_INFO: u8 = 0x80;
/// `XACT_XINFO_HAS_*`, in the order in which what they stand for follows.
const HAS_DATABASE: u32 = 1;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_FILES: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;
/// `XLR_BLOCK_ID_*`.
const SHORT_DATA: u8 = 255;
const LONG_DATA: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_TRANSACTION: u8 = 252;
/// Microseconds from the Unix epoch to PostgreSQL's.
const EPOCH: i64 = 946_684_800_000_000;
/// More files than this are not listed.
const MOST_FILES: u32 = 10_000;

/// A moment as PostgreSQL stores it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// The moment; `None` beyond what a date can say.
    pub fn to_utc(self) -> Option<OffsetDateTime> {
        let micros = self.0.checked_add(EPOCH)?;
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()
    }

    /// The moment as PostgreSQL would store it; fractions of a microsecond are cut.
    pub fn from_utc(time: OffsetDateTime) -> Self {
        let micros = time.unix_timestamp_nanos().div_euclid(1000);
        Self(i64::try_from(micros).unwrap_or(i64::MAX).saturating_sub(EPOCH))
    }
}

/// A file of a relation that a transaction removes at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DroppedFile {
    /// The tablespace.
    pub tablespace: u32,
    /// The database; 0 for what all have in common.
    pub database: u32,
    /// The relation's file number (`pg_class.relfilenode`).
    pub relation: u32,
}

impl std::fmt::Display for DroppedFile {
    /// The path below the data directory.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.tablespace {
            1663 => write!(f, "base/{}/{}", self.database, self.relation),
            1664 => write!(f, "global/{}", self.relation),
            other => write!(f, "pg_tblspc/{other}/{}/{}", self.database, self.relation),
        }
    }
}

/// What a landmark is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LandmarkKind {
    /// A transaction was committed.
    Commit,
    /// A transaction was rolled back.
    Abort,
    /// A restore point with its name.
    RestorePoint(String),
}

/// A record by which a point in time can be found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Landmark {
    /// Where the record begins.
    pub lsn: Lsn,
    /// When, by the server's clock.
    pub time: PgTime,
    /// The transaction; 0 for a restore point.
    pub xid: u32,
    /// What it is.
    pub kind: LandmarkKind,
    /// The files of relations that go with it: those of a dropped, truncated or rewritten table and of its indexes.
    pub dropped: Vec<DroppedFile>,
}

/// Whether a record with this header is a landmark.
#[inline]
pub fn is_landmark(header: &[u8; HEADER]) -> bool {
    let (info, manager) = (header[16], header[17]);
    match manager {
        XACT => matches!(info & OPERATION, COMMIT | ABORT | COMMIT_PREPARED | ABORT_PREPARED),
        XLOG => info & 0xF0 == RESTORE_POINT,
        _ => false,
    }
}

/// Reads a landmark from its header and as much of its body as is at hand. `None` when it is none, or when not even its time
/// is there. What a truncated body does not tell is left out.
pub fn landmark(lsn: Lsn, header: &[u8; HEADER], body: &[u8], major: Option<PgVersion>) -> Option<Landmark> {
    if !is_landmark(header) {
        return None;
    }
    let mut data = Reader(main_data(body)?);
    let time = PgTime(data.i64()?);
    let mut landmark = Landmark {
        lsn,
        time,
        xid: u32::from_le_bytes([header[4], header[5], header[6], header[7]]),
        kind: LandmarkKind::Commit,
        dropped: Vec::new(),
    };
    if header[17] == XLOG {
        let name = data.0.get(..64).unwrap_or(data.0);
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned();
        landmark.kind = LandmarkKind::RestorePoint(name);
        landmark.xid = 0;
        return Some(landmark);
    }
    let operation = header[16] & OPERATION;
    if matches!(operation, ABORT | ABORT_PREPARED) {
        landmark.kind = LandmarkKind::Abort;
    }
    if header[16] & HAS_INFO != 0 {
        // What was cut off does not make the rest less true.
        let _ = details(&mut data, &mut landmark, operation, major);
    }
    Some(landmark)
}

/// What follows the time of a transaction's end.
fn details(
    data: &mut Reader<'_>,
    landmark: &mut Landmark,
    operation: u8,
    major: Option<PgVersion>,
) -> Option<()> {
    let info = data.u32()?;
    if info & HAS_DATABASE != 0 {
        data.skip(8)?;
    }
    if info & HAS_SUBTRANSACTIONS != 0 {
        let count = data.u32()?;
        data.skip(usize::try_from(count).ok()?.checked_mul(4)?)?;
    }
    if info & HAS_FILES != 0 {
        let count = data.u32()?;
        for index in 0..count {
            let file = DroppedFile { tablespace: data.u32()?, database: data.u32()?, relation: data.u32()? };
            if index < MOST_FILES {
                landmark.dropped.push(file);
            }
        }
    }
    if info & HAS_DROPPED_STATISTICS != 0 {
        // xl_xact_stats_item has an object id of eight bytes since 18.
        let item = if major.is_some_and(|major| major.num() < 180_000) { 12 } else { 16 };
        let count = data.u32()?;
        data.skip(usize::try_from(count).ok()?.checked_mul(item)?)?;
    }
    if info & HAS_INVALIDATIONS != 0 && matches!(operation, COMMIT | COMMIT_PREPARED) {
        let count = data.u32()?;
        data.skip(usize::try_from(count).ok()?.checked_mul(16)?)?;
    }
    if info & HAS_TWO_PHASE != 0 {
        landmark.xid = data.u32()?;
    }
    Some(())
}

/// The main data of a record without blocks.
fn main_data(body: &[u8]) -> Option<&[u8]> {
    let mut rest = Reader(body);
    loop {
        match rest.u8()? {
            SHORT_DATA => {
                rest.skip(1)?;
                return Some(rest.0);
            }
            LONG_DATA => {
                rest.skip(4)?;
                return Some(rest.0);
            }
            ORIGIN => rest.skip(2)?,
            TOP_TRANSACTION => rest.skip(4)?,
            // None of these records has blocks.
            _ => return None,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn u8(&mut self) -> Option<u8> {
        let value = *self.0.first()?;
        self.skip(1)?;
        Some(value)
    }

    fn u32(&mut self) -> Option<u32> {
        let value = u32::from_le_bytes(*self.0.first_chunk()?);
        self.skip(4)?;
        Some(value)
    }

    fn i64(&mut self) -> Option<i64> {
        let value = i64::from_le_bytes(*self.0.first_chunk()?);
        self.skip(8)?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn header(xid: u32, info: u8, manager: u8) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[4..8].copy_from_slice(&xid.to_le_bytes());
        (header[16], header[17]) = (info, manager);
        header
    }

    fn data(bytes: &[u8]) -> Vec<u8> {
        let mut body = vec![SHORT_DATA, u8::try_from(bytes.len()).unwrap()];
        body.extend(bytes);
        body
    }

    #[test]
    fn times() {
        let time = datetime!(2026-11-27 16:00:00.123456 UTC);
        assert_eq!(PgTime::from_utc(time).to_utc(), Some(time));
        assert_eq!(PgTime(0).to_utc(), Some(datetime!(2000-01-01 0:00 UTC)));
        assert_eq!(PgTime(i64::MAX).to_utc(), None);
        assert!(PgTime::from_utc(datetime!(1999-12-31 23:59:59.9999999 UTC)) < PgTime(0));
    }

    #[test]
    fn a_commit_that_drops_files() {
        let mut main = 77i64.to_le_bytes().to_vec();
        let info = HAS_DATABASE
            | HAS_SUBTRANSACTIONS
            | HAS_FILES
            | HAS_DROPPED_STATISTICS
            | HAS_INVALIDATIONS
            | HAS_TWO_PHASE;
        main.extend(info.to_le_bytes());
        main.extend([9; 8]);
        for number in [2u32, 801, 802, 2, 1663, 5, 16_384, 16_400, 5, 16_385, 1] {
            main.extend(number.to_le_bytes());
        }
        main.extend([8; 12]);
        main.extend(1u32.to_le_bytes());
        main.extend([7; 16]);
        main.extend(900u32.to_le_bytes());
        let body = data(&main);
        let head = header(0, COMMIT_PREPARED | HAS_INFO, XACT);
        let found = landmark(Lsn::new(1), &head, &body, Some(PgVersion::new(150_000))).unwrap();
        assert_eq!((found.xid, found.time, &found.kind), (900, PgTime(77), &LandmarkKind::Commit));
        let shown: Vec<String> = found.dropped.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["base/5/16384", "pg_tblspc/16400/5/16385"]);
        // Cut anywhere behind the time it is still known when.
        for length in 0..body.len() {
            let cut = landmark(Lsn::new(1), &head, &body[..length], None);
            assert_eq!(cut.is_some(), length >= 10, "{length}");
        }
    }

    #[test]
    fn restore_points_and_what_is_none() {
        let mut main = 5i64.to_le_bytes().to_vec();
        main.extend(b"before the drop\0");
        main.extend([0; 48]);
        let found = landmark(Lsn::new(9), &header(0, RESTORE_POINT, XLOG), &data(&main), None).unwrap();
        assert_eq!(found.kind, LandmarkKind::RestorePoint("before the drop".to_owned()));
        for (info, manager) in [(0x10, XACT), (0x50, XACT), (0x60, XACT), (0x10, XLOG), (0, 10)] {
            assert_eq!(landmark(Lsn::new(9), &header(1, info, manager), &data(&main), None), None);
        }
        // An origin and a top transaction may stand before the data.
        let mut body = vec![ORIGIN, 1, 0, TOP_TRANSACTION, 1, 2, 3, 4, LONG_DATA, 8, 0, 0, 0];
        body.extend(6i64.to_le_bytes());
        let found = landmark(Lsn::new(9), &header(3, ABORT, XACT), &body, None).unwrap();
        assert_eq!((found.time, found.xid, found.kind), (PgTime(6), 3, LandmarkKind::Abort));
    }

    proptest! {
        /// I31: bytes from anywhere never do more than be refused.
        #[test]
        fn any_bytes(header in any::<[u8; HEADER]>(), body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = landmark(Lsn::new(0), &header, &body, None);
        }
    }
}
