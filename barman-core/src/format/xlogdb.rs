//! `xlog.db`, the index of an archive: one line for each archived file.
//!
//! `name TAB size TAB mtime TAB compression TAB encryption LF`, appended in the order of archival. Older versions of
//! Barman wrote three or four columns. The reader streams over a buffer without allocating and hands bad lines on
//! instead of stopping at them: one damaged line must not hide a hundred thousand good ones.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::pyliteral;
use crate::model::{FileTime, SegmentName, Timeline, WalFileName};

/// What the index knows of one archived file.
#[derive(Debug, Clone, PartialEq)]
pub struct XlogLine<'a> {
    /// The name.
    pub name: WalFileName,
    /// Bytes as stored, that is after compression and encryption.
    pub size: u64,
    /// Time of last modification of the original file, in seconds since the epoch, as Python holds it.
    pub mtime: f64,
    /// The codec it was stored with, if any; unknown for encrypted files of a rebuilt index.
    pub compression: Option<Cow<'a, str>>,
    /// `gpg`, if encrypted.
    pub encryption: Option<Cow<'a, str>>,
}

impl XlogLine<'_> {
    /// The same facts, independent of the buffer they were read from.
    pub fn into_owned(self) -> XlogLine<'static> {
        XlogLine {
            name: self.name,
            size: self.size,
            mtime: self.mtime,
            compression: self.compression.map(|c| Cow::Owned(c.into_owned())),
            encryption: self.encryption.map(|c| Cow::Owned(c.into_owned())),
        }
    }

    /// Appends the line, with its line end, as Barman writes it.
    pub fn write_to(&self, out: &mut String) {
        let _ = write!(out, "{}\t{}\t", self.name, self.size);
        pyliteral::write_float(out, self.mtime);
        let compression = self.compression.as_deref().unwrap_or("None");
        let encryption = self.encryption.as_deref().unwrap_or("None");
        let _ = writeln!(out, "\t{compression}\t{encryption}");
    }
}

/// A file time as Python's `os.stat` gives it: seconds as a float (CPython, `posixmodule.c`: `sec + 1e-9*nsec`).
pub fn python_mtime(time: FileTime) -> f64 {
    time.seconds as f64 + 1e-9 * f64::from(time.nanos)
}

/// Why a line is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// Fewer than three or more than five columns.
    #[error("the line of the WAL index has not three to five columns")]
    Columns,
    /// The first column names no WAL file.
    #[error("the first column of the line of the WAL index is not the name of a WAL file")]
    Name,
    /// The second column is no number of bytes.
    #[error("the second column of the line of the WAL index is not a size")]
    Size,
    /// The third column is no time.
    #[error("the third column of the line of the WAL index is not a time")]
    Time,
    /// It is not UTF-8.
    #[error("the line of the WAL index is not text")]
    NotText,
}

/// One line of an index, good or bad, with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Line<'a> {
    /// Offset of its first byte in the buffer.
    pub offset: usize,
    /// The line without its end.
    pub raw: &'a [u8],
    /// Whether a line end follows. A last line without one was cut by a crash while it was written: its mtime may have
    /// lost digits even when it can be read.
    pub terminated: bool,
    /// What it says.
    pub parsed: Result<XlogLine<'a>, LineFault>,
}

/// The lines of an index in their order; blank ones are skipped.
pub fn lines(buffer: &[u8]) -> Lines<'_> {
    Lines { buffer, offset: 0 }
}

/// Iterator of [`lines`].
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    buffer: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        loop {
            let offset = self.offset;
            let rest = self.buffer.get(offset..).filter(|rest| !rest.is_empty())?;
            let (raw, terminated) = match memchr::memchr(b'\n', rest) {
                Some(end) => (rest.get(..end).unwrap_or_default(), true),
                None => (rest, false),
            };
            self.offset += raw.len() + usize::from(terminated);
            if !raw.trim_ascii().is_empty() {
                return Some(Line { offset, raw, terminated, parsed: parse_line(raw) });
            }
        }
    }
}

