//! Where the files of an archive lie. Names only; nothing here touches the file system.

use camino::{Utf8Path, Utf8PathBuf};

use crate::model::{ServerName, WalFileName};

/// The directories of one server's WAL, as the configuration names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPaths {
    /// The server, a part of the index's name.
    pub server: ServerName,
    /// `wals/` unless configured otherwise: the archive.
    pub wals_directory: Utf8PathBuf,
    /// Where the index lies: the archive itself unless configured otherwise.
    pub xlogdb_directory: Utf8PathBuf,
    /// `incoming/`: what an `archive_command` delivers.
    pub incoming_directory: Utf8PathBuf,
    /// `streaming/`: what a receiver writes.
    pub streaming_directory: Utf8PathBuf,
    /// `errors/`: what was not taken in.
    pub errors_directory: Utf8PathBuf,
    /// `<backup_directory>/.native`: what Barman does not know.
    pub sidecar_directory: Utf8PathBuf,
}

impl WalPaths {
    /// The directories that a server has unless configured otherwise.
    pub fn under(backup_directory: &Utf8Path, server: ServerName) -> Self {
        Self {
            server,
            wals_directory: backup_directory.join("wals"),
            xlogdb_directory: backup_directory.join("wals"),
            incoming_directory: backup_directory.join("incoming"),
            streaming_directory: backup_directory.join("streaming"),
            errors_directory: backup_directory.join("errors"),
            sidecar_directory: backup_directory.join(".native"),
        }
    }

    /// The directory of the archive in which a file lies.
    pub fn dir_of(&self, name: &WalFileName) -> Utf8PathBuf {
        match name.hash_dir() {
            Some(dir) => self.wals_directory.join(dir),
            None => self.wals_directory.clone(),
        }
    }

    /// Where a file lies in the archive.
    pub fn file(&self, name: &WalFileName) -> Utf8PathBuf {
        self.dir_of(name).join(name.to_string())
    }

    /// The index.
    pub fn index(&self) -> Utf8PathBuf {
        self.xlogdb_directory.join(format!("{}-xlog.db", self.server))
    }

    /// The index under the name of old versions.
    pub(super) fn old_index(&self) -> Utf8PathBuf {
        self.wals_directory.join("xlog.db")
    }

    /// Why files lie in `errors/`, a line each.
    pub fn refusals(&self) -> Utf8PathBuf {
        self.sidecar_directory.join("refused-wal")
    }
}

/// A directory of segments: sixteen hexadecimal digits.
pub(super) fn is_hash_dir(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A name under which a file is written before it has its own; Barman's globs do not see it.
pub(super) fn temporary(name: &str, pid: u32, number: u64) -> String {
    format!(".{name}.{pid}-{number}.tmp")
}

/// The process that made a name with [`temporary`].
pub(super) fn maker_of(name: &str) -> Option<u32> {
    let (wal, maker) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    let (pid, number) = maker.split_once('-')?;
    let ours = wal.parse::<WalFileName>().is_ok() && number.parse::<u64>().is_ok();
    pid.parse().ok().filter(|_| ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_tell_their_maker() {
        let name = temporary("000000010000000000000001", 4711, 3);
        assert_eq!(maker_of(&name), Some(4711));
        for other in [
            "000000010000000000000001",
            ".x.tmp",
            ".000000010000000000000001.Xa1b2c",
            ".a.b-c.tmp",
            ".a.1-2.tmp",
        ] {
            assert_eq!(maker_of(other), None, "{other}");
        }
    }
}
