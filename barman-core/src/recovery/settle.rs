//! Configuration of a restored server: dangerous settings, recovery settings, signal files, and what Barman leaves.

use std::io::Read;

use camino::{Utf8Path, Utf8PathBuf};

use super::verify::Verifying;
use super::{RecoveryError, RecoveryPlan};
use crate::catalog::{BackupReader, CatalogError, FileProof, Root};
use crate::format::{backup_info, pg_conf};
use crate::transport::{FileOp, Lane};

/// Files that are searched for dangerous settings.
const SEARCHED: &[&str] = &["postgresql.conf", "postgresql.auto.conf"];

/// Files without which a server does not start.
const EXPECTED: &[&str] = &["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];

/// What was found in, and done to, the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigReport {
    /// Settings that were changed to prevent data loss.
    pub changes: Vec<ConfigLine>,
    /// Settings that the user must look at.
    pub dangerous: Vec<ConfigLine>,
    /// Configuration files that the backup does not hold.
    pub missing_files: Vec<String>,
}

/// A line of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigLine {
    /// The file, relative to the data directory.
    pub file: String,
    /// The line, counted from 0 as Barman does.
    pub line: usize,
    /// The setting.
    pub key: String,
    /// Its value; `None` for a line that was made a comment.
    pub value: Option<String>,
}

/// Whether a file of the data directory is written by [`configure`] and not as it is.
pub(crate) fn is_rewritten(plan: &RecoveryPlan, path: &Utf8Path) -> bool {
    searched(plan).any(|file| path == Utf8Path::new(file))
}

fn searched(plan: &RecoveryPlan) -> impl Iterator<Item = &str> {
    let settings = plan.settings.as_ref().map(|s| s.file.as_str());
    SEARCHED
        .iter()
        .copied()
        .chain(settings.filter(|file| !SEARCHED.contains(file) && *file != "recovery.conf"))
}

/// Writes every configuration file, the signal file and Barman's marks, each durably.
pub(crate) fn configure(
    plan: &RecoveryPlan,
    reader: &dyn BackupReader,
    lane: &mut dyn Lane,
) -> Result<ConfigReport, RecoveryError> {
    let mut report = ConfigReport::default();
    let mut ops = Vec::new();
    let files = reader.files(Root::Data)?;
    let proofs = reader.proofs()?.unwrap_or_default();
    let read = |file: &str| read_all(reader, Utf8Path::new(file), &proofs);
    let present = |name: &str| files.iter().find(|e| e.is_file() && e.path == name);
    report.missing_files =
        EXPECTED.iter().filter(|n| present(n).is_none()).map(|n| (*n).to_owned()).collect();

    for file in searched(plan) {
        let found = present(file);
        let mode = found.map_or(0o600, |e| e.mode);
        let lines = plan.settings.as_ref().filter(|s| s.file == file).map(|s| s.lines.as_slice());
        let original = match found {
            Some(_) => Some(read(file)?),
            None if lines.is_some() => None,
            None => continue,
        };
        let mangled = pg_conf::neutralise(original.as_deref().unwrap_or_default());
        let line = |l: &pg_conf::Line| ConfigLine {
            file: file.to_owned(),
            line: l.number,
            key: l.key.clone(),
            value: l.value.clone(),
        };
        report.changes.extend(mangled.changes.iter().map(line));
        report.dangerous.extend(mangled.dangerous.iter().map(line));
        let mut content = mangled.text;
        if let Some(lines) = lines {
            append_block(&mut content, lines);
        }
        if let Some(original) = original {
            ops.push(write(plan, &format!("{file}.origin"), original, mode));
        }
        ops.push(write(plan, file, content, mode));
    }
    if let Some(settings) = &plan.settings {
        if settings.file == "recovery.conf" {
            let mut content = Vec::new();
            for line in &settings.lines {
                content.extend_from_slice(line.as_bytes());
                content.push(b'\n');
            }
            ops.push(write(plan, "recovery.conf", content, 0o600));
        }
        if let Some(signal) = settings.signal {
            ops.push(write(plan, signal, Vec::new(), 0o600));
        }
    }
    // Without it the server would take the restored files for those of a crash and lose what is newer than its control
    // file says. Barman keeps the text in its facts, too.
    if present("backup_label").is_none()
        && let Some(label) = reader.info().backup_label.as_ref().filter(|label| !label.is_empty())
    {
        ops.push(write(plan, "backup_label", label.clone().into_bytes(), 0o600));
    }
    // That of a chain is made while it is put together.
    if present("backup_manifest").is_some() || reader.info().is_incremental() {
        match read("backup_manifest") {
            Ok(content) => {
                ops.push(write(plan, &format!("backup_manifest.{}", plan.backup), content, 0o600));
            }
            Err(RecoveryError::Catalog(CatalogError::Io(error))) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let info = backup_info::print(reader.info()).into_bytes();
    ops.push(write(plan, ".barman-recover.info", info, 0o600));
    lane.apply(&ops)?;
    Ok(report)
}

/// Barman puts an empty line before its block, whatever stands there.
fn append_block(content: &mut Vec<u8>, lines: &[String]) {
    if content.last().is_some_and(|b| *b != b'\n') {
        content.push(b'\n');
    }
    content.push(b'\n');
    for line in lines {
        content.extend_from_slice(line.as_bytes());
        content.push(b'\n');
    }
}

fn write(plan: &RecoveryPlan, file: &str, content: Vec<u8>, mode: u32) -> FileOp {
    FileOp::WriteFile { path: plan.destination.join(file), content, mode }
}

/// A small file of the backup, verified where its digest is known (I24).
fn read_all(
    reader: &dyn BackupReader,
    path: &Utf8Path,
    proofs: &[FileProof],
) -> Result<Vec<u8>, RecoveryError> {
    let full: Utf8PathBuf = reader.location(Root::Data).join(path);
    let mut file = reader.open(Root::Data, path)?;
    let mut bytes = Vec::new();
    let read = match proofs.iter().find(|p| p.root == Root::Data && p.path == path) {
        Some(proof) => Verifying::new(file, full.clone(), proof.size, proof.crc32c).read_to_end(&mut bytes),
        None => file.read_to_end(&mut bytes),
    };
    read.map_err(|source| RecoveryError::Damaged { path: full, reason: source.to_string() })?;
    Ok(bytes)
}
