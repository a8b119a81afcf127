//! [`Validator`]: judges a WAL segment that arrives in pieces, in constant memory.

use crc32c::crc32c_append;

use super::{
    ALL_FLAGS, Completeness, DEFAULT_BLOCK_SIZE, Expectations, FIRST_IS_CONTRECORD, FirstPage,
    HAS_LONG_HEADER, KEPT, LONG_HEADER, OVERWRITES_CONTRECORD, PageHeader, RECORD_HEADER, SHORT_HEADER,
    SegmentFacts, Unsound, magic_of_version, major_of_magic,
};
use crate::format::wal_record::{Landmark, is_landmark, landmark};
use crate::model::{Lsn, SystemId, Timeline};

/// No record may be longer than this (`XLogRecordMaxSize` since 16, the limit of an allocation before).
const LONGEST_RECORD: u32 = 1 << 30;
/// `XLOG_SWITCH` in `xl_info` (`pg_control.h`), beneath the bits of `~XLR_INFO_MASK`.
const SWITCH: u8 = 0x40;
/// First magic of the versions whose `XLP_FIRST_IS_OVERWRITE_CONTRECORD` is 0x0004 (19, where `XLP_BKP_REMOVABLE` is
/// gone).
const MAGIC_OF_19: u16 = 0xD120;

/// Takes the plain bytes of one segment in order and says at the end whether they are what the name promises.
///
/// The first problem is kept and everything after it is only counted, so that a caller can push to the end and ask
/// once. Memory is constant; pieces may have any size.
#[derive(Debug, Clone)]
pub struct Validator {
    expect: Expectations,
    /// Position of the file's first byte in the log.
    start: u64,
    /// Bytes understood so far. Everything below is about the byte at this offset.
    taken: u64,
    /// Bytes pushed so far.
    length: u64,
    /// The first problem, or that the name is impossible.
    problem: Option<Unsound>,
    /// After a problem or a switch record nothing more is read.
    done: bool,

    /// The first page, once its header was found good.
    first: Option<FirstPage>,
    last_timeline: Timeline,
    block: u64,
    /// Whether the next byte belongs to a page header, of which `page[..page_have]` is already here.
    in_page_header: bool,
    page: [u8; LONG_HEADER],
    page_have: usize,

    /// Bytes left of the open record, its header included; 0 when none is open.
    left: u32,
    /// How much of `head` is filled: 0 between records, all of it once the header was checked.
    head: [u8; RECORD_HEADER],
    have: usize,
    /// Offset of the open record.
    begun: u64,
    /// The open record began in an earlier segment.
    carried: bool,
    /// The carried record's last bytes may be the end of a header (see [`Self::ends_in_carried_switch`]).
    carried_tail: u32,
    crc: u32,
    /// Position of the last complete record, `None` before the first.
    previous: Option<u64>,

    records: u64,
    switch_at: Option<Lsn>,
    valid_until: u64,

    /// What was found by which people find their way; `None` where nobody asks.
    found: Option<Found>,
}

/// See [`SegmentFacts::landmarks`].
#[derive(Debug, Clone, Default)]
struct Found {
    landmarks: Vec<Landmark>,
    carried: Vec<u8>,
    /// The body of the open record, as far as it is kept.
    body: Vec<u8>,
    /// Whether the open record is one of those.
    open: bool,
}

/// A transaction that drops thousands of relations has a long end.
const LONGEST_BODY: usize = 256 << 10;

