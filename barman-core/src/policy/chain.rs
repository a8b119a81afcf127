//! Chains of block-level incremental backups: who needs whom.
//!
//! What counts is the child's own `parent_backup_id`; the list of children in the parent is only for show, since a
//! crash or two backups of one second can leave it wrong (seen in Barman's catalogs).

use std::collections::{BTreeMap, HashSet};

use crate::model::{BackupId, BackupInfo};

/// The family relations of a catalog.
#[derive(Debug, Clone)]
pub struct Chains<'a> {
    backups: BTreeMap<BackupId, &'a BackupInfo>,
    children: BTreeMap<BackupId, Vec<BackupId>>,
}

/// A chain that cannot be restored because a member is not in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("backup {child} is an incremental of backup {parent}, which is not in the catalog")]
pub struct MissingParent {
    /// The oldest member that is there.
    pub child: BackupId,
    /// The one that is not.
    pub parent: BackupId,
}

impl<'a> Chains<'a> {
    /// The relations between these backups.
    pub fn new(backups: impl IntoIterator<Item = &'a BackupInfo>) -> Self {
        let backups: BTreeMap<BackupId, &BackupInfo> = backups.into_iter().map(|b| (b.id, b)).collect();
        let mut children: BTreeMap<BackupId, Vec<BackupId>> = BTreeMap::new();
        for backup in backups.values() {
            if let Some(parent) = parent_of(backup) {
                children.entry(parent).or_default().push(backup.id);
            }
        }
        Self { backups, children }
    }

    /// The facts of a backup.
    pub fn get(&self, id: BackupId) -> Option<&'a BackupInfo> {
        self.backups.get(&id).copied()
    }

    /// The incrementals made directly on this backup, oldest first; FAILED ones too.
    pub fn children(&self, id: BackupId) -> &[BackupId] {
        self.children.get(&id).map_or(&[], Vec::as_slice)
    }

    /// What a restore of this backup needs, the backup itself first, its root last.
    ///
    /// # Errors
    /// A parent that is not in the catalog. (A circle of parents, which only damage can make, counts as one.)
    pub fn lineage(&self, id: BackupId) -> Result<Vec<&'a BackupInfo>, MissingParent> {
        let (line, missing) = self.climb(id);
        match missing {
            Some(missing) => Err(missing),
            None => Ok(line),
        }
    }

    /// The oldest ancestor that is in the catalog; a backup that is no incremental is its own root, and so is one whose
    /// parent is lost, as in Barman's listings. `None` for an unknown id.
    pub fn root(&self, id: BackupId) -> Option<&'a BackupInfo> {
        self.climb(id).0.last().copied()
    }

    /// How many backups stand from the root to this one, both counted: Barman's "backup chain size".
    pub fn chain_size(&self, id: BackupId) -> usize {
        self.climb(id).0.len()
    }

    /// The backup and all that depends on it, in the order in which they may be deleted: each after its children.
    pub fn tree_leaves_first(&self, id: BackupId) -> Vec<BackupId> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        // (backup, whether its children were already pushed)
        let mut stack = vec![(id, false)];
        while let Some((id, expanded)) = stack.pop() {
            if expanded {
                order.push(id);
            } else if self.backups.contains_key(&id) && seen.insert(id) {
                stack.push((id, true));
                stack.extend(self.children(id).iter().rev().map(|child| (*child, false)));
            }
        }
        order
    }

    fn climb(&self, id: BackupId) -> (Vec<&'a BackupInfo>, Option<MissingParent>) {
        let mut line: Vec<&BackupInfo> = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some(id);
        while let Some(id) = next {
            match self.get(id).filter(|_| seen.insert(id)) {
                Some(backup) => {
                    line.push(backup);
                    next = parent_of(backup);
                }
                None => {
                    let missing = line.last().map(|child| MissingParent { child: child.id, parent: id });
                    return (line, missing);
                }
            }
        }
        (line, None)
    }
}

fn parent_of(backup: &BackupInfo) -> Option<BackupId> {
    backup.parent_backup_id.filter(|_| backup.is_incremental())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Status;
    use crate::policy::testing::{child, done, full, id_text, with};

    fn texts(ids: &[BackupId]) -> Vec<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    fn id(n: u32) -> BackupId {
        id_text(n).parse().unwrap()
    }

    /// 1 ← 2 ← 4, 2 ← 5, 1 ← 3 ← 6 (failed); 7 apart.
    fn catalog() -> Vec<BackupInfo> {
        vec![
            full(1),
            child(2, 1),
            child(3, 1),
            child(4, 2),
            child(5, 2),
            with(child(6, 3), Status::Failed),
            done(7),
        ]
    }

    #[test]
    fn i17_a_tree_is_deleted_leaves_first() {
        let backups = catalog();
        let chains = Chains::new(&backups);
        let order = |ns: &[u32]| ns.iter().map(|n| id_text(*n)).collect::<Vec<_>>();
        assert_eq!(texts(&chains.tree_leaves_first(id(1))), order(&[4, 5, 2, 6, 3, 1]));
        assert_eq!(texts(&chains.tree_leaves_first(id(2))), order(&[4, 5, 2]));
        assert_eq!(texts(&chains.tree_leaves_first(id(7))), order(&[7]));
        assert!(chains.tree_leaves_first(id(9)).is_empty());
    }

    #[test]
    fn lineage_goes_up_to_the_root() {
        let backups = catalog();
        let chains = Chains::new(&backups);
        let ids: Vec<BackupId> = chains.lineage(id(4)).unwrap().iter().map(|b| b.id).collect();
        assert_eq!(ids, [id(4), id(2), id(1)]);
        assert_eq!((chains.chain_size(id(4)), chains.root(id(4)).unwrap().id), (3, id(1)));
        assert_eq!((chains.chain_size(id(7)), chains.root(id(7)).unwrap().id), (1, id(7)));
        assert!(chains.root(id(9)).is_none());
        assert_eq!(chains.children(id(2)), [id(4), id(5)]);
    }

    #[test]
    fn a_lost_parent_makes_the_child_its_own_root_and_the_chain_an_error() {
        let backups = vec![child(2, 1), child(3, 2)];
        let chains = Chains::new(&backups);
        assert_eq!(chains.root(id(3)).unwrap().id, id(2));
        assert_eq!(chains.lineage(id(3)).unwrap_err(), MissingParent { child: id(2), parent: id(1) });
    }

    #[test]
    fn circles_end() {
        let backups = vec![child(1, 2), child(2, 1), child(3, 3)];
        let chains = Chains::new(&backups);
        assert!(chains.lineage(id(1)).is_err());
        assert_eq!(chains.tree_leaves_first(id(1)).len(), 2);
        assert_eq!(chains.tree_leaves_first(id(3)), [id(3)]);
    }

    #[test]
    fn a_file_level_backup_is_no_child_even_if_a_parent_is_named() {
        let mut odd = done(2);
        odd.parent_backup_id = Some(id(1));
        let backups = vec![full(1), odd];
        assert!(Chains::new(&backups).children(id(1)).is_empty());
    }
}
