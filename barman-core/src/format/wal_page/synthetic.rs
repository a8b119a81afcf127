//! For tests only: well-formed WAL made from nothing, in memory.
//!
//! ```text
//! segment 5                                   segment 6
//! ┌────┬──────────┬────┬─────────────────┐    ┌────┬──────────
//! │long│ rec  rec │shrt│ rec  rec  rec   │ …  │long│ rec …
//! └────┴──────────┴────┴─────────────────┘    └────┴──────────
//!       └ xl_prev ◄──────────┘
//! ```
//!
//! Records are `XLOG_NOOP` with a body of the wanted length and a right CRC, which `pg_waldump` reads and a server would
//! replay without effect. [`segment`] gives one full segment from five facts; [`WalWriter`] gives whole streams with
//! timeline changes, segment switches, crashed records and short ends.

use crc32c::{crc32c, crc32c_append};

use super::{
    DEFAULT_BLOCK_SIZE, FIRST_IS_CONTRECORD, HAS_LONG_HEADER, LONG_HEADER, MAGICS, OVERWRITES_CONTRECORD,
    RECORD_HEADER, SHORT_HEADER, magic_of_version,
};
use crate::model::{Lsn, PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};

const BLOCK: u64 = DEFAULT_BLOCK_SIZE as u64;
const NOOP: u8 = 0x20;
const SWITCH: u8 = 0x40;
/// The record that fills the last page of a segment made by [`segment`].
const LAST_RECORD: u64 = BLOCK - SHORT_HEADER as u64;

/// A full, sound segment: records of varying lengths and contents, the last of which ends where the segment does, so
/// that segments of consecutive numbers form one stream. The content depends only on the arguments.
///
/// An unknown version is taken for the newest one.
pub fn segment(
    timeline: Timeline,
    number: SegmentNo,
    size: SegmentSize,
    system_id: SystemId,
    version: PgVersion,
) -> Vec<u8> {
    let mut wal = WalWriter::new(timeline, number, size, system_id, version);
    fill(&mut wal, size.bytes() - BLOCK);
    wal.record_of((LAST_RECORD as usize).min(wal.room_in_segment() as usize));
    wal.finish()
}

/// A sound segment that was ended early by `pg_switch_wal()` after about `used` bytes; the rest is zeros, as since
/// PostgreSQL 11.
pub fn switched_segment(
    timeline: Timeline,
    number: SegmentNo,
    size: SegmentSize,
    system_id: SystemId,
    version: PgVersion,
    used: u64,
) -> Vec<u8> {
    let mut wal = WalWriter::new(timeline, number, size, system_id, version);
    fill(&mut wal, used.min(size.bytes() - 2 * BLOCK));
    wal.switch();
    wal.finish()
}

/// Writes records until at least `until` bytes of the segment are used, with the last one ending exactly at the end of
/// a page if `until` is one.
fn fill(wal: &mut WalWriter, until: u64) {
    let mut seed = wal.lsn.get() ^ 0x9E37_79B9_7F4A_7C15;
    loop {
        let at = wal.lsn.get() - wal.start;
        if at >= until {
            return;
        }
        // Payload bytes left before `until`.
        let pages = (until - 1) / BLOCK - at / BLOCK;
        let first = if at == 0 { LONG_HEADER } else { SHORT_HEADER } as u64;
        let here = if at.is_multiple_of(BLOCK) { first } else { 0 };
        let left = until - at - pages * SHORT_HEADER as u64 - here;
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wish = match seed >> 60 {
            0 => 8000 + (seed >> 32) % 9000,
            1..4 => 200 + (seed >> 32) % 1500,
            _ => 30 + (seed >> 32) % 120,
        };
        // Leave nothing, or enough for one more record.
        let length = if wish + 40 > left { left } else { wish };
        wal.record_of(length as usize);
    }
}

/// Writes WAL from the beginning of a segment onwards.
#[derive(Debug, Clone)]
pub struct WalWriter {
    timeline: Timeline,
    system_id: SystemId,
    magic: u16,
    size: SegmentSize,
    /// Position of `out`'s first byte.
    start: u64,
    lsn: Lsn,
    previous: u64,
    xid: u32,
    out: Vec<u8>,
}

impl WalWriter {
    /// Starts at the beginning of this segment, as if the one before had been made by [`segment`].
    pub fn new(
        timeline: Timeline,
        number: SegmentNo,
        size: SegmentSize,
        system_id: SystemId,
        version: PgVersion,
    ) -> Self {
        let start = number.get() * size.bytes();
        let newest = MAGICS.iter().map(|(magic, _)| *magic).max().unwrap_or_default();
        Self {
            timeline,
            system_id,
            magic: magic_of_version(version).unwrap_or(newest),
            size,
            start,
            lsn: Lsn::new(start),
            previous: start.saturating_sub(LAST_RECORD),
            xid: 700,
            out: Vec::with_capacity(size.bytes() as usize),
        }
    }

    /// Where the next byte goes.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Where the last record begins.
    pub fn last_record(&self) -> Lsn {
        Lsn::new(self.previous)
    }

    /// Pages that begin from now on are of this timeline.
    pub fn set_timeline(&mut self, timeline: Timeline) {
        self.timeline = timeline;
    }

