//! [`Merged`]: one relation file out of its incremental files and the full one, block by block.

use std::io::{self, BufReader, Read};

use camino::Utf8PathBuf;

use super::visibility::Stale;

use crate::format::incremental::IncrementalHeader;

/// Bytes read at once from each source.
const READ: usize = 128 << 10;
/// Bytes that are merged at once.
const RUN: usize = 256 << 10;

/// One version of the file.
pub(super) struct Source {
    bytes: BufReader<Box<dyn Read + Send>>,
    has: Has,
    block_size: usize,
}

enum Has {
    /// These blocks, and the next one of them that was not read yet.
    Some { header: IncrementalHeader, next: usize },
    /// All blocks from here on, as long as it goes.
    All { next: u32, ended: bool },
}

impl Source {
    /// A full file.
    pub(super) fn whole(bytes: Box<dyn Read + Send>, block_size: u32) -> Self {
        let has = Has::All { next: 0, ended: false };
        Self { bytes: BufReader::with_capacity(READ, bytes), has, block_size: block_size as usize }
    }

    /// An incremental file, whose header is read.
    pub(super) fn incremental(
        bytes: Box<dyn Read + Send>,
        block_size: u32,
        blocks_per_file: u32,
    ) -> io::Result<Self> {
        let mut bytes = BufReader::with_capacity(READ, bytes);
        let header = IncrementalHeader::read(&mut bytes, block_size, blocks_per_file)?;
        Ok(Self { bytes, has: Has::Some { header, next: 0 }, block_size: block_size as usize })
    }

    /// Reads block `number` into `target`, or over it where `target` is `None`. Blocks are asked for in ascending order; those
    /// left out are passed over. Whether the source has it.
    fn block(&mut self, number: u32, target: Option<&mut [u8]>) -> io::Result<bool> {
        match &mut self.has {
            Has::Some { header, next } => {
                while let Some(block) = header.blocks.get(*next) {
                    if *block > number {
                        return Ok(false);
                    }
                    *next += 1;
                    if *block == number {
                        take(&mut self.bytes, self.block_size, target)?;
                        return Ok(true);
                    }
                    take(&mut self.bytes, self.block_size, None)?;
                }
                Ok(false)
            }
            Has::All { next, ended } => {
                while !*ended && *next < number {
                    *ended = !pass(&mut self.bytes, self.block_size)?;
                    *next += 1;
                }
                if *ended {
                    return Ok(false);
                }
                *next += 1;
                match target {
                    Some(target) => *ended = !fill(&mut self.bytes, target)?,
                    None => *ended = !pass(&mut self.bytes, self.block_size)?,
                }
                Ok(!*ended)
            }
        }
    }

