//! Cases for the planner: catalogs and archives made up in a few lines.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::macros::datetime;

use super::*;
use crate::format::history::{HistoryEntry, TimelineHistory};
use crate::model::{FileTime, Oid, RecoveryTarget, Status, Tablespace, TargetAction};
use crate::wal::WalEntry;

const END: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);

fn backup(version: u32) -> BackupInfo {
    let mut info = BackupInfo::empty("20261122T115900".parse().unwrap());
    info.status = Status::Done;
    info.version = Some(PgVersion::new(version));
    info.begin_wal = Some("000000010000000000000003".parse().unwrap());
    info.end_wal = Some("000000010000000000000004".parse().unwrap());
    info.end_xlog = Some("0/4000100".parse().unwrap());
    info.end_time = Some(END);
    info.timeline = Timeline::new(1);
    info.tablespaces = vec![Tablespace { name: "ts1".into(), oid: Oid(16386), location: "/srv/ts1".into() }];
    info
}

fn wal(name: &str, minute: i64) -> WalEntry {
    let mtime = FileTime { seconds: END.unix_timestamp() + minute * 60, nanos: 0 };
    WalEntry {
        name: name.parse().unwrap(),
        size: 100,
        mtime,
        compression: None,
        encryption: None,
        indexed: true,
    }
}

/// The last 32 bytes of each segment are one record.
fn last_record(name: SegmentName) -> Option<Lsn> {
    let size = SegmentSize::DEFAULT;
    Lsn::segment_start(name.number(size)?, size)?.checked_add(size.bytes() - 32)
}

/// Segments of one timeline, one a minute from the end of the backup on.
fn segments(timeline: u32, numbers: &[u64]) -> Vec<WalEntry> {
    numbers.iter().map(|n| wal(&format!("{timeline:08X}00000000{n:08X}"), *n as i64 - 4)).collect()
}

fn history(timeline: u32, parent: u32, switch: &str) -> TimelineHistory {
    TimelineHistory {
        timeline: Timeline::new(timeline).unwrap(),
        entries: vec![HistoryEntry {
            parent: Timeline::new(parent).unwrap(),
            switch: switch.parse().unwrap(),
            reason: String::new(),
        }],
    }
}

fn request(stop: StopPoint) -> RecoveryRequest {
    RecoveryRequest {
        destination: "/srv/restored".into(),
        target: RecoveryTarget { stop, ..RecoveryTarget::latest() },
        tablespaces: BTreeMap::from([("ts1".to_owned(), "/srv/restored_ts1".into())]),
        wal: WalDelivery::Copy { directory: None },
        standby: false,
        partial: false,
        settings_file: None,
    }
}

fn plan(
    request: &RecoveryRequest,
    backup: &BackupInfo,
    histories: &[TimelineHistory],
    wals: &[WalEntry],
) -> Result<RecoveryPlan, PlanError> {
    StandardPlanner.plan(
        request,
        &Facts {
            backup,
            histories,
            wals,
            last_record: &last_record,
            stop_after: &|_, _, _| TimeStop::Unknown,
            unfinished: &|_| None,
        },
    )
}

