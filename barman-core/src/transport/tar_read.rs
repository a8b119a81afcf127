//! A tar reader that is pushed: it is given whatever bytes have arrived and answers with what they mean. Knows ustar,
//! pax and the GNU forms that GNU tar, bsdtar and busybox write; checks every header.

use crate::model::FileTime;

const BLOCK: usize = 512;

/// The longest extended header that is believed.
const META_LIMIT: u64 = 1 << 20;

/// A member's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// The name as it was sent.
    pub(super) path: Vec<u8>,
    /// Bytes of content that follow.
    pub(super) size: u64,
    pub(super) mtime: FileTime,
    pub(super) mode: u32,
    /// The type flag; `0` is a regular file.
    pub(super) flag: u8,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'d> {
    /// A member begins.
    Member(Member),
    /// Content of the current member.
    Data(&'d [u8]),
    /// The current member has all its content.
    MemberEnd,
}

/// Overrides for the next member.
#[derive(Debug, Default)]
struct Extra {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<FileTime>,
}

#[derive(Debug)]
enum State {
    Header,
    /// Inside an extended header of this type.
    Meta {
        flag: u8,
        left: u64,
        padding: u64,
        body: Vec<u8>,
    },
    Body {
        left: u64,
        padding: u64,
    },
    /// Skipping to the next block.
    Padding(u64),
    /// A block of zeros came.
    End,
}

/// The state of a stream.
#[derive(Debug)]
pub(super) struct TarReader {
    state: State,
    header: Vec<u8>,
    extra: Extra,
}

impl TarReader {
    pub(super) fn new() -> Self {
        Self { state: State::Header, header: Vec::with_capacity(BLOCK), extra: Extra::default() }
    }

    /// Whether the end of the archive was seen.
    pub(super) fn ended(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Takes from `input` what the next event needs; `None` when all was taken and more is needed.
    pub(super) fn next<'d>(&mut self, input: &mut &'d [u8]) -> Result<Option<Event<'d>>, String> {
        loop {
            match &mut self.state {
                State::End => {
                    *input = &[];
                    return Ok(None);
                }
                State::Padding(left) => {
                    *left -= take(input, *left).len() as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
                State::Body { left: 0, padding } => {
                    self.state = State::Padding(*padding);
                    return Ok(Some(Event::MemberEnd));
                }
                State::Body { left, .. } => {
                    let data = take(input, *left);
                    *left -= data.len() as u64;
                    return Ok((!data.is_empty()).then_some(Event::Data(data)));
                }
                State::Meta { flag, left, padding, body } => {
                    let data = take(input, *left);
                    body.extend_from_slice(data);
                    *left -= data.len() as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    let (flag, padding, body) = (*flag, *padding, std::mem::take(body));
                    self.state = State::Padding(padding);
                    self.meta(flag, body)?;
                }
                State::Header => {
                    let missing = BLOCK - self.header.len();
                    self.header.extend_from_slice(take(input, missing as u64));
                    if self.header.len() < BLOCK {
                        return Ok(None);
                    }
                    let block = std::mem::replace(&mut self.header, Vec::with_capacity(BLOCK));
                    if let Some(member) = self.block(&block)? {
                        return Ok(Some(Event::Member(member)));
                    }
                }
            }
        }
    }

    fn block(&mut self, block: &[u8]) -> Result<Option<Member>, String> {
        if block.iter().all(|&b| b == 0) {
            self.state = State::End;
            return Ok(None);
        }
        let field = |from: usize, len: usize| block.get(from..from + len).unwrap_or_default();
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u64::from(b) })
            .sum();
        if number(field(148, 8)) != Some(sum) {
            return Err("a tar header with a wrong checksum".into());
        }
        let size = number(field(124, 12)).ok_or("a tar header with an unreadable size")?;
        let flag = match field(156, 1) {
            [0] | [b'7'] => b'0',
            [flag] => *flag,
            _ => return Err("a short tar header".into()),
        };
        if matches!(flag, b'x' | b'g' | b'L' | b'K') {
            if size > META_LIMIT {
                return Err(format!("an extended tar header of {size} bytes"));
            }
            self.state = State::Meta { flag, left: size, padding: padding(size), body: Vec::new() };
            return Ok(None);
        }
        let extra = std::mem::take(&mut self.extra);
        let size = if flag == b'0' { extra.size.unwrap_or(size) } else { 0 };
        let seconds = number(field(136, 12)).and_then(|s| i64::try_from(s).ok()).unwrap_or_default();
        let path = extra.path.unwrap_or_else(|| {
            let (name, prefix) = (text(field(0, 100)), text(field(345, 155)));
            if field(257, 6) == b"ustar\0" && !prefix.is_empty() {
                [prefix, b"/", name].concat()
            } else {
                name.to_vec()
            }
        });
        self.state = State::Body { left: size, padding: padding(size) };
        let mode = number(field(100, 8)).ok_or("a tar header with an unreadable mode")?;
        Ok(Some(Member {
            path,
            size,
            mtime: extra.mtime.unwrap_or(FileTime { seconds, nanos: 0 }),
            mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
            flag,
        }))
    }

    fn meta(&mut self, flag: u8, body: Vec<u8>) -> Result<(), String> {
        match flag {
            b'L' => self.extra.path = Some(text(&body).to_vec()),
            b'x' => {
                let mut rest = body.as_slice();
                while !rest.is_empty() {
                    let (key, value);
                    (key, value, rest) = pax_record(rest).ok_or("an unreadable extended tar header")?;
                    let words = || std::str::from_utf8(value).ok();
                    match key {
                        b"path" => self.extra.path = Some(value.to_vec()),
                        b"size" => {
                            let size = words().and_then(|v| v.parse().ok());
                            self.extra.size =
                                Some(size.ok_or("an unreadable size in an extended tar header")?);
                        }
                        b"mtime" => {
                            let time = words().and_then(parse_time);
                            self.extra.mtime =
                                Some(time.ok_or("an unreadable time in an extended tar header")?);
                        }
                        _ => {}
                    }
                }
            }
            // Link targets, and defaults for all members: nothing that we ask for comes in these.
            _ => {}
        }
        Ok(())
    }
}

