//! Minimum redundancy: how few backups a server may be left with.

use crate::model::{BackupInfo, Check, Keep, ServerName, Status};

/// The backups that count: DONE and not incremental. (Barman counts so; incrementals are worth nothing without their
/// root, and what is still waiting for WAL cannot be restored yet.)
pub fn counted<'a>(backups: impl IntoIterator<Item = &'a BackupInfo>) -> usize {
    backups.into_iter().filter(|b| counts(b)).count()
}

/// Whether a backup counts towards the minimum.
pub fn counts(backup: &BackupInfo) -> bool {
    backup.status == Status::Done && !backup.is_incremental()
}

/// Why a backup may not be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It has a keep annotation.
    #[error("the backup has a current keep request")]
    Kept,
    /// Too few would be left.
    #[error("the minimum redundancy is {minimum} and the current redundancy is {current}")]
    Redundancy {
        /// As configured.
        minimum: u32,
        /// What there is now.
        current: usize,
    },
    /// A process works with it or with an incremental that needs it.
    #[error("the backup is in use")]
    InUse,
}

impl Refusal {
    /// The warning that Barman prints, without its prefix.
    pub fn message(&self, backup: &BackupInfo, server: &ServerName) -> String {
        let id = backup.id;
        match self {
            Self::Kept => format!(
                "Skipping delete of backup {id} for server {server} as it has a current keep request. If you really want to delete this backup please remove the keep and try again."
            ),
            Self::Redundancy { minimum, current } => format!(
                "Skipping delete of backup {id} for server {server} due to minimum redundancy requirements (minimum redundancy = {minimum}, current redundancy = {current})"
            ),
            Self::InUse => format!("Skipping delete of backup {id} for server {server} as it is in use."),
        }
    }
}

/// Whether a user may delete this backup. FAILED and unfinished backups and incrementals are not bound by the minimum.
pub fn may_delete<'a>(
    backup: &BackupInfo,
    keep: Option<Keep>,
    all: impl IntoIterator<Item = &'a BackupInfo>,
    minimum: u32,
) -> Result<(), Refusal> {
    if keep.is_some() {
        return Err(Refusal::Kept);
    }
    let current = counted(all);
    if counts(backup) && u64::from(minimum) >= current as u64 {
        return Err(Refusal::Redundancy { minimum, current });
    }
    Ok(())
}

/// The line `minimum redundancy requirements` of `check`.
pub fn check<'a>(backups: impl IntoIterator<Item = &'a BackupInfo>, minimum: u32) -> Check {
    let current = counted(backups);
    let hint = format!("have {current} non-incremental backups, expected at least {minimum}");
    Check::verdict("minimum redundancy requirements", current as u64 >= u64::from(minimum), hint)
        .non_critical()
}

/// The line `failed backups` of `check`.
pub fn check_failed<'a>(backups: impl IntoIterator<Item = &'a BackupInfo>) -> Check {
    let failed = backups.into_iter().filter(|b| b.status == Status::Failed).count();
    Check::verdict("failed backups", failed == 0, format!("there are {failed} failed backups")).non_critical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Outcome;
    use crate::policy::testing::{child, done, full, with};

    #[test]
    fn i21_counts_done_backups_that_are_not_incremental() {
        let backups = vec![
            done(1),
            full(2),
            child(3, 2),
            with(done(4), Status::Failed),
            with(done(5), Status::WaitingForWals),
            with(done(6), Status::Empty),
        ];
        assert_eq!(counted(&backups), 2);
        for (at, keep, minimum, expected) in [
            (0, None, 0, Ok(())),
            (0, None, 1, Ok(())),
            (0, None, 2, Err(Refusal::Redundancy { minimum: 2, current: 2 })),
            (1, None, 5, Err(Refusal::Redundancy { minimum: 5, current: 2 })),
            (2, None, 5, Ok(())),
            (3, None, 5, Ok(())),
            (4, None, 5, Ok(())),
            (0, Some(Keep::Full), 0, Err(Refusal::Kept)),
            (0, Some(Keep::Standalone), 2, Err(Refusal::Kept)),
        ] {
            assert_eq!(may_delete(&backups[at], keep, &backups, minimum), expected, "{at} {minimum}");
        }
    }

    #[test]
    fn i21_the_last_backup_goes_only_without_a_minimum() {
        let backups = [done(1)];
        assert_eq!(may_delete(&backups[0], None, &backups, 0), Ok(()));
        assert!(may_delete(&backups[0], None, &backups, 1).is_err());
    }

    #[test]
    fn checks_and_messages() {
        let backups = [done(1), with(done(2), Status::Failed)];
        let line = check(&backups, 2);
        assert_eq!(line.hint, "have 1 non-incremental backups, expected at least 2");
        assert_eq!((line.outcome, line.critical), (Outcome::Failed, false));
        assert_eq!(check(&backups, 1).outcome, Outcome::Ok);
        assert_eq!(check_failed(&backups).hint, "there are 1 failed backups");
        assert_eq!(check_failed(&backups).outcome, Outcome::Failed);
        assert_eq!(check_failed([]).outcome, Outcome::Ok);
        let refusal = Refusal::Redundancy { minimum: 2, current: 2 };
        assert_eq!(
            refusal.message(&backups[0], &"pg".parse().unwrap()),
            "Skipping delete of backup 20260101T000100 for server pg due to minimum redundancy requirements (minimum redundancy = 2, current redundancy = 2)"
        );
    }
}
