//! Bits of visibility maps that must not come back.
//!
//! A visibility map says of each page of a table whether everybody sees all of its rows. PostgreSQL 17 and 18 clear a bit without
//! naming the block of the map in the WAL, so that an incremental backup does not know of it: put together as
//! `pg_combinebackup` does it, the map calls pages all-visible that are not, and index-only scans give rows back that were
//! deleted long ago (pgsql-hackers, March 2026, "Why clearing the VM doesn't require registering vm buffer in wal record"). A
//! cleared bit is never wrong; `VACUUM` sets it again. So where a block of the map comes from an older backup, the bits of all
//! pages that changed later are cleared: the incremental files of the table name them.

use crate::format::incremental::IncrementalHeader;
use crate::format::page;

/// Bytes before the bits (`MAXALIGN(SizeOfPageHeaderData)`).
const HEADER: usize = 24;
/// Bits of a page of the table: all-visible and all-frozen.
const BITS: u32 = 2;
/// Pages of the table in a byte.
const PER_BYTE: u32 = 8 / BITS;
/// Where a page keeps its checksum.
const CHECKSUM: std::ops::Range<usize> = 8..10;
/// Where it says where free space ends: zero in a page that never was used.
const UPPER: std::ops::Range<usize> = 14..16;

/// Pages of a table that may have changed between two backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Ascending.
    blocks: Vec<u32>,
    /// From, and to (not included).
    ranges: Vec<(u32, u32)>,
}

impl Changes {
    /// Adds what the incremental file of a segment names, and all from where the segment was cut off.
    pub(super) fn add(&mut self, segment: u32, header: &IncrementalHeader, blocks_per_file: u32) {
        let first = segment.saturating_mul(blocks_per_file);
        self.blocks.extend(header.blocks.iter().map(|block| first.saturating_add(*block)));
        self.blocks.sort_unstable();
        let cut = first.saturating_add(header.truncation_block_length);
        self.ranges.push((cut, first.saturating_add(blocks_per_file)));
    }

    /// Adds a segment that was backed up whole.
    pub(super) fn add_whole(&mut self, segment: u32, blocks_per_file: u32) {
        let first = segment.saturating_mul(blocks_per_file);
        self.ranges.push((first, first.saturating_add(blocks_per_file)));
    }

    /// Adds all segments from this one on.
    pub(super) fn add_from(&mut self, segment: u32, blocks_per_file: u32) {
        self.ranges.push((segment.saturating_mul(blocks_per_file), u32::MAX));
    }

    /// The pages of `of` among them.
    fn within(&self, of: std::ops::Range<u32>) -> impl Iterator<Item = u32> {
        let from = self.blocks.partition_point(|block| *block < of.start);
        let to = self.blocks.partition_point(|block| *block < of.end);
        let single = self.blocks.get(from..to).unwrap_or_default().iter().copied();
        let ranges: Vec<(u32, u32)> =
            self.ranges.iter().map(|(from, to)| (*from.max(&of.start), *to.min(&of.end))).collect();
        single.chain(ranges.into_iter().flat_map(|(from, to)| from..to.max(from)))
    }
}

/// Clears such bits.
#[derive(Debug)]
pub(super) struct Stale {
    /// What changed up to each backup since the one before it, the newest first.
    changes: Vec<Changes>,
    /// Blocks of the map before this file.
    before: u32,
    checksums: bool,
}

impl Stale {
    /// For segment `segment` of the map.
    pub(super) fn new(changes: Vec<Changes>, segment: u32, blocks_per_file: u32, checksums: bool) -> Self {
        Self { changes, before: segment.saturating_mul(blocks_per_file), checksums }
    }

    /// Mends block `number` of the file, which comes from backup `source` (0 is the newest).
    pub(super) fn mend(&self, number: u32, source: usize, bytes: &mut [u8]) {
        if bytes.get(UPPER).is_none_or(|upper| upper.iter().all(|byte| *byte == 0)) {
            return;
        }
        let block = self.before.saturating_add(number);
        let bits = u32::try_from(bytes.len().saturating_sub(HEADER)).unwrap_or_default();
        let pages = bits.saturating_mul(PER_BYTE);
        let first = block.saturating_mul(pages);
        let mut changed = false;
        for newer in self.changes.iter().take(source) {
            for page in newer.within(first..first.saturating_add(pages)) {
                let at = page - first;
                let mask = 0b11u8 << (at % PER_BYTE * BITS);
                if let Some(byte) = bytes.get_mut(HEADER + (at / PER_BYTE) as usize)
                    && *byte & mask != 0
                {
                    *byte &= !mask;
                    changed = true;
                }
            }
        }
        if changed && self.checksums {
            let sum = page::checksum(bytes, block);
            if let Some(target) = bytes.get_mut(CHECKSUM) {
                target.copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 8192;
    /// Pages of a table that a block of the map speaks of.
    const PAGES: u32 = (SIZE as u32 - 24) * 4;

    fn map() -> Vec<u8> {
        let mut bytes = vec![0xff; SIZE];
        bytes[..24].fill(0);
        bytes[14..16].copy_from_slice(&(SIZE as u16).to_le_bytes());
        bytes
    }

    fn cleared(bytes: &[u8]) -> Vec<u32> {
        let bits = |page: u32| bytes[24 + page as usize / 4] >> (page % 4 * 2) & 3;
        (0..PAGES).filter(|page| bits(*page) == 0).collect()
    }

    fn changes(blocks: &[u32]) -> Changes {
        let mut changes = Changes::default();
        let header = IncrementalHeader { truncation_block_length: 131_072, blocks: blocks.to_vec() };
        changes.add(0, &header, 131_072);
        changes
    }

    #[test]
    fn bits_of_pages_that_changed_later_are_cleared() {
        let mend = |changes: Vec<Changes>, number: u32, source: usize| {
            let mut bytes = map();
            Stale::new(changes, 0, 131_072, true).mend(number, source, &mut bytes);
            let sum = u16::from_le_bytes(bytes[8..10].try_into().unwrap());
            let cleared = cleared(&bytes);
            assert!(cleared.is_empty() == (sum == 0) || sum == page::checksum(&bytes, number));
            cleared
        };
        let all = vec![changes(&[0, 5, PAGES + 7]), changes(&[9])];
        // What comes from the newest backup is as new as the table.
        assert!(mend(all.clone(), 0, 0).is_empty());
        assert_eq!(mend(all.clone(), 0, 1), [0, 5]);
        assert_eq!(mend(all.clone(), 0, 2), [0, 5, 9]);
        assert_eq!(mend(all, 1, 2), [7]);
        let mut cut = Changes::default();
        cut.add(0, &IncrementalHeader { truncation_block_length: PAGES - 2, blocks: vec![] }, 131_072);
        assert_eq!(mend(vec![cut], 0, 1), [PAGES - 2, PAGES - 1]);
        let mut whole = Changes::default();
        whole.add_whole(0, 131_072);
        assert_eq!(mend(vec![whole], 0, 1).len() as u32, PAGES);
        let mut gone = Changes::default();
        gone.add_from(0, 131_072);
        assert_eq!(mend(vec![gone], 3, 1).len() as u32, PAGES);
    }

    #[test]
    fn a_page_that_never_was_used_stays_so() {
        let mut bytes = vec![0; SIZE];
        Stale::new(vec![changes(&[0])], 0, 131_072, true).mend(0, 1, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
