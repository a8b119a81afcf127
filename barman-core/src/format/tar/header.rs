//! One 512-byte header block, and the records of an extended header.

use super::{BLOCK, TarError};
use crate::model::FileTime;

/// The fields of a header block.
pub(super) struct Block<'a> {
    bytes: &'a [u8; BLOCK],
    offset: u64,
}

impl<'a> Block<'a> {
    /// Takes a block after comparing its checksum. Sums over signed bytes, as old programs made them, are accepted.
    pub(super) fn new(bytes: &'a [u8; BLOCK], offset: u64) -> Result<Self, TarError> {
        let block = Self { bytes, offset };
        let found = block.number(148, 8, "checksum")?;
        let is_sum = |at: usize| (148..156).contains(&at);
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (at, byte) in bytes.iter().enumerate() {
            let byte = if is_sum(at) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte as i8);
        }
        let found = u64::try_from(found).unwrap_or(u64::MAX);
        if found != unsigned && i64::try_from(found) != Ok(signed) {
            return Err(TarError::BadChecksum { offset, expected: unsigned, found });
        }
        Ok(block)
    }

    fn field(&self, at: usize, len: usize) -> &'a [u8] {
        self.bytes.get(at..at + len).unwrap_or_default()
    }

    fn text(&self, at: usize, len: usize) -> &'a [u8] {
        until_nul(self.field(at, len))
    }

    /// An octal number, or a binary one of GNU tar (highest bit of the first byte set).
    fn number(&self, at: usize, len: usize, field: &'static str) -> Result<i128, TarError> {
        let bytes = self.field(at, len);
        let fail = TarError::BadField { offset: self.offset, field };
        match bytes.first() {
            Some(first @ (0x80 | 0xFF)) => {
                let start = if *first == 0xFF { -1 } else { 0 };
                let mut value: i128 = start;
                for byte in bytes.iter().skip(1) {
                    value = value << 8 | i128::from(*byte);
                }
                Ok(value)
            }
            Some(first) if first & 0x80 != 0 => Err(fail),
            _ => {
                let digits = until_nul(bytes).trim_ascii();
                let mut value = 0i128;
                for digit in digits {
                    if !(b'0'..=b'7').contains(digit) {
                        return Err(fail);
                    }
                    value = value << 3 | i128::from(digit - b'0');
                }
                Ok(value)
            }
        }
    }

    fn unsigned(&self, at: usize, len: usize, field: &'static str) -> Result<u64, TarError> {
        let fail = TarError::BadField { offset: self.offset, field };
        u64::try_from(self.number(at, len, field)?).ok().filter(|n| *n <= i64::MAX as u64).ok_or(fail)
    }

    /// The path, with the prefix that ustar (but not GNU) puts before it.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = if self.field(257, 6) == b"ustar\0" { self.text(345, 155) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn mode(&self) -> Result<u32, TarError> {
        Ok((self.number(100, 8, "mode")? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u64, TarError> {
        self.unsigned(108, 8, "owner")
    }

    pub(super) fn gid(&self) -> Result<u64, TarError> {
        self.unsigned(116, 8, "group")
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        self.unsigned(124, 12, "size")
    }

    pub(super) fn mtime(&self) -> Result<FileTime, TarError> {
        let seconds = i64::try_from(self.number(136, 12, "time")?);
        let fail = TarError::BadField { offset: self.offset, field: "time" };
        seconds.map(|seconds| FileTime { seconds, nanos: 0 }).map_err(|_| fail)
    }

    pub(super) fn kind(&self) -> u8 {
        self.bytes[156]
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }
}

/// What an extended header changes in the member that follows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<FileTime>,
    pub(super) sparse: bool,
}

impl Extension {
    /// Reads the records `length SP key=value LF` of an extended header into this one.
    pub(super) fn read(&mut self, mut bytes: &[u8], offset: u64) -> Result<(), TarError> {
        let fail = || TarError::BadField { offset, field: "extended header" };
        while !bytes.is_empty() {
            // Some writers pad with zeros.
            if bytes.iter().all(|b| *b == 0) {
                return Ok(());
            }
            let blank = bytes.iter().position(|b| *b == b' ').ok_or_else(fail)?;
            let length = decimal(bytes.get(..blank).unwrap_or_default()).ok_or_else(fail)?;
            let length = usize::try_from(length).map_err(|_| fail())?;
            let record = bytes.get(blank + 1..length).ok_or_else(fail)?;
            let [record @ .., b'\n'] = record else { return Err(fail()) };
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(fail)?;
            let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..));
            self.set(key, value.unwrap_or_default()).ok_or_else(fail)?;
            bytes = bytes.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        // An empty value takes back what a global header said.
        let number = || if value.is_empty() { Some(None) } else { decimal(value).map(Some) };
        let text = || (!value.is_empty()).then(|| until_nul(value).to_vec());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(seconds(value)?) },
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {}
        }
        Some(())
    }
}

/// Digits only, at most [`i64::MAX`].
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let value = std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
    (value <= i64::MAX as u64).then_some(value)
}

/// `-12.345`: seconds with a fraction, of which nine digits are kept.
fn seconds(text: &[u8]) -> Option<FileTime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let whole = i64::try_from(decimal(text.get(..point)?)?).ok()?;
    let mut nanos = 0u32;
    let fraction = text.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for at in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.get(at).map_or(0, |d| d - b'0'));
    }
    Some(match (negative, nanos) {
        (false, _) => FileTime { seconds: whole, nanos },
        (true, 0) => FileTime { seconds: -whole, nanos },
        (true, _) => FileTime { seconds: -whole - 1, nanos: 1_000_000_000 - nanos },
    })
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}
