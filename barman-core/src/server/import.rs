//! `import-backup`: a backup that `export-backup` of ours or of Barman's wrote into one tar archive. It is unpacked beside the
//! others in one pass, summed on the way, and gets its place only when all of it is there, is what was exported, and is durable.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

use super::identity::Identity;
use super::{Server, ServerError};
use crate::catalog::{Admission, CatalogError, members_of};
use crate::codec::{Algorithm, MAGIC_LEN, decompressor, detect};
use crate::config::Operation;
use crate::ctx::{Cancel, Ctx, Event, Unit};
use crate::format::text::with_reasons;
use crate::format::wal_page::Validator;
use crate::format::{backup_info, xlogdb};
use crate::io::{IoContext, LockError, LockName, SourceFile};
use crate::model::{BackupId, BackupInfo, Entry, FileTime, Keep, ServerName, Status, WalFileName};
use crate::recovery::expected_segment;
use crate::wal::{Incoming, TakenHow, WalArchive};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// What stands beside the files is small.
const LONGEST: u64 = 16 << 20;

/// What the archive holds beside the backup's files.
#[derive(Default)]
struct Beside {
    identity: Option<String>,
    facts: Option<String>,
    index: Vec<u8>,
    /// Where each WAL file is staged.
    wals: BTreeMap<WalFileName, Utf8PathBuf>,
}

impl Server {
    /// Whether there is an archive to import.
    ///
    /// # Errors
    /// When there is none, in Barman's words.
    pub fn check_import(&self, archive: &Utf8Path) -> Result<(), ServerError> {
        self.enabled()?;
        if matches!(self.host.disk.stat(archive), Ok(stat) if stat.is_file()) {
            return Ok(());
        }
        Err(ServerError::Usage(format!("Tarball file '{archive}' does not exist")))
    }

    /// Imports a backup, keeps it with the WAL that makes it consistent, and gives its facts.
    ///
    /// # Errors
    /// A backup of that id that is there already, another cluster, an archive that is not what was exported, WAL that
    /// contradicts what is archived. Nothing of the backup is left then.
    pub fn import_backup(&self, archive: &Utf8Path, ctx: &Ctx<'_>) -> Result<BackupInfo, ServerError> {
        self.check_import(archive)?;
        self.usable(Operation::Archive, ctx)?;
        let named = Named::parse(self.name(), archive.file_name().unwrap_or_default())?;
        self.make_directories()?;
        let name = LockName::Backup(self.name().clone());
        let _lock =
            self.locks.try_lock(&name, "the import of a backup", ctx).map_err(|error| match error {
                LockError::Busy { .. } => ServerError::BackupRunning { source: error },
                other => other.into(),
            })?;
        let mut admission = self.catalog.admit(named.id)?;
        // Opened before the first write, see `Disk::watch_writes`.
        let watch = self.host.disk.watch_writes(admission.staging())?;
        let beside = self.unpack(archive, &named, &mut admission, ctx)?;
        let mut info = self.facts_of(&beside, &named, ctx)?;
        let wals = self.sound_wals(&beside, &info, ctx)?;
        let sizes = admission.seal(ctx)?;
        if let Some(watch) = watch {
            watch.sync()?;
        }
        // Its files are all its own here.
        info.size = Some(sizes.size);
        info.deduplicated_size = Some(sizes.deduplicated_size);
        self.take_wals(&wals, ctx)?;
        let cluster = info.systemid.zip(info.version);
        // What is published is finished, too: an interruption comes too late.
        let calm = Cancel::new();
        let ctx = Ctx { cancel: &calm, ..*ctx };
        admission.publish(info, Keep::Standalone, &|| {
            // Until the backup was known, others may have let its WAL go again; here it is still staged.
            self.take_wals(&wals, &ctx)?;
            cluster.map_or(Ok(()), |(system, version)| self.settle_identity(system, version))
        })
    }

