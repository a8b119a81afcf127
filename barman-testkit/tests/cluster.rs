//! Real servers start, answer, crash, come back and replicate, on every major of this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

use barman_testkit::Error;
use barman_testkit::os::{Account, TestDir, run};
use barman_testkit::pg::{self, Archive, Cluster, MAJORS, Session, StopMode, verify_cluster};

#[test]
fn every_major_starts_and_answers() {
    for major in MAJORS {
        let Some(install) = pg::require(major) else { continue };
        let begun = Instant::now();
        let mut cluster = Cluster::builder(major).tablespace("one").start().unwrap();
        println!("PostgreSQL {} ({:?}) started in {:?}", install.version, install.origin, begun.elapsed());
        assert!(cluster.psql("SHOW server_version_num").unwrap().starts_with(&major.to_string()));
        cluster.psql("CREATE TABLE t TABLESPACE one AS SELECT generate_series(1, 1000) AS n").unwrap();
        assert_eq!(cluster.psql("SHOW data_checksums").unwrap(), "on");
        cluster.kill9().unwrap();
        assert!(cluster.psql("SELECT 1").is_err());
        cluster.start().unwrap();
        assert_eq!(cluster.psql("SELECT count(*) FROM t; SELECT 1, NULL, 'x'").unwrap(), "1000\n1||x");
        cluster.stop(StopMode::Fast).unwrap();
        assert!(!cluster.pgdata().join("postmaster.pid").exists());
    }
}

#[test]
fn segments_are_as_large_as_asked_for() {
    for (major, mib) in [(11, 1), (15, 1), (15, 64), (18, 2)] {
        let Some(_) = pg::require(major) else { continue };
        let cluster = Cluster::builder(major).wal_segment_size_mb(mib).start().unwrap();
        assert_eq!(cluster.psql("SHOW wal_segment_size").unwrap(), format!("{mib}MB"));
    }
    if pg::require(10).is_some() {
        let error = Cluster::builder(10).wal_segment_size_mb(1).start().unwrap_err();
        assert!(error.to_string().contains("16 MiB only"), "{error}");
    }
}

#[test]
fn a_fresh_initdb_has_a_system_identifier_of_its_own() {
    let Some(_) = pg::require(15) else { return };
    let plain = Cluster::builder(15).start().unwrap();
    let twin = Cluster::builder(15).start().unwrap();
    let fresh = Cluster::builder(15).data_checksums(false).fresh_initdb().start().unwrap();
    assert_eq!(plain.system_id().unwrap(), twin.system_id().unwrap());
    assert_ne!(plain.system_id().unwrap(), fresh.system_id().unwrap());
    assert_eq!(fresh.psql("SHOW data_checksums").unwrap(), "off");
}

#[test]
fn segments_arrive_in_the_archive_directory() {
    let Some(_) = pg::require(17) else { return };
    let home = TestDir::new("btk-test-").unwrap();
    for how in [Archive::Atomic, Archive::Plain] {
        let dir = home.path().join(format!("{how:?}/incoming"));
        let cluster = Cluster::builder(17).wal_segment_size_mb(1).archive_to(&dir, how).start().unwrap();
        let first = cluster.archive_now().unwrap();
        let second = cluster.archive_now().unwrap();
        assert!(first < second);
        for name in [first, second] {
            assert_eq!(fs::metadata(dir.join(name)).unwrap().len(), 1 << 20);
        }
        drop(cluster);
        assert!(!fs::exists(format!("{dir}.tmp")).unwrap(), "a cluster leaves nothing behind");
    }
}

#[test]
fn a_standby_follows_and_can_be_promoted() {
    for major in [10, 12, 15, 18] {
        let Some(_) = pg::require(major) else { continue };
        let primary = Cluster::builder(major).tablespace("one").start().unwrap();
        primary.psql("CREATE TABLE t TABLESPACE one AS SELECT generate_series(1, 1000) AS n").unwrap();
        let mut standby = Cluster::standby_of(&primary).unwrap();
        primary.psql("INSERT INTO t SELECT generate_series(1001, 2000)").unwrap();
        standby.catch_up(&primary).unwrap();
        assert_eq!(standby.psql("SELECT count(*), pg_is_in_recovery() FROM t").unwrap(), "2000|t");
        standby.promote().unwrap();
        standby.psql("INSERT INTO t VALUES (0)").unwrap();
        assert_eq!(primary.psql("SELECT count(*) FROM t").unwrap(), "2000");
        verify_cluster(&mut standby).unwrap();
    }
}

