//! Tests of the `backup.info` format.

use proptest::prelude::*;
use time::macros::datetime;
use time::{PrimitiveDateTime, UtcOffset};

use super::*;
use crate::model::{BackupType, Lsn, PgVersion, SegmentName, SystemId, Timeline};

const ID: &str = "20261122T214417";

fn local(shown: PrimitiveDateTime) -> OffsetDateTime {
    shown.assume_offset(UtcOffset::from_hms(2, 0, 0).unwrap())
}

fn read(text: &str) -> BackupInfo {
    parse(ID.parse().unwrap(), text, &local).unwrap()
}

/// Written by Barman 3.19.1.
const RSYNC: &str = r"backup_label='START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\nCHECKPOINT LOCATION: 0/6000098\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-22 21:45:01 UTC\nLABEL: Barman backup pg 20261122T214417\nSTART TIMELINE: 1\n'
begin_offset=40
begin_time=2026-11-22 21:44:17.221634+00:00
begin_wal=000000010000000000000006
begin_xlog=0/6000028
children_backup_ids=None
cluster_size=26300105
compression=None
config_file=/srv/pg/data/postgresql.conf
copy_stats={'total_time': 4.279352, 'number_of_workers': 1, 'analysis_time_per_item': {'ts1': 0.784061, 'pgdata': 0.708877}, 'copy_time_per_item': {'ts1': 0.667102, 'pgdata': 1.716853, 'pg_control': 0.365314}, 'serialized_copy_time_per_item': {'ts1': 0.666515, 'pgdata': 1.71169, 'pg_control': 0.365314}, 'analysis_time': 1.492944, 'copy_time': 2.760593, 'serialized_copy_time': 2.743519}
data_checksums=on
deduplicated_size=26142000
encryption=None
end_offset=368
end_time=2026-11-22 21:45:05.376641+00:00
end_wal=000000010000000000000006
end_xlog=0/6000170
error=None
hba_file=/srv/pg/data/pg_hba.conf
ident_file=/srv/pg/data/pg_ident.conf
included_files=['/srv/pg/data/postgresql.auto.conf']
mode=rsync-concurrent
parent_backup_id=None
pgdata=/srv/pg/data
server_name=pg
size=26142000
status=DONE
summarize_wal=None
systemid=7711114132867599874
tablespaces=[('ts1', 16386, '/srv/ts/ts1')]
timeline=1
version=150020
xlog_segment_size=16777216
";

#[test]
fn a_file_of_barman_survives_byte_for_byte() {
    let info = read(RSYNC);
    assert_eq!(print(&info), RSYNC);
    assert_eq!(info.backup_type(), BackupType::Rsync);
    assert_eq!(info.begin_time, Some(datetime!(2026-11-22 21:44:17.221634 UTC)));
    assert_eq!(info.status, Status::Done);
    assert_eq!(info.tablespaces.len(), 1);
    assert_eq!(info.version.unwrap().major_text(), "15");
    let label = label_text(&info).unwrap();
    assert!(
        label.starts_with("START WAL LOCATION: 0/6000028 (file") && label.ends_with("START TIMELINE: 1\n")
    );
}

#[test]
fn an_incremental_with_children_name_and_snapshot_facts() {
    let text = RSYNC
        .replace("begin_offset", "backup_name=inc1\nbegin_offset")
        .replace("children_backup_ids=None", "children_backup_ids=20261122T233750,20261122T233751,20261122T233750")
        .replace("mode=rsync-concurrent", "mode=postgres")
        .replace("parent_backup_id=None", "parent_backup_id=20261122T233743")
        .replace("status=DONE", "snapshots_info={'provider': 'aws', 'provider_info': {'account_id': '1', 'region': None}, 'snapshots': [{'mount': {}}]}\nstatus=WAITING_FOR_WALS");
    let info = read(&text);
    assert_eq!(print(&info), text);
    assert_eq!(info.backup_type(), BackupType::Incremental);
    assert_eq!(info.children_backup_ids.len(), 3);
    assert_eq!(info.backup_name.as_deref(), Some("inc1"));
}

#[test]
fn a_label_quoted_twice_by_a_passive_node_survives_and_is_shown_plain() {
    let line = "backup_label=\"'START WAL LOCATION: 0/6000028\\\\nLABEL: it\\\\x41\\\\n'\"";
    let text = RSYNC.replace(RSYNC.lines().next().unwrap(), line);
    let info = read(&text);
    assert_eq!(print(&info), text);
    assert_eq!(label_text(&info).unwrap(), "START WAL LOCATION: 0/6000028\nLABEL: itA\n");
}

