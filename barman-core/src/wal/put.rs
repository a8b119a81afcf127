//! Receiving WAL from `barman-wal-archive`: a tar stream of files and their checksums goes into `incoming/`, durably,
//! before the sender hears of success.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use camino::{Utf8Path, Utf8PathBuf};

use super::aside::{self, Kind as Aside};
use super::stored::{self, Clusters, damage, judge};
use super::{LocalWalArchive, Shared, WalError, temporary};
use crate::ctx::Ctx;
use crate::format::tar::{Event, Kind, Member, Parser, TarError};
use crate::io::digest::{DigestWriter, Digests, Wanted, hex};
use crate::io::{DiskFile, IoContext, IoErrorKind, fill};
use crate::model::WalFileName;

/// Bytes read at once.
const READ: usize = 256 << 10;
/// The checksums of a delivery are a line a file.
const LONGEST_SUMS: usize = 1 << 20;

/// What a delivery brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Files now durable in `incoming/`.
    pub stored: Vec<WalFileName>,
    /// Files of which the same content lies there already, or in the archive.
    pub known: Vec<WalFileName>,
    /// Files of which a differing sound content lies there or in the archive, and where the newcomers were moved to.
    /// The sender must not take this for success (I3).
    pub conflicts: Vec<(WalFileName, Utf8PathBuf)>,
}

/// A file of the stream under its temporary name; the name goes when this is dropped.
struct Received<'a> {
    shared: &'a Shared,
    path: Utf8PathBuf,
    sha256: String,
    published: bool,
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        if !self.published {
            // Nobody waits for this: the name begins with a dot, and nothing looks at such files.
            let _ = self.shared.disk.unlink(&self.path);
        }
    }
}

/// The digests a stream may bring, by their member's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sum {
    Sha256,
    Md5,
}

/// What the stream brings now.
enum Current<'a> {
    Nothing,
    Sums(Sum, Vec<u8>),
    File(String, Received<'a>, Box<DigestWriter<Box<dyn DiskFile>>>, Member),
}

impl LocalWalArchive {
    /// Reads a delivery to its end. Every file must come with a checksum and be what its name says; when one is not,
    /// nothing of the delivery is kept and the error says why, so that the server sends it again.
    ///
    /// # Errors
    /// [`WalError::Delivery`] with Barman's sentence where it has one, [`WalError::DeliveryStream`] when the stream is no
    /// tar archive or is cut off.
    pub fn receive(&self, stream: &mut dyn Read, ctx: &Ctx<'_>) -> Result<Delivery, WalError> {
        let shared = &*self.shared;
        let incoming = &shared.paths.incoming_directory;
        let (files, sums) = self.unpack(stream, ctx)?;
        for (name, (sum, expected)) in &sums {
            let Some(file) = files.get(name) else {
                return Err(self.refused(format!("Checksum without corresponding file '{name}'")));
            };
            let found = match sum {
                Sum::Sha256 => file.sha256.clone(),
                Sum::Md5 => md5_of(shared, &file.path)?,
            };
            if found != *expected {
                let text = format!("Bad file checksum '{found}' (should be {expected}) for file '{name}'");
                return Err(self.refused(text));
            }
        }
        let mut names = Vec::new();
        for (name, file) in &files {
            if !sums.contains_key(name) {
                return Err(self.refused(format!("Missing checksum for file '{name}'")));
            }
            let wal: WalFileName =
                name.parse().map_err(|_| self.refused(format!("Unsupported filename '{name}'")))?;
            let plain = stored::open(shared, &file.path)?.plain;
            if let Err(fault) = judge(shared, &wal, Clusters::Present, &file.path, plain)? {
                return Err(
                    self.refused(format!("File '{name}' is not what its name says ({})", fault.reason))
                );
            }
            names.push(wal);
        }
        let mut delivery = Delivery::default();
        for (wal, (_, file)) in names.into_iter().zip(files) {
            self.publish(wal, file, &mut delivery, ctx)?;
        }
        // Also for what is known: who brought it may not have lived until its fsync.
        if !delivery.stored.is_empty() || !delivery.known.is_empty() {
            shared.disk.sync_dir(incoming)?;
        }
        Ok(delivery)
    }

    fn refused(&self, text: String) -> WalError {
        WalError::Delivery { text: format!("{text} in put-wal for server '{}'", self.shared.paths.server) }
    }