    /// Unpacks the archive in one pass and compares its sum with the one in its name.
    fn unpack(
        &self,
        archive: &Utf8Path,
        named: &Named,
        admission: &mut Admission,
        ctx: &Ctx<'_>,
    ) -> Result<Beside, ServerError> {
        let file = self.host.disk.open_read(archive)?;
        let total = file.stat()?.size;
        let stage = "Importing";
        ctx.progress.event(&Event::StageStarted { stage, total: Some(total), unit: Unit::Bytes });
        let mut start = vec![0; MAGIC_LEN];
        let n = file.read_at(&mut start, 0)?;
        start.truncate(n);
        let source = Summed(Arc::new(Mutex::new(Source { file, digest: Sha256::new(), read: 0 })));
        let packed = BufReader::with_capacity(CHUNK, source.clone());
        let plain: Box<dyn Read + Send> = match detect(&start, None) {
            None | Some(Algorithm::None) => Box::new(packed),
            Some(algorithm) => decompressor(algorithm, None)?.decoder(Box::new(packed))?,
        };
        let broken = |error: io::Error| ServerError::NotTransferred {
            reason: format!(
                "Tarball '{archive}' cannot be read: {error}. The file may have been modified or corrupted."
            ),
        };
        let mut members = members_of(plain);
        let mut beside = Beside::default();
        let mut told = 0;
        while let Some((entry, mut bytes)) = members.next().map_err(broken)? {
            ctx.cancel.check()?;
            self.take_member(&entry, &mut bytes, &mut beside, admission, ctx)?;
            let read = source.lock().read;
            ctx.progress.event(&Event::Advanced { by: read - told });
            told = read;
        }
        // What follows the end of the archive counts too.
        io::copy(&mut source.clone(), &mut io::sink()).context("read", archive)?;
        ctx.progress.event(&Event::StageFinished);
        let found = hex::encode(source.lock().digest.clone().finalize());
        let found = found.get(..8).unwrap_or_default();
        if found == named.checksum {
            return Ok(beside);
        }
        Err(ServerError::Usage(format!(
            "Tarball checksum mismatch: filename contains '{}' but actual checksum is '{found}'. The file may have been \
             modified or corrupted.",
            named.checksum
        )))
    }

    fn take_member(
        &self,
        entry: &Entry,
        bytes: &mut dyn Read,
        beside: &mut Beside,
        admission: &mut Admission,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let path = entry.path.as_path();
        let text = |bytes: &mut dyn Read| -> Result<Vec<u8>, ServerError> {
            let mut content = Vec::new();
            bytes.take(LONGEST).read_to_end(&mut content).context("import", path)?;
            Ok(content)
        };
        let utf8 = |content: Vec<u8>| {
            String::from_utf8(content).map_err(|_| ServerError::from(foreign(path, "is not text")))
        };
        if let Ok(below) = path.strip_prefix("backup") {
            let below = Entry { path: below.to_owned(), ..entry.clone() };
            return Ok(admission.take(&below, bytes, ctx)?);
        }
        if entry.is_dir() {
            return Ok(());
        }
        if !entry.is_file() {
            return Err(foreign(path, "is neither a file nor a directory").into());
        }
        match path.as_str() {
            "identity.json" => beside.identity = Some(utf8(text(bytes)?)?),
            "backup.info" => beside.facts = Some(utf8(text(bytes)?)?),
            // For people.
            "barman.json" => {}
            "xlog.db" => beside.index = text(bytes)?,
            other => {
                let name = path.file_name().and_then(|name| name.parse::<WalFileName>().ok());
                let name = name.filter(|_| other.starts_with("wals/"));
                let name = name.ok_or_else(|| foreign(path, "is not part of an export"))?;
                let staged = admission.staging().join(name.to_string());
                let mut file = self.host.disk.create_new(&staged)?;
                io::copy(bytes, &mut file).context("write", &staged)?;
                file.set_mtime(entry.mtime)?;
                beside.wals.insert(name, staged);
            }
        }
        Ok(())
    }

