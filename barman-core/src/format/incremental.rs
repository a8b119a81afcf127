//! Incremental files of a base backup (PostgreSQL 17 and later): `INCREMENTAL.16384` holds those blocks of the relation file
//! `16384` that changed since the backup before it.
//!
//! ```text
//! magic 0xd3ae1f0d │ number of blocks n │ truncation block length │ n block numbers │ zeros up to a whole block, when n > 0 │ n blocks
//! ```
//! Each number is a little-endian `u32`. Source: `src/backend/backup/basebackup_incremental.c` and `basebackup.c` (`sendFile`)
//! write it, `src/bin/pg_combinebackup/reconstruct.c` reads it.

use std::io::{self, Read};

use camino::{Utf8Path, Utf8PathBuf};

use super::relfile::RelFile;

/// What stands before the name of the relation file.
pub const PREFIX: &str = "INCREMENTAL.";
const MAGIC: u32 = 0xd3ae_1f0d;
/// The three numbers at the beginning.
const FIXED: usize = 12;

/// The path of the relation file that `path` is an incremental file of; `None` when it is none.
pub fn whole_path(path: &Utf8Path) -> Option<Utf8PathBuf> {
    let whole = path.with_file_name(path.file_name()?.strip_prefix(PREFIX)?);
    RelFile::parse(&whole).is_some().then_some(whole)
}

/// The path of the incremental file of a relation file.
pub fn incremental_path(whole: &Utf8Path) -> Utf8PathBuf {
    whole.with_file_name(format!("{PREFIX}{}", whole.file_name().unwrap_or_default()))
}

/// What an incremental file says before its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementalHeader {
    /// Blocks from here on are only in this file; those before may come from older ones. At most a file's worth: servers of the
    /// first minor versions of 17 and 18 write the limit of the whole relation here.
    pub truncation_block_length: u32,
    /// The blocks that follow, ascending, counted from the beginning of the relation file.
    pub blocks: Vec<u32>,
}

/// Why a file is no incremental file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IncrementalError {
    /// It does not begin as one.
    #[error("it begins with {0:08x} where an incremental file begins with {MAGIC:08x}")]
    Magic(u32),
    /// A number in it is larger than a relation file can be.
    #[error("it speaks of {found} blocks, and a relation file has at most {most}")]
    TooMany {
        /// What it says.
        found: u32,
        /// `RELSEG_SIZE` of the cluster.
        most: u32,
    },
    /// Its block numbers are not in ascending order.
    #[error("its block numbers are not in ascending order at block {0}")]
    Order(u32),
}

impl IncrementalHeader {
    /// Bytes of a header with so many blocks, up to the first block.
    pub fn length(blocks: u32, block_size: u32) -> u64 {
        let bare = FIXED as u64 + 4 * u64::from(blocks);
        if blocks == 0 { bare } else { bare.next_multiple_of(u64::from(block_size.max(1))) }
    }

    /// Blocks of the relation file that is made of it (`find_reconstructed_block_length`).
    pub fn whole_length(&self) -> u32 {
        let beyond = self.blocks.last().map_or(0, |last| last.saturating_add(1));
        self.truncation_block_length.max(beyond)
    }

    /// Reads a header and leaves the source at the first block.
    ///
    /// # Errors
    /// A source that cannot be read or ends too early; as [`io::ErrorKind::InvalidData`] what [`IncrementalError`] knows.
    pub fn read(source: &mut impl Read, block_size: u32, blocks_per_file: u32) -> io::Result<Self> {
        let mut parser = HeaderParser::new(block_size, blocks_per_file);
        let mut buffer = [0; 4096];
        loop {
            let wanted = parser.missing().min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            source.read_exact(piece)?;
            let mut input: &[u8] = piece;
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            if let Some(header) = parser.push(&mut input).map_err(invalid)? {
                return Ok(header);
            }
        }
    }
}

/// Reads a header whose bytes come in pieces.
#[derive(Debug)]
pub struct HeaderParser {
    block_size: u32,
    blocks_per_file: u32,
    bytes: Vec<u8>,
    /// Bytes of the whole header, once that is known.
    length: Option<usize>,
}

impl HeaderParser {
    /// A parser for a cluster with such files.
    pub fn new(block_size: u32, blocks_per_file: u32) -> Self {
        Self { block_size, blocks_per_file, bytes: Vec::new(), length: None }
    }

    /// So many bytes are missing before more can be said; at least 1 until the header was given.
    pub fn missing(&self) -> usize {
        self.length.unwrap_or(FIXED).saturating_sub(self.bytes.len()).max(1)
    }

