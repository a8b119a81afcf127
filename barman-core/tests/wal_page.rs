//! I4, I10 and I12 on what real servers of every major write: WAL segments, `pg_control`, data pages.

use barman_core::format::control::{ClusterState, ControlFile};
use barman_core::format::page::{Verdict, check_page};
use barman_core::format::relfile::RelFile;
use barman_core::format::wal_page::{
    Ancestors, Completeness, Expectations, FirstPage, SegmentFacts, Unsound, Validator,
};
use barman_core::model::{PgVersion, SegmentSize, SystemId, Timeline, WalFileName};
use barman_testkit::os::TestDir;
use barman_testkit::pg::{Archive, Cluster, MAJORS, StopMode, require};
use camino::{Utf8Path, Utf8PathBuf};

/// All that a caller can know is asked for, record CRCs too.
fn judge(path: &Utf8Path, cluster: &Facts, completeness: Completeness) -> Result<SegmentFacts, Unsound> {
    let name = match path.file_name().unwrap().parse().unwrap() {
        WalFileName::Segment(name) | WalFileName::Partial(name) => name,
        other => panic!("{other}"),
    };
    let mut expect = Expectations::new(name, cluster.size);
    expect.system_id = Some(cluster.system_id);
    expect.version = Some(cluster.version);
    expect.ancestors = Ancestors::Listed((1..name.timeline.get()).filter_map(Timeline::new).collect());
    expect.completeness = completeness;
    expect.check_records = true;
    let mut validator = Validator::new(expect);
    for piece in std::fs::read(path).unwrap().chunks(100_001) {
        validator.push(piece);
    }
    validator.finish()
}

struct Facts {
    system_id: SystemId,
    size: SegmentSize,
    version: PgVersion,
}

fn wal_files(dir: &Utf8Path) -> Vec<Utf8PathBuf> {
    let mut files: Vec<Utf8PathBuf> = dir
        .read_dir_utf8()
        .unwrap()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.parse().ok());
            matches!(name, Some(WalFileName::Segment(_) | WalFileName::Partial(_)))
        })
        .collect();
    files.sort();
    files
}

fn control(cluster: &Cluster) -> ControlFile {
    ControlFile::parse(&std::fs::read(cluster.pgdata().join("global/pg_control")).unwrap()).unwrap()
}

#[test]
fn what_every_major_writes_is_sound() {
    let mut seen = 0;
    for major in MAJORS {
        if require(major).is_none() {
            continue;
        }
        seen += 1;
        // Before 11 the segment size is fixed when the server is built.
        one_cluster(
            major,
            if major < 11 {
                16
            } else if major == 15 {
                64
            } else {
                1
            },
        );
    }
    assert!(seen > 0);
}

