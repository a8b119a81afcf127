//! What is looked at before anything is written (I22): the places, the room, and whether the backup has all its files.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use camino::{Utf8Path, Utf8PathBuf};

use super::run::{ProofTable, Run};
use super::{RecoveryError, RecoveryPlan, TreePlan, WalPlan, settle};
use crate::backup::top_mode;
use crate::catalog::{Outline, Root};
use crate::model::{Entry, Oid, WalFileName};
use crate::transport::{FileOp, Lane, Probe, ProbeKind, Transport};
use crate::wal::WalError;

/// Whether the destination can be restored to: every place empty or not there (but for a delta restore), and no server in it.
/// Nothing is touched.
///
/// # Errors
/// What stands in the way.
pub fn look(plan: &RecoveryPlan, delta: bool, transport: &dyn Transport) -> Result<(), RecoveryError> {
    places(plan, delta, transport.lane()?.as_mut()).map(drop)
}

/// Looks at the trees' places in their order, at `postmaster.pid`, and at where WAL is staged.
fn places(plan: &RecoveryPlan, delta: bool, lane: &mut dyn Lane) -> Result<Vec<Probe>, RecoveryError> {
    let trees = &plan.trees;
    let staging = plan.wal.as_ref().filter(|wal| !wal.own_directory).map(|wal| &wal.directory);
    let mut places: Vec<Utf8PathBuf> = trees.iter().map(|t| t.destination.clone()).collect();
    places.push(plan.destination.join("postmaster.pid"));
    places.extend(staging.cloned());
    let probes = lane.probe(&places)?;
    let in_use = probes.get(trees.len()).is_some_and(|p| p.kind == ProbeKind::File);
    // The data directory is the last tree, and what is wrong with it matters most.
    for (tree, probe) in trees.iter().zip(&probes).rev() {
        judge(plan, tree, probe, in_use, delta)?;
    }
    let staged = probes.get(trees.len() + 1);
    if let Some(probe) = staged.filter(|p| !matches!(p.kind, ProbeKind::Missing | ProbeKind::EmptyDirectory))
        && !(delta && holds_wal_only(plan, probe, lane)?)
    {
        let why = "it is to hold WAL only, since it is removed when recovery ends, and something is there";
        return Err(RecoveryError::Unusable { path: probe.path.clone(), why });
    }
    Ok(probes)
}

/// What an earlier attempt of a delta restore left where the WAL goes is written over.
fn holds_wal_only(plan: &RecoveryPlan, probe: &Probe, lane: &mut dyn Lane) -> Result<bool, RecoveryError> {
    if probe.kind != ProbeKind::Directory {
        return Ok(false);
    }
    let mut only = true;
    lane.survey(&probe.path, &mut |one| {
        let name = one.path.as_str();
        let name = name.strip_suffix(".tmp").unwrap_or(name);
        only &= name.parse::<WalFileName>().is_ok();
    })?;
    Ok(only || probe.path.starts_with(&plan.destination))
}

fn judge(
    plan: &RecoveryPlan,
    tree: &TreePlan,
    probe: &Probe,
    in_use: bool,
    delta: bool,
) -> Result<(), RecoveryError> {
    let path = tree.destination.clone();
    match (probe.kind, tree.root) {
        (ProbeKind::Missing | ProbeKind::EmptyDirectory, _) => Ok(()),
        (ProbeKind::Directory, Root::Data) if in_use => Err(RecoveryError::InUse { path }),
        // What it is is looked at when it is compared.
        (ProbeKind::Directory, _) if delta => Ok(()),
        (ProbeKind::Directory, Root::Data) => Err(RecoveryError::NotEmpty { path }),
        (ProbeKind::Directory, Root::Tablespace(oid)) => Err(foreign_tablespace(plan, tree, oid)),
        (ProbeKind::Denied, _) => Err(RecoveryError::Unusable { path, why: "it may not be looked into" }),
        (ProbeKind::File | ProbeKind::Other, _) => {
            Err(RecoveryError::Unusable { path, why: "it is there and is not a directory" })
        }
    }
}

