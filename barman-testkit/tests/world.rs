//! The original Barman works in a world, over a real sshd, against a real server: the harness carries a whole backup.

use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Archive, Cluster, verify_cluster};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::World;

#[test]
fn the_oracle_backs_up_and_restores() {
    let (Some(_), Some(_), Some(())) = (pg::require(15), Barman::require(), Sshd::require()) else { return };
    let mut world = World::new().unwrap();
    let cluster = Cluster::builder(15)
        .wal_segment_size_mb(1)
        .archive_to(world.incoming("main"), Archive::Atomic)
        .start()
        .unwrap();
    let sshd = Sshd::start().unwrap();
    world
        .server("main")
        .conninfo(cluster.conninfo())
        .ssh(sshd.ssh_command())
        .option("backup_method", "rsync")
        .option("archiver", "on");
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n").unwrap();
    let version = world.oracle(&["--version"]).unwrap().ok().unwrap();
    assert!(version.stdout.starts_with("3.19.1"), "{version}");
    cluster.archive_now().unwrap();
    world.oracle(&["archive-wal", "main"]).unwrap().ok().unwrap();
    world.oracle(&["backup", "--wait", "main"]).unwrap().ok().unwrap();
    let listed = world.oracle(&["-f", "json", "list-backup", "main"]).unwrap().ok().unwrap().json().unwrap();
    assert_eq!(listed["main"][0]["status"], "DONE", "{listed}");
    cluster.psql("INSERT INTO t SELECT generate_series(1, 500)").unwrap();
    cluster.psql("SELECT pg_create_restore_point('before_the_accident')").unwrap();
    cluster.psql("DELETE FROM t WHERE n > 900").unwrap();
    cluster.archive_now().unwrap();
    world.oracle(&["archive-wal", "main"]).unwrap().ok().unwrap();

    let destination = world.path().join("restored");
    world.oracle(&["restore", "main", "latest", destination.as_str()]).unwrap().ok().unwrap();
    let mut restored = Cluster::open_restored(15, &destination).unwrap();
    assert_eq!(restored.psql("SELECT count(*) FROM t").unwrap(), "1400");
    verify_cluster(&mut restored).unwrap();

    // A server that is paused at its target has arrived, too; it is promoted by the test.
    let earlier = world.path().join("earlier");
    let target = ["--target-name", "before_the_accident", "--target-action", "pause"];
    let arguments = [&["restore"], &target[..], &["main", "latest", earlier.as_str()]].concat();
    world.oracle(&arguments).unwrap().ok().unwrap();
    let mut restored = Cluster::open_restored(15, &earlier).unwrap();
    assert_eq!(restored.psql("SELECT count(*), pg_is_in_recovery() FROM t").unwrap(), "1500|t");
    restored.promote().unwrap();
    assert_eq!(restored.psql("SELECT count(*), pg_is_in_recovery() FROM t").unwrap(), "1500|f");
}

#[test]
fn a_command_sees_nothing_of_the_machine() {
    let mut world = World::new().unwrap();
    world.env("EXTRA", "1").global("compression", "gzip");
    world.server("main").option("archiver", "on");
    world.server("main").option("archiver", "off");
    let env = barman_testkit::world::Run::of(&mut world.command("env")).unwrap();
    let mut names: Vec<&str> = env.stdout.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["EXTRA", "HOME", "LC_ALL", "LOGNAME", "PATH", "TZ", "USER"]);
    let text = std::fs::read_to_string(world.write_config().unwrap()).unwrap();
    assert!(text.contains("compression = gzip\n") && text.ends_with("archiver = off\n\n"), "{text}");
}
