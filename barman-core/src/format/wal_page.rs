//! WAL segments, page by page: is this file what its name says (invariant I4)? Pure; never reads a file itself.
//!
//! A segment is a run of pages of `XLOG_BLCKSZ` bytes. Each begins with a header (`XLogPageHeaderData`), the first one
//! of a segment with a longer one (`XLogLongPageHeaderData`) that names the cluster and the segment size; both stand in
//! PostgreSQL's `src/include/access/xlog_internal.h`. Records (`XLogRecord`, `src/include/access/xlogrecord.h`) run
//! through the pages, aligned to eight bytes, and are interrupted by page headers. An `XLOG_SWITCH` record ends the
//! useful part of a segment early.
//!
//! [`Validator`] applies the checks of `XLogReaderValidatePageHeader` and `ValidXLogRecordHeader` (PostgreSQL's
//! `src/backend/access/transam/xlogreader.c`) to a segment that arrives in pieces, in constant memory, so that it can
//! ride along with a compression. WAL is written in the byte order of its server; only little-endian WAL is read.

use crate::model::{Lsn, PgVersion, SystemId, Timeline};

mod expect;
mod validator;
#[doc(hidden)]
pub mod synthetic;

pub use expect::{Ancestors, Completeness, Expectations, KEPT, SegmentFacts, Unsound};
pub use validator::Validator;

/// Bytes in an ordinary page header, `SizeOfXLogShortPHD`.
pub(crate) const SHORT_HEADER: usize = 24;
/// Bytes in the header of a segment's first page, `SizeOfXLogLongPHD`.
pub(crate) const LONG_HEADER: usize = 40;
/// Bytes in a record header, `SizeOfXLogRecord`.
pub(crate) const RECORD_HEADER: usize = 24;
/// What a page measures unless the server was built otherwise (`XLOG_BLCKSZ`).
pub const DEFAULT_BLOCK_SIZE: u32 = 8192;

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
pub(crate) const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// `XLP_LONG_HEADER`.
pub(crate) const HAS_LONG_HEADER: u16 = 0x0002;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the rest of the record before was lost in a crash and is replaced.
pub(crate) const OVERWRITES_CONTRECORD: u16 = 0x0008;
/// `XLP_ALL_FLAGS` of the known versions (0x0004 is `XLP_BKP_REMOVABLE`).
pub(crate) const ALL_FLAGS: u16 = 0x000F;

/// `XLOG_PAGE_MAGIC` of each released major version (`xlog_internal.h` of its branch) and the first version that
/// writes it.
const MAGICS: [(u16, u32); 12] = [
    (0xD087, 90_500),
    (0xD093, 90_600),
    (0xD097, 100_000),
    (0xD098, 110_000),
    (0xD101, 120_000),
    (0xD106, 130_000),
    (0xD10D, 140_000),
    (0xD110, 150_000),
    (0xD113, 160_000),
    (0xD116, 170_000),
    (0xD118, 180_000),
    (0xD07E, 90_400),
];

/// The major version (as `x0000`, or `9x00` before 10) whose WAL pages carry this magic, or `None` for an unknown one.
///
/// 9.4 is known by its magic, but its records have another header: a [`Validator`] refuses it.
pub fn major_of_magic(magic: u16) -> Option<PgVersion> {
    MAGICS.iter().find(|(known, _)| *known == magic).map(|(_, major)| PgVersion::new(*major))
}

/// The magic in the WAL pages of this server version, or `None` when the version is not in the table (9.4 to 18).
pub fn magic_of_version(version: PgVersion) -> Option<u16> {
    let num = version.num();
    let major = if num >= 100_000 { num / 10_000 * 10_000 } else { num / 100 * 100 };
    MAGICS.iter().find(|(_, known)| *known == major).map(|(magic, _)| *magic)
}

/// The header of a page, read without judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_magic`.
    pub magic: u16,
    /// `xlp_info`.
    pub info: u16,
    /// `xlp_tli`, which may be 0 in a broken page.
    pub timeline: u32,
    /// `xlp_pageaddr`: where the page lies in the log.
    pub address: Lsn,
    /// `xlp_rem_len`: how much of a record begun earlier follows.
    pub remaining: u32,
}

impl PageHeader {
    /// Reads the first 24 bytes of a page, or `None` when there are fewer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            magic: u16::from_le_bytes(*bytes.first_chunk()?),
            info: u16::from_le_bytes(*bytes.get(2..)?.first_chunk()?),
            timeline: u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?),
            address: Lsn::new(u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?)),
            remaining: u32::from_le_bytes(*bytes.get(16..SHORT_HEADER)?.first_chunk()?),
        })
    }
}

/// What the first page of a segment says of the whole: enough to recognise a segment of unknown origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPage {
    /// The part that every page has.
    pub page: PageHeader,
    /// `xlp_sysid`.
    pub system_id: SystemId,
    /// `xlp_seg_size` in bytes, not yet checked to be a possible size.
    pub segment_size: u32,
    /// `xlp_xlog_blcksz` in bytes, not yet checked to be a possible size.
    pub block_size: u32,
}

impl FirstPage {
    /// Reads the first 40 bytes of a segment. `None` when there are fewer or when the header is not a long one; nothing
    /// else is judged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let page = PageHeader::parse(bytes)?;
        if page.info & HAS_LONG_HEADER == 0 {
            return None;
        }
        Some(Self {
            page,
            system_id: SystemId::new(u64::from_le_bytes(*bytes.get(24..)?.first_chunk()?)),
            segment_size: u32::from_le_bytes(*bytes.get(32..)?.first_chunk()?),
            block_size: u32::from_le_bytes(*bytes.get(36..)?.first_chunk()?),
        })
    }

    /// The timeline of the first page, or `None` when it says 0.
    pub fn timeline(&self) -> Option<Timeline> {
        Timeline::new(self.page.timeline)
    }
}

#[cfg(test)]
mod tests;