    /// Payload bytes (page headers not counted) up to the end of the segment.
    pub fn room_in_segment(&self) -> u64 {
        let at = self.lsn.offset(self.size);
        let pages = (self.size.bytes() - 1) / BLOCK - at / BLOCK;
        let first = if at == 0 { LONG_HEADER } else { SHORT_HEADER } as u64;
        let here = if at.is_multiple_of(BLOCK) { first } else { 0 };
        self.size.bytes() - at - pages * SHORT_HEADER as u64 - here
    }

    /// Appends an `XLOG_NOOP` record of so many bytes, header included (at least 26), and its padding.
    pub fn record_of(&mut self, length: usize) -> Lsn {
        let body = length.saturating_sub(RECORD_HEADER).max(2);
        // Main data of the record, with its block id and length (xlogrecord.h).
        let mut data = Vec::with_capacity(body);
        if body <= 2 + 255 {
            data.extend([255, (body - 2) as u8]);
        } else {
            data.push(254);
            data.extend(((body - 5) as u32).to_le_bytes());
        }
        let text = format!("record at {} of {length} bytes; ", self.lsn);
        data.extend(text.bytes().cycle().take(body - data.len()));
        self.record(0, NOOP, &data)
    }

    /// Appends a record of this resource manager, kind and body; returns where it begins.
    pub fn record(&mut self, rmid: u8, info: u8, body: &[u8]) -> Lsn {
        let record = self.build(rmid, info, body);
        self.begin_page(0);
        let begun = self.lsn;
        self.emit(&record, record.len());
        while !self.lsn.get().is_multiple_of(8) {
            self.out.push(0);
            self.lsn = Lsn::new(self.lsn.get() + 1);
        }
        self.previous = begun.get();
        begun
    }

    /// Appends an `XLOG_SWITCH` record and zeros to the end of the segment; returns where the record begins.
    pub fn switch(&mut self) -> Lsn {
        let begun = self.record(0, SWITCH, &[]);
        let left = (self.size.bytes() - self.lsn.offset(self.size)) % self.size.bytes();
        self.out.resize(self.out.len() + left as usize, 0);
        self.lsn = Lsn::new(self.lsn.get() + left);
        begun
    }

    /// Begins a record of `length` bytes that never gets further than the end of the current page: the server crashed,
    /// and the next page tells so (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
    pub fn crashed_record(&mut self, length: usize) {
        let body = vec![0x5A; length.saturating_sub(RECORD_HEADER)];
        let record = self.build(0, NOOP, &body);
        self.begin_page(0);
        let room = (BLOCK - self.lsn.get() % BLOCK) as usize;
        self.emit(&record[..room.min(record.len())], record.len());
        self.header(0, OVERWRITES_CONTRECORD);
    }

    /// The bytes written, filled with zeros to the end of the segment that was begun last.
    pub fn finish(mut self) -> Vec<u8> {
        let size = self.size.bytes() as usize;
        self.out.resize(self.out.len().next_multiple_of(size).max(size), 0);
        self.out
    }

    fn build(&mut self, rmid: u8, info: u8, body: &[u8]) -> Vec<u8> {
        self.xid += 1;
        let mut record = Vec::with_capacity(RECORD_HEADER + body.len());
        record.extend(((RECORD_HEADER + body.len()) as u32).to_le_bytes());
        record.extend(self.xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, rmid, 0, 0]);
        let crc = crc32c_append(crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        record
    }

    /// Writes these bytes of a record of `total` bytes, with page headers where they are due.
    fn emit(&mut self, mut bytes: &[u8], total: usize) {
        let mut written = 0;
        while !bytes.is_empty() {
            self.begin_page((total - written) as u32 * u32::from(written > 0));
            let room = (BLOCK - self.lsn.get() % BLOCK) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.out.extend(now);
            self.lsn = Lsn::new(self.lsn.get() + now.len() as u64);
            written += now.len();
            bytes = later;
        }
    }

    /// A page header if the position is at the beginning of a page.
    fn begin_page(&mut self, remaining: u32) {
        if self.lsn.get().is_multiple_of(BLOCK) {
            self.header(remaining, 0);
        }
    }

    fn header(&mut self, remaining: u32, flags: u16) {
        let long = self.lsn.offset(self.size) == 0;
        let mut info = flags;
        info |= if remaining > 0 { FIRST_IS_CONTRECORD } else { 0 };
        info |= if long { HAS_LONG_HEADER } else { 0 };
        self.out.extend(self.magic.to_le_bytes());
        self.out.extend(info.to_le_bytes());
        self.out.extend(self.timeline.get().to_le_bytes());
        self.out.extend(self.lsn.get().to_le_bytes());
        self.out.extend(remaining.to_le_bytes());
        self.out.extend([0; 4]);
        if long {
            self.out.extend(self.system_id.get().to_le_bytes());
            self.out.extend((self.size.bytes() as u32).to_le_bytes());
            self.out.extend(DEFAULT_BLOCK_SIZE.to_le_bytes());
        }
        let length = if long { LONG_HEADER } else { SHORT_HEADER };
        self.lsn = Lsn::new(self.lsn.get() + length as u64);
    }
}
