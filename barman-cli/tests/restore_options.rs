//! Options of `restore`: refused as Barman refuses them, and a connection that is lost on the way.

use std::time::Duration;

use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Cluster, verify_cluster};
use barman_testkit::proxy::Proxy;
use barman_testkit::ssh::Sshd;

use crate::scene::{Scene, names};

/// In the same words, before anything is written.
#[test]
fn staging_and_snapshot_options_are_judged_as_by_barman() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let scene = Scene::new(15);
    scene.fill(10);
    scene.ours(&["backup", "--wait", "main"]);
    let destination = scene.world.path().join("restored");
    let place = scene.relocation(&destination);
    for options in [
        &["--staging-path", "rel"][..],
        &["--local-staging-path", "rel"],
        &["--recovery-staging-path", "rel", "--staging-path", "rel"],
        &["--staging-location", "remote", "--staging-path", "/tmp"],
        &["--snapshot-recovery-instance", "x"],
        &["--staging-location", "nowhere"],
        &["--jobs-start-batch-size", "0"],
        &["--jobs-start-batch-period", "0"],
        &["--retry-times", "-1"],
        &["--combine-mode", "bogus"],
    ] {
        let words =
            [&["restore"], options, &["--tablespace", &place, "main", "latest", destination.as_str()]];
        let words = words.concat();
        let (own, other) = (scene.world.barman(&words).unwrap(), scene.world.oracle(&words).unwrap());
        assert_eq!(own.code(), other.code(), "{options:?}: {own}{other}");
        if own.code() == Some(1) {
            let error = |text: &str| text.lines().find(|l| l.starts_with("ERROR")).map(str::to_owned);
            assert_eq!(error(&own.stderr), error(&other.stderr), "{options:?}");
        }
        assert!(!destination.exists());
    }
    // Without a backup there is not every target.
    for options in [
        &["--target-tli", "current"][..],
        &["--target-tli", "7"],
        &["--target-xid", "5"],
        &["--target-name", "n"],
        &["--target-immediate"],
        &["--target-lsn", "0/1"],
        &["--target-time", "2020-01-01 00:00:00+00"],
    ] {
        let words = [&["restore"], options, &["--tablespace", &place, "main", "auto", destination.as_str()]];
        let words = words.concat();
        let (own, other) = (scene.world.barman(&words).unwrap(), scene.world.oracle(&words).unwrap());
        let error = |text: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(level, _)| matches!(*level, "ERROR" | "EXCEPTION"));
            found.map(|(_, text)| text.to_owned())
        };
        assert_eq!((own.code(), error(&own.stderr)), (other.code(), error(&other.stderr)), "{options:?}");
        assert!(own.code() == Some(1) && !destination.exists(), "{own}");
    }
    // What needs no staging is restored whatever is said of it.
    let options =
        ["--staging-path", "/nowhere", "--combine-mode", "clone", "--aws-region", "x", "--retry-sleep", "1"];
    let words =
        [&["restore"], &options[..], &["--tablespace", &place, "main", "latest", destination.as_str()]];
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    scene.ours(&words.concat());
    let mut restored = Cluster::open_restored(15, &destination).unwrap();
    assert_eq!(restored.psql("SELECT sum(n) FROM t").unwrap(), "55");
    verify_cluster(&mut restored).unwrap();
}

/// The connection is cut while files are written: it is made again, and the restore goes on.
#[test]
fn a_lost_connection_is_made_again() {
    if pg::require(15).is_none() || Sshd::require().is_none() {
        return;
    }
    for (method, compression) in [("local-rsync", ""), ("postgres", "gzip")] {
        let mut scene = Scene::new(15);
        let conninfo = scene.cluster.conninfo();
        let server = scene.world.server("main");
        let server = server.option("backup_method", method).option("streaming_conninfo", conninfo);
        let server = server.option("streaming_archiver", "off").option("reuse_backup", "off");
        if !compression.is_empty() {
            server.option("backup_compression", compression);
        }
        scene.fill(3000);
        scene.ours(&["backup", "--wait", "main"]);
        scene.cluster.archive_now().unwrap();
        scene.ours(&["archive-wal", "main"]);
        let sshd = Sshd::start().unwrap();
        let proxy = Proxy::before(sshd.port()).unwrap();
        let ssh = sshd.ssh_command().replace(&format!("-p {}", sshd.port()), &format!("-p {}", proxy.port()));
        let destination = scene.world.path().join("restored");
        let place = scene.relocation(&destination);
        let words = |retries: &'static [&'static str]| {
            let fixed = ["--bwlimit", "8000", "--remote-ssh-command", &ssh, "--tablespace", &place];
            let last = ["main", "latest", destination.as_str()];
            let words = [&["restore"], retries, &fixed[..], &last[..]].concat();
            words.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let cut_once = |words: Vec<String>| {
            std::thread::scope(|scope| {
                let run = scope.spawn(|| {
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    scene.world.barman(&words).unwrap()
                });
                while names(&destination.join("base/1")).len() < 20 && !run.is_finished() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                proxy.cut();
                run.join().unwrap()
            })
        };
        let run = cut_once(words(&["--no-retry"]));
        assert_eq!(run.code(), Some(1), "{run}");
        assert!(!destination.join("global/pg_control").exists());
        for dir in [destination.clone(), format!("{destination}-ts1").into()] {
            std::fs::remove_dir_all(dir).unwrap();
        }
        let run = cut_once(words(&["--retry-times", "2", "--retry-sleep", "1"])).ok().unwrap();
        assert!(run.stderr.contains("the restore goes on in 1 seconds (1 further attempts)"), "{run}");
        // It is known that the WAL there is the restore's own.
        assert!(!run.stderr.contains("is kept in"), "{run}");
        let mut restored = Cluster::open_restored(15, &destination).unwrap();
        let sums = "SELECT (SELECT sum(n) FROM t) || '|' || (SELECT sum(n) FROM u)";
        assert_eq!(restored.psql(sums).unwrap(), scene.cluster.psql(sums).unwrap());
        verify_cluster(&mut restored).unwrap();
    }
}
