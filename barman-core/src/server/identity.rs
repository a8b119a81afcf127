//! Which cluster a server's directory belongs to: `identity.json`, and what the backups say.

use camino::Utf8Path;
use serde::Deserialize;

use super::{Server, ServerError, identity_path};
use crate::catalog::{Catalog, LocalCatalog};
use crate::io::Disk;
use crate::io::durable::write_new_durable;
use crate::model::{BackupInfo, PgVersion, SegmentSize, SystemId};

/// What is known of the cluster before anybody connects to it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KnownCluster {
    pub(crate) system_id: Option<SystemId>,
    pub(crate) segment_size: Option<SegmentSize>,
}

#[derive(Deserialize)]
pub(super) struct Identity {
    pub(super) systemid: String,
    #[serde(default)]
    pub(super) version: String,
}

/// Reads the identity from its file, else from the newest backup that really began (others only have defaults). The segment
/// size comes from the newest of the same cluster: after a `pg_upgrade` the older ones may have another.
pub(crate) fn known_cluster(catalog: &LocalCatalog, disk: &dyn Disk) -> Result<KnownCluster, ServerError> {
    let from_file = stored(&catalog.paths().backup_directory.join("identity.json"), disk)?;
    // A catalog that cannot be read keeps nobody from looking at the rest. Only the newest are read: this is done by every
    // command, whatever it needs of the catalog.
    let ids = catalog.ids().unwrap_or_default();
    let began = || ids.iter().rev().filter_map(|id| catalog.get(id).ok()).filter(|b| b.begin_wal.is_some());
    let newest = began().next();
    let system_id = from_file.or_else(|| newest.as_ref().and_then(|b| b.systemid));
    // Backups of old Barman do not say whose they are.
    let same = |b: &BackupInfo| b.systemid.is_none() || system_id.is_none() || b.systemid == system_id;
    let segment_size = match newest {
        Some(newest) if same(&newest) => Some(newest.xlog_segment_size),
        Some(_) => began().find(same).map(|b| b.xlog_segment_size),
        None => None,
    };
    Ok(KnownCluster { system_id, segment_size })
}

/// The segment size of a cluster that backups of the catalog are from. Reads their facts, newest first, until one is
/// found; those that cannot be read say nothing.
pub(crate) fn segment_size_of(catalog: &LocalCatalog, cluster: SystemId) -> Option<SegmentSize> {
    let ids = catalog.ids().unwrap_or_default();
    let mut backups = ids.iter().rev().filter_map(|id| catalog.get(id).ok());
    backups.find(|b| b.begin_wal.is_some() && b.systemid == Some(cluster)).map(|b| b.xlog_segment_size)
}

fn stored(path: &Utf8Path, disk: &dyn Disk) -> Result<Option<SystemId>, ServerError> {
    match disk.read_text(path) {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
        Ok(text) => Ok(serde_json::from_str::<Identity>(&text).ok().and_then(|i| i.systemid.parse().ok())),
    }
}

impl Server {
    /// The cluster that the directory was first used for.
    pub(crate) fn stored_system_id(&self) -> Result<Option<SystemId>, ServerError> {
        stored(&identity_path(&self.config), self.host.disk.as_ref())
    }

    /// The major version that the directory was first used for.
    pub(crate) fn stored_version(&self) -> Result<Option<String>, ServerError> {
        match self.host.disk.read_text(&identity_path(&self.config)) {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
            Ok(text) => Ok(serde_json::from_str::<Identity>(&text).ok().map(|i| i.version)),
        }
    }

    /// An error when the cluster is not the one that the directory belongs to; at the first backup it becomes that.
    pub(crate) fn settle_identity(&self, found: SystemId, version: PgVersion) -> Result<(), ServerError> {
        // Without the file the newest backup says it, and the archive takes WAL of that cluster only.
        match self.stored_system_id()?.or(self.wal.system_id()) {
            Some(expected) if expected != found => Err(ServerError::OtherCluster {
                expected,
                found,
                directory: self.config.options.backup_directory.clone(),
            }),
            Some(_) if self.stored_system_id()?.is_some() => Ok(()),
            _ => self.write_identity(found, version),
        }
    }

    /// Writes `identity.json` at the first backup; it is never rewritten.
    fn write_identity(&self, id: SystemId, version: PgVersion) -> Result<(), ServerError> {
        let path = identity_path(&self.config);
        if self.host.disk.exists(&path)? {
            return Err(ServerError::Usage(format!(
                "{path} should say which cluster these backups belong to and cannot be read: the cluster in conninfo is \
                 {id}; if that is the right one, remove the file, and the next backup writes it anew"
            )));
        }
        let text =
            format!("{{\n    \"systemid\": \"{id}\",\n    \"version\": \"{}\"\n}}\n", version.major_text());
        match write_new_durable(self.host.disk.as_ref(), &path, text.as_bytes()) {
            Err(error) if error.is_already_exists() => Ok(()),
            other => Ok(other?),
        }
    }
}
