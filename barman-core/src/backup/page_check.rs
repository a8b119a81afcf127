//! [`PageCheck`]: page checksums of a relation file while its bytes stream by (I12).

use crate::format::incremental::{HeaderParser, IncrementalError};
use crate::format::page::{Verdict, check_page};
use crate::format::relfile::RelFile;
use crate::model::Lsn;

/// What the cluster's `pg_control` says of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageLayout {
    /// Bytes of a page (`BLCKSZ`).
    pub(crate) block_size: u32,
    /// Pages of a relation segment file (`RELSEG_SIZE`).
    pub(crate) blocks_per_file: u32,
}

/// A page whose checksum does not match its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suspect {
    /// Which page of the file, from 0.
    pub(crate) index: u32,
    /// Block number in the fork.
    pub(crate) block: u32,
    /// Checksum in the page.
    pub(crate) found: u16,
    /// Checksum of the content.
    pub(crate) expected: u16,
    /// LSN in the page; meaningless when the page is garbage.
    pub(crate) lsn: Lsn,
}

/// Checks one file. Bytes come in pieces of any length.
#[derive(Debug)]
pub(crate) struct PageCheck {
    layout: PageLayout,
    file: RelFile,
    index: u32,
    /// The beginning of a page whose rest has not come yet.
    carry: Vec<u8>,
    suspects: Vec<Suspect>,
    incremental: Option<Incremental>,
    /// Whether the pages have checksums at all.
    judged: bool,
}

/// What stands before the pages of an incremental file.
#[derive(Debug)]
enum Incremental {
    Coming(HeaderParser),
    /// Which blocks of the relation file the pages are.
    Blocks(Vec<u32>),
    Malformed(IncrementalError),
}

impl PageCheck {
    pub(crate) fn new(layout: PageLayout, file: RelFile) -> Self {
        Self {
            layout,
            file,
            index: 0,
            carry: Vec::new(),
            suspects: Vec::new(),
            incremental: None,
            judged: true,
        }
    }

    /// For the incremental file of a relation file.
    pub(crate) fn incremental(layout: PageLayout, file: RelFile) -> Self {
        let parser = HeaderParser::new(layout.block_size, layout.blocks_per_file);
        Self { incremental: Some(Incremental::Coming(parser)), ..Self::new(layout, file) }
    }

    /// The same in a cluster without checksums: only what stands before the pages is looked at.
    pub(crate) fn incremental_without_checksums(layout: PageLayout, file: RelFile) -> Self {
        Self { judged: false, ..Self::incremental(layout, file) }
    }

    /// Why a file that should be an incremental one is none, as far as it has come.
    pub(crate) fn malformed(&self) -> Option<String> {
        match &self.incremental {
            Some(Incremental::Malformed(error)) => Some(error.to_string()),
            Some(Incremental::Coming(_)) => Some("it is too short".to_owned()),
            _ => None,
        }
    }

    /// Takes the next bytes of the file.
    pub(crate) fn push(&mut self, mut data: &[u8]) {
        let size = self.layout.block_size as usize;
        if size == 0 {
            return;
        }
        match &mut self.incremental {
            Some(Incremental::Coming(parser)) => match parser.push(&mut data) {
                Ok(None) => return,
                Ok(Some(header)) => self.incremental = Some(Incremental::Blocks(header.blocks)),
                Err(error) => self.incremental = Some(Incremental::Malformed(error)),
            },
            Some(Incremental::Malformed(_)) => return,
            Some(Incremental::Blocks(_)) | None => {}
        }
        if !self.judged {
            return;
        }
        if !self.carry.is_empty() {
            let missing = (size - self.carry.len()).min(data.len());
            let (head, rest) = data.split_at(missing);
            self.carry.extend_from_slice(head);
            data = rest;
            if self.carry.len() < size {
                return;
            }
            let page = std::mem::take(&mut self.carry);
            self.page(&page);
            self.carry = page;
            self.carry.clear();
        }
        let pages = data.chunks_exact(size);
        let rest = pages.remainder();
        for page in pages {
            self.page(page);
        }
        self.carry.extend_from_slice(rest);
    }

    /// The pages that are wrong. A last piece shorter than a page is not a page and is not judged here.
    pub(crate) fn finish(self) -> Vec<Suspect> {
        self.suspects
    }

