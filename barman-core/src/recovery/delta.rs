//! Delta restore: what of the destination is equal and stays, what goes, and how the old cluster is made unable to start
//! before the first of its files changes (I23, I27, I34).

use std::collections::{HashMap, HashSet};

use camino::{Utf8Path, Utf8PathBuf};

use super::prepare::foreign_tablespace;
use super::run::{ProofTable, Run};
use super::{RecoveryError, TreePlan};
use crate::catalog::{Outline, Root};
use crate::model::{Entry, EntryKind, WalFileName};
use crate::transport::{FileOp, Lane, ProbeKind, Surveyed};

/// Stands in a data directory while a restore is at work in it: what lies in its WAL directory came from the backup.
pub(super) const MARK: &str = ".barman-native-restore";
/// The control file of the old cluster, under a name by which nobody starts.
const OLD_CONTROL: &str = "global/pg_control.before-restore";
/// What [`FileOp::ProveWritable`] makes for a moment.
const PROOF: &str = ".barman-write-test";
const CONTROL: &str = "global/pg_control";
/// The WAL directory of the old cluster is kept under its name with this behind it, and a number where that is taken.
const OLD_WAL: &str = ".before-restore";
/// What a server would act on when it starts.
const ACTED_ON: [&str; 6] =
    ["backup_label", "tablespace_map", "recovery.signal", "standby.signal", "recovery.conf", "recovery.done"];
/// Operations done in one round trip.
const BATCH: usize = 500;

/// What a delta restore does to the destination beside writing what is missing.
#[derive(Default)]
pub(super) struct Delta {
    trees: HashMap<Root, TreeDelta>,
    /// The control file as it was when the files were compared.
    control: Option<Vec<u8>>,
    old_wal: Option<OldWal>,
    /// Files that stay.
    pub(super) kept: u64,
    /// Their bytes.
    pub(super) kept_bytes: u64,
    /// Files and links that go.
    pub(super) removed: u64,
}

/// The WAL directory that is there.
struct OldWal {
    name: &'static str,
    /// Under which name it is kept.
    aside: Utf8PathBuf,
    /// Whether it came from a restore that was cut short.
    ours: bool,
    /// Whether anything in it is not known to be archived.
    precious: bool,
    /// What in it is archived.
    archived: Vec<Utf8PathBuf>,
}

#[derive(Default)]
struct TreeDelta {
    keep: HashSet<Utf8PathBuf>,
    remove: Vec<FileOp>,
    /// Bytes that are written.
    write: u64,
    /// Bytes that become free, those of files that are replaced included.
    freed: u64,
    /// The largest file that is replaced: old and new are there at the same time.
    largest: u64,
}

impl Delta {
    /// Whether a file of the destination is equal and stays as it is.
    pub(super) fn keeps(&self, root: Root, path: &Utf8Path) -> bool {
        self.trees.get(&root).is_some_and(|tree| tree.keep.contains(path))
    }

    /// Bytes that are needed on top of those in use; `None` for a tree that begins empty.
    pub(super) fn needed(&self, root: Root) -> Option<u64> {
        let tree = self.trees.get(&root)?;
        Some(tree.write.saturating_sub(tree.freed).saturating_add(tree.largest))
    }
}