/// The error for a place that holds something that is not known to be the destination's own.
pub(super) fn foreign_tablespace(plan: &RecoveryPlan, tree: &TreePlan, oid: Oid) -> RecoveryError {
    let name = plan.tablespaces.iter().find(|t| t.oid == oid).map(|t| t.name.clone());
    let name = name.unwrap_or_else(|| oid.to_string());
    RecoveryError::TablespaceNotEmpty { path: tree.destination.clone(), name }
}

impl Run<'_> {
    /// Every place must be empty and writable, there must be room, and the backup must have all its files. Nothing is written
    /// before all of that is known. Gives the modes of the trees that are known by then.
    pub(super) fn prepare(
        &self,
        proofs: &Option<ProofTable>,
        lane: &mut dyn Lane,
    ) -> Result<Vec<Option<u32>>, RecoveryError> {
        let trees = &self.plan.trees;
        let probes = places(self.plan, self.options.delta, lane)?;
        let staged = probes.get(trees.len() + 1);
        let mut outlines =
            trees.iter().map(|tree| self.reader.outline(tree.root)).collect::<Result<Vec<_>, _>>()?;
        self.complete(&outlines, proofs)?;
        if self.options.delta {
            let occupied: Vec<bool> = probes.iter().map(|probe| probe.kind == ProbeKind::Directory).collect();
            let delta = self.examine(&occupied, &mut outlines, proofs, lane)?;
            let _ = self.delta.set(delta);
        }
        self.enough_room(&probes, staged, &outlines)?;
        self.readable_wal()?;
        let mut ops = Vec::new();
        let mut modes = Vec::new();
        for (tree, outline) in trees.iter().zip(&outlines) {
            let mode = outline.entries.as_ref().map(|entries| top_mode(tree.root, entries));
            modes.push(mode);
            ops.push(FileOp::MakeDirs { path: tree.destination.clone(), mode: mode.unwrap_or(0o700) });
            ops.push(FileOp::ProveWritable(tree.destination.clone()));
        }
        let delta = self.delta.get();
        if delta.is_none() {
            ops.push(self.mark());
        }
        self.begun.store(true, Ordering::SeqCst);
        lane.apply(&ops)?;
        if let Some(delta) = delta {
            self.begin_delta(delta, lane)?;
        }
        Ok(modes)
    }

    /// What keeps WAL from being decrypted must be known before the backup is written.
    fn readable_wal(&self) -> Result<(), RecoveryError> {
        let files = self.plan.wal.as_ref().map(|wal| wal.files.as_slice()).unwrap_or_default();
        let mut segments = files.iter().filter(|name| name.as_segment().is_some());
        // The option may have been set, or taken away, in between.
        for name in [segments.next(), segments.next_back()].into_iter().flatten() {
            if let Err(error @ WalError::Undecodable { .. }) = self.archive.open(name) {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Whether a file of the destination is equal and stays as it is.
    pub(super) fn keeps(&self, root: Root, path: &Utf8Path) -> bool {
        self.delta.get().is_some_and(|delta| delta.keeps(root, path))
    }

    /// Whether it is a file that is written anew at the end.
    pub(super) fn is_rewritten(&self, root: Root, entry: &Entry) -> bool {
        root == Root::Data && settle::is_rewritten(self.plan, &entry.path)
    }

    /// Gives the trees whose content is known only now their modes; gives that of the data directory.
    pub(super) fn settle_modes(
        &self,
        known: &[Option<u32>],
        lane: &mut dyn Lane,
    ) -> Result<u32, RecoveryError> {
        let mut data_mode = 0o700;
        let mut ops = Vec::new();
        for (tree, known) in self.plan.trees.iter().zip(known) {
            let mode = match known {
                Some(mode) => *mode,
                None => top_mode(tree.root, &self.reader.files(tree.root)?),
            };
            if tree.root == Root::Data {
                data_mode = mode;
            }
            if known.is_none() && mode != 0o700 {
                ops.push(FileOp::MakeDirs { path: tree.destination.clone(), mode });
            }
        }
        lane.apply(&ops)?;
        Ok(data_mode)
    }

    fn enough_room(
        &self,
        probes: &[Probe],
        staged: Option<&Probe>,
        outlines: &[Outline],
    ) -> Result<(), RecoveryError> {
        let wal = self.plan.wal.as_ref();
        let segments = wal.map_or(0, WalPlan::segments);
        let wal_bytes = segments.saturating_mul(self.reader.info().xlog_segment_size.bytes());
        let inside = wal.is_some_and(|w| w.directory.starts_with(&self.plan.destination));
        let mut wanted: Vec<(&Probe, u64)> = Vec::new();
        for ((tree, probe), outline) in self.plan.trees.iter().zip(probes).zip(outlines) {
            let mut needed =
                self.delta.get().and_then(|delta| delta.needed(tree.root)).unwrap_or(outline.bytes);
            if tree.root == Root::Data && inside {
                needed = needed.saturating_add(wal_bytes);
            }
            wanted.push((probe, needed));
        }
        wanted.extend(staged.filter(|_| !inside).map(|probe| (probe, wal_bytes)));
        lacking(&wanted).map_or(Ok(()), Err)
    }

    /// Every file that the full manifest names must be there, in its length (I24): one that is not there would never be read, and
    /// so never be missed. A tree whose entries are not known yet is looked at when it was written.
    fn complete(&self, outlines: &[Outline], proofs: &Option<ProofTable>) -> Result<(), RecoveryError> {
        let Some(table) = proofs else { return Ok(()) };
        let planned = |root: &Root| self.plan.trees.iter().any(|tree| tree.root == *root);
        let unplanned = table.0.iter().find(|(root, _)| !planned(root));
        if let Some(row) = unplanned.and_then(|(_, rows)| rows.values().next()) {
            let reason = "the backup has files of a tablespace that its facts do not name; restore from another backup";
            let path = self.reader.location(row.root).join(&row.path);
            return Err(RecoveryError::Damaged { path, reason: reason.to_owned() });
        }
        for (tree, outline) in self.plan.trees.iter().zip(outlines) {
            let Some(entries) = &outline.entries else { continue };
            let sizes: HashMap<&Utf8Path, u64> =
                entries.iter().filter(|e| e.is_file()).map(|e| (e.path.as_path(), e.size)).collect();
            for row in table.of(tree.root).into_iter().flat_map(HashMap::values) {
                let reason = match sizes.get(row.path.as_path()) {
                    Some(size) if *size == row.size => continue,
                    Some(size) => format!("it has {size} bytes, {} were stored", row.size),
                    None => "it is not there any more".to_owned(),
                };
                let reason = format!("the backup is damaged, {reason}; restore from another backup");
                let path = self.reader.location(tree.root).join(&row.path);
                return Err(RecoveryError::Damaged { path, reason });
            }
        }
        Ok(())
    }
}

/// The first place whose file system has not got room for all that goes there.
fn lacking(wanted: &[(&Probe, u64)]) -> Option<RecoveryError> {
    wanted.iter().find_map(|(probe, own)| {
        let shared = |(other, _): &&(&Probe, u64)| {
            probe.file_system.is_some() && other.file_system == probe.file_system && other.path != probe.path
        };
        let beside: u64 = wanted.iter().filter(shared).map(|(_, needed)| needed).sum();
        let (needed, free) = (own.saturating_add(beside), probe.free?);
        (free < needed).then(|| RecoveryError::NoRoom { path: probe.path.clone(), needed, free })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i22_places_on_one_file_system_share_its_room() {
        let probe = |path: &str, free: u64, file_system: Option<&str>| Probe {
            path: path.into(),
            kind: ProbeKind::Missing,
            free: Some(free),
            file_system: file_system.map(str::to_owned),
        };
        let (a, b) = (probe("/a", 100, Some("/")), probe("/b", 100, Some("/")));
        let (far, unknown) = (probe("/far", 100, Some("/far")), probe("/x", 100, None));
        assert!(lacking(&[(&a, 50), (&b, 50), (&far, 100), (&unknown, 100)]).is_none());
        let error = lacking(&[(&a, 50), (&b, 51)]);
        assert!(matches!(error, Some(RecoveryError::NoRoom { needed: 101, free: 100, .. })), "{error:?}");
        assert!(lacking(&[(&a, 100), (&far, 101)]).is_some_and(|e| e.to_string().contains("/far")));
        let other_unknown = Probe { path: "/y".into(), ..unknown.clone() };
        assert!(lacking(&[(&unknown, 60), (&other_unknown, 60)]).is_none());
    }
}
