//! Retention: which backups a policy still wants, with the reason for each answer.

use std::collections::BTreeMap;
use std::fmt;

use time::OffsetDateTime;

use super::Held;
use super::chain::Chains;
use crate::model::{BackupId, Keep, RetentionPolicy, Status};

/// What a listing prints about a backup under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetentionStatus {
    /// The policy wants it.
    Valid,
    /// The policy does not want it: cron deletes it.
    Obsolete,
    /// The policy does not want it, the minimum redundancy does.
    PotentiallyObsolete,
    /// Kept with all WAL after it.
    KeepFull,
    /// Kept with the WAL that makes it consistent.
    KeepStandalone,
    /// The policy says nothing: it is not DONE.
    None,
}

impl RetentionStatus {
    /// Barman's word: `VALID`, `OBSOLETE`, `OBSOLETE*`, `KEEP:FULL`, `KEEP:STANDALONE`, `-`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Obsolete => "OBSOLETE",
            Self::PotentiallyObsolete => "OBSOLETE*",
            Self::KeepFull => "KEEP:FULL",
            Self::KeepStandalone => "KEEP:STANDALONE",
            Self::None => "-",
        }
    }
}

impl fmt::Display for RetentionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Keep> for RetentionStatus {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::Full => Self::KeepFull,
            Keep::Standalone => Self::KeepStandalone,
        }
    }
}

/// Why a verdict is as it is. Display is a clause that can follow the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It is the n-th newest (counted from 1) of so many wanted.
    Rank {
        /// Its place.
        place: u32,
        /// How many the policy wants.
        wanted: u32,
    },
    /// It ended inside the window.
    InWindow,
    /// Points at the beginning of the window are reached from it.
    ReachesWindow,
    /// A newer backup reaches every point of the window.
    BeforeWindow,
    /// The minimum redundancy would not be met without it.
    MinimumRedundancy(u32),
    /// It has a keep annotation.
    Kept,
    /// It shares the fate of the root of its chain.
    Root(BackupId),
    /// Its chain has lost its root.
    LostRoot,
    /// Its deletion was begun.
    DeletionBegun,
    /// It is not DONE.
    Status(Status),
    /// Its end time is not known, so that nothing can be said against it.
    NoEndTime,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank { place, wanted } => {
                write!(f, "number {place} from the newest where {wanted} are wanted")
            }
            Self::InWindow => f.write_str("it ended inside the recovery window"),
            Self::ReachesWindow => f.write_str("the beginning of the recovery window is reached from it"),
            Self::BeforeWindow => f.write_str("a newer backup reaches the whole recovery window"),
            Self::MinimumRedundancy(minimum) => write!(f, "the minimum redundancy is {minimum}"),
            Self::Kept => f.write_str("it has a keep annotation"),
            Self::Root(id) => write!(f, "it belongs to the chain of backup {id}"),
            Self::LostRoot => f.write_str("the root of its chain is not in the catalog"),
            Self::DeletionBegun => f.write_str("its deletion was begun and not finished"),
            Self::Status(status) => write!(f, "its status is {status}"),
            Self::NoEndTime => f.write_str("its end time is not known"),
        }
    }
}

/// What a policy says about one backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The printed state.
    pub status: RetentionStatus,
    /// Why.
    pub reason: Reason,
}

