//! What a caller expects of a WAL segment, what it learns of a sound one, and what can be wrong with it.

use crate::format::wal_record::Landmark;
use crate::model::{Lsn, PgVersion, SegmentName, SegmentSize, SystemId, Timeline};

/// Which timelines other than the one in the name may stand in a segment's pages.
///
/// The first segment of a timeline begins with a copy of the old timeline's pages up to the switch point
/// (`XLogFileCopy`, called by `XLogInitNewTimeline` in PostgreSQL's `xlog.c`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ancestors {
    /// No history is at hand: any older timeline id is believed.
    AnyOlder,
    /// Exactly these, taken from the history file of the name's timeline. Empty for timeline 1.
    Listed(Vec<Timeline>),
}

impl Ancestors {
    pub(super) fn allow(&self, own: Timeline, found: Timeline) -> bool {
        found == own
            || match self {
                Self::AnyOlder => found < own,
                Self::Listed(list) => list.contains(&found),
            }
    }
}

/// How much of a segment must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// The whole segment, valid to its end or to an `XLOG_SWITCH` record.
    Full,
    /// A `.partial` file: it may be shorter than a segment and may end in zeros or in old recycled pages. Only its
    /// beginning must be valid.
    Partial,
}

/// What is known of a segment before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectations {
    /// The name under which the segment came.
    pub name: SegmentName,
    /// The segment size of the cluster.
    pub size: SegmentSize,
    /// The cluster it must come from, or `None` to take whichever it names.
    pub system_id: Option<SystemId>,
    /// The major version that must have written it, or `None` for any known one. Minor digits are ignored.
    pub version: Option<PgVersion>,
    /// Whether a page magic that is not in the table of known versions is taken as well. The pages of one segment must
    /// agree even so.
    pub accept_unknown_magic: bool,
    /// The WAL page size, or `None` to take any possible one that the first page names.
    pub block_size: Option<u32>,
    /// The timelines that may stand in the pages beside the name's own.
    pub ancestors: Ancestors,
    /// Whole segment or `.partial`.
    pub completeness: Completeness,
    /// Whether the CRC-32C of each record is computed as well (each record that lies in this segment as a whole).
    /// Without it only headers are looked at: a change inside a record's body goes unnoticed, and so does a record of
    /// a `.partial` whose header was written but whose body was not.
    pub check_records: bool,
}

impl Expectations {
    /// Expects a whole segment of any cluster and known version, without looking into records.
    pub fn new(name: SegmentName, size: SegmentSize) -> Self {
        Self {
            name,
            size,
            system_id: None,
            version: None,
            accept_unknown_magic: false,
            block_size: None,
            ancestors: Ancestors::AnyOlder,
            completeness: Completeness::Full,
            check_records: false,
        }
    }
}

/// So many bytes of a record on a segment's edge are kept: enough for a landmark's time and name.
pub const KEPT: usize = 192;

/// What a sound segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentFacts {
    /// The cluster that wrote it.
    pub system_id: SystemId,
    /// `XLOG_PAGE_MAGIC`.
    pub magic: u16,
    /// The major version of that magic, `None` for an unknown one.
    pub major: Option<PgVersion>,
    /// The timeline of the first page.
    pub first_timeline: Timeline,
    /// The timeline of the last valid page.
    pub last_timeline: Timeline,
    /// Where the `XLOG_SWITCH` record begins, when the segment was ended early by one. It lies before the segment in
    /// the rare case that the record's header reaches into it from the one before.
    pub switch_at: Option<Lsn>,
    /// The end of what was found valid: the end of the segment, of the `XLOG_SWITCH` record, or, in a `.partial`, of the
    /// last complete record (of the first page header when there is none).
    pub valid_until: Lsn,
    /// Where the last record begins that ends in the segment too, `None` when there is none.
    pub last_record: Option<Lsn>,
    /// How many records begin in the segment (before `valid_until`).
    pub records: u64,
    /// The landmarks in it, where they were asked for: those that lie in the segment as a whole.
    pub landmarks: Vec<Landmark>,
    /// Where landmarks were asked for: the beginning of a record that goes on in the next segment and may be one, at most
    /// [`KEPT`] bytes.
    pub tail: Option<(Lsn, Vec<u8>)>,
    /// What the segment begins with of a record of the segment before, at most [`KEPT`] bytes, where landmarks were asked for.
    pub carried: Vec<u8>,
    /// In a `.partial`: what stands at the end of the valid part, `None` when the file ends there or is full.
    pub ended_by: Option<Unsound>,
}