#[test]
fn a_copied_data_directory_can_be_opened() {
    let Some(_) = pg::require(15) else { return };
    let mut cluster = Cluster::builder(15).conf("archive_mode", "off").start().unwrap();
    cluster.psql("CREATE TABLE t (n int)").unwrap();
    cluster.stop(StopMode::Fast).unwrap();
    let home = TestDir::new("btk-test-").unwrap();
    let copy = home.path().join("copy");
    // As whoever runs the tests, as an operation inside the test process would.
    run(Command::new("cp").args(["-r", cluster.pgdata().as_str(), copy.as_str()])).unwrap();
    run(Command::new("chmod").args(["700", copy.as_str()])).unwrap();
    cluster.start().unwrap();
    {
        let restored = Cluster::open_restored(15, &copy).unwrap();
        assert_eq!(restored.psql("SELECT count(*) FROM t").unwrap(), "0");
        assert_ne!(restored.port(), cluster.port());
    }
    assert!(copy.join("PG_VERSION").exists(), "a restored directory is not the harness's to remove");
    let error = Cluster::restored(15, &copy).conf("no_such_setting", "1").start().unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[test]
fn a_directory_closed_to_the_servers_account_is_explained() {
    let Some(_) = pg::require(15) else { return };
    if Account::for_servers().unwrap().is_current() {
        // Nothing that this process makes is closed to itself.
        return;
    }
    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let pgdata = closed.path().join("data");
    fs::create_dir(&pgdata).unwrap();
    let error = Cluster::open_restored(15, pgdata.to_str().unwrap()).unwrap_err();
    assert!(error.to_string().contains("TestDir"), "{error}");
}

#[test]
fn damage_is_found_and_sound_clusters_pass() {
    for major in MAJORS {
        let Some(_) = pg::require(major) else { continue };
        let mut cluster = Cluster::builder(major).tablespace("one").start().unwrap();
        cluster
            .psql("CREATE TABLE t TABLESPACE one AS SELECT n, md5(n::text) AS m FROM generate_series(1, 5000) AS n")
            .unwrap();
        cluster.psql("CREATE INDEX i ON t (m)").unwrap();
        let verified = verify_cluster(&mut cluster).unwrap();
        assert!(verified.indexes > 100 && verified.pages > 1000, "{verified:?}");
        assert_eq!(verified.tables > 50, major >= 14, "{verified:?}");
        assert_eq!(verified.pg_checksums.is_some(), matches!(major, 15 | 17), "{verified:?}");

        let table = cluster.pgdata().join(cluster.psql("SELECT pg_relation_filepath('t')").unwrap());
        cluster.stop(StopMode::Fast).unwrap();
        let mut bytes = fs::read(&table).unwrap();
        bytes[8192 * 3 + 5000] ^= 1;
        fs::write(&table, bytes).unwrap();
        cluster.start().unwrap();
        let error = verify_cluster(&mut cluster).unwrap_err();
        assert!(matches!(&error, Error::Damaged { findings, .. } if findings.contains("block 3")), "{error}");
    }
}

#[test]
fn passwords_are_asked_for_where_hba_says_so() {
    for (major, method) in [(10, "password"), (10, "scram-sha-256"), (13, "md5"), (18, "scram-sha-256")] {
        let Some(_) = pg::require(major) else { continue };
        let hashed = if method == "md5" { "md5" } else { "scram-sha-256" };
        let cluster = Cluster::builder(major)
            .conf("password_encryption", hashed)
            .hba(format!("host all alice 127.0.0.1/32 {method}"))
            .start()
            .unwrap();
        cluster.psql("CREATE ROLE alice LOGIN PASSWORD 'se cret'").unwrap();
        let connect = |password| Session::connect("127.0.0.1", cluster.port(), "alice", "postgres", password);
        assert_eq!(connect(Some("se cret")).unwrap().psql("SELECT current_user").unwrap(), "alice");
        assert_eq!(connect(Some("wrong")).unwrap_err().sqlstate(), Some("28P01"));
    }
}

#[test]
fn a_server_that_cannot_start_shows_its_log() {
    let Some(_) = pg::require(15) else { return };
    let error = Cluster::builder(15).conf("shared_buffers", "many").start().unwrap_err();
    assert!(matches!(&error, Error::Ended { log, .. } if log.contains("shared_buffers")), "{error}");
}

#[test]
fn a_damaged_index_is_found_without_checksums() {
    for major in [10, 11, 18] {
        let Some(_) = pg::require(major) else { continue };
        let mut cluster = Cluster::builder(major).data_checksums(false).start().unwrap();
        cluster
            .psql("CREATE TABLE t AS SELECT md5(n::text) AS m FROM generate_series(1, 5000) AS n")
            .unwrap();
        cluster.psql("CREATE INDEX broken ON t (m)").unwrap();
        let sound = verify_cluster(&mut cluster).unwrap();
        assert_eq!((sound.pages, sound.pg_checksums), (0, None));

        let index = cluster.pgdata().join(cluster.psql("SELECT pg_relation_filepath('broken')").unwrap());
        cluster.stop(StopMode::Fast).unwrap();
        let mut bytes = fs::read(&index).unwrap();
        for byte in &mut bytes[8192 + 4000..8192 + 8000] {
            // Keys on the first leaf change places.
            if *byte == b'a' {
                *byte = b'0';
            }
        }
        fs::write(&index, bytes).unwrap();
        cluster.start().unwrap();
        let error = verify_cluster(&mut cluster).unwrap_err();
        let named = matches!(&error, Error::Damaged { findings, .. } if findings.contains("index broken of postgres"));
        assert!(named, "{error}");
    }
}