    /// The facts of the backup, when it may belong here.
    fn facts_of(&self, beside: &Beside, named: &Named, ctx: &Ctx<'_>) -> Result<BackupInfo, ServerError> {
        let refused = |reason: String| ServerError::NotTransferred { reason };
        let facts =
            beside.facts.as_deref().ok_or_else(|| refused("The export has no backup.info".to_owned()))?;
        let local = |at| ctx.clock.resolve_local(at);
        let mut info = backup_info::parse(named.id, facts, &local).map_err(|error| {
            refused(format!("backup.info of the export cannot be read: {}", with_reasons(&error)))
        })?;
        let identity =
            beside.identity.as_deref().and_then(|text| serde_json::from_str::<Identity>(text).ok());
        let identity =
            identity.ok_or_else(|| refused("The export does not say of which cluster it is".to_owned()))?;
        let own = self.stored_system_id()?.or(self.wal.system_id());
        let theirs = info.systemid.map_or(identity.systemid.clone(), |id| id.to_string());
        for found in [&identity.systemid, &theirs] {
            if let Some(own) = own.map(|id| id.to_string()).filter(|own| own != found) {
                return Err(refused(format!(
                    "Server identity mismatch: exported backup has systemid '{found}' but target server has systemid '{own}'"
                )));
            }
        }
        if let Some(version) = self.stored_version()?.filter(|version| *version != identity.version) {
            ctx.warn(format!(
                "PostgreSQL version mismatch: exported backup has version '{}' but target server has version '{version}'",
                identity.version
            ));
        }
        if info.is_incremental() || !info.status.is_available() {
            return Err(refused(format!(
                "The export is of a backup that cannot be restored alone ({})",
                info.status
            )));
        }
        info.server_name = Some(self.name().clone());
        // Incrementals that were taken from it do not come along.
        info.children_backup_ids = Vec::new();
        info.status = Status::Done;
        info.error = None;
        Ok(info)
    }

    /// The staged segments that the archive here does not have. All that are needed must be there, sound, and no others than
    /// those that are archived already.
    fn sound_wals(
        &self,
        beside: &Beside,
        info: &BackupInfo,
        ctx: &Ctx<'_>,
    ) -> Result<Vec<(WalFileName, Utf8PathBuf)>, ServerError> {
        let mut wals = Vec::new();
        for segment in info.required_wals() {
            let name = WalFileName::Segment(segment);
            let Some(staged) = beside.wals.get(&name) else {
                let reason =
                    format!("WAL file required for backup consistency not found in the export: {segment}");
                return Err(ServerError::NotTransferred { reason });
            };
            let mut validator = Validator::new(expected_segment(info, segment));
            let mut staged_bytes = self.wal.open_file(staged)?;
            let mut archived = match self.wal.find(&name)? {
                Some(_) => Some(self.wal.open(&name)?),
                None => None,
            };
            let (mut chunk, mut other) = (vec![0; CHUNK], vec![0; CHUNK]);
            let mut same = true;
            loop {
                ctx.cancel.check()?;
                let count = crate::io::fill(&mut staged_bytes, &mut chunk).context("read", staged)?;
                if let Some(archived) = &mut archived {
                    // What cannot be read is not the same.
                    let there = crate::io::fill(archived, &mut other).unwrap_or(usize::MAX);
                    same &= there == count && chunk.get(..count) == other.get(..count);
                }
                if count == 0 {
                    break;
                }
                validator.push(chunk.get(..count).unwrap_or_default());
            }
            if let Err(unsound) = validator.finish() {
                let reason = format!("WAL file {segment} of the export is not sound: {unsound}");
                return Err(ServerError::NotTransferred { reason });
            }
            if archived.is_some() && !same {
                return Err(conflict(&name));
            }
            wals.push((name, staged.clone()));
        }
        // Times by which a listing shows them.
        for line in xlogdb::lines(&beside.index) {
            let Ok(line) = line.parsed else { continue };
            if let Some(staged) = beside.wals.get(&line.name) {
                let nanos = (line.mtime.fract() * 1e9) as u32;
                let time = FileTime { seconds: line.mtime as i64, nanos: nanos.min(999_999_999) };
                self.host.disk.set_mtime(staged, time)?;
            }
        }
        Ok(wals)
    }