fn copied(plan: &RecoveryPlan) -> Vec<String> {
    plan.wal.as_ref().unwrap().files.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_restore_copies_everything_into_pg_wal_and_writes_no_settings() {
    let plan =
        plan(&request(StopPoint::Latest), &backup(150_020), &[], &segments(1, &[2, 3, 4, 5, 6])).unwrap();
    assert!(plan.settings.is_none());
    let wal = plan.wal.as_ref().unwrap();
    assert_eq!(wal.directory, "/srv/restored/pg_wal");
    assert!(wal.own_directory);
    assert_eq!(copied(&plan).len(), 4);
    assert_eq!(copied(&plan)[0], "000000010000000000000003");
    assert_eq!(plan.reachable, Some("0/7000000".parse().unwrap()));
    let destinations: Vec<&str> = plan.trees.iter().map(|t| t.destination.as_str()).collect();
    assert_eq!(destinations, ["/srv/restored_ts1", "/srv/restored"]);
}

#[test]
fn old_versions_have_pg_xlog_and_recovery_conf() {
    let info = backup(90_603);
    let wals = segments(1, &[3, 4]);
    let made = plan(&request(StopPoint::Latest), &info, &[], &wals).unwrap();
    assert_eq!(made.wal.unwrap().directory, "/srv/restored/pg_xlog");
    let made = plan(&request(StopPoint::Immediate), &info, &[], &wals).unwrap();
    let settings = made.settings.unwrap();
    assert_eq!((settings.file.as_str(), settings.signal), ("recovery.conf", None));
}

#[test]
fn the_lines_stand_in_barmans_order() {
    let mut wish = request(StopPoint::Time(datetime!(2026-11-22 12:01:30.5 UTC)));
    wish.target.inclusive = false;
    wish.target.action = Some(TargetAction::Promote);
    wish.target.timeline = TargetTimeline::Current;
    let made = plan(&wish, &backup(150_020), &[], &segments(1, &[3, 4, 5, 6])).unwrap();
    let settings = made.settings.unwrap();
    assert_eq!(settings.file, "postgresql.auto.conf");
    assert_eq!(settings.signal, Some("recovery.signal"));
    assert_eq!(
        settings.lines,
        [
            "restore_command = 'cp /srv/restored/barman_wal/%f %p'",
            "recovery_end_command = 'rm -fr /srv/restored/barman_wal'",
            "recovery_target_time = '2026-11-22 12:01:30.500000+00:00'",
            "recovery_target_inclusive = 'False'",
            "recovery_target_timeline = current",
            "recovery_target_action = 'promote'",
        ]
    );
}

#[test]
fn i22_targets_before_the_end_of_the_backup_name_the_nearest_point() {
    let info = backup(150_020);
    let wals = segments(1, &[3, 4, 5]);
    let early = request(StopPoint::Time(END - time::Duration::seconds(1)));
    assert!(
        matches!(plan(&early, &info, &[], &wals), Err(PlanError::TimeBeforeEnd { end, .. }) if end == END)
    );
    let early = request(StopPoint::Lsn("0/40000FF".parse().unwrap()));
    let error = plan(&early, &info, &[], &wals).unwrap_err();
    assert!(error.to_string().contains("0/4000100"), "{error}");
    assert!(plan(&request(StopPoint::Lsn("0/4000100".parse().unwrap())), &info, &[], &wals).is_ok());
}

#[test]
fn i22_a_hole_is_an_error_that_names_the_nearest_point() {
    let info = backup(150_020);
    let wals = segments(1, &[3, 4, 5, 7, 8]);
    for stop in [
        StopPoint::Latest,
        StopPoint::Xid(700),
        StopPoint::Name("p".into()),
        StopPoint::Lsn("0/7000000".parse().unwrap()),
        // No record begins there or later, so PostgreSQL would not stop.
        StopPoint::Lsn("0/5FFFFE1".parse().unwrap()),
        StopPoint::Time(datetime!(2026-11-22 12:03:00 UTC)),
    ] {
        let error = plan(&request(stop.clone()), &info, &[], &wals).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("000000010000000000000006") && text.contains("--target-lsn 0/5FFFFE0"),
            "{stop:?}: {text}"
        );
    }
    for stop in [
        StopPoint::Immediate,
        StopPoint::Lsn("0/5FFFFE0".parse().unwrap()),
        StopPoint::Time(datetime!(2026-11-22 12:00:30 UTC)),
    ] {
        assert!(plan(&request(stop.clone()), &info, &[], &wals).is_ok(), "{stop:?}");
    }
}

#[test]
fn i22_wal_that_every_restore_needs_must_be_there() {
    let info = backup(150_020);
    for numbers in [&[4, 5, 6][..], &[3, 5, 6], &[3], &[]] {
        let error = plan(&request(StopPoint::Immediate), &info, &[], &segments(1, numbers)).unwrap_err();
        assert!(matches!(error, PlanError::NotConsistent { .. }), "{numbers:?}: {error}");
    }
}

#[test]
fn a_position_beyond_the_archive_is_an_error() {
    let wish = request(StopPoint::Lsn("0/5FFFFE0".parse().unwrap()));
    assert!(plan(&wish, &backup(150_020), &[], &segments(1, &[3, 4, 5])).is_ok());
    let wish = request(StopPoint::Lsn("0/5FFFFE1".parse().unwrap()));
    let error = plan(&wish, &backup(150_020), &[], &segments(1, &[3, 4, 5])).unwrap_err();
    assert_eq!(
        error,
        PlanError::BeyondArchive {
            target: "0/5FFFFE1".parse().unwrap(),
            timeline: Timeline::FIRST,
            nearest: Some("0/5FFFFE0".parse().unwrap())
        }
    );
}

#[test]
fn recovery_crosses_to_the_newest_descendant_with_all_its_wal() {
    let info = backup(150_020);
    let mut wals = segments(1, &[3, 4, 5]);
    wals.push(wal("00000002.history", 1));
    wals.extend(segments(2, &[5, 6]));
    let histories = [history(2, 1, "0/5000100")];
    let wish = request(StopPoint::Time(datetime!(2026-11-22 12:01:30 UTC)));
    let made = plan(&wish, &info, &histories, &wals).unwrap();
    assert_eq!(made.timeline.get(), 2);
    assert_eq!(
        copied(&made),
        [
            "000000010000000000000003",
            "000000010000000000000004",
            "000000010000000000000005",
            "00000002.history",
            "000000020000000000000005",
            "000000020000000000000006"
        ]
    );
    let settings = made.settings.unwrap();
    assert!(!settings.lines.iter().any(|l| l.contains("timeline")), "{:?}", settings.lines);
    // Before 12 the default is the backup's own timeline.
    let made = plan(&wish, &backup(110_000), &histories, &wals).unwrap();
    assert_eq!(made.timeline.get(), 1);
}