impl Run<'_> {
    /// Compares the destination with the backup. Nothing is changed.
    pub(super) fn examine(
        &self,
        occupied: &[bool],
        outlines: &mut [Outline],
        proofs: &Option<ProofTable>,
        lane: &mut dyn Lane,
    ) -> Result<Delta, RecoveryError> {
        let mut delta = Delta::default();
        let owned = self.owned_places(occupied, lane)?;
        for ((tree, occupied), outline) in self.plan.trees.iter().zip(occupied).zip(outlines) {
            if !occupied {
                continue;
            }
            if outline.entries.is_none() {
                let least = outline.bytes;
                *outline = Outline::of(self.read_through(tree.root)?);
                outline.bytes = outline.bytes.max(least);
            }
            let entries = outline.entries.as_deref().unwrap_or_default();
            let mut found = Vec::new();
            lane.survey(&tree.destination, &mut |one| found.push(one))?;
            // What a proof that was cut short left behind is nothing.
            if found.iter().any(|one| one.path != PROOF) {
                if let Root::Tablespace(oid) = tree.root
                    && !owned.contains(&tree.destination)
                {
                    return Err(foreign_tablespace(self.plan, tree, oid));
                }
                self.is_a_cluster(tree, entries, &found)?;
            }
            if tree.root == Root::Data {
                delta.control = read_control(&tree.destination, &found, lane)?;
                delta.old_wal = old_wal(&found);
            }
            let judged = self.judge_tree(tree, entries, &found, &mut delta);
            let (mut tree_delta, candidates) = judged;
            self.ctx.debug(format!("Comparing {} files in {}", candidates.len(), tree.destination));
            tree_delta.keep = self.equal_files(tree, &candidates, proofs)?;
            let before = delta.kept_bytes;
            for entry in entries.iter().filter(|e| e.is_file() && self.belongs(tree.root, e)) {
                if tree_delta.keep.contains(&entry.path) {
                    delta.kept += 1;
                    delta.kept_bytes += entry.size;
                } else {
                    tree_delta.write += entry.size;
                }
            }
            if self.reader.info().is_incremental() {
                // What is put together may be longer than what its newest backup shows.
                let rest = outline.bytes.saturating_sub(delta.kept_bytes - before);
                tree_delta.write = tree_delta.write.max(rest);
            }
            for entry in candidates.iter().filter(|entry| !tree_delta.keep.contains(&entry.path)) {
                tree_delta.freed += entry.size;
                tree_delta.largest = tree_delta.largest.max(entry.size);
            }
            delta.trees.insert(tree.root, tree_delta);
        }
        Ok(delta)
    }

    /// Where the cluster in the destination has its tablespaces, by its links or by what a restore that was cut short wrote
    /// down. Another place that is not empty may be that of a server that runs.
    fn owned_places(
        &self,
        occupied: &[bool],
        lane: &mut dyn Lane,
    ) -> Result<HashSet<Utf8PathBuf>, RecoveryError> {
        let mut owned = HashSet::new();
        let mut trees = self.plan.trees.iter().zip(occupied);
        if !trees.any(|(tree, occupied)| tree.root == Root::Data && *occupied) {
            return Ok(owned);
        }
        let data = &self.plan.destination;
        let links = data.join("pg_tblspc");
        let probes = lane.probe(&[links.clone(), data.join(MARK)])?;
        let kind = |at: usize| probes.get(at).map(|probe| probe.kind);
        if kind(0) == Some(ProbeKind::Directory) {
            lane.survey(&links, &mut |one| {
                if let EntryKind::Symlink(place) = one.kind {
                    owned.insert(place);
                }
            })?;
        }
        if kind(1) == Some(ProbeKind::File) {
            let text = read_small(&data.join(MARK), lane)?;
            owned.extend(String::from_utf8_lossy(&text).lines().skip(1).map(Utf8PathBuf::from));
        }
        Ok(owned)
    }

    /// What an archive holds that nobody wrote down.
    fn read_through(&self, root: Root) -> Result<Vec<Entry>, RecoveryError> {
        if let Some(mut members) = self.reader.stream(root)? {
            loop {
                self.ctx.cancel.check()?;
                let next = members.next().map_err(|error| RecoveryError::Damaged {
                    path: self.reader.location(root),
                    reason: format!("{error}; the backup is damaged, restore from another backup"),
                })?;
                // What is not small is passed over a piece at a time.
                let Some((_, mut body)) = next else { break };
                let mut piece = vec![0; 1 << 18];
                while body.read(&mut piece).map_err(|error| RecoveryError::Damaged {
                    path: self.reader.location(root),
                    reason: error.to_string(),
                })? > 0
                {
                    self.ctx.cancel.check()?;
                }
            }
        }
        Ok(self.reader.files(root)?)
    }

    /// Everything that the backup does not have is removed: that must not hit what is no cluster.
    fn is_a_cluster(
        &self,
        tree: &TreePlan,
        entries: &[Entry],
        found: &[Surveyed],
    ) -> Result<(), RecoveryError> {
        let path = tree.destination.clone();
        match tree.root {
            Root::Data => {
                let known = ["PG_VERSION", MARK, ".barman-recover.info"];
                if found.iter().any(|one| known.contains(&one.path.as_str())) {
                    return Ok(());
                }
                Err(RecoveryError::NotACluster { path })
            }
            Root::Tablespace(_) => {
                let odd = found.iter().find(|one| {
                    let top = one.path.components().next().map(|c| c.as_str()).unwrap_or_default();
                    !top.starts_with("PG_")
                        && top != PROOF
                        && !entries.iter().any(|entry| entry.path == one.path)
                });
                odd.map_or(Ok(()), |one| Err(RecoveryError::NotATablespace { path, odd: one.path.clone() }))
            }
        }
    }

    /// What of the destination goes, and what may be equal.
    fn judge_tree<'e>(
        &self,
        tree: &TreePlan,
        entries: &'e [Entry],
        found: &[Surveyed],
        delta: &mut Delta,
    ) -> (TreeDelta, Vec<&'e Entry>) {
        let wanted: HashMap<&Utf8Path, &Entry> =
            entries.iter().map(|entry| (entry.path.as_path(), entry)).collect();
        // Other trees may lie below this one.
        let others: Vec<&Utf8Path> = self
            .plan
            .trees
            .iter()
            .filter(|other| other.root != tree.root)
            .filter_map(|other| other.destination.strip_prefix(&tree.destination).ok())
            .collect();
        let tops: HashSet<&str> =
            entries.iter().filter_map(|e| e.path.components().next()).map(|c| c.as_str()).collect();
        let spared = |one: &Surveyed| {
            let path = one.path.as_path();
            let top = path.components().next().map(|c| c.as_str()).unwrap_or_default();
            let below = path.as_str().len() > top.len();
            let own = match tree.root {
                Root::Data => {
                    top.starts_with("pg_wal.before-restore")
                        || top.starts_with("pg_xlog.before-restore")
                        || matches!(top, "pg_wal" | "pg_xlog")
                        // Logs of the server, as Barman leaves them.
                        || (matches!(top, "log" | "pg_log") && (below || one.kind == EntryKind::Directory))
                        || path == CONTROL
                        || path == MARK
                }
                // Clusters of other majors may share the place.
                Root::Tablespace(_) => top.starts_with("PG_") && !tops.contains(top),
            };
            own || others.iter().any(|other| path.starts_with(other) || other.starts_with(path))
        };
        let mut result = TreeDelta::default();
        let mut candidates = Vec::new();
        let mut gone: Option<&Utf8Path> = None;
        for one in found {
            if gone.is_some_and(|gone| one.path.starts_with(gone)) {
                result.freed += if one.links == 1 { one.size } else { 0 };
                delta.removed += u64::from(one.kind != EntryKind::Directory);
                continue;
            }
            if spared(one) {
                continue;
            }
            let full = tree.destination.join(&one.path);
            let entry = wanted.get(one.path.as_path()).copied();
            match (&one.kind, entry) {
                (EntryKind::Directory, Some(entry)) if entry.is_dir() => {}
                (EntryKind::Directory, _) => {
                    gone = Some(&one.path);
                    result.remove.push(FileOp::RemoveTree(full));
                }
                // Configuration is written anew at the end, and until then it stays.
                (EntryKind::File, Some(entry)) if entry.is_file() && self.is_rewritten(tree.root, entry) => {}
                (EntryKind::File, Some(entry)) if entry.is_file() && self.belongs(tree.root, entry) => {
                    let acted_on = tree.root == Root::Data && ACTED_ON.contains(&one.path.as_str());
                    if entry.size == one.size && entry.mode == one.mode && one.links == 1 && !acted_on {
                        candidates.push(entry);
                    } else {
                        result.freed += if one.links == 1 { one.size } else { 0 };
                        result.largest = result.largest.max(one.size);
                    }
                }
                _ => {
                    result.freed += if one.links == 1 { one.size } else { 0 };
                    delta.removed += 1;
                    result.remove.push(FileOp::RemoveFile(full));
                }
            }
        }
        (result, candidates)
    }

    /// Makes the old cluster unable to start, keeps its WAL, and removes what the backup does not have. From here on only a
    /// restore that comes to its end gives a cluster.
    pub(super) fn begin_delta(&self, delta: &Delta, lane: &mut dyn Lane) -> Result<(), RecoveryError> {
        let data = &self.plan.destination;
        self.ctx.cancel.check()?;
        self.still_the_same(delta, lane)?;
        if let Some(wal) = &delta.old_wal {
            let directory = data.join(wal.name);
            if wal.ours {
                lane.apply(&[FileOp::RemoveTree(directory)])?;
            } else {
                // At once, and without it no server starts.
                lane.apply(&[FileOp::Rename { from: directory, to: data.join(&wal.aside) }])?;
            }
        }
        if delta.control.is_some() {
            lane.apply(&[FileOp::Rename { from: data.join(CONTROL), to: data.join(OLD_CONTROL) }])?;
        }
        lane.apply(&[self.mark()])?;
        let mut ops: Vec<FileOp> = ACTED_ON.iter().map(|name| FileOp::RemoveFile(data.join(name))).collect();
        if let Some(wal) = delta.old_wal.as_ref().filter(|wal| !wal.ours) {
            let aside = data.join(&wal.aside);
            if wal.precious && !self.options.discard_wal {
                self.ctx.warn(format!(
                    "WAL of the old cluster that may not be archived is kept in {aside}: remove it when it is not needed \
                     any more"
                ));
                ops.extend(wal.archived.iter().map(|name| FileOp::RemoveFile(aside.join(name))));
            } else {
                ops.push(FileOp::RemoveTree(aside));
            }
        }
        ops.extend(delta.trees.values().flat_map(|tree| tree.remove.iter().cloned()));
        for batch in ops.chunks(BATCH) {
            self.ctx.cancel.check()?;
            lane.apply(batch)?;
        }
        Ok(())
    }

    /// Tells that a restore is at work in the data directory.
    pub(super) fn mark(&self) -> FileOp {
        let mut text =
            "A restore is at work here, or was cut short: run it again with --delta-restore.\n".to_owned();
        for tablespace in &self.plan.tablespaces {
            text.push_str(tablespace.location.as_str());
            text.push('\n');
        }
        let (path, content) = (self.plan.destination.join(MARK), text.into_bytes());
        FileOp::WriteFile { path, content, mode: 0o600 }
    }

    /// A server that was started meanwhile has changed what was compared.
    fn still_the_same(&self, delta: &Delta, lane: &mut dyn Lane) -> Result<(), RecoveryError> {
        let data = &self.plan.destination;
        let paths = [data.join("postmaster.pid"), data.join(CONTROL)];
        let probes = lane.probe(&paths)?;
        let there = |at: usize| probes.get(at).is_some_and(|probe| probe.kind == ProbeKind::File);
        let control = if there(1) { Some(read_small(&data.join(CONTROL), lane)?) } else { None };
        if there(0) || control != delta.control {
            return Err(RecoveryError::InUse { path: data.clone() });
        }
        Ok(())
    }

    /// The traces of the old cluster and of this restore that are left when all else is in place; the control file comes
    /// after this.
    pub(super) fn end_delta(&self, lane: &mut dyn Lane) -> Result<(), RecoveryError> {
        let data = &self.plan.destination;
        lane.apply(&[FileOp::RemoveFile(data.join(OLD_CONTROL)), FileOp::RemoveFile(data.join(MARK))])?;
        Ok(())
    }
}