    /// Archives those segments that are not there.
    fn take_wals(&self, wals: &[(WalFileName, Utf8PathBuf)], ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let mut intake = self.wal.intake(*ctx)?;
        for (name, path) in wals {
            if self.wal.find(name)?.is_none() {
                intake.put(Incoming { name: *name, path: path.clone(), remove_source: false })?;
            }
        }
        for taken in intake.commit()?.complete()? {
            match taken.how {
                TakenHow::Archived(_) | TakenHow::Replaced(_) | TakenHow::Known => {}
                TakenHow::Conflict { .. } => return Err(conflict(&taken.name)),
                TakenHow::Refused { reason, .. } | TakenHow::Failed { reason } => {
                    let reason = format!("WAL file {} could not be archived: {reason}", taken.name);
                    return Err(ServerError::NotTransferred { reason });
                }
                TakenHow::Growing => {
                    let reason = format!("WAL file {} of the export is too short", taken.name);
                    return Err(ServerError::NotTransferred { reason });
                }
            }
        }
        Ok(())
    }
}

fn foreign(path: &Utf8Path, why: &'static str) -> CatalogError {
    CatalogError::Foreign { path: path.to_owned(), why }
}

fn conflict(name: &WalFileName) -> ServerError {
    let reason = format!("WAL file(s) already exist in target server with conflicting content: {name}");
    ServerError::NotTransferred { reason }
}

/// What the name of an archive says.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    id: BackupId,
    checksum: String,
}

impl Named {
    fn parse(server: &ServerName, file: &str) -> Result<Self, ServerError> {
        let start = format!("backup-export-{server}-");
        let parts = || {
            let rest = file.strip_prefix(&start)?;
            let stem =
                [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"].iter().find_map(|end| rest.strip_suffix(end))?;
            let mut parts = stem.split('-');
            let (id, made, checksum) = (parts.next()?, parts.next()?, parts.next()?);
            let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
            let whole = parts.next().is_none() && checksum.len() == 8 && checksum.chars().all(is_hex);
            // A time has the form of an id.
            made.parse::<BackupId>().ok().filter(|_| whole)?;
            Some(Self { id: id.parse().ok()?, checksum: checksum.to_owned() })
        };
        parts().ok_or_else(|| {
            ServerError::Usage(format!(
                "Tarball filename does not match the expected export format \
                 'backup-export-SERVER_NAME-BACKUP_ID-TIMESTAMP-CHECKSUM.tar': '{file}'. Expected filename to start with \
                 '{start}'."
            ))
        })
    }
}

/// A file whose bytes are summed as they are read, whoever reads them.
#[derive(Clone)]
struct Summed(Arc<Mutex<Source>>);

struct Source {
    file: Box<dyn SourceFile>,
    digest: Sha256,
    read: u64,
}

impl Summed {
    fn lock(&self) -> std::sync::MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Summed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut source = self.lock();
        let n = source.file.read(out)?;
        source.digest.update(out.get(..n).unwrap_or_default());
        source.read += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_exports() {
        let server: ServerName = "a-b".parse().unwrap();
        let parse = |name: &str| Named::parse(&server, name);
        let good = "backup-export-a-b-20261128T003203-20261128T003214-86ba652e.tar";
        let named = parse(good).unwrap();
        assert_eq!((named.id.as_str(), named.checksum.as_str()), ("20261128T003203", "86ba652e"));
        for ending in [".gz", ".bz2", ".xz"] {
            assert_eq!(parse(&format!("{good}{ending}")).unwrap(), named);
        }
        for bad in [
            "x.tar",
            "backup-export-a-20261128T003203-20261128T003214-86ba652e.tar",
            "backup-export-a-b-20261128T003203-20261128T003214-86ba652e.tar.zst",
            "backup-export-a-b-20261128T003203-20261128T003214-86ba652.tar",
            "backup-export-a-b-20261128T003203-20261128T003214-86ba652g.tar",
            "backup-export-a-b-20261128T003203-86ba652e.tar",
            "backup-export-a-b-x-20261128T003203-20261128T003214-86ba652e.tar",
            "backup-export-a-b-../../etc-20261128T003214-86ba652e.tar",
        ] {
            let said = parse(bad).unwrap_err().to_string();
            assert!(said.contains(bad) && said.contains("'backup-export-a-b-'"), "{said}");
        }
    }
}
