//! Streaming digests: CRC-32C (the manifest's default), SHA-256 and MD5 of the same bytes in one pass.

use std::fmt::Write;

use md5::Md5;
use sha2::{Digest, Sha256};

/// Which digests are wanted. A CRC-32C is always made: it costs about 0.1 s a gigabyte-core and everything stored has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// SHA-256, about 0.7 s a gigabyte.
    pub sha256: bool,
    /// MD5, which object stores ask for; it proves nothing against an attacker.
    pub md5: bool,
}

/// Digests of the bytes so far.
#[derive(Clone)]
pub struct Digests {
    len: u64,
    crc32c: u32,
    sha256: Option<Sha256>,
    md5: Option<Md5>,
}

impl Digests {
    /// Digests of nothing.
    pub fn new(wanted: Wanted) -> Self {
        Self { len: 0, crc32c: 0, sha256: wanted.sha256.then(Sha256::new), md5: wanted.md5.then(Md5::new) }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    /// How many bytes were added.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no bytes were added.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values.
    pub fn finish(self) -> DigestSet {
        DigestSet {
            len: self.len,
            crc32c: self.crc32c,
            sha256: self.sha256.map(|digest| digest.finalize().into()),
            md5: self.md5.map(|digest| digest.finalize().into()),
        }
    }
}

/// Length and digests of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestSet {
    /// How many bytes.
    pub len: u64,
    /// CRC-32C (Castagnoli) as a number.
    pub crc32c: u32,
    /// SHA-256, where wanted.
    pub sha256: Option<[u8; 32]>,
    /// MD5, where wanted.
    pub md5: Option<[u8; 16]>,
}

impl DigestSet {
    /// The digests of bytes in memory.
    pub fn of(bytes: &[u8], wanted: Wanted) -> Self {
        let mut digests = Digests::new(wanted);
        digests.update(bytes);
        digests.finish()
    }

    /// The CRC as PostgreSQL's backup manifests write it: the four bytes of the little-endian number in hex.
    pub fn crc32c_manifest_hex(&self) -> String {
        hex(&self.crc32c.to_le_bytes())
    }
}

/// Lower-case hexadecimal digits, two a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A reader that digests what is read through it.
pub struct DigestReader<R> {
    inner: R,
    digests: Digests,
}

impl<R> DigestReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R, wanted: Wanted) -> Self {
        Self { inner, digests: Digests::new(wanted) }
    }

    /// The digests of all that was read.
    pub fn finish(self) -> DigestSet {
        self.digests.finish()
    }
}

impl<R: std::io::Read> std::io::Read for DigestReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.digests.update(&buf[..n]);
        Ok(n)
    }
}

/// A writer that digests what is written through it.
pub struct DigestWriter<W> {
    inner: W,
    digests: Digests,
}

impl<W> DigestWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W, wanted: Wanted) -> Self {
        Self { inner, digests: Digests::new(wanted) }
    }

    /// The writer and the digests of all that was written.
    pub fn finish(self) -> (W, DigestSet) {
        (self.inner, self.digests.finish())
    }
}

impl<W: std::io::Write> std::io::Write for DigestWriter<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.digests.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const ALL: Wanted = Wanted { sha256: true, md5: true };

    #[test]
    fn known_answers() {
        let set = DigestSet::of(b"123456789", ALL);
        assert_eq!(set.crc32c, 0xE306_9283, "the check value of CRC-32C");
        assert_eq!(set.crc32c_manifest_hex(), "839206e3");
        assert_eq!(hex(&set.md5.unwrap()), "25f9e794323b453885f5181f1b624d0b");
        let sha256 = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        assert_eq!(hex(&set.sha256.unwrap()), sha256);
        let empty = DigestSet::of(b"", Wanted::default());
        assert_eq!((empty.len, empty.crc32c, empty.sha256, empty.md5), (0, 0, None, None));
    }

    proptest::proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(bytes: Vec<u8>, cut: usize) {
            let cut = cut % (bytes.len() + 1);
            let whole = DigestSet::of(&bytes, ALL);
            let mut writer = DigestWriter::new(Vec::new(), ALL);
            writer.write_all(&bytes[..cut]).unwrap();
            writer.write_all(&bytes[cut..]).unwrap();
            let (copy, written) = writer.finish();
            proptest::prop_assert_eq!(&copy, &bytes);
            proptest::prop_assert_eq!(written, whole);
            let mut reader = DigestReader::new(&bytes[..], ALL);
            reader.read_to_end(&mut Vec::new()).unwrap();
            proptest::prop_assert_eq!(reader.finish(), whole);
        }
    }
}