fn read_control(
    data: &Utf8Path,
    found: &[Surveyed],
    lane: &mut dyn Lane,
) -> Result<Option<Vec<u8>>, RecoveryError> {
    let there = found.iter().any(|one| one.path == CONTROL && one.kind == EntryKind::File);
    there.then(|| read_small(&data.join(CONTROL), lane)).transpose()
}

fn read_small(path: &Utf8Path, lane: &mut dyn Lane) -> Result<Vec<u8>, RecoveryError> {
    let mut bytes = Vec::new();
    let mut file = lane.read(path, 0, Some(1 << 20))?;
    std::io::Read::read_to_end(&mut file, &mut bytes)
        .map_err(|error| RecoveryError::Unusable { path: path.to_owned(), why: told(&error) })?;
    Ok(bytes)
}

fn told(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "it may not be read",
        _ => "it cannot be read",
    }
}

/// The WAL directory that is there, and what of it is known to be archived.
fn old_wal(found: &[Surveyed]) -> Option<OldWal> {
    let find = |path: &str| found.iter().find(|one| one.path == path);
    let name = ["pg_wal", "pg_xlog"].into_iter().find(|name| find(name).is_some())?;
    let taken = |name: &str| find(name).is_some();
    let plain = format!("{name}{OLD_WAL}");
    let mut names = std::iter::once(plain.clone()).chain((2..).map(|n| format!("{plain}-{n}")));
    let aside = names.find(|name| !taken(name))?.into();
    let files: Vec<&str> = found
        .iter()
        .filter_map(|one| one.path.strip_prefix(name).ok())
        .map(Utf8Path::as_str)
        .filter(|file| file.parse::<WalFileName>().is_ok())
        .collect();
    let is_done = |file: &str| taken(&format!("{name}/archive_status/{file}.done"));
    let archived: Vec<Utf8PathBuf> = files.iter().filter(|f| is_done(f)).map(Utf8PathBuf::from).collect();
    // A link is not followed: nobody knows what it leads to.
    let linked = find(name).is_some_and(|one| one.kind != EntryKind::Directory);
    let precious = linked || archived.len() < files.len();
    // With a control file it may have been a running cluster since.
    let ours = taken(MARK) && !taken(CONTROL);
    Some(OldWal { name, aside, ours, precious, archived })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[(&str, EntryKind)]) -> Vec<Surveyed> {
        let one = |(path, kind): &(&str, EntryKind)| Surveyed {
            path: (*path).into(),
            kind: kind.clone(),
            size: 0,
            mode: 0o600,
            links: 1,
        };
        paths.iter().map(one).collect()
    }

    #[test]
    fn i27_wal_is_precious_unless_all_of_it_is_archived() {
        const A: &str = "pg_wal/000000010000000000000001";
        const B: &str = "pg_wal/000000010000000000000002";
        let (dir, file) = (EntryKind::Directory, EntryKind::File);
        let done = "pg_wal/archive_status/000000010000000000000001.done";
        let ready = "pg_wal/archive_status/000000010000000000000002.ready";
        let base = [("pg_wal", dir.clone()), ("pg_wal/archive_status", dir.clone()), (A, file.clone())];
        let with = |more: &[(&str, EntryKind)]| old_wal(&found(&[&base[..], more].concat())).unwrap();
        assert!(with(&[]).precious, "nobody says that it is archived");
        assert!(!with(&[(done, file.clone())]).precious);
        let both = with(&[(done, file.clone()), (B, file.clone()), (ready, file.clone())]);
        assert!(both.precious && both.archived == ["000000010000000000000001"]);
        assert_eq!(both.aside, "pg_wal.before-restore");
        let again = with(&[("pg_wal.before-restore", dir.clone()), ("pg_wal.before-restore-2", dir)]);
        assert_eq!(again.aside, "pg_wal.before-restore-3");
        let link = EntryKind::Symlink("/elsewhere".into());
        assert!(old_wal(&found(&[("pg_wal", link)])).unwrap().precious, "a link is not looked into");
        assert!(old_wal(&found(&[])).is_none());
        assert!(with(&[(MARK, file.clone())]).ours);
        assert!(!with(&[(MARK, file.clone()), (CONTROL, file)]).ours, "it may have run since");
    }
}
