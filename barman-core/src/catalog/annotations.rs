//! Keep annotations: `meta/<id>-keep`, and `base/<id>/annotations/keep` of old catalogs, which is still read.

use super::CatalogError;
use super::local::Shared;
use crate::io::{IoError, durable};
use crate::model::{BackupId, Keep};

pub(super) fn read(shared: &Shared, id: &BackupId) -> Result<Option<Keep>, CatalogError> {
    for path in [shared.paths.keep(id), shared.paths.old_keep(id)] {
        match shared.disk.read_text(&path) {
            Ok(text) => {
                let keep = text.trim().parse();
                return keep.map(Some).map_err(|e: crate::model::ParseError| CatalogError::Corrupt {
                    path,
                    reason: e.to_string(),
                });
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

pub(super) fn write(shared: &Shared, id: &BackupId, keep: Option<Keep>) -> Result<(), IoError> {
    let disk = &*shared.disk;
    match keep {
        Some(keep) => {
            durable::mkdir_all_durable(disk, &shared.paths.meta_directory, 0o777)?;
            durable::replace_durable(disk, &shared.paths.keep(id), keep.as_str().as_bytes(), None)?;
        }
        None => durable::remove_durable(disk, &shared.paths.keep(id))?,
    }
    // After the new one, so that a crash in between does not release what is kept.
    durable::remove_durable(disk, &shared.paths.old_keep(id))
}