/// Reads one line (without its end): three, four or five columns divided by blanks.
pub fn parse_line(raw: &[u8]) -> Result<XlogLine<'_>, LineFault> {
    if let Some(line) = usual(raw) {
        return Ok(line);
    }
    let text = std::str::from_utf8(raw).map_err(|_| LineFault::NotText)?;
    let mut columns = text.split_ascii_whitespace();
    let (Some(name), Some(size), Some(mtime)) = (columns.next(), columns.next(), columns.next()) else {
        return Err(LineFault::Columns);
    };
    let mut optional = || columns.next().filter(|word| *word != "None").map(Cow::Borrowed);
    let (compression, encryption) = (optional(), optional());
    if columns.next().is_some() {
        return Err(LineFault::Columns);
    }
    let decimal = mtime.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e'));
    Ok(XlogLine {
        name: name.parse().map_err(|_| LineFault::Name)?,
        size: size.parse().map_err(|_| LineFault::Size)?,
        mtime: decimal
            .then(|| mtime.parse().ok())
            .flatten()
            .filter(|m: &f64| m.is_finite())
            .ok_or(LineFault::Time)?,
        compression,
        encryption,
    })
}

/// What nearly every line is: a whole segment and five columns divided by single tabs, as Barman writes them. Anything else,
/// good or bad, goes the long way.
fn usual(raw: &[u8]) -> Option<XlogLine<'_>> {
    let (name, rest) = raw.split_first_chunk::<24>()?;
    let rest = rest.strip_prefix(b"\t")?;
    let (size, rest) = split_tab(rest)?;
    let (mtime, rest) = split_tab(rest)?;
    let (compression, encryption) = split_tab(rest)?;
    Some(XlogLine {
        name: segment(name)?,
        size: digits(size)?,
        mtime: seconds(mtime)?,
        compression: word(compression)?,
        encryption: word(encryption)?,
    })
}

fn split_tab(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == b'\t')?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

fn segment(name: &[u8; 24]) -> Option<WalFileName> {
    let mut parts = [0u32; 3];
    // Bits above the lower four: something was no digit.
    let mut odd = 0;
    for (part, digits) in parts.iter_mut().zip(name.as_chunks::<8>().0) {
        for digit in digits {
            let value = HEX[usize::from(*digit)];
            odd |= value;
            *part = *part << 4 | u32::from(value & 0xF);
        }
    }
    let [timeline, log, segment] = parts;
    if odd > 0xF {
        return None;
    }
    Some(WalFileName::Segment(SegmentName { timeline: Timeline::new(timeline)?, log, segment }))
}

