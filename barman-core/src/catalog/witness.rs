//! [`Witness`]: what is known of a backup's files, held against them while somebody copies them.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;

use camino::{Utf8Path, Utf8PathBuf};

use super::known::Known;
use super::{BackupReader, CatalogError, Root, verify_files};
use crate::ctx::Ctx;
use crate::io::IoContext;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Copies files of a backup and fails at the end of one whose bytes are not those that were stored.
pub(crate) struct Witness {
    known: Known,
    buffer: Vec<u8>,
}

impl Witness {
    /// A packed backup of which only the content of its archives is known is verified as a whole first.
    ///
    /// # Errors
    /// A manifest that is damaged, and what [`verify_files`] finds.
    pub(crate) fn of(reader: &dyn BackupReader, workers: usize, ctx: &Ctx<'_>) -> Result<Self, CatalogError> {
        let mut problems = Vec::new();
        let known = match reader.packed()? {
            Some(packed) => {
                if packed.proofs.is_none() {
                    problems = verify_files(reader, workers, ctx)?.problems;
                }
                Known::of(packed.proofs)
            }
            None => Known::read(reader, reader.proofs(), &mut problems)?,
        };
        match problems.into_iter().next() {
            None => Ok(Self { known, buffer: vec![0; CHUNK] }),
            Some(problem) => Err(CatalogError::Damaged {
                path: reader.location(Root::Data),
                expected: "what was stored".to_owned(),
                found: problem.to_string(),
            }),
        }
    }

    /// Copies a file of exactly this length.
    pub(crate) fn copy(
        &mut self,
        (root, path): (Root, &Utf8Path),
        (full, size): (&Utf8Path, u64),
        from: &mut dyn Read,
        to: &mut dyn Write,
        ctx: &Ctx<'_>,
    ) -> Result<(), CatalogError> {
        let damaged = |expected: String, found: String| {
            Err(CatalogError::Damaged { path: full.to_owned(), expected, found })
        };
        let row = self.known.row(root, path);
        if let Some(expected) = row.and_then(|row| row.other_size(size)) {
            return damaged(format!("{expected} bytes"), size.to_string());
        }
        let mut summing = row.map(|row| row.summing());
        let mut length = 0;
        loop {
            ctx.cancel.check()?;
            let count = match from.read(&mut self.buffer) {
                Ok(0) => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.context("read", full)?,
            };
            let bytes = self.buffer.get(..count).unwrap_or_default();
            length += count as u64;
            if length > size {
                break;
            }
            if let Some(summing) = &mut summing {
                summing.update(bytes);
            }
            to.write_all(bytes).context("copy", full)?;
        }
        if length != size {
            return damaged(format!("{size} bytes"), format!("{length}"));
        }
        if let (Some(row), Some(summing)) = (row, summing) {
            if !row.agrees(summing) {
                return damaged("the bytes that were stored".to_owned(), "others".to_owned());
            }
            row.seen.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A file that is known and was not copied.
    pub(crate) fn missed(&self) -> Option<(Root, Utf8PathBuf)> {
        self.known.trees().find_map(|(root, rows)| {
            let missed = rows.iter().find(|(_, row)| !row.seen.load(Ordering::Relaxed));
            missed.map(|(path, _)| (root, path.clone()))
        })
    }
}