fn take<'d>(input: &mut &'d [u8], most: u64) -> &'d [u8] {
    let n = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (taken, rest) = input.split_at(n);
    *input = rest;
    taken
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// An octal number between blanks and NULs, or GNU's base-256 form for what does not fit.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((&0x80, rest)) = field.split_first() {
        return rest.iter().try_fold(0u64, |n, &b| n.checked_mul(256)?.checked_add(u64::from(b)));
    }
    let text = std::str::from_utf8(text(field)).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// `LENGTH KEY=VALUE\n`, where the length counts the whole record.
fn pax_record(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = rest.iter().position(|&b| b == b' ')?;
    let length: usize = std::str::from_utf8(rest.get(..blank)?).ok()?.parse().ok()?;
    let record = rest.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, rest.get(length..)?))
}

/// Seconds with any number of decimals, as pax headers and GNU find print times.
pub(super) fn parse_time(text: &str) -> Option<FileTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        seconds = seconds.checked_sub(1)?;
        nanos = 1_000_000_000 - nanos;
    }
    Some(FileTime { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::super::tar_write::header;
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Read(String, Vec<u8>, FileTime, u32);

    fn read_in_pieces(archive: &[u8], piece: usize) -> Result<Vec<Read>, String> {
        let mut reader = TarReader::new();
        let mut members: Vec<Read> = Vec::new();
        for mut piece in archive.chunks(piece) {
            while let Some(event) = reader.next(&mut piece)? {
                match event {
                    Event::Member(m) => {
                        members.push(Read(String::from_utf8(m.path).unwrap(), vec![], m.mtime, m.mode));
                    }
                    Event::Data(data) => members.last_mut().unwrap().1.extend_from_slice(data),
                    Event::MemberEnd => {}
                }
            }
        }
        assert!(reader.ended());
        Ok(members)
    }

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_size() {
        let long = "d/".repeat(90) + "file";
        let odd = "x".repeat(150);
        let mut archive = Vec::new();
        let mut expected = Vec::new();
        for (path, size, seconds, nanos) in [
            ("PG_VERSION", 3, 1_700_000_000, 0),
            (long.as_str(), 512, 1_700_000_000, 123_456_789),
            (odd.as_str(), 0, -1, 500_000_000),
            ("ü", 1000, 0, 1),
        ] {
            let time = FileTime { seconds, nanos };
            let content = vec![b'a'; size];
            header(&mut archive, path, b'0', size as u64, time, 0o600, "");
            archive.extend_from_slice(&content);
            archive.resize(archive.len().next_multiple_of(512), 0);
            expected.push(Read(path.into(), content, time, 0o600));
        }
        archive.resize(archive.len() + 1024, 0);
        for piece in [1, 7, 511, 512, 513, 100_000] {
            assert_eq!(read_in_pieces(&archive, piece).unwrap(), expected, "{piece}");
        }
        let mut broken = archive.clone();
        broken[3] ^= 1;
        assert!(read_in_pieces(&broken, 512).unwrap_err().contains("checksum"));
    }

    #[test]
    fn times() {
        for (text, seconds, nanos) in [
            ("5", 5, 0),
            ("5.25", 5, 250_000_000),
            ("1700000000.1234567890", 1_700_000_000, 123_456_789),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
        ] {
            assert_eq!(parse_time(text), Some(FileTime { seconds, nanos }), "{text}");
        }
        for text in ["", "x", "1.x", "1.2.3"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_too_large_for_octal() {
        assert_eq!(number(b"00000000017\0"), Some(15));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some(0x2_0000_0001));
        assert_eq!(number(b"9"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(0u8..=255, 0..3000)) {
            let mut reader = TarReader::new();
            let mut input = bytes.as_slice();
            while let Ok(Some(_)) = reader.next(&mut input) {}
        }
    }
}