/// The value of each byte as a hexadecimal digit, 0xFF for what is none.
const HEX: [u8; 256] = {
    let mut table = [0xFF; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        table[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// Eighteen digits always fit.
fn digits(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    plain.then(|| text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// A decimal fraction. Where all its digits together are a whole number below 2^53 and the power of ten below 10^23, both are
/// exact, and so the one division rounds as the standard wants it (Clinger 1990, the short way of every `strtod`).
fn seconds(text: &[u8]) -> Option<f64> {
    let point = text.iter().position(|b| *b == b'.')?;
    let (whole, fraction) = (text.get(..point)?, text.get(point + 1..)?);
    // Where all digits together and the power of ten are exact as doubles, one division rounds as the long way does.
    if whole.len() + fraction.len() <= 18 && !fraction.is_empty() {
        let scale = fraction.iter().fold(1u64, |scale, _| scale * 10);
        let all = digits(whole)? * scale + digits(fraction)?;
        if all <= EXACT && scale <= EXACT {
            return Some(all as f64 / scale as f64);
        }
    }
    let decimal = text.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    decimal.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten().filter(|m: &f64| m.is_finite())
}

/// Every whole number up to this is a double.
const EXACT: u64 = 1 << f64::MANTISSA_DIGITS;

fn word(text: &[u8]) -> Option<Option<Cow<'_, str>>> {
    match text {
        b"None" => Some(None),
        b"" => None,
        _ if text.iter().all(u8::is_ascii_graphic) => std::str::from_utf8(text).ok().map(|w| Some(w.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &str = "000000010000000000000008\t16518\t1795383933.2333202\tgzip\tNone\n\
                          000000010000000000000022\t16879\t1795384852.977281\tgzip\tgpg\n\
                          00000002.history\t81\t1795384945.197277\tNone\tNone\n\
                          000000010000000000000008.00000028.backup\t351\t1795384342.0\tNone\tNone\n\
                          0000000A00000001000000FE.partial\t16777216\t1e-05\tNone\tNone\n";

    #[test]
    fn what_barman_wrote_survives_byte_for_byte() {
        let mut out = String::new();
        for line in lines(SAMPLE.as_bytes()) {
            assert!(line.terminated);
            line.parsed.unwrap().write_to(&mut out);
        }
        assert_eq!(out, SAMPLE);
    }

    #[test]
    fn older_files_have_fewer_columns() {
        for (text, compression, encryption) in [
            ("000000010000000000000008 16518 1795383933", None, None),
            ("000000010000000000000008\t16518\t1795383933.5\tgzip", Some("gzip"), None),
            ("000000010000000000000008\t16518\t1795383933.5\tNone", None, None),
            ("  000000010000000000000008   16518\t1.5 bzip2 gpg \r", Some("bzip2"), Some("gpg")),
        ] {
            let line = parse_line(text.as_bytes()).unwrap();
            assert_eq!((line.compression.as_deref(), line.encryption.as_deref()), (compression, encryption));
            assert_eq!(line.size, 16518);
        }
    }

    #[test]
    fn a_bad_line_hides_no_good_one() {
        let text = format!("\n{SAMPLE}garbage\n\n{SAMPLE}00000001");
        let all: Vec<Line<'_>> = lines(text.as_bytes()).collect();
        assert_eq!(all.len(), 12);
        assert_eq!(all.iter().filter(|l| l.parsed.is_ok()).count(), 10);
        assert_eq!(all[5].raw, b"garbage");
        assert_eq!(all[5].offset, 1 + SAMPLE.len());
        assert_eq!((all[11].terminated, all[11].parsed.clone()), (false, Err(LineFault::Columns)));
        for line in &all {
            assert_eq!(&text.as_bytes()[line.offset..line.offset + line.raw.len()], line.raw);
        }
    }

    #[test]
    fn faults_are_named() {
        for (text, fault) in [
            (&b"000000010000000000000008 1"[..], LineFault::Columns),
            (b"000000010000000000000008 1 2 None None x", LineFault::Columns),
            (b"0000000100000000000000 1 2", LineFault::Name),
            (b"../../etc/passwd 1 2", LineFault::Name),
            (b"000000010000000000000008 -1 2", LineFault::Size),
            (b"000000010000000000000008 1.5 2", LineFault::Size),
            (b"000000010000000000000008 1 now", LineFault::Time),
            (b"000000010000000000000008 1 nan", LineFault::Time),
            (b"000000010000000000000008 1 1e999", LineFault::Time),
            (b"000000010000000000000008 1 \xFF", LineFault::NotText),
        ] {
            assert_eq!(parse_line(text), Err(fault), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn file_times_as_python_sees_them() {
        // Made with Python: os.utime(ns=…), os.stat().st_mtime.
        for (seconds, nanos, mtime) in [
            (1_795_383_933, 233_320_200, 1_795_383_933.233_320_2),
            (1_795_384_342, 0, 1_795_384_342.0),
            (1_795_384_852, 977_281_123, 1_795_384_852.977_281),
        ] {
            let float = python_mtime(FileTime { seconds, nanos });
            assert!((float - mtime).abs() < 3e-7, "{float}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(log: u32, segment: u32, size: u64, mtime in -1e12f64..1e12, packed: bool) {
            let name = format!("00000001{log:08X}{segment:08X}").parse().unwrap();
            let compression = packed.then_some(Cow::Borrowed("zstd"));
            let line = XlogLine { name, size, mtime, compression, encryption: None };
            let mut out = String::new();
            line.write_to(&mut out);
            prop_assert_eq!(lines(out.as_bytes()).next().unwrap().parsed, Ok(line));
        }

        #[test]
        fn the_short_way_and_the_long_way_agree(
            text in "0000000[12][0-9A-Fa-f]{16}\t[0-9]{1,20}\t[0-9]{1,12}(\\.[0-9]{0,9})?\t(None|gzip|x\u{e9}|)\t(None|gpg| )"
        ) {
            let short = parse_line(text.as_bytes());
            // A blank before the line is no part of it, and not what Barman writes.
            let long = format!(" {text}");
            prop_assert_eq!(short, parse_line(long.as_bytes()));
        }

        #[test]
        fn times_round_as_the_standard_library_rounds(whole in 0u64..3_000_000_000, fraction in "[0-9]{1,10}") {
            let text = format!("{whole}.{fraction}");
            prop_assert_eq!(seconds(text.as_bytes()), text.parse().ok());
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let total: usize = lines(&bytes).map(|l| l.raw.len()).sum();
            prop_assert!(total <= bytes.len());
        }
    }
}