impl Validator {
    /// A validator for one segment. An impossible name is reported by [`Self::finish`].
    pub fn new(expectations: Expectations) -> Self {
        let size = expectations.size;
        let start = expectations.name.start(size).filter(|at| at.checked_add(size.bytes()).is_some());
        let problem = match start {
            Some(_) => None,
            None => Some(Unsound::ImpossibleName { name: expectations.name, size }),
        };
        let start = start.unwrap_or_default().get();
        Self {
            start,
            taken: 0,
            length: 0,
            done: problem.is_some(),
            problem,
            first: None,
            last_timeline: expectations.name.timeline,
            block: u64::from(DEFAULT_BLOCK_SIZE),
            in_page_header: true,
            page: [0; LONG_HEADER],
            page_have: 0,
            left: 0,
            head: [0; RECORD_HEADER],
            have: 0,
            begun: 0,
            carried: false,
            carried_tail: 0,
            crc: 0,
            previous: None,
            records: 0,
            switch_at: None,
            valid_until: start,
            expect: expectations,
            found: None,
        }
    }

    /// Collects landmarks on the way.
    #[must_use]
    pub fn with_landmarks(mut self) -> Self {
        self.found = Some(Found::default());
        self
    }

    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) -> &mut Self {
        self.length = self.length.saturating_add(bytes.len() as u64);
        let room = self.expect.size.bytes().saturating_sub(self.taken + self.page_have as u64);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let mut rest = bytes.get(..room).unwrap_or(bytes);
        while !rest.is_empty() && !self.done {
            let used = if self.in_page_header { self.page_header(rest) } else { self.payload(rest) };
            match used {
                Ok(used) => rest = rest.get(used..).unwrap_or_default(),
                Err(problem) => {
                    self.problem = Some(problem);
                    self.done = true;
                }
            }
        }
        self
    }

    /// The first problem met so far; for a `.partial` this may be nothing but the end of its valid part.
    pub fn problem(&self) -> Option<&Unsound> {
        self.problem.as_ref()
    }

    /// The verdict, after the last byte.
    ///
    /// # Errors
    /// The first problem in the file, else [`Unsound::TooShort`] or [`Unsound::TooLong`]. A `.partial` fails only when
    /// its first page header is bad or missing, or when it is longer than a segment.
    pub fn finish(self) -> Result<SegmentFacts, Unsound> {
        let partial = self.expect.completeness == Completeness::Partial;
        let size = self.expect.size.bytes();
        let Some(first) = self.first else {
            if self.problem.is_none() && self.page_have >= 2 {
                self.check_first_magic(u16::from_le_bytes([self.page[0], self.page[1]]), false)?;
            }
            return Err(self.problem.unwrap_or(Unsound::TooShort { expected: size, found: self.length }));
        };
        if !partial && let Some(problem) = self.problem {
            return Err(problem);
        }
        if self.length > size {
            return Err(Unsound::TooLong { expected: size, found: self.length });
        }
        if !partial && self.length < size {
            return Err(Unsound::TooShort { expected: size, found: self.length });
        }
        let whole = self.taken == size && self.switch_at.is_none();
        let tail = self.tail();
        let Found { landmarks, carried, .. } = self.found.unwrap_or_default();
        let valid_until = if whole { self.start + size } else { self.valid_until };
        Ok(SegmentFacts {
            system_id: first.system_id,
            magic: first.page.magic,
            major: major_of_magic(first.page.magic),
            first_timeline: first.timeline().unwrap_or(self.last_timeline),
            last_timeline: self.last_timeline,
            switch_at: self.switch_at,
            valid_until: Lsn::new(valid_until),
            last_record: self.previous.filter(|at| *at >= self.start).map(Lsn::new),
            records: self.records,
            landmarks,
            tail,
            carried,
            ended_by: self.problem,
        })
    }

    /// The record that is open at the end of the segment, where it may be a landmark that is not known yet.
    fn tail(&self) -> Option<(Lsn, Vec<u8>)> {
        let found = self.found.as_ref()?;
        let header = self.have == RECORD_HEADER;
        if self.carried || self.have == 0 || (header && (self.left == 0 || !found.open)) {
            return None;
        }
        let begun = Lsn::new(self.start + self.begun);
        if found.landmarks.last().is_some_and(|known| known.lsn == begun) {
            return None;
        }
        let mut bytes = self.head.get(..self.have).unwrap_or_default().to_vec();
        bytes.extend(found.body.iter().take(KEPT - RECORD_HEADER));
        Some((begun, bytes))
    }

    /// A record that begins at this offset is complete, or what is at hand of it is all that will come.
    fn landmark(&mut self, header: &[u8; RECORD_HEADER], body: &[u8], offset: u64) {
        let major = self.first.and_then(|first| major_of_magic(first.page.magic));
        if let Some(found) = &mut self.found
            && let Some(landmark) = landmark(Lsn::new(self.start + offset), header, body, major)
        {
            found.landmarks.push(landmark);
        }
    }

    /// Collects a page header; returns how many bytes it used.
    fn page_header(&mut self, bytes: &[u8]) -> Result<usize, Unsound> {
        let need = |have: usize, page: &[u8; LONG_HEADER]| {
            let long = have >= SHORT_HEADER && page[2] & HAS_LONG_HEADER as u8 != 0;
            if long { LONG_HEADER } else { SHORT_HEADER }
        };
        let mut used = 0;
        loop {
            let want = need(self.page_have, &self.page);
            if self.page_have == want {
                break;
            }
            let from = bytes.get(used..).unwrap_or_default();
            if from.is_empty() {
                return Ok(used);
            }
            let count = from.len().min(want - self.page_have);
            for (to, byte) in self.page.iter_mut().skip(self.page_have).zip(from.iter().take(count)) {
                *to = *byte;
            }
            self.page_have += count;
            used += count;
        }
        let size = self.page_have as u64;
        self.check_page()?;
        self.page_have = 0;
        self.in_page_header = false;
        // `taken` stood at the beginning of the page until now.
        self.taken += size;
        if self.taken == size {
            self.valid_until = self.start + size;
        }
        Ok(used)
    }

    /// Judges the header in `page`, whose first byte is at `taken`.
    fn check_page(&mut self) -> Result<(), Unsound> {
        let offset = self.taken;
        let short = self.page.get(..self.page_have).unwrap_or_default();
        if short.iter().all(|b| *b == 0) {
            return Err(Unsound::ZeroPage { offset });
        }
        let Some(header) = PageHeader::parse(short) else { return Err(Unsound::ZeroPage { offset }) };
        match &self.first {
            None => self.check_first_magic(header.magic, true)?,
            Some(first) if header.magic != first.page.magic => {
                return Err(Unsound::BadMagic { offset, expected: first.page.magic, found: header.magic });
            }
            Some(_) => {}
        }
        let long = FirstPage::parse(short);
        if header.info & !ALL_FLAGS != 0 || (offset == 0 && long.is_none()) {
            return Err(Unsound::BadFlags { offset, found: header.info });
        }
        if let Some(long) = &long {
            self.check_long(offset, long)?;
        }
        let expected = Lsn::new(self.start + offset);
        if header.address != expected {
            return Err(Unsound::WrongAddress { offset, expected, found: header.address });
        }
        self.check_timeline(offset, header.timeline)?;
        self.continue_record(offset, &header)?;
        if self.first.is_none() {
            self.first = long;
        }
        Ok(())
    }

    /// With `strict` unset a magic of which not everything is known yet is only compared, not looked up.
    fn check_first_magic(&self, found: u16, strict: bool) -> Result<(), Unsound> {
        if let Some(expected) = self.expect.version.and_then(magic_of_version)
            && found != expected
        {
            return Err(Unsound::BadMagic { offset: 0, expected, found });
        }
        match major_of_magic(found) {
            Some(major) if major.num() >= 90_500 => Ok(()),
            _ if major_of_magic(found.swap_bytes()).is_some() => Err(Unsound::OtherByteOrder { found }),
            _ if self.expect.accept_unknown_magic && found != 0 => Ok(()),
            _ if !strict && found == 0 => Ok(()),
            _ => Err(Unsound::UnknownMagic { found }),
        }
    }

    fn check_long(&mut self, offset: u64, long: &FirstPage) -> Result<(), Unsound> {
        let system: Option<SystemId> = self.first.map(|f| f.system_id).or(self.expect.system_id);
        if let Some(expected) = system
            && long.system_id != expected
        {
            return Err(Unsound::WrongSystem { offset, expected, found: long.system_id });
        }
        let (expected, found) = (self.expect.size.bytes(), u64::from(long.segment_size));
        if found != expected {
            return Err(Unsound::WrongSegmentSize { offset, expected, found });
        }
        let found = long.block_size;
        let possible = found.is_power_of_two() && (1 << 10..=1 << 16).contains(&found);
        let expected = self.first.map(|f| f.block_size).or(self.expect.block_size);
        if !possible || expected.is_some_and(|e| e != found) {
            let expected = expected.unwrap_or(DEFAULT_BLOCK_SIZE);
            return Err(Unsound::WrongBlockSize { offset, expected, found });
        }
        self.block = u64::from(found);
        Ok(())
    }

    fn check_timeline(&mut self, offset: u64, found: u32) -> Result<(), Unsound> {
        let own = self.expect.name.timeline;
        let timeline =
            Timeline::new(found).ok_or(Unsound::ForeignTimeline { offset, expected: own, found })?;
        if self.first.is_some() && timeline < self.last_timeline {
            return Err(Unsound::TimelineDecreases { offset, expected: self.last_timeline, found });
        }
        if !self.expect.ancestors.allow(own, timeline) {
            return Err(Unsound::ForeignTimeline { offset, expected: own, found });
        }
        self.last_timeline = timeline;
        Ok(())
    }

    /// Compares what the page says of an open record with what is open.
    fn continue_record(&mut self, offset: u64, header: &PageHeader) -> Result<(), Unsound> {
        let overwrites = if header.magic < MAGIC_OF_19 { OVERWRITES_CONTRECORD } else { 0x0004 };
        let continues = header.info & FIRST_IS_CONTRECORD != 0;
        let found = if continues { header.remaining } else { 0 };
        if self.left > 0 && !continues && header.info & overwrites != 0 {
            // The open record was never finished; the server was told so and goes on here.
            if self.have == RECORD_HEADER && !self.carried {
                self.records = self.records.saturating_sub(1);
            }
            (self.left, self.have, self.carried) = (0, 0, false);
            return Ok(());
        }
        if offset == 0 && continues && found > 0 && found < LONGEST_RECORD {
            (self.left, self.have, self.carried) = (found, RECORD_HEADER, true);
            self.carried_tail = if matches!(found, 8 | 16) { found } else { 0 };
            return Ok(());
        }
        if continues != (self.left > 0) || found != self.left {
            return Err(Unsound::WrongContinuation { offset, expected: self.left, found });
        }
        Ok(())
    }

    /// Walks the records in what these bytes have of the page; returns how many bytes it used.
    fn payload(&mut self, bytes: &[u8]) -> Result<usize, Unsound> {
        let page_end = (self.taken | (self.block - 1)) + 1;
        let count = usize::try_from(page_end - self.taken).unwrap_or(usize::MAX).min(bytes.len());
        let payload = bytes.get(..count).unwrap_or(bytes);
        let base = self.taken;
        let mut at = 0;
        while at < payload.len() && !self.done {
            at = if self.left > 0 && self.have == RECORD_HEADER {
                self.body(payload, base, at)
            } else if self.left > 0 || self.have > 0 {
                self.header(payload, base, at)
            } else if !(base + at as u64).is_multiple_of(8) {
                Ok(at + (8 - (base + at as u64) % 8) as usize)
            } else {
                self.whole_records(payload, base, at)
            }?
            .min(payload.len());
        }
        self.taken = page_end.min(base + payload.len() as u64);
        self.in_page_header = self.taken == page_end;
        Ok(payload.len())
    }

    /// The fast path: records whose header lies whole in `payload`.
    fn whole_records(&mut self, payload: &[u8], base: u64, mut at: usize) -> Result<usize, Unsound> {
        while let Some(header) = payload.get(at..).and_then(|p| p.first_chunk::<RECORD_HEADER>()) {
            let offset = base + at as u64;
            let total = self.check_length(header, offset)?;
            let switch = self.check_header(header, total, offset)?;
            if self.done {
                return Ok(at);
            }
            let end = at + total as usize;
            if end > payload.len() || switch {
                // Finish it on the slow path.
                (self.head, self.have, self.begun) = (*header, RECORD_HEADER, offset);
                (self.left, self.crc) = (total - RECORD_HEADER as u32, 0);
                self.open_landmark();
                if self.left == 0 {
                    self.complete(offset + RECORD_HEADER as u64)?;
                }
                return Ok(at + RECORD_HEADER);
            }
            if self.expect.check_records {
                let body = payload.get(at + RECORD_HEADER..end).unwrap_or_default();
                check_crc(header, crc32c_append(0, body), offset)?;
            }
            if self.found.is_some() && is_landmark(header) {
                self.landmark(header, payload.get(at + RECORD_HEADER..end).unwrap_or_default(), offset);
            }
            self.previous = Some(self.start + offset);
            let end = base + end as u64;
            let end = end + (8 - end % 8) % 8;
            self.valid_until = self.start + end;
            at = (end - base) as usize;
        }
        if at < payload.len() { self.header(payload, base, at) } else { Ok(at) }
    }

    /// Collects a record header that is interrupted by a page or by the end of a piece.
    fn header(&mut self, payload: &[u8], base: u64, at: usize) -> Result<usize, Unsound> {
        if self.have == 0 {
            self.begun = base + at as u64;
        }
        let from = payload.get(at..).unwrap_or_default();
        // The length first: zeros mean the end, whatever follows them.
        let want = if self.have < 4 { 4 } else { RECORD_HEADER };
        let count = from.len().min(want - self.have);
        for (to, byte) in self.head.iter_mut().skip(self.have).zip(from.iter().take(count)) {
            *to = *byte;
        }
        self.have += count;
        if want == 4 {
            if self.have == 4 {
                let head = self.head;
                let total = self.check_length(&head, self.begun)?;
                self.left = total.saturating_sub(4);
            }
        } else {
            self.left = self.left.saturating_sub(count as u32);
            if self.have == RECORD_HEADER {
                let head = self.head;
                self.check_header(&head, self.left + RECORD_HEADER as u32, self.begun)?;
                self.crc = 0;
                self.open_landmark();
                if self.left == 0 {
                    self.complete(base + (at + count) as u64)?;
                }
            }
        }
        Ok(at + count)
    }

    /// The header of the open record is there: is it one of those that are looked for?
    fn open_landmark(&mut self) {
        if let Some(found) = &mut self.found {
            found.body.clear();
            found.open = is_landmark(&self.head);
        }
    }

    /// Passes over the body of the open record.
    fn body(&mut self, payload: &[u8], base: u64, at: usize) -> Result<usize, Unsound> {
        let from = payload.get(at..).unwrap_or_default();
        let part = from.get(..self.left as usize).unwrap_or(from);
        if self.carried && self.carried_tail > 0 {
            let filled = RECORD_HEADER - self.left as usize;
            for (to, byte) in self.head.iter_mut().skip(filled).zip(part) {
                *to = *byte;
            }
        }
        if self.expect.check_records && !self.carried {
            self.crc = crc32c_append(self.crc, part);
        }
        if let Some(found) = &mut self.found {
            let (into, most) = match self.carried {
                true => (&mut found.carried, KEPT),
                false => (&mut found.body, if found.open { LONGEST_BODY } else { 0 }),
            };
            into.extend(part.iter().take(most.saturating_sub(into.len())));
        }
        self.left -= part.len() as u32;
        if self.left == 0 {
            self.complete(base + (at + part.len()) as u64)?;
        }
        Ok(at + part.len())
    }

    /// `xl_tot_len`, when a record can have it. Zeros after the tail of a carried switch record end the segment.
    #[inline]
    fn check_length(&mut self, header: &[u8; RECORD_HEADER], offset: u64) -> Result<u32, Unsound> {
        let total = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        if (RECORD_HEADER as u32..LONGEST_RECORD).contains(&total) {
            return Ok(total);
        }
        if total != 0 {
            return Err(Unsound::BadRecordLength { offset, found: total });
        }
        if self.ends_in_carried_switch() {
            let before = RECORD_HEADER as u64 - u64::from(self.carried_tail);
            self.switch_at = Some(Lsn::new(self.start.saturating_sub(before)));
            self.done = true;
            return Ok(RECORD_HEADER as u32);
        }
        Err(Unsound::ZeroRecord { offset })
    }

    /// Whether the segment begins with the last bytes of a switch record's header and holds nothing else.
    ///
    /// When 8 or 16 bytes are left in a segment, the header of an `XLOG_SWITCH` record reaches into the next one, and it
    /// is that next one which it closes (`ReserveXLogSwitch` in `xlog.c`). Its last eight bytes hold `xl_info` and
    /// `xl_rmid`.
    fn ends_in_carried_switch(&self) -> bool {
        self.records == 0
            && self.carried_tail > 0
            && !self.carried
            && self.left == 0
            // `head` may by now hold the first bytes of the next record's header, but never its last eight.
            && is_switch(&self.head)
    }

    /// Checks a whole record header; says whether it is an `XLOG_SWITCH`.
    #[inline]
    fn check_header(
        &mut self,
        header: &[u8; RECORD_HEADER],
        total: u32,
        offset: u64,
    ) -> Result<bool, Unsound> {
        if self.done {
            return Ok(false);
        }
        let [.., p0, p1, p2, p3, p4, p5, p6, p7, _, _, _, _, _, _, _, _] = *header;
        let found = u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]);
        let good = match self.previous {
            Some(previous) => found == previous,
            // The record before lies in an earlier segment (or nowhere: 0 after initdb and pg_resetwal).
            None => found < self.start.max(1),
        };
        if !good {
            let expected = Lsn::new(self.previous.unwrap_or(self.start));
            return Err(Unsound::WrongPrevious { offset, expected, found: Lsn::new(found) });
        }
        let switch = is_switch(header);
        if switch && total != RECORD_HEADER as u32 {
            return Err(Unsound::BadRecordLength { offset, found: total });
        }
        self.records += 1;
        Ok(switch)
    }

    /// The open record ends at offset `end`.
    fn complete(&mut self, end: u64) -> Result<(), Unsound> {
        if !self.carried {
            if self.expect.check_records {
                check_crc(&self.head, self.crc, self.begun)?;
            }
            self.previous = Some(self.start + self.begun);
            if self.found.as_ref().is_some_and(|found| found.open) {
                let (head, body) = (self.head, self.found.as_mut().map(|f| std::mem::take(&mut f.body)));
                self.landmark(&head, &body.unwrap_or_default(), self.begun);
            }
            if is_switch(&self.head) {
                self.switch_at = Some(Lsn::new(self.start + self.begun));
                self.done = true;
            }
        }
        (self.have, self.carried) = (0, false);
        self.valid_until = self.start + end + (8 - end % 8) % 8;
        Ok(())
    }
}

/// Whether this header is of resource manager `RM_XLOG_ID` (0) and of kind `XLOG_SWITCH`.
fn is_switch(header: &[u8; RECORD_HEADER]) -> bool {
    header[17] == 0 && header[16] & 0xF0 == SWITCH
}

/// Compares `xl_crc` with the CRC of the body, continued over the header up to `xl_crc` itself.
fn check_crc(header: &[u8; RECORD_HEADER], body: u32, offset: u64) -> Result<(), Unsound> {
    let [covered @ .., c0, c1, c2, c3] = header;
    let expected = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
    let found = crc32c_append(body, covered);
    if found == expected { Ok(()) } else { Err(Unsound::BadRecordCrc { offset, expected, found }) }
}