    /// Reads what is left, so that a checksum is looked at.
    fn drain(&mut self) -> io::Result<()> {
        let left = io::copy(&mut self.bytes, &mut io::sink())?;
        if let Has::Some { header, next } = &self.has {
            let blocks = header.blocks.len().saturating_sub(*next);
            if left != (blocks * self.block_size) as u64 {
                let text = format!("an incremental file has {left} bytes for its last {blocks} blocks");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(())
    }
}

/// Reads a block that must be there.
fn take(bytes: &mut impl Read, block_size: usize, target: Option<&mut [u8]>) -> io::Result<()> {
    match target {
        Some(target) => bytes.read_exact(target),
        None if pass(bytes, block_size)? => Ok(()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads over a block; `false` when the source ends before its end.
fn pass(bytes: &mut impl Read, block_size: usize) -> io::Result<bool> {
    let passed = io::copy(&mut bytes.take(block_size as u64), &mut io::sink())?;
    Ok(passed == block_size as u64)
}

/// Reads a whole block; `false`, and zeros, when the source ends before its end: a part of a block is none.
fn fill(bytes: &mut impl Read, target: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while let Some(rest) = target.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match bytes.read(rest) {
            Ok(0) => {
                target.fill(0);
                return Ok(false);
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Is told size and CRC-32C of a merged file when it is whole.
pub(super) type Tell = Box<dyn Fn(u64, u32) + Send>;

/// The merged file. The read that brings the last byte fails when a source is not what was stored.
pub(super) struct Merged {
    /// The newest first.
    sources: Vec<Source>,
    name: Utf8PathBuf,
    block_size: usize,
    /// Blocks of the file.
    length: u32,
    /// Blocks from here on are only in the newest source.
    truncation: u32,
    next: u32,
    stale: Option<Stale>,
    tell: Tell,
    crc: u32,
    buffer: Vec<u8>,
    /// What of the buffer was not taken yet.
    from: usize,
}

impl Merged {
    /// The newest source first, which must be an incremental one.
    pub(super) fn new(
        sources: Vec<Source>,
        block_size: u32,
        name: Utf8PathBuf,
        tell: Tell,
    ) -> io::Result<Self> {
        let Some(Has::Some { header, .. }) = sources.first().map(|source| &source.has) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the newest file is no incremental one"));
        };
        let (length, truncation) = (header.whole_length(), header.truncation_block_length);
        if length == 0 {
            tell(0, 0);
        }
        Ok(Self {
            sources,
            name,
            block_size: block_size as usize,
            length,
            truncation,
            next: 0,
            stale: None,
            tell,
            crc: 0,
            buffer: Vec::new(),
            from: 0,
        })
    }

    /// For a visibility map.
    pub(super) fn without(mut self, stale: Stale) -> Self {
        self.stale = Some(stale);
        self
    }

    /// Bytes of the merged file.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.length) * self.block_size as u64
    }

    fn run(&mut self) -> io::Result<()> {
        let blocks = (RUN / self.block_size.max(1)).max(1).min((self.length - self.next) as usize);
        self.buffer.clear();
        // What no backup has are blocks that the server added and never wrote to.
        self.buffer.resize(blocks * self.block_size, 0);
        self.from = 0;
        for target in self.buffer.chunks_exact_mut(self.block_size.max(1)) {
            let number = self.next;
            self.next += 1;
            let mut found = None;
            for (at, source) in self.sources.iter_mut().enumerate() {
                if at > 0 && number >= self.truncation {
                    break;
                }
                let has = source.block(number, if found.is_some() { None } else { Some(&mut *target) })?;
                found = found.or(has.then_some(at));
            }
            if let (Some(stale), Some(at)) = (&self.stale, found) {
                stale.mend(number, at, target);
            }
        }
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        if self.next == self.length {
            for source in &mut self.sources {
                source.drain()?;
            }
            (self.tell)(self.size(), self.crc);
        }
        Ok(())
    }
}

impl Read for Merged {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.from == self.buffer.len() && self.next < self.length {
            let name = &self.name.clone();
            self.run().map_err(|error| {
                if error.kind() == io::ErrorKind::InvalidData {
                    return error;
                }
                io::Error::new(error.kind(), format!("{name} cannot be put together: {error}"))
            })?;
        }
        let ready = self.buffer.get(self.from..).unwrap_or_default();
        let count = ready.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..count), ready.get(..count)) {
            to.copy_from_slice(from);
        }
        self.from += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: usize = 16;

    fn incremental(truncation: u32, blocks: &[(u32, u8)]) -> Vec<u8> {
        let mut numbers = vec![0xd3ae_1f0d, blocks.len() as u32, truncation];
        numbers.extend(blocks.iter().map(|(number, _)| number));
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.resize(IncrementalHeader::length(blocks.len() as u32, BLOCK as u32) as usize, 0);
        blocks.iter().for_each(|(_, value)| bytes.extend([*value; BLOCK]));
        bytes
    }

    fn merged(incrementals: &[Vec<u8>], whole: &[u8]) -> io::Result<Vec<u8>> {
        let boxed = |bytes: &[u8]| -> Box<dyn Read + Send> { Box::new(io::Cursor::new(bytes.to_vec())) };
        let mut sources = Vec::new();
        for bytes in incrementals {
            sources.push(Source::incremental(boxed(bytes), BLOCK as u32, 1000)?);
        }
        sources.push(Source::whole(boxed(whole), BLOCK as u32));
        let mut merged = Merged::new(sources, BLOCK as u32, "f".into(), Box::new(|_, _| {}))?;
        let size = merged.size();
        let mut bytes = Vec::new();
        merged.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, size);
        Ok(bytes)
    }

    fn values(bytes: &[u8]) -> Vec<u8> {
        bytes
            .chunks(BLOCK)
            .map(|block| if block.iter().all(|b| *b == block[0]) { block[0] } else { 255 })
            .collect()
    }

    fn whole(values: &[u8]) -> Vec<u8> {
        values.iter().flat_map(|value| [*value; BLOCK]).collect()
    }

    #[test]
    fn i33_each_block_comes_from_the_newest_that_has_it() {
        let full = whole(&[1, 2, 3, 4]);
        let of = |incrementals: &[Vec<u8>]| values(&merged(incrementals, &full).unwrap());
        assert_eq!(of(&[incremental(4, &[])]), [1, 2, 3, 4]);
        assert_eq!(of(&[incremental(4, &[(1, 9)])]), [1, 9, 3, 4]);
        assert_eq!(of(&[incremental(4, &[(1, 9)]), incremental(4, &[(1, 8), (3, 8)])]), [1, 9, 3, 8]);
        // Cut off and grown again: what was behind the cut comes from no older file.
        assert_eq!(of(&[incremental(2, &[])]), [1, 2]);
        assert_eq!(of(&[incremental(2, &[(4, 9)])]), [1, 2, 0, 0, 9]);
        assert_eq!(of(&[incremental(2, &[(4, 9)]), incremental(4, &[(3, 8)])]), [1, 2, 0, 0, 9]);
        // Grown without a word in the WAL.
        assert_eq!(of(&[incremental(6, &[])]), [1, 2, 3, 4, 0, 0]);
        assert_eq!(of(&[incremental(0, &[])]), [] as [u8; 0]);
        // A part of a block is none.
        assert_eq!(values(&merged(&[incremental(2, &[])], &full[..20]).unwrap()), [1, 0]);
    }

    #[test]
    fn i24_a_source_of_another_length_is_an_error() {
        let mut bytes = incremental(4, &[(1, 9), (2, 9)]);
        bytes.pop();
        assert!(merged(&[bytes.clone()], &whole(&[1, 2, 3, 4])).is_err());
        bytes.extend([0; 2]);
        assert!(merged(&[bytes], &whole(&[1, 2, 3, 4])).is_err());
    }

    proptest! {
        /// Compared with what pg_combinebackup's map of blocks says.
        #[test]
        fn i33_the_map_of_pg_combinebackup(
            full in prop::collection::vec(1u8..250, 0..40),
            links in prop::collection::vec((0u32..50, prop::collection::btree_map(0u32..60, 1u8..250, 0..20)), 1..5),
        ) {
            let files: Vec<Vec<u8>> = links.iter().map(|(truncation, blocks)| {
                incremental(*truncation, &blocks.iter().map(|(n, v)| (*n, *v)).collect::<Vec<_>>())
            }).collect();
            let (truncation, newest) = &links[0];
            let length = newest.keys().last().map_or(0, |last| last + 1).max(*truncation);
            let expected: Vec<u8> = (0..length).map(|number| {
                let older = links.iter().skip(1).find_map(|(_, blocks)| blocks.get(&number));
                let older = older.or_else(|| full.get(number as usize)).filter(|_| number < *truncation);
                newest.get(&number).or(older).copied().unwrap_or(0)
            }).collect();
            prop_assert_eq!(values(&merged(&files, &whole(&full)).unwrap()), expected);
        }
    }
}
