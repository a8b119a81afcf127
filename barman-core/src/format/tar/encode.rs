//! Making headers: plain ustar where that is enough, preceded by a PAX extended header where it is not.

use super::{BLOCK, Kind, Member, TarError, lossy};

/// The two blocks of zeros that end an archive.
pub const END_OF_ARCHIVE: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Bytes of zeros that follow a body of this size.
pub const fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

/// The header of a member, one block or (with an extended header) three and more. The caller writes `member.size` bytes
/// of body and [`padding`] behind it.
///
/// Long paths and targets, sizes of 8 GiB and more, large owner ids, and times with a fraction or before 1970 go into a
/// PAX extended header; everything else is plain ustar that any tar reads. Devices and FIFOs are not written.
///
/// # Errors
/// [`TarError::BadPath`] for an empty path or a NUL byte, [`TarError::UnsupportedKind`] for [`Kind::Special`].
pub fn encode_header(member: &Member) -> Result<Vec<u8>, TarError> {
    let (kind, link): (u8, &[u8]) = match &member.kind {
        Kind::File => (b'0', b""),
        Kind::HardLink(link) => (b'1', link),
        Kind::Symlink(link) => (b'2', link),
        Kind::Directory => (b'5', b""),
        Kind::Special => {
            return Err(TarError::UnsupportedKind { path: lossy(&member.path), kind: '3' });
        }
    };
    let needs_link = matches!(kind, b'1' | b'2');
    if member.path.is_empty()
        || member.path.contains(&0)
        || link.contains(&0)
        || (needs_link && link.is_empty())
    {
        return Err(TarError::BadPath { path: lossy(&member.path) });
    }
    let mut path = member.path.clone();
    if kind == b'5' && !path.ends_with(b"/") {
        path.push(b'/');
    }
    let size = if matches!(kind, b'0' | b'1') { member.size } else { 0 };
    let mut extended = Extended::default();
    let (prefix, name) = split(&path).unwrap_or_else(|| {
        extended.record(b"path", &path);
        (b"", path.get(..100).unwrap_or(&path))
    });
    // A trailing slash on a file's name would turn it into a directory.
    if kind == b'0' && path.ends_with(b"/") {
        return Err(TarError::BadPath { path: lossy(&member.path) });
    }
    if link.len() > 100 {
        extended.record(b"linkpath", link);
    }
    // A hard link's body is believed only after an extended header.
    if octal_digits(size) > 11 || (kind == b'1' && size > 0) {
        extended.record(b"size", size.to_string().as_bytes());
    }
    let (seconds, nanos) = (member.mtime.seconds, member.mtime.nanos.min(999_999_999));
    let plain_time = u64::try_from(seconds).ok().filter(|s| octal_digits(*s) <= 11);
    if nanos != 0 || plain_time.is_none() {
        extended.record(b"mtime", decimal_time(seconds, nanos).as_bytes());
    }
    for (key, id) in [(&b"uid"[..], member.uid), (b"gid", member.gid)] {
        if octal_digits(id) > 7 {
            extended.record(key, id.to_string().as_bytes());
        }
    }
    let fits = |value: u64, digits: u32| if octal_digits(value) > digits { 0 } else { value };
    let fields = Fields {
        prefix,
        name,
        mode: member.mode & 0o7777,
        uid: fits(member.uid, 7),
        gid: fits(member.gid, 7),
        size: fits(size, 11),
        mtime: plain_time.unwrap_or(0),
        kind,
        link: link.get(..100).unwrap_or(link),
    };
    let mut out = Vec::with_capacity(BLOCK);
    if !extended.records.is_empty() {
        let records = extended.finish();
        let size = records.len() as u64;
        let header = Fields { prefix: b"", name: b"././@PaxHeader", size, kind: b'x', link: b"", ..fields };
        header.write(&mut out);
        out.extend(&records);
        out.resize(out.len() + padding(size), 0);
    }
    fields.write(&mut out);
    Ok(out)
}

struct Fields<'a> {
    prefix: &'a [u8],
    name: &'a [u8],
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    kind: u8,
    link: &'a [u8],
}

impl Fields<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut block = [0u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, byte) in block.iter_mut().skip(at).zip(bytes) {
                *to = *byte;
            }
        };
        put(0, self.name);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.uid).as_bytes());
        put(116, format!("{:07o}", self.gid).as_bytes());
        put(124, format!("{:011o}", self.size).as_bytes());
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, self.link);
        put(257, b"ustar\x0000");
        put(345, self.prefix);
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        let text = format!("{sum:06o}\0 ");
        for (to, byte) in block.iter_mut().skip(148).zip(text.bytes()) {
            *to = byte;
        }
        out.extend(block);
    }
}

/// Cuts a path at a slash so that it fits the 155 and 100 bytes of ustar.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let cut = path.iter().enumerate().position(|(at, b)| {
        *b == b'/' && at > 0 && at <= 155 && path.len() - at - 1 <= 100 && at + 1 < path.len()
    })?;
    Some((path.get(..cut)?, path.get(cut + 1..)?))
}

fn octal_digits(value: u64) -> u32 {
    (64 - value.leading_zeros()).div_ceil(3)
}

/// The records of an extended header.
#[derive(Default)]
struct Extended {
    records: Vec<u8>,
    binary: bool,
}

impl Extended {
    fn record(&mut self, key: &[u8], value: &[u8]) {
        self.binary |= std::str::from_utf8(value).is_err();
        append(&mut self.records, key, value);
    }

    /// The records, with the note that names are bytes when some are not UTF-8.
    fn finish(self) -> Vec<u8> {
        if !self.binary {
            return self.records;
        }
        let mut records = Vec::new();
        append(&mut records, b"hdrcharset", b"BINARY");
        records.extend(self.records);
        records
    }
}

/// `length SP key=value LF`, where the length counts itself.
fn append(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} ").as_bytes());
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

fn decimal_time(seconds: i64, nanos: u32) -> String {
    if nanos == 0 {
        return seconds.to_string();
    }
    let (sign, whole, nanos) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos)
    } else {
        ("", seconds as u64, nanos)
    };
    let text = format!("{sign}{whole}.{nanos:09}");
    text.trim_end_matches('0').to_owned()
}
