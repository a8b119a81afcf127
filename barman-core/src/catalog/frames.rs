//! The index of the frames of a packed archive, `base/<id>/.native/<archive>.frames`: it lets a restore decode several at a
//! time. Pure: bytes in and out, no file system.
//!
//! ```text
//! barman-native-frames 1
//! 4194304 1234567
//! end 1 1b2c3d4e
//! ```
//! A row has the plain and the packed length of a frame; they lie one behind the other. The last line has the number of
//! rows and the CRC-32C of everything before it. The index is a help only: one that cannot be used is left alone, and the
//! archive is read from its beginning to its end.

use std::io::{self, Write};

const HEADER: &str = "barman-native-frames 1";
/// No frame is believed to be longer, plain or packed: each is held in memory.
const LONGEST: u32 = 64 << 20;

/// The name of the index of an archive in the sidecar.
pub(crate) fn index_name(archive: &str) -> String {
    format!("{archive}.frames")
}

/// Writes an index row by row.
pub(crate) struct FrameIndexWriter<W> {
    to: W,
    crc: u32,
    rows: u64,
}

impl<W: Write> FrameIndexWriter<W> {
    pub(crate) fn new(to: W) -> io::Result<Self> {
        let mut writer = Self { to, crc: 0, rows: 0 };
        writer.line(HEADER)?;
        Ok(writer)
    }

    pub(crate) fn frame(&mut self, plain_len: u64, packed_len: u64) -> io::Result<()> {
        self.rows += 1;
        self.line(&format!("{plain_len} {packed_len}"))
    }

    /// Writes the last line and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        writeln!(self.to, "end {} {:08x}", self.rows, self.crc)?;
        Ok(self.to)
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        let line = format!("{text}\n");
        self.crc = crc32c::crc32c_append(self.crc, line.as_bytes());
        self.to.write_all(line.as_bytes())
    }
}

/// The frames of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrameIndex {
    /// Plain and packed length of each.
    pub(super) frames: Vec<(u32, u32)>,
}

impl FrameIndex {
    /// Reads an index; `None` when it is not whole or cannot be believed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (body, end) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let sealed = text.get(..body.len() + 1)?;
        let (rows, crc) = end.strip_prefix("end ")?.split_once(' ')?;
        if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(sealed.as_bytes()) {
            return None;
        }
        let mut lines = body.split('\n');
        if lines.next()? != HEADER {
            return None;
        }
        let number = |text: &str| text.parse().ok().filter(|n| *n <= LONGEST);
        let frames: Option<Vec<(u32, u32)>> = lines
            .map(|line| {
                let (plain, packed) = line.split_once(' ')?;
                Some((number(plain)?, number(packed)?))
            })
            .collect();
        let frames = frames?;
        (rows.parse() == Ok(frames.len())).then_some(Self { frames })
    }

    /// Bytes of the archive that it is of.
    pub(super) fn packed_len(&self) -> u64 {
        self.frames.iter().map(|(_, packed)| u64::from(*packed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(frames: &[(u32, u32)]) -> String {
        let mut writer = FrameIndexWriter::new(Vec::new()).unwrap();
        frames.iter().for_each(|(plain, packed)| writer.frame((*plain).into(), (*packed).into()).unwrap());
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn round_trip_and_no_prefix_is_taken_for_the_whole(
            frames in prop::collection::vec((0..=LONGEST, 0..=LONGEST), 0..6), cut: prop::sample::Index
        ) {
            let text = written(&frames);
            let index = FrameIndex::parse(&text).unwrap();
            prop_assert_eq!(index.packed_len(), frames.iter().map(|(_, n)| u64::from(*n)).sum::<u64>());
            prop_assert_eq!(index.frames, frames);
            prop_assert_eq!(FrameIndex::parse(&text[..cut.index(text.len())]), None);
        }

        #[test]
        fn arbitrary_text_does_not_panic(text: String) {
            prop_assert_eq!(FrameIndex::parse(&text), None);
            prop_assert_eq!(FrameIndex::parse(&format!("{HEADER}\n{text}\nend 1 00000000\n")), None);
        }
    }

    #[test]
    fn a_frame_too_long_to_be_held_is_not_believed() {
        assert_eq!(FrameIndex::parse(&written(&[(LONGEST + 1, 5)])), None);
    }
}