#[test]
fn old_catalogs_are_read() {
    // As versions of the 1.x series wrote them: fewer keys, naive dates, other servers.
    for (version, major) in [(90_503, "9.5"), (90_603, "9.6")] {
        let text = format!(
            "begin_time=2017-06-01 12:30:45.123456\nbegin_wal=000000010000000000000006\nmode=rsync-exclusive\n\
             pgdata=/var/lib/pgsql/data\nsize=26142000\nstatus=DONE\ntablespaces=None\ntimeline=1\nversion={version}\n"
        );
        let info = read(&text);
        assert_eq!(info.version.unwrap().major_text(), major);
        assert_eq!(info.version.unwrap().wal_directory(), "pg_xlog");
        assert_eq!(info.begin_time, Some(datetime!(2017-06-01 12:30:45.123456 +02:00)));
        assert_eq!(info.xlog_segment_size, SegmentSize::DEFAULT);
        assert_eq!((info.systemid, info.backup_name.clone()), (None, None));
        assert!(print(&info).contains("\nbegin_time=2017-06-01 12:30:45.123456+02:00\n"));
    }
}

#[test]
fn tolerated_forms() {
    for (line, check) in [
        ("cluster_size=26300105.0", (|i| i.cluster_size == Some(26_300_105)) as fn(&BackupInfo) -> bool),
        ("cluster_size=2.63e+16", |i| i.cluster_size == Some(26_300_000_000_000_000)),
        ("  size = 12  ", |i| i.size == Some(12)),
        ("# size=12", |i| i.size.is_none()),
        ("size=None", |i| i.size.is_none()),
        ("size=1\nsize=2", |i| i.size == Some(2)),
        ("error=a=b", |i| i.error.as_deref() == Some("a=b")),
        ("error=", |i| i.error.as_deref() == Some("")),
        ("mode=local-to-cloud-concurrent", |i| {
            i.mode.as_ref().unwrap().as_str() == "local-to-cloud-concurrent"
        }),
        ("included_files=[]", |i| i.included_files.is_empty()),
        ("tablespaces=[]", |i| i.tablespaces.is_empty()),
        ("tablespaces=[['a', 1, '/a']]", |i| i.tablespaces.len() == 1),
        ("timeline=26", |i| i.timeline.unwrap().hex() == "0000001A"),
        ("xlog_segment_size=1048576", |i| i.xlog_segment_size.bytes() == 1 << 20),
        ("children_backup_ids=", |i| i.children_backup_ids.is_empty()),
        ("begin_time=Sun Nov 22 21:45:05 2026", |i| {
            i.begin_time == Some(datetime!(2026-11-22 21:45:05 +02:00))
        }),
    ] {
        assert!(check(&read(line)), "{line}");
    }
}

#[test]
fn unknown_keys_survive_in_their_place() {
    let text = RSYNC
        .replace("hba_file=", "future_key={'a': 1}\nhba_file=")
        .replace("version=", "vacuum=None\nversion=");
    let info = read(&text);
    assert_eq!(info.extra.len(), 2);
    assert_eq!(print(&info), text);
}

