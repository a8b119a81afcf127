//! Reading the full manifest out of the sidecar of a backup.

use std::io::BufReader;

use camino::Utf8Path;

use super::native_manifest::{self, MANIFEST, NativeManifest};
use super::{CatalogError, FileProof};
use crate::io::Disk;

/// The rows of the files in the manifest of this sidecar directory, `None` when there is none.
pub(super) fn read_proofs(
    disk: &dyn Disk,
    sidecar: &Utf8Path,
) -> Result<Option<Vec<FileProof>>, CatalogError> {
    Ok(read_manifest_file(disk, &sidecar.join(MANIFEST))?.map(|manifest| manifest.files))
}

/// A file in the form of the full manifest, `None` when there is none.
pub(super) fn read_manifest_file(
    disk: &dyn Disk,
    path: &Utf8Path,
) -> Result<Option<NativeManifest>, CatalogError> {
    let file = match disk.open_read(path) {
        Err(e) if e.is_not_found() => return Ok(None),
        other => other?,
    };
    match native_manifest::read(BufReader::with_capacity(256 << 10, file)) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(source) => Err(CatalogError::Manifest { path: path.to_owned(), reason: source.to_string() }),
    }
}