    #[allow(clippy::type_complexity)] // two tables by the same name, used once
    fn unpack<'a>(
        &'a self,
        stream: &mut dyn Read,
        ctx: &Ctx<'_>,
    ) -> Result<(BTreeMap<String, Received<'a>>, BTreeMap<String, (Sum, String)>), WalError> {
        let (mut files, mut sums) = (BTreeMap::new(), BTreeMap::new());
        let (mut parser, mut buffer) = (Parser::new(), vec![0; READ]);
        let (mut current, mut anything) = (Current::Nothing, false);
        loop {
            ctx.cancel.check()?;
            let n = stream.read(&mut buffer).map_err(|e| stream_error(e.to_string()))?;
            if n == 0 {
                break;
            }
            anything = true;
            let mut input = buffer.get(..n).unwrap_or_default();
            while let Some(event) = parser.next(&mut input).map_err(|e| self.tar_error(e))? {
                match event {
                    Event::Member(member) => current = self.member(member)?,
                    Event::Data(bytes) => match &mut current {
                        Current::Nothing => {}
                        Current::Sums(_, text) if text.len() + bytes.len() <= LONGEST_SUMS => {
                            text.extend_from_slice(bytes);
                        }
                        Current::Sums(..) => return Err(stream_error("the list of checksums is too long")),
                        Current::File(_, file, writer, _) => {
                            writer.write_all(bytes).context("write", &file.path).map_err(|e| self.full(e))?;
                        }
                    },
                    Event::MemberEnd => match std::mem::replace(&mut current, Current::Nothing) {
                        Current::Nothing => {}
                        Current::Sums(sum, text) => read_sums(sum, &text, &mut sums)?,
                        Current::File(name, mut file, writer, member) => {
                            let (mut written, digests) = writer.finish();
                            // Writable for us, readable for nobody else: it may hold anything of the database.
                            written.set_mode(member.mode & 0o777 | 0o600)?;
                            written.set_mtime(member.mtime)?;
                            written.sync_all().map_err(|e| self.full(e))?;
                            file.sha256 = digests.sha256.map(|d| hex(&d)).unwrap_or_default();
                            files.insert(name, file);
                        }
                    },
                    Event::End => {}
                }
            }
        }
        if !anything {
            return Err(stream_error("empty file"));
        }
        parser.finish().map_err(|e| self.tar_error(e))?;
        Ok((files, sums))
    }

    fn member(&self, member: Member) -> Result<Current<'_>, WalError> {
        let name = String::from_utf8_lossy(&member.path).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        let kind = match member.kind {
            Kind::File => None,
            Kind::HardLink(_) => Some('1'),
            Kind::Symlink(_) => Some('2'),
            Kind::Directory => Some('5'),
            Kind::Special => Some('6'),
        };
        if let Some(kind) = kind {
            return Err(self.refused(format!("Unsupported file type 'b'{kind}'' for file '{name}'")));
        }
        match name.as_str() {
            "SHA256SUMS" => return Ok(Current::Sums(Sum::Sha256, Vec::new())),
            "MD5SUMS" => return Ok(Current::Sums(Sum::Md5, Vec::new())),
            _ => {}
        }
        // The grammar of WAL names leaves no room for a path.
        let flat = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        if !flat {
            return Err(self.refused(format!("Unsupported filename '{name}'")));
        }
        let shared = &*self.shared;
        let incoming = &shared.paths.incoming_directory;
        crate::io::durable::mkdir_all_durable(&*shared.disk, incoming, 0o777)?;
        let path = incoming.join(temporary(&name));
        let file = match shared.disk.create_new(&path) {
            // Left over by a process that had the same id.
            Err(e) if e.is_already_exists() => {
                shared.disk.unlink(&path)?;
                shared.disk.create_new(&path)
            }
            other => other,
        };
        let file = file.map_err(|e| self.full(e))?;
        let writer = DigestWriter::new(file, Wanted { sha256: true, md5: false });
        let received = Received { shared, path, sha256: String::new(), published: false };
        Ok(Current::File(name, received, Box::new(writer), member))
    }

    /// Gives a file its name in `incoming/`.
    fn publish(
        &self,
        name: WalFileName,
        mut file: Received<'_>,
        delivery: &mut Delivery,
        ctx: &Ctx<'_>,
    ) -> Result<(), WalError> {
        let shared = &*self.shared;
        let archived = shared.paths.file(&name);
        let to = shared.paths.incoming_directory.join(name.to_string());
        for there in [&archived, &to] {
            if !shared.disk.exists(there)? || same(shared, &file.path, there)? {
                continue;
            }
            // Only what is sound stands in the way of what is sound; the rest gives way when it is archived.
            let sound = match stored::open(shared, there) {
                Ok(stored) => judge(shared, &name, Clusters::Known, there, stored.plain)?.is_ok(),
                // Encrypted, and the key is elsewhere. As in Barman the delivery succeeds, and what archives it keeps it
                // aside: a sender that repeats itself after a broken connection must not be refused for ever.
                Err(WalError::Undecodable { .. }) if there == &archived => continue,
                Err(WalError::Undecodable { .. }) => true,
                Err(WalError::Corrupt { .. }) => false,
                Err(WalError::Io(e)) if e.is_not_found() => false,
                Err(e) => return Err(e),
            };
            if sound {
                return self.aside(name, &mut file, delivery, ctx);
            }
            if there == &to {
                let reason = "it lay in incoming but is not sound, and a sound one came";
                aside::keep(shared, there, Aside::Unknown, reason, ctx.clock.now())?;
            }
        }
        match shared.disk.rename_noreplace(&file.path, &to) {
            Ok(()) => {
                file.published = true;
                delivery.stored.push(name);
                Ok(())
            }
            Err(e) if e.is_already_exists() && same(shared, &file.path, &to)? => {
                // Whoever brought it may not have made it durable, and nobody else will before the sender is told.
                shared.sync_content(&to)?;
                delivery.known.push(name);
                Ok(())
            }
            Err(e) if e.is_already_exists() => self.aside(name, &mut file, delivery, ctx),
            Err(e) => Err(e.into()),
        }
    }

    fn aside(
        &self,
        name: WalFileName,
        file: &mut Received<'_>,
        delivery: &mut Delivery,
        ctx: &Ctx<'_>,
    ) -> Result<(), WalError> {
        let reason = "put-wal brought it while another sound file of that name was there";
        let shared = &*self.shared;
        let file_name = name.to_string();
        // Whoever sends it sends it again and again: one copy is enough.
        if let Some(known) = self.kept_already(&file_name, &file.path)? {
            delivery.conflicts.push((name, known));
            return Ok(());
        }
        let kept = aside::keep_as(shared, &file.path, &file_name, Aside::Duplicate, reason, ctx.clock.now())?;
        file.published = true;
        delivery.conflicts.push((name, kept));
        Ok(())
    }

    /// A file in `errors/` that is a duplicate of this name with the same content.
    fn kept_already(&self, name: &str, path: &Utf8Path) -> Result<Option<Utf8PathBuf>, WalError> {
        let errors = &self.shared.paths.errors_directory;
        for refused in self.refused_files()? {
            let there = errors.join(&refused.file);
            if refused.name == name && refused.kind == "duplicate" && same(&self.shared, path, &there)? {
                return Ok(Some(there));
            }
        }
        Ok(None)
    }

    fn full(&self, error: crate::io::IoError) -> WalError {
        if error.kind() == IoErrorKind::NoSpace {
            WalError::NoSpace { path: self.shared.paths.incoming_directory.clone() }
        } else {
            error.into()
        }
    }

    fn tar_error(&self, error: TarError) -> WalError {
        match error {
            TarError::UnsupportedKind { path, kind } => {
                self.refused(format!("Unsupported file type 'b'{kind}'' for file '{path}'"))
            }
            // What Barman says of garbage and of streams that were cut off.
            _ => stream_error("truncated header"),
        }
    }
}