/// What a policy says about each backup of a catalog; EMPTY backups get no verdict.
///
/// As Barman: newest first by id; only DONE backups that are not incremental are ranked, an incremental inherits from
/// the root of its chain whatever its own status is. REDUNDANCY is at least the minimum redundancy. A recovery window
/// keeps every backup that ended inside it and the first before it. Kept backups count like others and show their keep
/// (all of this verified against Barman 3.19.1 on random catalogs).
///
/// Incrementals of a root with `KEEP:FULL` are VALID. Those of one with `KEEP:STANDALONE` are VALID while the root is among
/// the wanted number, or ended inside the window; else OBSOLETE, so that a standalone root stays alone.
pub fn evaluate(
    policy: RetentionPolicy,
    backups: &[Held<'_>],
    minimum_redundancy: u32,
    now: OffsetDateTime,
) -> BTreeMap<BackupId, Verdict> {
    let mut newest_first: Vec<&Held<'_>> =
        backups.iter().filter(|h| h.backup.status != Status::Empty).collect();
    newest_first.sort_by_key(|h| std::cmp::Reverse(h.backup.id));
    let mut ranked = Ranking::new(policy, minimum_redundancy, now);
    let mut verdicts = BTreeMap::new();
    // What the children of a root get when it is kept standalone.
    let mut bare = BTreeMap::new();
    for held in newest_first.iter().filter(|h| !h.backup.is_incremental()) {
        let backup = held.backup;
        let (verdict, by_rank) = match backup.status {
            // It is half gone: nothing can rest on it, and it takes nobody's place. (With Barman it does.)
            _ if held.deleting => {
                let begun = Verdict { status: RetentionStatus::Obsolete, reason: Reason::DeletionBegun };
                (begun, begun.status)
            }
            Status::Done => ranked.next(held),
            status => {
                let none = Verdict { status: RetentionStatus::None, reason: Reason::Status(status) };
                (none, none.status)
            }
        };
        verdicts.insert(backup.id, verdict);
        bare.insert(backup.id, by_rank);
    }
    let chains = Chains::new(backups.iter().map(|h| h.backup));
    for held in newest_first.iter().filter(|h| h.backup.is_incremental()) {
        let root = chains.root(held.backup.id).map(|root| root.id).filter(|root| bare.contains_key(root));
        let verdict = match root {
            None => Verdict { status: RetentionStatus::None, reason: Reason::LostRoot },
            Some(root) => {
                let status = match verdicts.get(&root).map(|v| v.status) {
                    Some(RetentionStatus::KeepFull) => RetentionStatus::Valid,
                    Some(RetentionStatus::KeepStandalone) => {
                        bare.get(&root).copied().unwrap_or(RetentionStatus::None)
                    }
                    Some(status) => status,
                    None => RetentionStatus::None,
                };
                Verdict { status, reason: Reason::Root(root) }
            }
        };
        verdicts.insert(held.backup.id, verdict);
    }
    for held in newest_first.iter().filter(|h| h.deleting) {
        let verdict = Verdict { status: RetentionStatus::Obsolete, reason: Reason::DeletionBegun };
        verdicts.insert(held.backup.id, verdict);
    }
    verdicts
}

struct Ranking {
    rule: Rule,
    minimum: u32,
    /// Backups that count so far.
    valid: u32,
}

enum Rule {
    Count(u32),
    Window { point: OffsetDateTime, reached: bool },
}

impl Ranking {
    fn new(policy: RetentionPolicy, minimum: u32, now: OffsetDateTime) -> Self {
        let rule = match policy {
            RetentionPolicy::Redundancy(count) => Rule::Count(count.max(minimum)),
            RetentionPolicy::RecoveryWindow(span) => {
                // A window that begins before time itself holds everything.
                let point = now.checked_sub(span.duration()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
                Rule::Window { point, reached: false }
            }
        };
        Self { rule, minimum, valid: 0 }
    }

    /// The verdict on the next older DONE backup, and that on its incrementals should it be kept standalone.
    fn next(&mut self, held: &Held<'_>) -> (Verdict, RetentionStatus) {
        use RetentionStatus::{Obsolete, PotentiallyObsolete, Valid};
        let kept = held.keep.map(|keep| Verdict { status: keep.into(), reason: Reason::Kept });
        match &mut self.rule {
            Rule::Count(wanted) => {
                self.valid = self.valid.saturating_add(1);
                let status = if self.valid <= *wanted { Valid } else { Obsolete };
                let reason = Reason::Rank { place: self.valid, wanted: *wanted };
                (kept.unwrap_or(Verdict { status, reason }), status)
            }
            Rule::Window { point, reached: false } => {
                self.valid = self.valid.saturating_add(1);
                let (reason, alone) = match held.backup.end_time {
                    None => (Reason::NoEndTime, Valid),
                    Some(end) if end < *point => {
                        self.rule = Rule::Window { point: *point, reached: true };
                        (Reason::ReachesWindow, Obsolete)
                    }
                    Some(_) => (Reason::InWindow, Valid),
                };
                (kept.unwrap_or(Verdict { status: Valid, reason }), alone)
            }
            Rule::Window { reached: true, .. } if self.valid < self.minimum => {
                self.valid += 1;
                let reason = Reason::MinimumRedundancy(self.minimum);
                (kept.unwrap_or(Verdict { status: PotentiallyObsolete, reason }), Obsolete)
            }
            Rule::Window { .. } => {
                let verdict = Verdict { status: Obsolete, reason: Reason::BeforeWindow };
                (kept.unwrap_or(verdict), Obsolete)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackupInfo;
    use crate::policy::testing::{child, done, full, held, id_text, kept, minute, with};

    /// The printed states, newest first.
    fn states(policy: &str, backups: &[Held<'_>], minimum: u32, now: OffsetDateTime) -> Vec<String> {
        let verdicts = evaluate(policy.parse().unwrap(), backups, minimum, now);
        verdicts.values().rev().map(|v| v.status.to_string()).collect()
    }

    const DAY: u32 = 24 * 60;

    /// Backups `days` days before minute 100 days.
    fn aged(days: &[u32]) -> Vec<BackupInfo> {
        days.iter()
            .map(|d| {
                let mut info = done(59 - d);
                info.end_time = Some(minute((100 - d) * DAY));
                info
            })
            .collect()
    }

    fn now() -> OffsetDateTime {
        minute(100 * DAY)
    }

    #[test]
    fn redundancy_counts_from_the_newest() {
        let backups: Vec<BackupInfo> = (1..=4).map(done).collect();
        for (policy, minimum, expected) in [
            ("REDUNDANCY 1", 0, ["VALID", "OBSOLETE", "OBSOLETE", "OBSOLETE"]),
            ("REDUNDANCY 2", 0, ["VALID", "VALID", "OBSOLETE", "OBSOLETE"]),
            ("REDUNDANCY 2", 3, ["VALID", "VALID", "VALID", "OBSOLETE"]),
            ("REDUNDANCY 9", 0, ["VALID", "VALID", "VALID", "VALID"]),
            ("REDUNDANCY 0", 0, ["OBSOLETE", "OBSOLETE", "OBSOLETE", "OBSOLETE"]),
        ] {
            assert_eq!(states(policy, &held(&backups), minimum, now()), expected, "{policy} {minimum}");
        }
    }

    #[test]
    fn redundancy_with_keeps_and_unfinished_backups() {
        let backups = vec![
            done(1),
            done(2),
            with(done(3), Status::Failed),
            with(done(4), Status::WaitingForWals),
            done(5),
            with(done(6), Status::Started),
            with(done(7), Status::Empty),
        ];
        let mut all = held(&backups);
        assert_eq!(states("REDUNDANCY 2", &all, 0, now()), ["-", "VALID", "-", "-", "VALID", "OBSOLETE"]);
        kept(&mut all, 4, Keep::Full);
        kept(&mut all, 0, Keep::Standalone);
        assert_eq!(
            states("REDUNDANCY 2", &all, 0, now()),
            ["-", "KEEP:FULL", "-", "-", "VALID", "KEEP:STANDALONE"]
        );
    }

    #[test]
    fn a_window_keeps_the_first_backup_before_it() {
        for (policy, days, minimum, expected) in [
            ("RECOVERY WINDOW OF 7 DAYS", &[1, 3, 6][..], 0, &["VALID", "VALID", "VALID"][..]),
            ("RECOVERY WINDOW OF 7 DAYS", &[1, 8, 9], 0, &["VALID", "VALID", "OBSOLETE"]),
            ("RECOVERY WINDOW OF 7 DAYS", &[8, 9, 10], 0, &["VALID", "OBSOLETE", "OBSOLETE"]),
            ("RECOVERY WINDOW OF 7 DAYS", &[8, 9, 10], 2, &["VALID", "OBSOLETE*", "OBSOLETE"]),
            ("RECOVERY WINDOW OF 7 DAYS", &[8, 9, 10], 5, &["VALID", "OBSOLETE*", "OBSOLETE*"]),
            ("RECOVERY WINDOW OF 7 DAYS", &[7, 8], 0, &["VALID", "VALID"]),
            ("RECOVERY WINDOW OF 1 WEEKS", &[1, 8, 9], 0, &["VALID", "VALID", "OBSOLETE"]),
            ("RECOVERY WINDOW OF 1 MONTHS", &[1, 30, 32, 33], 0, &["VALID", "VALID", "VALID", "OBSOLETE"]),
            ("RECOVERY WINDOW OF 0 DAYS", &[1, 2], 0, &["VALID", "OBSOLETE"]),
            ("RECOVERY WINDOW OF 4000000000 MONTHS", &[1, 50], 0, &["VALID", "VALID"]),
        ] {
            let backups = aged(days);
            assert_eq!(
                states(policy, &held(&backups), minimum, now()),
                expected,
                "{policy} {days:?} {minimum}"
            );
        }
    }

    #[test]
    fn keeps_show_in_a_window_too_and_count() {
        let backups = aged(&[1, 8, 9, 10]);
        let mut all = held(&backups);
        let policy = "RECOVERY WINDOW OF 7 DAYS";
        kept(&mut all, 1, Keep::Full);
        assert_eq!(states(policy, &all, 0, now()), ["VALID", "KEEP:FULL", "OBSOLETE", "OBSOLETE"]);
        kept(&mut all, 2, Keep::Standalone);
        assert_eq!(states(policy, &all, 3, now()), ["VALID", "KEEP:FULL", "KEEP:STANDALONE", "OBSOLETE"]);
        assert_eq!(states(policy, &all, 4, now()), ["VALID", "KEEP:FULL", "KEEP:STANDALONE", "OBSOLETE*"]);
    }

    #[test]
    fn children_of_a_standalone_root_count_while_the_root_is_in_the_window() {
        for (days, expected) in [(6, "VALID"), (8, "OBSOLETE")] {
            let mut backups = aged(&[days]);
            backups[0].mode = full(1).mode;
            let mut incremental = child(59, 59 - days);
            incremental.end_time = Some(minute(99 * DAY));
            backups.push(incremental);
            let mut all = held(&backups);
            kept(&mut all, 0, Keep::Standalone);
            assert_eq!(states("RECOVERY WINDOW OF 7 DAYS", &all, 3, now()), [expected, "KEEP:STANDALONE"]);
        }
    }

    #[test]
    fn a_backup_without_an_end_time_is_never_obsolete_by_the_window() {
        let mut backups = aged(&[1, 40, 50]);
        backups[1].end_time = None;
        let all = held(&backups);
        assert_eq!(states("RECOVERY WINDOW OF 7 DAYS", &all, 0, now()), ["VALID", "VALID", "VALID"]);
    }

    #[test]
    fn i16_incrementals_share_the_fate_of_their_root() {
        let backups = vec![
            full(1),
            child(2, 1),
            with(child(3, 2), Status::Failed),
            full(4),
            child(5, 4),
            child(6, 1),
            child(7, 99),
        ];
        let mut all = held(&backups);
        // Newest first: 7 (lost), 6 (of 1), 5 (of 4), 4, 3, 2, 1.
        assert_eq!(
            states("REDUNDANCY 1", &all, 0, now()),
            ["-", "OBSOLETE", "VALID", "VALID", "OBSOLETE", "OBSOLETE", "OBSOLETE"]
        );
        kept(&mut all, 0, Keep::Full);
        assert_eq!(
            states("REDUNDANCY 1", &all, 0, now()),
            ["-", "VALID", "VALID", "VALID", "VALID", "VALID", "KEEP:FULL"]
        );
        kept(&mut all, 0, Keep::Standalone);
        assert_eq!(
            states("REDUNDANCY 1", &all, 0, now()),
            ["-", "OBSOLETE", "VALID", "VALID", "OBSOLETE", "OBSOLETE", "KEEP:STANDALONE"]
        );
        assert_eq!(states("REDUNDANCY 2", &all, 0, now())[1], "VALID");
    }

    #[test]
    fn a_deletion_that_was_begun_is_finished() {
        let backups = vec![done(1), done(2)];
        let mut all = held(&backups);
        all[1].deleting = true;
        assert_eq!(states("REDUNDANCY 5", &all, 0, now()), ["OBSOLETE", "VALID"]);
        assert_eq!(states("REDUNDANCY 1", &all, 0, now()), ["OBSOLETE", "VALID"], "it takes no place");
    }

    #[test]
    fn reasons_are_told() {
        let backups = aged(&[1, 8, 9]);
        let verdicts = evaluate("RECOVERY WINDOW OF 7 DAYS".parse().unwrap(), &held(&backups), 0, now());
        let reasons: Vec<String> = verdicts.values().rev().map(|v| v.reason.to_string()).collect();
        assert_eq!(
            reasons,
            [
                "it ended inside the recovery window",
                "the beginning of the recovery window is reached from it",
                "a newer backup reaches the whole recovery window"
            ]
        );
        assert_eq!(id_text(1), "20260101T000100");
    }
}
