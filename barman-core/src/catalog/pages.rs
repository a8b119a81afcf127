//! [`Pages`]: the checksums that PostgreSQL itself keeps in each page, for files of which nothing else is known.

use std::io::{self, Read};

use camino::Utf8Path;

use super::{BackupReader, Root};
use crate::format::control::ControlFile;
use crate::format::page::{Verdict, check_page};
use crate::format::relfile::RelFile;
use crate::io::fill;
use crate::model::Lsn;

/// A page whose content does not give the checksum that stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadPage {
    /// Counted over the whole fork.
    pub(super) block: u32,
    /// In the page.
    pub(super) found: u16,
    /// Of its content.
    pub(super) expected: u16,
}

/// How the pages of a backup are laid out.
pub(super) struct Pages {
    control: ControlFile,
    /// A page that changed later is written again by replay; it may have been torn when it was copied.
    begin: Lsn,
}

impl Pages {
    /// `None` where pages have no checksums, or nobody can say.
    pub(super) fn of(reader: &dyn BackupReader) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = reader.open(Root::Data, Utf8Path::new("global/pg_control")).ok()?;
        file.take(1 << 16).read_to_end(&mut bytes).ok()?;
        let control = ControlFile::parse(&bytes).ok()?;
        let begin = reader.info().begin_xlog?;
        (control.has_checksums() && control.block_size > 0).then_some(Self { control, begin })
    }

    /// Reads a file of pages to its end; gives how many pages are right, and those that are not. `each` is told of what was read,
    /// and may end it.
    pub(super) fn check<E: From<io::Error>>(
        &self,
        file: RelFile,
        bytes: &mut dyn Read,
        buffer: &mut [u8],
        each: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<(u64, Vec<BadPage>), E> {
        let size = self.control.block_size as usize;
        let whole = buffer.len() / size * size;
        let (mut index, mut right, mut bad) = (0u32, 0, Vec::new());
        loop {
            let Some(room) = buffer.get_mut(..whole).filter(|room| !room.is_empty()) else {
                return Ok((right, bad));
            };
            let count = fill(&mut { &mut *bytes }, room)?;
            each(count as u64)?;
            // What is left at the end is no page.
            for page in room.get(..count).unwrap_or_default().chunks_exact(size) {
                let block = file.block(index, self.control.blocks_per_file);
                index = index.saturating_add(1);
                let look = check_page(page, block, true);
                let wrong = match look.verdict {
                    // What the page calls expected is the checksum that it carries.
                    Verdict::ChecksumMismatch { expected, found } => {
                        Some(BadPage { block, found: expected, expected: found })
                    }
                    Verdict::NewButNotEmpty => Some(BadPage { block, found: 0, expected: 0 }),
                    _ => None,
                };
                match wrong {
                    None => right += 1,
                    Some(page) if look.lsn < self.begin => bad.push(page),
                    Some(_) => {}
                }
            }
            if count < whole {
                return Ok((right, bad));
            }
        }
    }
}