#[test]
fn what_a_server_wrote_after_it_was_left_behind_is_not_on_the_path() {
    let info = backup(150_020);
    let histories = [history(2, 1, "0/5000100")];
    let mut wish = request(StopPoint::Latest);
    wish.target.timeline = TargetTimeline::Latest;
    let mut wals = segments(1, &[3, 4, 5, 6, 7, 8]);
    wals.push(wal("00000002.history", 1));
    // The new timeline has a history and no segment yet: the old one's segment of the switch serves up to it.
    let made = plan(&wish, &info, &histories, &wals).unwrap();
    assert_eq!(made.reachable, Some("0/5000100".parse().unwrap()));
    assert!(!copied(&made).iter().any(|name| name == "000000010000000000000006"));
    let mut position = wish.clone();
    position.target.stop = StopPoint::Lsn("0/5000080".parse().unwrap());
    assert!(plan(&position, &info, &histories, &wals).is_ok());
    position.target.stop = StopPoint::Lsn("0/5000101".parse().unwrap());
    assert!(plan(&position, &info, &histories, &wals).is_err());
    wals.extend(segments(2, &[5]));
    let made = plan(&wish, &info, &histories, &wals).unwrap();
    assert_eq!(made.reachable, Some("0/6000000".parse().unwrap()));
    assert!(copied(&made).iter().any(|name| name == "000000020000000000000005"));
    // A segment of the new timeline is missing before its last one.
    wals.extend(segments(2, &[7]));
    let error = plan(&wish, &info, &histories, &wals).unwrap_err().to_string();
    assert!(error.contains("000000020000000000000006") && error.contains("0/5FFFFE0"), "{error}");
    wals.retain(|entry| entry.name != "000000020000000000000005".parse().unwrap());
    let error = plan(&wish, &info, &histories, &wals).unwrap_err().to_string();
    assert!(error.contains("000000020000000000000005") && error.contains("0/4FFFFE0"), "{error}");
}

#[test]
fn a_foreign_branch_is_not_followed_and_postgresql_is_told_so() {
    let info = backup(150_020);
    let mut wals = segments(1, &[3, 4, 5]);
    wals.push(wal("00000002.history", 1));
    wals.push(wal("00000003.history", 1));
    wals.extend(segments(3, &[5, 6]));
    // Timeline 2 left before the backup was consistent; 3 is a true descendant.
    let histories = [history(2, 1, "0/2000000"), history(3, 1, "0/5000100")];
    let made = plan(&request(StopPoint::Xid(700)), &info, &histories, &wals).unwrap();
    assert_eq!(made.timeline.get(), 3);
    // PostgreSQL finds 3 by itself here: ids without a gap.
    assert!(made.warnings.is_empty());
    let histories = [history(3, 1, "0/5000100"), history(4, 2, "0/9000000")];
    let made = plan(&request(StopPoint::Xid(700)), &info, &histories, &wals).unwrap();
    let lines = made.settings.unwrap().lines;
    assert!(lines.contains(&"recovery_target_timeline = '3'".to_owned()), "{lines:?}");
    assert_eq!(made.warnings.len(), 1);
    let mut wish = request(StopPoint::Xid(700));
    wish.target.timeline = TargetTimeline::Id(Timeline::new(4).unwrap());
    assert!(matches!(plan(&wish, &info, &histories, &wals), Err(PlanError::Timeline { .. })));
}

#[test]
fn tablespace_rules() {
    let info = backup(150_020);
    let wals = segments(1, &[3, 4]);
    let with = |name: &str, to: &str| {
        let mut wish = request(StopPoint::Latest);
        wish.tablespaces = BTreeMap::from([(name.to_owned(), to.into())]);
        plan(&wish, &info, &[], &wals)
    };
    assert!(matches!(with("nope", "/x"), Err(PlanError::UnknownTablespace { .. })));
    assert!(matches!(with("ts1", "relative"), Err(PlanError::Invalid(_))));
    assert!(matches!(with("ts1", "/srv/restored"), Err(PlanError::Overlap(_))));
    assert!(matches!(with("ts1", "/srv"), Err(PlanError::Overlap(_))));
    assert!(with("ts1", "/srv/restored/ts/one").is_ok());
    assert_eq!(with("ts1", "/other").unwrap().tablespaces[0].location, "/other");
}