#[test]
fn a_bad_line_is_named() {
    for (text, line, key) in [
        ("status=DONE\n\nsize=many\n", 3, "size"),
        ("size=-1", 1, "size"),
        ("size=1.5e300", 1, "size"),
        ("status=done", 1, "status"),
        ("begin_wal=xyz", 1, "begin_wal"),
        ("begin_xlog=6000028", 1, "begin_xlog"),
        ("begin_time=yesterday", 1, "begin_time"),
        ("timeline=0", 1, "timeline"),
        ("children_backup_ids=20261122T233750;20261122T233751", 1, "children_backup_ids"),
        ("backup_label=START", 1, "backup_label"),
        ("backup_label=5", 1, "backup_label"),
        ("included_files='x'", 1, "included_files"),
        ("included_files=[1]", 1, "included_files"),
        ("tablespaces=[('a', -1, '/a')]", 1, "tablespaces"),
        ("tablespaces=[('a', 1)]", 1, "tablespaces"),
        ("copy_stats={", 1, "copy_stats"),
        ("xlog_segment_size=1000", 1, "xlog_segment_size"),
        ("server_name=../x", 1, "server_name"),
        ("systemid=abc", 1, "systemid"),
        ("version=15.2", 1, "version"),
    ] {
        match parse(ID.parse().unwrap(), text, &local) {
            Err(error @ BackupInfoError::BadValue { .. }) => {
                let BackupInfoError::BadValue { line: l, key: k, .. } = &error else { unreachable!() };
                assert_eq!((*l, k.as_str()), (line, key));
                assert!(error.to_string().contains(key));
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let error = parse(ID.parse().unwrap(), "status=DONE\ngarbage\n", &local).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2 of the backup information, 'garbage', is not of the form key=value"
    );
}

#[test]
fn an_error_of_several_lines_cannot_forge_a_key() {
    let mut info = BackupInfo::empty(ID.parse().unwrap());
    info.status = Status::Failed;
    info.error = Some("failure copying files\nstatus=DONE\r\n".to_owned());
    assert_eq!(read(&print(&info)).status, Status::Failed);
}

fn word() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9/_.'\"=é日 -]{0,20}".prop_map(|t| t.trim().to_owned()).prop_filter("null", |t| t != "None")
}

fn instant() -> impl Strategy<Value = OffsetDateTime> {
    (0i64..4_000_000_000, 0i64..1_000_000, -14i8..15).prop_map(|(seconds, micros, hours)| {
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap() + time::Duration::microseconds(micros);
        at.to_offset(UtcOffset::from_hms(hours, 0, 0).unwrap())
    })
}

fn id() -> impl Strategy<Value = BackupId> {
    "2[0-9]{7}T[0-9]{6}".prop_map(|t| t.parse().unwrap())
}

fn wal() -> impl Strategy<Value = SegmentName> {
    (1u32.., any::<u32>(), any::<u32>()).prop_map(|(timeline, log, segment)| SegmentName {
        timeline: Timeline::new(timeline).unwrap(),
        log,
        segment,
    })
}

fn opt<S: Strategy>(inner: S) -> impl Strategy<Value = Option<S::Value>> {
    prop::option::of(inner)
}

fn any_info() -> impl Strategy<Value = BackupInfo> {
    let texts = prop::collection::vec(opt(word()), 8);
    let numbers = prop::collection::vec(opt(any::<u64>()), 5);
    let where_ =
        (opt(instant()), opt(instant()), opt(wal()), opt(wal()), opt(any::<u64>()), opt(any::<u64>()));
    let lists = (
        prop::collection::vec(id(), 0..3),
        prop::collection::vec(word(), 0..3),
        prop::collection::vec((any::<String>(), any::<u32>(), any::<String>()), 0..3),
        prop::collection::btree_map("x[a-z]{1,5}", word(), 0..3),
    );
    let rest = (opt(any::<String>()), opt(id()), 0usize..6, 1u32.., any::<u32>(), any::<u64>(), 20u32..31);
    (texts, numbers, where_, lists, rest).prop_map(|(texts, numbers, place, lists, rest)| {
        let mut info = BackupInfo::empty(ID.parse().unwrap());
        let mut texts = texts.into_iter();
        let mut text = || texts.next().flatten();
        info.backup_name = text();
        info.compression = text();
        info.data_checksums = text();
        info.encryption = text();
        info.error = text();
        info.summarize_wal = text();
        info.pgdata = text().map(Into::into);
        info.mode = text().map(|t| BackupMethod::from(t.as_str()));
        let mut numbers = numbers.into_iter();
        let mut number = || numbers.next().flatten();
        info.begin_offset = number();
        info.end_offset = number();
        info.cluster_size = number();
        info.deduplicated_size = number();
        info.size = number();
        (info.begin_time, info.end_time, info.begin_wal, info.end_wal) = (place.0, place.1, place.2, place.3);
        (info.begin_xlog, info.end_xlog) = (place.4.map(Lsn::new), place.5.map(Lsn::new));
        info.children_backup_ids = lists.0;
        info.included_files = lists.1.into_iter().map(Into::into).collect();
        info.tablespaces = lists
            .2
            .into_iter()
            .map(|(name, oid, at)| Tablespace { name, oid: Oid(oid), location: at.into() })
            .collect();
        info.extra = lists.3;
        info.copy_stats =
            info.size.map(|_| PyValue::Dict(vec![(PyValue::Str("t".into()), PyValue::Float(0.5))]));
        info.backup_label = rest.0;
        info.parent_backup_id = rest.1;
        info.status = Status::ALL[rest.2];
        info.timeline = Timeline::new(rest.3);
        info.version = Some(PgVersion::new(rest.4));
        info.systemid = Some(SystemId::new(rest.5));
        info.xlog_segment_size = SegmentSize::from_bytes(1 << rest.6).unwrap();
        info
    })
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(info in any_info()) {
        let text = print(&info);
        let again = read(&text);
        prop_assert_eq!(&again, &info);
        prop_assert_eq!(print(&again), text);
    }

    #[test]
    fn never_panics(text: String, key in 0usize..35, value in "[0-9a-zA-Z'\\[\\](){},: /.-]{0,30}") {
        let _ = parse(ID.parse().unwrap(), &text, &local);
        let key = RSYNC.lines().nth(key).and_then(|l| l.split_once('=')).map_or("status", |(k, _)| k);
        let _ = parse(ID.parse().unwrap(), &format!("{key}={value}"), &local);
    }
}
