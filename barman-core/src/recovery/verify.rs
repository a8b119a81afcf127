//! [`Verifying`]: a reader that fails at the end of a file whose bytes are not those that were stored (I24).

use std::io::{self, Read};

use camino::Utf8PathBuf;

/// Passes bytes on and computes their CRC-32C. The read that brings the last byte fails when length or checksum is not
/// the expected one, so that a copy of a damaged file is never finished, however its reader stops.
pub(crate) struct Verifying<R> {
    inner: R,
    path: Utf8PathBuf,
    size: u64,
    expected: u32,
    crc: u32,
    read: u64,
}

impl<R: Read> Verifying<R> {
    /// A reader of the file at `path` (for the message) that must have `size` bytes and this CRC-32C.
    pub(crate) fn new(inner: R, path: Utf8PathBuf, size: u64, expected: u32) -> Self {
        Self { inner, path, size, expected, crc: 0, read: 0 }
    }

    fn damaged(&self, found: &str) -> io::Error {
        let text = format!(
            "{} is damaged in the repository: {found}, stored were {} bytes with the checksum {:08X}; \
             restore from another backup",
            self.path, self.size, self.expected
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl<R: Read> Read for Verifying<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.crc = crc32c::crc32c_append(self.crc, &buffer[..count]);
        self.read += count as u64;
        if self.read > self.size {
            return Err(self.damaged("it is longer"));
        }
        if count == 0 && !buffer.is_empty() && self.read < self.size {
            return Err(self.damaged(&format!("it ends at byte {}", self.read)));
        }
        if self.read == self.size && self.crc != self.expected {
            return Err(self.damaged(&format!("its checksum is {:08X}", self.crc)));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i24_damage_is_an_error_and_never_a_short_success() {
        let bytes = b"the quick brown fox".to_vec();
        let (size, good) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        let read = |bytes: &[u8]| {
            let mut out = Vec::new();
            Verifying::new(bytes, "f".into(), size, good).read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(&bytes).unwrap(), bytes);
        let mut flipped = bytes.clone();
        flipped[3] ^= 1;
        let longer = [&bytes[..], b"x"].concat();
        for bad in [&flipped[..], &bytes[..10], &longer, b""] {
            assert_eq!(read(bad).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn i24_a_reader_that_takes_exactly_the_length_learns_of_damage_too() {
        let bytes = b"the quick brown fox".to_vec();
        let mut buffer = vec![0; bytes.len()];
        let mut reader = Verifying::new(&bytes[..], "f".into(), bytes.len() as u64, 7);
        assert!(reader.read_exact(&mut buffer).is_err());
    }
}