fn stream_error(reason: impl Into<String>) -> WalError {
    WalError::DeliveryStream { reason: reason.into() }
}

/// `<hex> *<name>` a line.
fn read_sums(sum: Sum, text: &[u8], sums: &mut BTreeMap<String, (Sum, String)>) -> Result<(), WalError> {
    let text = std::str::from_utf8(text).map_err(|_| stream_error("the list of checksums is not text"))?;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (digest, name) = line
            .split_once(" *")
            .ok_or_else(|| stream_error("the list of checksums has a line that is none"))?;
        let name = name.strip_prefix("./").unwrap_or(name);
        sums.insert(name.to_owned(), (sum, digest.to_ascii_lowercase()));
    }
    Ok(())
}

fn md5_of(shared: &Shared, path: &Utf8Path) -> Result<String, WalError> {
    let mut digests = Digests::new(Wanted { sha256: false, md5: true });
    let (mut file, mut buffer) = (shared.disk.open_read(path)?, vec![0; READ]);
    loop {
        match file.read(&mut buffer).context("read", path)? {
            0 => return Ok(digests.finish().md5.map(|d| hex(&d)).unwrap_or_default()),
            n => digests.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

/// Whether two files have the same plain bytes; damage in the second is a difference.
pub(super) fn same(shared: &Shared, one: &Utf8Path, two: &Utf8Path) -> Result<bool, WalError> {
    let other = match stored::open(shared, two) {
        Ok(stored) => stored.plain,
        Err(WalError::Undecodable { .. } | WalError::Corrupt { .. }) => return Ok(false),
        Err(WalError::Io(e)) if e.is_not_found() => return Ok(false),
        Err(e) => return Err(e),
    };
    let (mut one_plain, mut other) = (stored::open(shared, one)?.plain, other);
    let (mut a, mut b) = (vec![0; READ], vec![0; READ]);
    loop {
        let n = fill(&mut one_plain, &mut a).context("read", one)?;
        let m = match fill(&mut other, &mut b) {
            Err(e) if damage(&e).is_some() => return Ok(false),
            read => read.context("read", two)?,
        };
        if a.get(..n) != b.get(..m) {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}