    fn page(&mut self, bytes: &[u8]) {
        let index = match &self.incremental {
            Some(Incremental::Blocks(blocks)) => match blocks.get(self.index as usize) {
                Some(block) => *block,
                None => return,
            },
            _ => self.index,
        };
        let block = self.file.block(index, self.layout.blocks_per_file);
        if let Some(suspect) = judge(bytes, index, block) {
            self.suspects.push(suspect);
        }
        self.index = self.index.saturating_add(1);
    }
}

/// Judges a single page: `None` for one that is right or never was written.
pub(crate) fn judge(bytes: &[u8], index: u32, block: u32) -> Option<Suspect> {
    let page = check_page(bytes, block, true);
    let (found, expected) = match page.verdict {
        // What the page calls expected is the checksum it carries.
        Verdict::ChecksumMismatch { expected, found } => (expected, found),
        Verdict::NewButNotEmpty => (0, 0),
        _ => return None,
    };
    Some(Suspect { index, block, found, expected, lsn: page.lsn })
}

/// The LSN in a page's header; of no meaning when the page is garbage.
pub(crate) fn page_lsn(bytes: &[u8]) -> Lsn {
    check_page(bytes, 0, false).lsn
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: PageLayout = PageLayout { block_size: 8192, blocks_per_file: 131_072 };

    fn good_page(block: u32, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0u8; 8192];
        for (at, byte) in bytes.iter_mut().enumerate().skip(24) {
            *byte = (at as u8).wrapping_mul(31).wrapping_add(seed);
        }
        // pd_lower, pd_upper, pd_special, pd_pagesize_version of an ordinary page.
        for (at, value) in [(12, 28u16), (14, 8000), (16, 8192), (18, 8192 | 4)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let sum = crate::format::page::checksum(&bytes, block);
        bytes[8..10].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn i12_a_flipped_bit_is_found_in_pieces_of_every_length() {
        let file = RelFile::parse_name("16384.1").unwrap();
        let mut bytes: Vec<u8> = (0..4).flat_map(|i| good_page(131_072 + i, i as u8)).collect();
        bytes[2 * 8192 + 5000] ^= 4;
        for piece in [1usize, 7, 4096, 8191, 8192, 8193, 30_000, 40_000] {
            let mut check = PageCheck::new(LAYOUT, file);
            bytes.chunks(piece).for_each(|c| check.push(c));
            let suspects = check.finish();
            assert_eq!(suspects.len(), 1, "pieces of {piece}");
            assert_eq!((suspects[0].index, suspects[0].block), (2, 131_074));
        }
    }

    #[test]
    fn i12_the_block_number_includes_the_segment() {
        let mut check = PageCheck::new(LAYOUT, RelFile::parse_name("16384").unwrap());
        check.push(&good_page(131_072, 1));
        assert_eq!(check.finish().len(), 1);
    }

    #[test]
    fn i12_the_blocks_of_an_incremental_file_are_those_that_its_header_names() {
        let check = |blocks: [u32; 2], flip: bool, piece: usize| {
            let mut bytes: Vec<u8> =
                [0xd3ae_1f0d, 2, 131_072, 7, 9].iter().flat_map(|n: &u32| n.to_le_bytes()).collect();
            bytes.resize(8192, 0);
            bytes.extend(good_page(blocks[0], 1));
            bytes.extend(good_page(blocks[1], 2));
            bytes[8192 + 5000] ^= u8::from(flip);
            let mut check = PageCheck::incremental(LAYOUT, RelFile::parse_name("16384").unwrap());
            bytes.chunks(piece).for_each(|c| check.push(c));
            assert_eq!(check.malformed(), None);
            check.finish().iter().map(|suspect| suspect.block).collect::<Vec<_>>()
        };
        for piece in [1, 5000, 8192, 30_000] {
            assert!(check([7, 9], false, piece).is_empty());
            assert_eq!(check([7, 9], true, piece), [7]);
            assert_eq!(check([7, 8], false, piece), [9]);
        }
        let mut other = PageCheck::incremental(LAYOUT, RelFile::parse_name("16384").unwrap());
        assert!(other.malformed().is_some());
        other.push(&[1; 40]);
        assert!(other.malformed().unwrap().contains("begins with 01010101"));
    }

    #[test]
    fn zero_pages_and_tails_are_not_judged() {
        let mut check = PageCheck::new(LAYOUT, RelFile::parse_name("16384").unwrap());
        check.push(&[0u8; 8192]);
        check.push(&[7u8; 100]);
        assert!(check.finish().is_empty());
    }
}
