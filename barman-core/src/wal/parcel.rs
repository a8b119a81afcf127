//! [`Parcel`]: what `barman-wal-archive` sends to `put-wal`: a tar stream of WAL files that ends with their checksums.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

use crate::format::tar::{END_OF_ARCHIVE, Kind, Member, encode_header, padding};
use crate::io::digest::{DigestReader, Wanted, hex};
use crate::model::FileTime;

/// Which checksums a parcel brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ParcelSums {
    /// In a member `SHA256SUMS`.
    #[default]
    Sha256,
    /// In a member `MD5SUMS`, for a Barman older than 2.6. It proves nothing against an attacker.
    Md5,
}

/// Writes the stream that [`super::LocalWalArchive::receive`] and Barman's own `put-wal` read: flat names of regular files,
/// then one member with a line `<hex> *<name>` for each.
pub struct Parcel<W> {
    out: W,
    sums: ParcelSums,
    lines: String,
}

impl<W: Write> Parcel<W> {
    /// Begins a parcel.
    pub fn new(out: W, sums: ParcelSums) -> Self {
        Self { out, sums, lines: String::new() }
    }

    /// Adds a file of exactly `size` bytes.
    ///
    /// # Errors
    /// Those of `bytes` and of the stream; `InvalidData` when there are fewer or more bytes than `size`, after which the
    /// parcel must not be finished.
    pub fn add(&mut self, name: &str, size: u64, mtime: FileTime, bytes: impl Read) -> io::Result<()> {
        self.header(name, size, mtime)?;
        let wanted = Wanted { sha256: self.sums == ParcelSums::Sha256, md5: self.sums == ParcelSums::Md5 };
        let mut reader = DigestReader::new(bytes, wanted);
        let found = io::copy(&mut reader.by_ref().take(size), &mut self.out)?;
        let longer = found == size && reader.by_ref().take(1).read(&mut [0])? > 0;
        if found != size || longer {
            let text = format!("{name} changed while it was read: {size} bytes were expected");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.pad(size)?;
        let digests = reader.finish();
        let digest = digests.sha256.map(|d| hex(&d)).or_else(|| digests.md5.map(|d| hex(&d)));
        // Writing to a String cannot fail.
        let _ = writeln!(self.lines, "{} *{name}", digest.unwrap_or_default());
        Ok(())
    }

    /// Writes the checksums and the end, and gives the stream back. Until then the receiver keeps nothing.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn finish(mut self) -> io::Result<W> {
        let lines = std::mem::take(&mut self.lines);
        let name = match self.sums {
            ParcelSums::Sha256 => "SHA256SUMS",
            ParcelSums::Md5 => "MD5SUMS",
        };
        self.header(name, lines.len() as u64, FileTime::default())?;
        self.out.write_all(lines.as_bytes())?;
        self.pad(lines.len() as u64)?;
        self.out.write_all(&END_OF_ARCHIVE)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, name: &str, size: u64, mtime: FileTime) -> io::Result<()> {
        let member = Member {
            path: name.as_bytes().to_vec(),
            kind: Kind::File,
            size,
            mtime,
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        self.out.write_all(&encode_header(&member).map_err(io::Error::other)?)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.out.write_all(END_OF_ARCHIVE.get(..padding(size)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parcel_is_what_tar_reads() {
        for (sums, member, digits) in
            [(ParcelSums::Sha256, "SHA256SUMS", 64), (ParcelSums::Md5, "MD5SUMS", 32)]
        {
            let mut parcel = Parcel::new(Vec::new(), sums);
            let time = FileTime { seconds: 1_600_000_000, nanos: 5 };
            parcel.add("000000010000000000000001", 700, time, &[7; 700][..]).unwrap();
            parcel.add("00000002.history", 0, time, &b""[..]).unwrap();
            let stream = parcel.finish().unwrap();
            assert_eq!(stream.len() % 512, 0);
            let text = String::from_utf8_lossy(&stream);
            let (_, sums) = text.rsplit_once("ustar").unwrap();
            assert!(text.contains(member), "{member}");
            let lines: Vec<&str> = sums.lines().filter(|line| line.contains(" *0")).collect();
            assert!(
                lines[0].ends_with(" *000000010000000000000001") && lines[1].ends_with(" *00000002.history")
            );
            assert_eq!(lines[1].split(' ').next().unwrap().len(), digits);
        }
    }

    #[test]
    fn a_file_that_changes_its_length_is_an_error() {
        for size in [3, 5] {
            let mut parcel = Parcel::new(Vec::new(), ParcelSums::Sha256);
            let error = parcel.add("x", size, FileTime::default(), &b"four"[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
