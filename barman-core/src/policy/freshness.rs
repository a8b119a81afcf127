//! The checks on how old and how big the latest backup and WAL are.

use time::{Duration, OffsetDateTime};

use crate::format::text::{human_duration, pretty_size};
use crate::model::{BackupInfo, Check};

/// The newest backup, by id, with complete files: what the checks on age and size look at. An incremental counts too,
/// as in Barman.
pub fn latest_available<'a>(backups: impl IntoIterator<Item = &'a BackupInfo>) -> Option<&'a BackupInfo> {
    backups.into_iter().filter(|b| b.status.is_available()).max_by_key(|b| b.id)
}

/// The line `backup maximum age` of `check`.
pub fn check_backup_age(
    maximum: Option<Duration>,
    latest: Option<&BackupInfo>,
    now: OffsetDateTime,
) -> Check {
    let name = "backup maximum age";
    let Some(maximum) = maximum else {
        return Check::ok(name, "no last_backup_maximum_age provided").non_critical();
    };
    let age = latest.and_then(|b| b.end_time).map(|end| now - end);
    let words = age.map_or_else(|| "No available backups".to_owned(), human_duration);
    let hint = format!("interval provided: {}, latest backup age: {words}", human_duration(maximum));
    Check::verdict(name, age.is_some_and(|age| age <= maximum), hint).non_critical()
}

/// The value of `last_backup_maximum_age` in `show-servers`: `7 days (latest backup: 1 minute, 58 seconds )`.
pub fn backup_age_shown(
    maximum: Option<Duration>,
    latest: Option<&BackupInfo>,
    now: OffsetDateTime,
) -> String {
    let Some(maximum) = maximum else { return "None".to_owned() };
    let limit = human_duration(maximum);
    match latest.and_then(|b| b.end_time).map(|end| now - end) {
        Some(age) if age <= maximum => format!("{limit} (latest backup: {} )", human_duration(age)),
        Some(age) => format!("{limit} (WARNING! latest backup is {} old)", human_duration(age)),
        None => format!("{limit} (WARNING! latest backup is No available backups old)"),
    }
}

/// The line `backup minimum size` of `check`; `size` is that of the latest backup, 0 when there is none.
pub fn check_backup_size(minimum: Option<u64>, size: u64) -> Check {
    let name = "backup minimum size";
    let check = match minimum {
        None => Check::ok(name, pretty_size(size)),
        Some(minimum) => {
            let enough = size >= minimum;
            let sign = if enough { '>' } else { '<' };
            let hint =
                format!("last backup size {} {sign} {} minimum", pretty_size(size), pretty_size(minimum));
            Check::verdict(name, enough, hint)
        }
    };
    check.non_critical()
}

/// The line `wal maximum age` of `check`; `latest` is the time of the newest WAL archived since the latest backup began.
pub fn check_wal_age(
    maximum: Option<Duration>,
    latest: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Check {
    let name = "wal maximum age";
    let check = match (maximum, latest) {
        (None, _) => Check::ok(name, "no last_wal_maximum_age provided"),
        (Some(_), None) => Check::failed(name, "No WAL files archived for last backup"),
        (Some(maximum), Some(latest)) => {
            let age = now - latest;
            let hint = format!(
                "interval provided: {}, latest wal age: {}",
                human_duration(maximum),
                human_duration(age)
            );
            Check::verdict(name, age <= maximum, hint)
        }
    };
    check.non_critical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, Status};
    use crate::policy::testing::{child, done, minute, with};

    #[test]
    fn ages_of_backups() {
        let now = minute(10) + Duration::seconds(53);
        let (young, old) = (done(9), done(1));
        for (maximum, backup, outcome, hint) in [
            (None, Some(&young), Outcome::Ok, "no last_backup_maximum_age provided"),
            (
                Some(Duration::days(7)),
                Some(&young),
                Outcome::Ok,
                "interval provided: 7 days, latest backup age: 1 minute, 53 seconds",
            ),
            (
                Some(Duration::minutes(5)),
                Some(&old),
                Outcome::Failed,
                "interval provided: 5 minutes, latest backup age: 9 minutes, 53 seconds",
            ),
            (
                Some(Duration::hours(1)),
                None,
                Outcome::Failed,
                "interval provided: 1 hour, latest backup age: No available backups",
            ),
        ] {
            let check = check_backup_age(maximum, backup, now);
            assert_eq!((check.outcome, check.hint.as_str(), check.critical), (outcome, hint, false));
        }
        assert_eq!(
            backup_age_shown(Some(Duration::days(7)), Some(&young), now),
            "7 days (latest backup: 1 minute, 53 seconds )"
        );
        assert_eq!(
            backup_age_shown(Some(Duration::minutes(5)), Some(&old), now),
            "5 minutes (WARNING! latest backup is 9 minutes, 53 seconds old)"
        );
        assert_eq!(backup_age_shown(None, Some(&old), now), "None");
    }

    #[test]
    fn sizes_and_wal() {
        for (minimum, size, outcome, hint) in [
            (None, 27_500_000, Outcome::Ok, "26.2 MiB"),
            (Some(1 << 30), 27_500_000, Outcome::Failed, "last backup size 26.2 MiB < 1.0 GiB minimum"),
            (Some(1 << 20), 27_500_000, Outcome::Ok, "last backup size 26.2 MiB > 1.0 MiB minimum"),
            (Some(1024), 1024, Outcome::Ok, "last backup size 1.0 KiB > 1.0 KiB minimum"),
        ] {
            let check = check_backup_size(minimum, size);
            assert_eq!((check.outcome, check.hint.as_str()), (outcome, hint));
        }
        let now = minute(10);
        let hour = Some(Duration::hours(1));
        let young = now - Duration::seconds(13);
        for (maximum, latest, outcome, hint) in [
            (None, None, Outcome::Ok, "no last_wal_maximum_age provided"),
            (hour, None, Outcome::Failed, "No WAL files archived for last backup"),
            (hour, Some(young), Outcome::Ok, "interval provided: 1 hour, latest wal age: 13 seconds"),
            (
                hour,
                Some(now - Duration::hours(2)),
                Outcome::Failed,
                "interval provided: 1 hour, latest wal age: 2 hours",
            ),
        ] {
            let check = check_wal_age(maximum, latest, now);
            assert_eq!((check.outcome, check.hint.as_str()), (outcome, hint));
        }
    }

    #[test]
    fn the_latest_is_by_id_among_complete_ones() {
        let backups =
            [with(done(9), Status::Failed), child(4, 1), with(done(5), Status::WaitingForWals), done(1)];
        assert_eq!(latest_available(&backups).unwrap().id, backups[2].id);
        assert!(latest_available([]).is_none());
    }
}
