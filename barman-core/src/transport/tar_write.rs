//! Tar headers that GNU tar, bsdtar and busybox read alike: ustar, with a pax header only where ustar cannot say it.

use crate::model::FileTime;

const BLOCK: usize = 512;

/// Appends the header of a member, and a pax header before it where the name is too long, or the time has a fraction.
pub(super) fn header(
    archive: &mut Vec<u8>,
    path: &str,
    flag: u8,
    size: u64,
    mtime: FileTime,
    mode: u32,
    link: &str,
) {
    let mut pax = String::new();
    let split = split_name(path);
    if split.is_none() {
        record(&mut pax, "path", path);
    }
    if link.len() > 100 {
        record(&mut pax, "linkpath", link);
    }
    if size >= 1 << 33 {
        record(&mut pax, "size", &size.to_string());
    }
    if mtime.nanos > 0 || mtime.seconds < 0 || mtime.seconds >= 1 << 33 {
        record(&mut pax, "mtime", &time(mtime));
    }
    if !pax.is_empty() {
        block(archive, ("", "pax"), b'x', pax.len() as u64, 0, 0o600, "");
        archive.extend_from_slice(pax.as_bytes());
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    let seconds = u64::try_from(mtime.seconds).unwrap_or_default();
    block(archive, split.unwrap_or(("", cut(path, 100))), flag, size, seconds, mode, cut(link, 100));
}

/// Appends the two blocks of zeros that end an archive.
pub(super) fn end(archive: &mut Vec<u8>) {
    archive.resize(archive.len() + 2 * BLOCK, 0);
}

/// How many zeros follow a content of this size.
pub(super) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn block(
    archive: &mut Vec<u8>,
    (prefix, name): (&str, &str),
    flag: u8,
    size: u64,
    seconds: u64,
    mode: u32,
    link: &str,
) {
    let mut header = [0u8; BLOCK];
    let mut put = |from: usize, bytes: &[u8]| {
        if let Some(field) = header.get_mut(from..from + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    // What does not fit is in the pax header, which wins.
    let octal = |n: u64| format!("{:011o}\0", if n < 1 << 33 { n } else { 0 });
    put(0, name.as_bytes());
    put(100, format!("{:07o}\0", mode & 0o7777).as_bytes());
    put(108, b"0000000\x000000000\0");
    put(124, octal(size).as_bytes());
    put(136, octal(seconds).as_bytes());
    put(148, b"        ");
    put(156, &[flag]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u64 = header.iter().map(|&b| u64::from(b)).sum();
    if let Some(field) = header.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive.extend_from_slice(&header);
}

/// Splits a name into the prefix (155 bytes) and the name (100 bytes) of ustar; `None` when it does not fit.
fn split_name(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    let mut cuts = path.match_indices('/').map(|(at, _)| at);
    let at = cuts.find(|at| path.len() - at - 1 <= 100 && *at > 0)?;
    let (prefix, name) = (path.get(..at)?, path.get(at + 1..)?);
    (prefix.len() <= 155 && !name.is_empty()).then_some((prefix, name))
}

fn cut(text: &str, most: usize) -> &str {
    let mut most = most.min(text.len());
    while !text.is_char_boundary(most) {
        most -= 1;
    }
    text.get(..most).unwrap_or_default()
}

fn record(pax: &mut String, key: &str, value: &str) {
    let bare = key.len() + value.len() + 3;
    let mut length = bare + 1;
    while bare + length.to_string().len() != length {
        length = bare + length.to_string().len();
    }
    pax.push_str(&format!("{length} {key}={value}\n"));
}

fn time(time: FileTime) -> String {
    if time.seconds >= 0 {
        return format!("{}.{:09}", time.seconds, time.nanos);
    }
    let nanos = time.as_nanos().unsigned_abs();
    format!("-{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_lengths_count_themselves() {
        for len in [0, 1, 85, 86, 87, 88, 980, 985, 986, 990] {
            let mut pax = String::new();
            record(&mut pax, "path", &"v".repeat(len));
            let said: usize = pax.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, pax.len(), "{len}");
        }
    }

    #[test]
    fn names_are_split_where_ustar_can() {
        assert_eq!(split_name("a/b"), Some(("", "a/b")));
        let name = "p".repeat(60) + "/" + &"n".repeat(99);
        assert_eq!(split_name(&name).map(|(p, n)| (p.len(), n.len())), Some((60, 99)));
        assert_eq!(split_name(&"n".repeat(101)), None);
        assert_eq!(split_name(&("p".repeat(156) + "/" + &"n".repeat(99))), None);
    }
}