#[test]
fn incomplete_and_unfinished_backups_are_refused() {
    let mut info = backup(150_020);
    info.status = Status::Failed;
    assert_eq!(
        plan(&request(StopPoint::Latest), &info, &[], &[]).unwrap_err(),
        PlanError::NotRestorable { status: Status::Failed }
    );
    let mut info = backup(150_020);
    info.version = None;
    assert!(matches!(plan(&request(StopPoint::Latest), &info, &[], &[]), Err(PlanError::Incomplete { .. })));
}

#[test]
fn fetching_writes_the_command_and_copies_nothing() {
    let mut wish = request(StopPoint::Latest);
    wish.standby = true;
    wish.wal = WalDelivery::Fetch {
        restore_command: "barman get-wal 'x' main %f > %p".to_owned(),
        comment: Some("who runs it".to_owned()),
    };
    let made = plan(&wish, &backup(150_020), &[], &segments(1, &[3, 4])).unwrap();
    assert!(made.wal.is_none());
    let settings = made.settings.unwrap();
    assert_eq!(settings.signal, Some("standby.signal"));
    assert_eq!(settings.lines, ["# who runs it", "restore_command = 'barman get-wal ''x'' main %f > %p'"]);
}

#[test]
fn an_action_without_a_target_is_refused() {
    let mut wish = request(StopPoint::Latest);
    wish.target.action = Some(TargetAction::Promote);
    let error = plan(&wish, &backup(150_020), &[], &segments(1, &[3, 4])).unwrap_err();
    assert_eq!(error.to_string(), "Can't enable recovery target action when PITR is not required");
}

#[test]
fn i22_the_staging_directory_takes_nothing_else_along() {
    let (info, wals) = (backup(150_020), segments(1, &[3, 4, 5]));
    let with = |staging: &str| {
        let mut wish = request(StopPoint::Immediate);
        wish.wal = WalDelivery::Copy { directory: Some(staging.into()) };
        plan(&wish, &info, &[], &wals)
    };
    for staging in ["/srv/restored/my_wal", "/var/tmp/wal", "/srv/restored_wal"] {
        assert!(with(staging).is_ok(), "{staging}");
    }
    for staging in [
        "/srv/restored",
        "/srv",
        "/",
        "/srv/restored/base",
        "/srv/restored/pg_wal",
        "/srv/restored_ts1",
        "/srv/restored_ts1/x",
    ] {
        assert!(matches!(with(staging), Err(PlanError::Overlap(_))), "{staging}");
    }
    assert!(matches!(with("wal"), Err(PlanError::Invalid(_))));
}

#[test]
fn what_postgresql_reads_in_quotes_is_what_was_meant() {
    let (info, wals) = (backup(150_020), segments(1, &[3, 4, 5]));
    let mut wish = request(StopPoint::Name(r"it's \n".into()));
    wish.wal = WalDelivery::Copy { directory: Some("/srv/100%f it's".into()) };
    let lines = plan(&wish, &info, &[], &wals).unwrap().settings.unwrap().lines;
    assert_eq!(
        lines,
        [
            r"restore_command = 'cp ''/srv/100%%f it''\\''''s''/%f %p'",
            r"recovery_end_command = 'rm -fr ''/srv/100%%f it''\\''''s'''",
            r"recovery_target_name = 'it''s \\n'",
        ]
    );
}

#[test]
fn i22_recovery_settings_stay_in_the_data_directory() {
    let (info, wals) = (backup(150_020), segments(1, &[3, 4, 5]));
    for (file, good) in
        [("conf.d/recovery.conf", true), ("/etc/passwd", false), ("../postgresql.conf", false), ("", false)]
    {
        let mut wish = request(StopPoint::Immediate);
        wish.settings_file = Some(file.to_owned());
        assert_eq!(plan(&wish, &info, &[], &wals).is_ok(), good, "{file}");
    }
}

#[test]
fn the_latest_timeline_is_named_where_postgresql_would_not_find_it() {
    let info = backup(150_020);
    let mut wish = request(StopPoint::Xid(700));
    wish.target.timeline = TargetTimeline::Latest;
    for (id, line) in [(2, "recovery_target_timeline = latest"), (3, "recovery_target_timeline = '3'")] {
        let mut wals = segments(1, &[3, 4, 5]);
        wals.extend(segments(id, &[5]));
        let made = plan(&wish, &info, &[history(id, 1, "0/5000100")], &wals).unwrap();
        let lines = made.settings.unwrap().lines;
        assert!(lines.contains(&line.to_owned()), "{lines:?}");
    }
}