/// Why a file is not the segment its name promises. Offsets are bytes from the beginning of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsound {
    /// The name cannot occur with this segment size.
    #[error("the name {name} does not exist with WAL segments of {size}")]
    ImpossibleName {
        /// The name.
        name: SegmentName,
        /// The segment size of the cluster.
        size: SegmentSize,
    },
    /// The file ends before the segment does. All that is there is valid.
    #[error("the segment is cut off after {found} of {expected} bytes")]
    TooShort {
        /// The segment size in bytes.
        expected: u64,
        /// The length of the file.
        found: u64,
    },
    /// The file goes on after the end of the segment.
    #[error("the file has {found} bytes where a segment has {expected}")]
    TooLong {
        /// The segment size in bytes.
        expected: u64,
        /// The length of the file, as far as it was read.
        found: u64,
    },
    /// A page is empty where there must be WAL: nothing was written here, or a hole replaced it.
    #[error("the page header at offset {offset} is all zeros")]
    ZeroPage {
        /// Where the page begins.
        offset: u64,
    },
    /// A page does not begin with the expected magic.
    #[error("the page at offset {offset} has magic 0x{found:04X} where 0x{expected:04X} is expected")]
    BadMagic {
        /// Where the page begins.
        offset: u64,
        /// The magic of the expected version or of the first page.
        expected: u16,
        /// What stands there.
        found: u16,
    },
    /// The first page's magic belongs to no version this program can read.
    #[error("the first page has magic 0x{found:04X}, which is not that of a known PostgreSQL version")]
    UnknownMagic {
        /// What stands there.
        found: u16,
    },
    /// The segment was written on a machine of the other byte order.
    #[error("the WAL is in big-endian byte order, which is not supported (magic 0x{found:04X})")]
    OtherByteOrder {
        /// What stands there, read as little-endian.
        found: u16,
    },
    /// A page header has flags that do not exist, or lacks one that must be set.
    #[error("the page header at offset {offset} has impossible flags 0x{found:04X}")]
    BadFlags {
        /// Where the page begins.
        offset: u64,
        /// `xlp_info`.
        found: u16,
    },
    /// The segment belongs to another cluster.
    #[error("the WAL belongs to system {found} where system {expected} is expected (offset {offset})")]
    WrongSystem {
        /// Where the page begins.
        offset: u64,
        /// The cluster it should come from.
        expected: SystemId,
        /// The cluster it names.
        found: SystemId,
    },
    /// A page says that it belongs elsewhere in the log: a misnamed or recycled file.
    #[error("the page at offset {offset} belongs to position {found} where {expected} is expected")]
    WrongAddress {
        /// Where the page begins.
        offset: u64,
        /// The position that follows from the name.
        expected: Lsn,
        /// `xlp_pageaddr`.
        found: Lsn,
    },
    /// The header names another segment size.
    #[error(
        "the header names a segment size of {found} bytes where {expected} are expected (offset {offset})"
    )]
    WrongSegmentSize {
        /// Where the page begins.
        offset: u64,
        /// The segment size of the cluster.
        expected: u64,
        /// `xlp_seg_size`.
        found: u64,
    },
    /// The header names another, or an impossible, page size.
    #[error(
        "the header names a WAL page size of {found} bytes where {expected} are expected (offset {offset})"
    )]
    WrongBlockSize {
        /// Where the page begins.
        offset: u64,
        /// The page size of the cluster, or the usual one when any was allowed.
        expected: u32,
        /// `xlp_xlog_blcksz`.
        found: u32,
    },
    /// A page's timeline is lower than that of a page before it.
    #[error("the page at offset {offset} is of timeline {found}, after pages of timeline {expected}")]
    TimelineDecreases {
        /// Where the page begins.
        offset: u64,
        /// The timeline of the page before.
        expected: Timeline,
        /// `xlp_tli`.
        found: u32,
    },
    /// A page's timeline is neither the name's nor an ancestor of it.
    #[error(
        "the page at offset {offset} is of timeline {found}, which is not in the history of timeline {expected}"
    )]
    ForeignTimeline {
        /// Where the page begins.
        offset: u64,
        /// The timeline in the name.
        expected: Timeline,
        /// `xlp_tli`.
        found: u32,
    },
    /// A page does not go on with the record that the page before began.
    #[error("the page at offset {offset} has {found} bytes left of a record where {expected} are expected")]
    WrongContinuation {
        /// Where the page begins.
        offset: u64,
        /// Bytes left of the record; 0 when no record is open.
        expected: u32,
        /// `xlp_rem_len`, or 0 when the page does not begin with the rest of a record.
        found: u32,
    },
    /// Zeros where a record must begin: the server wrote no further.
    #[error(
        "the WAL ends at offset {offset} with zeros where a record must begin, and no segment switch precedes them"
    )]
    ZeroRecord {
        /// Where the record should begin.
        offset: u64,
    },
    /// A record has a length that no record can have.
    #[error("the record at offset {offset} has the impossible length {found}")]
    BadRecordLength {
        /// Where the record begins.
        offset: u64,
        /// `xl_tot_len`.
        found: u32,
    },
    /// A record does not point back to the record before it: old recycled bytes, or a hole.
    #[error("the record at offset {offset} points back to {found} where {expected} is expected")]
    WrongPrevious {
        /// Where the record begins.
        offset: u64,
        /// Where the record before begins; for the first record of a segment, a position it must lie before.
        expected: Lsn,
        /// `xl_prev`.
        found: Lsn,
    },
    /// A record's content does not match its CRC.
    #[error("the record at offset {offset} has CRC 0x{expected:08X} but its content gives 0x{found:08X}")]
    BadRecordCrc {
        /// Where the record begins.
        offset: u64,
        /// `xl_crc`.
        expected: u32,
        /// The CRC-32C of the content.
        found: u32,
    },
}
