//! Real servers start, answer, crash, come back and replicate, on every major of this machine.

use std::time::Instant;

use barman_testkit::pg::{self, Cluster, MAJORS, StopMode};

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
