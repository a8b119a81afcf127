//! Where the files of a catalog lie. Names only; nothing here touches the file system.

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use super::Root;
use crate::model::{BackupId, ServerName};

/// The directory in `base/<id>` that holds what Barman does not know.
pub(super) const SIDECAR: &str = ".native";
const INFO_SUFFIX: &str = "-backup.info";
const DELETE_SUFFIX: &str = "-delete_this";
const KEEP_SUFFIX: &str = "-keep";

/// The directories of one server, as the configuration names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogPaths {
    /// The server's own directory, `<barman_home>/<server>`; its `.native/` holds what belongs to no single backup.
    pub backup_directory: Utf8PathBuf,
    /// `base/` unless configured otherwise: a directory for each backup.
    pub basebackups_directory: Utf8PathBuf,
    /// `meta/` below the server's directory: facts and annotations.
    pub meta_directory: Utf8PathBuf,
    /// The server.
    pub server: ServerName,
}

impl CatalogPaths {
    /// The directories that a server has unless configured otherwise.
    pub fn under(backup_directory: &Utf8Path, server: ServerName) -> Self {
        Self {
            backup_directory: backup_directory.to_owned(),
            basebackups_directory: backup_directory.join("base"),
            meta_directory: backup_directory.join("meta"),
            server,
        }
    }

    /// The facts of a backup as they are written now.
    pub fn info(&self, id: &BackupId) -> Utf8PathBuf {
        self.meta_directory.join(format!("{id}{INFO_SUFFIX}"))
    }

    /// The facts of a backup of a catalog from before Barman 3.13.
    pub fn old_info(&self, id: &BackupId) -> Utf8PathBuf {
        self.base(id).join("backup.info")
    }

    /// The directory of a backup's files.
    pub fn base(&self, id: &BackupId) -> Utf8PathBuf {
        self.basebackups_directory.join(id.as_str())
    }

    /// Where a tree of a backup lies in the current layout.
    pub fn tree(&self, id: &BackupId, root: Root) -> Utf8PathBuf {
        match root {
            Root::Data => self.base(id).join("data"),
            Root::Tablespace(oid) => self.base(id).join(oid.to_string()),
        }
    }

    /// What Barman does not know of a backup.
    pub fn sidecar(&self, id: &BackupId) -> Utf8PathBuf {
        self.base(id).join(SIDECAR)
    }

    pub(super) fn keep(&self, id: &BackupId) -> Utf8PathBuf {
        self.meta_directory.join(format!("{id}{KEEP_SUFFIX}"))
    }

    pub(super) fn old_keep(&self, id: &BackupId) -> Utf8PathBuf {
        self.base(id).join("annotations/keep")
    }

    pub(super) fn delete_mark(&self, id: &BackupId) -> Utf8PathBuf {
        self.meta_directory.join(format!("{id}{DELETE_SUFFIX}"))
    }

    pub(super) fn old_delete_mark(&self, id: &BackupId) -> Utf8PathBuf {
        self.base(id).join("annotations/delete_this")
    }

    /// The highest id ever given, so that one of a removed backup is not given again.
    pub(super) fn last_id(&self) -> Utf8PathBuf {
        self.backup_directory.join(SIDECAR).join("last-backup-id")
    }
}

/// The id in the name of a file in `meta/`, with what the file is.
pub(super) fn meta_name(name: &str) -> Option<(BackupId, MetaFile)> {
    let (id, rest) = name.split_at_checked(15)?;
    let file = match rest {
        INFO_SUFFIX => MetaFile::Info,
        DELETE_SUFFIX => MetaFile::DeleteMark,
        _ if rest.starts_with('-') => MetaFile::Other,
        _ => return None,
    };
    Some((id.parse().ok()?, file))
}

/// What a file in `meta/` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetaFile {
    Info,
    DeleteMark,
    Other,
}

/// Whether a path names something below the tree it is joined to: relative, and never upwards.
pub(super) fn stays_below(path: &Utf8Path) -> bool {
    path.components().all(|part| matches!(part, Utf8Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_meta() {
        let id: BackupId = "20261122T214528".parse().unwrap();
        for (name, expected) in [
            ("20261122T214528-backup.info", Some((id, MetaFile::Info))),
            ("20261122T214528-delete_this", Some((id, MetaFile::DeleteMark))),
            ("20261122T214528-keep", Some((id, MetaFile::Other))),
            ("20261122T214528-backup.info.tmp", Some((id, MetaFile::Other))),
            ("20261122T214528", None),
            ("main-xlog.db", None),
            ("cloud-wal-last-archived", None),
            ("20261122x214528-backup.info", None),
            ("äääääääääääää", None),
        ] {
            assert_eq!(meta_name(name), expected, "{name}");
        }
    }

    #[test]
    fn paths_that_leave_the_tree_are_known() {
        for good in ["", "base/1/2", "a b"] {
            assert!(stays_below(good.into()), "{good}");
        }
        for bad in ["/etc", "..", "a/../../b", "./a"] {
            assert!(!stays_below(bad.into()), "{bad}");
        }
    }
}