fn one_cluster(major: u32, mib: u32) {
    let archive = TestDir::new("btk-wal-").unwrap();
    let mut primary = Cluster::builder(major)
        .wal_segment_size_mb(mib)
        .archive_to(archive.path(), Archive::Atomic)
        .conf("wal_level", "replica")
        .conf("max_wal_senders", "4")
        .start()
        .unwrap();
    let facts = Facts {
        system_id: primary.system_id().unwrap().parse().unwrap(),
        size: SegmentSize::from_bytes(u64::from(mib) << 20).unwrap(),
        version: PgVersion::new(major * 10_000),
    };
    primary
        .psql("CREATE TABLE t AS SELECT g, repeat('x', 300) AS x FROM generate_series(1, 20000) g")
        .unwrap();
    primary.psql("CREATE UNLOGGED TABLE u AS SELECT 1 AS one").unwrap();
    primary.archive_now().unwrap();
    primary.archive_now().unwrap();

    let mut standby = Cluster::standby_of(&primary).unwrap();
    primary.psql("INSERT INTO t SELECT g, 'y' FROM generate_series(1, 3000) g").unwrap();
    standby.catch_up(&primary).unwrap();
    standby.promote().unwrap();
    standby.psql("INSERT INTO t SELECT g, 'z' FROM generate_series(1, 5000) g").unwrap();
    let promoted = standby.archive_now().unwrap();

    let files = wal_files(archive.path());
    let mut switched = 0;
    for path in &files {
        let partial = path.as_str().ends_with(".partial");
        let completeness = if partial { Completeness::Partial } else { Completeness::Full };
        let found = judge(path, &facts, completeness).unwrap_or_else(|e| panic!("{major} {path}: {e}"));
        assert_eq!(found.major, Some(facts.version), "{path}");
        assert!(found.records > 0, "{path}");
        switched += u32::from(found.switch_at.is_some());
        if partial {
            let strict = judge(path, &facts, Completeness::Full);
            assert!(strict.is_err(), "{path}: {strict:?}");
        }
        if path.file_name() == Some(promoted.as_str()) {
            let timelines = (found.first_timeline.get(), found.last_timeline.get());
            assert_eq!(timelines, (1, 2), "the first segment of timeline 2 begins on timeline 1: {path}");
        }
    }
    assert!(switched >= 3, "{major}: {switched} of {files:?}");
    // The last page of the first segment that was not switched off, damaged and lost.
    let whole = files.first().unwrap();
    let mut bytes = std::fs::read(whole).unwrap();
    assert_eq!(FirstPage::parse(&bytes).unwrap().system_id, facts.system_id);
    bytes.truncate(bytes.len() / 2);
    let short = archive.path().join("short");
    std::fs::create_dir(&short).unwrap();
    let short = short.join(whole.file_name().unwrap());
    std::fs::write(&short, &bytes).unwrap();
    assert!(judge(&short, &facts, Completeness::Full).is_err());

    check_control(&primary, &facts, major);
    primary.stop(StopMode::Fast).unwrap();
    standby.stop(StopMode::Fast).unwrap();
    let stopped = control(&standby);
    assert_eq!((stopped.state, stopped.timeline.get()), (ClusterState::ShutDown, 2));
    check_pages(&primary, &control(&primary));
}

fn check_control(cluster: &Cluster, facts: &Facts, major: u32) {
    let file = control(cluster);
    assert_eq!(file.major(), Some(facts.version), "{major}");
    assert_eq!((file.system_id, file.segment_size), (facts.system_id, facts.size));
    assert_eq!((file.state, file.timeline.get()), (ClusterState::InProduction, 1));
    let told = cluster.psql("SELECT checkpoint_lsn || ' ' || redo_lsn FROM pg_control_checkpoint()").unwrap();
    // Nothing forbids a checkpoint in between.
    let again = control(cluster);
    assert!(
        [&file, &again].iter().any(|f| format!("{} {}", f.checkpoint, f.redo) == told),
        "{major}: {told}"
    );
    let time = cluster
        .psql("SELECT extract(epoch FROM checkpoint_time)::bigint FROM pg_control_checkpoint()")
        .unwrap();
    assert_eq!(again.checkpoint_time.unwrap().unix_timestamp().to_string(), time, "{major}");
    assert!(file.has_checksums());
}

/// Every page of a stopped cluster is good, and is bad in any other place.
fn check_pages(cluster: &Cluster, facts: &ControlFile) {
    let mut pages = 0;
    let mut dirs = vec![cluster.pgdata().join("base"), cluster.pgdata().join("global")];
    while let Some(dir) = dirs.pop() {
        for entry in dir.read_dir_utf8().unwrap() {
            let path = entry.unwrap().into_path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let Some(file) = RelFile::parse(path.strip_prefix(cluster.pgdata()).unwrap()) else { continue };
            let bytes = std::fs::read(&path).unwrap();
            for (index, page) in bytes.chunks(facts.block_size as usize).enumerate() {
                let block = file.block(index as u32, facts.blocks_per_file);
                let check = check_page(page, block, true);
                assert!(check.verdict.is_good(), "{path} {index}: {check:?}");
                if check.verdict == Verdict::Ok {
                    assert!(!check_page(page, block ^ 1, true).verdict.is_good(), "{path} {index}");
                    pages += 1;
                }
            }
        }
    }
    assert!(pages > 500, "{pages}");
}