    /// Takes what belongs to the header from `input`, and gives the header when it is whole.
    ///
    /// # Errors
    /// When it is none.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<IncrementalHeader>, IncrementalError> {
        while !input.is_empty() {
            let (own, rest) = input.split_at(self.missing().min(input.len()));
            self.bytes.extend_from_slice(own);
            *input = rest;
            if self.length.is_none() && self.bytes.len() >= FIXED {
                self.length = Some(self.judge()?);
            }
            if self.length.is_some_and(|length| self.bytes.len() >= length) {
                return self.whole().map(Some);
            }
        }
        Ok(None)
    }

    fn number(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at * 4..at * 4 + 4).and_then(|b| b.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    }

    fn judge(&self) -> Result<usize, IncrementalError> {
        let (magic, blocks) = (self.number(0), self.number(1));
        if magic != MAGIC {
            return Err(IncrementalError::Magic(magic));
        }
        let most = self.blocks_per_file;
        if blocks > most {
            return Err(IncrementalError::TooMany { found: blocks, most });
        }
        let length = IncrementalHeader::length(blocks, self.block_size);
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn whole(&self) -> Result<IncrementalHeader, IncrementalError> {
        let count = self.number(1) as usize;
        let blocks: Vec<u32> = (0..count).map(|at| self.number(3 + at)).collect();
        if let Some(pair) = blocks.windows(2).find(|pair| pair.first() >= pair.last()) {
            return Err(IncrementalError::Order(pair.last().copied().unwrap_or_default()));
        }
        if let Some(found) = blocks.last().filter(|last| **last >= self.blocks_per_file) {
            return Err(IncrementalError::TooMany {
                found: found.saturating_add(1),
                most: self.blocks_per_file,
            });
        }
        let truncation_block_length = self.number(2).min(self.blocks_per_file);
        Ok(IncrementalHeader { truncation_block_length, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u32 = 64;
    const MOST: u32 = 1000;

    fn bytes(magic: u32, truncation: u32, blocks: &[u32]) -> Vec<u8> {
        let mut numbers = vec![magic, blocks.len() as u32, truncation];
        numbers.extend(blocks);
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.resize(IncrementalHeader::length(blocks.len() as u32, BLOCK) as usize, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<(IncrementalHeader, usize)> {
        let mut source = bytes;
        let header = IncrementalHeader::read(&mut source, BLOCK, MOST)?;
        Ok((header, bytes.len() - source.len()))
    }

    #[test]
    fn names() {
        let whole = |path: &str| whole_path(path.into()).map(Utf8PathBuf::into_string);
        assert_eq!(whole("base/5/INCREMENTAL.16384.1").as_deref(), Some("base/5/16384.1"));
        assert_eq!(
            whole("PG_17_202406281/5/INCREMENTAL.16384_vm").as_deref(),
            Some("PG_17_202406281/5/16384_vm")
        );
        for other in ["base/5/16384", "INCREMENTAL.16384", "base/5/INCREMENTAL.x", "base/5/INCREMENTAL."] {
            assert_eq!(whole(other), None, "{other}");
        }
        assert_eq!(incremental_path("base/5/16384.1".into()), "base/5/INCREMENTAL.16384.1");
    }

    #[test]
    fn lengths_are_postgresqls() {
        assert_eq!(IncrementalHeader::length(0, 8192), 12);
        assert_eq!(IncrementalHeader::length(1, 8192), 8192);
        assert_eq!(IncrementalHeader::length(2045, 8192), 8192);
        assert_eq!(IncrementalHeader::length(2046, 8192), 16384);
        let header = |truncation_block_length, blocks: &[u32]| {
            IncrementalHeader { truncation_block_length, blocks: blocks.to_vec() }.whole_length()
        };
        assert_eq!((header(5, &[]), header(5, &[1, 4]), header(5, &[1, 8]), header(0, &[])), (5, 5, 9, 0));
    }

    #[test]
    fn i31_what_is_no_header_is_refused() {
        let text = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(text(&bytes(1, 0, &[])).contains("begins with 00000001"));
        let many = bytes(MAGIC, 0, &vec![0; MOST as usize + 1]);
        assert!(text(&many).contains("1001 blocks"));
        // What was cut off far behind this file.
        assert_eq!(read(&bytes(MAGIC, 3 * MOST, &[2])).unwrap().0.truncation_block_length, MOST);
        assert!(text(&bytes(MAGIC, 4, &[3, 3])).contains("ascending order at block 3"));
        assert!(text(&bytes(MAGIC, 4, &[MOST])).contains("1001 blocks"));
        assert_eq!(read(&bytes(MAGIC, 4, &[3])[..40]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_pieces_of_any_length(
            truncation in 0..MOST, blocks in prop::collection::btree_set(0..MOST, 0..40), piece in 1usize..50,
        ) {
            let blocks: Vec<u32> = blocks.into_iter().collect();
            let header = IncrementalHeader { truncation_block_length: truncation, blocks: blocks.clone() };
            let mut bytes = bytes(MAGIC, truncation, &blocks);
            let length = bytes.len();
            bytes.extend(b"block");
            prop_assert_eq!(read(&bytes).unwrap(), (header.clone(), length));
            let mut parser = HeaderParser::new(BLOCK, MOST);
            let mut taken = 0;
            for mut part in bytes.chunks(piece) {
                let before = part.len();
                let found = parser.push(&mut part).unwrap();
                taken += before - part.len();
                if let Some(found) = found {
                    prop_assert_eq!(&found, &header);
                    break;
                }
            }
            prop_assert_eq!(taken, length);
        }

        #[test]
        fn i31_any_bytes_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
