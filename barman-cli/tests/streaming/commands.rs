//! The options of `receive-wal`, beside what Barman says.

use std::fs;

use barman_testkit::pg::{self, Cluster};
use barman_testkit::world::Run;

use super::rig::{Rig, server, wait};
use crate::scene::names;

/// What both say, and how they end; our further lines are left out.
fn said(run: &Run) -> (Option<i32>, Vec<String>) {
    let lines = run.stdout.lines().chain(run.stderr.lines());
    let ours = |line: &&str| !line.starts_with("DETAILS:") && !line.starts_with("HINT:");
    (run.code(), lines.filter(ours).map(str::to_owned).collect())
}

#[test]
fn options_answer_as_barmans() {
    let Some(_) = pg::require(15) else { return };
    let rig = Rig::new(15);
    let both = |arguments: &[&str], between: &dyn Fn()| {
        let theirs = rig.world.oracle(arguments).unwrap();
        between();
        let ours = rig.world.barman(arguments).unwrap();
        assert_eq!(said(&ours), said(&theirs), "{arguments:?}\n{ours}\n{theirs}");
    };
    let nothing = || ();
    let slot = |exists: bool| {
        let sql = if exists {
            "SELECT pg_create_physical_replication_slot('barman')"
        } else {
            "SELECT pg_drop_replication_slot('barman')"
        };
        rig.cluster.psql(sql).unwrap();
    };
    both(&["receive-wal", "--drop-slot", "main"], &nothing);
    both(&["receive-wal", "--create-slot", "main"], &|| slot(false));
    both(&["receive-wal", "--create-slot", "main"], &nothing);
    both(&["receive-wal", "--create-slot", "--if-not-exists", "main"], &nothing);
    both(&["receive-wal", "--drop-slot", "main"], &|| slot(true));
    both(&["receive-wal", "--create-slot", "--if-not-exists", "main"], &|| slot(false));
    both(&["receive-wal", "--stop", "main"], &nothing);
    both(&["receive-wal", "--stop", "--reset", "main"], &nothing);
    // With nothing received so far a receiver begins where the server is.
    both(&["receive-wal", "--reset", "main"], &nothing);
    let stale = || {
        let dir = rig.streaming_dir();
        names(&dir).iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap());
        let path = dir.join("000000010000000000000001.partial");
        fs::write(&path, "").unwrap();
        rig.world.account().own(&path).unwrap();
    };
    rig.write(3000);
    stale();
    both(&["receive-wal", "--reset", "main"], &stale);
    both(&["receive-wal", "--reset", "main"], &nothing);

    let receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    both(&["receive-wal", "--drop-slot", "main"], &nothing);
    both(&["receive-wal", "--reset", "main"], &nothing);
    let busy = rig.world.barman(&["receive-wal", "main"]).unwrap();
    assert_eq!(busy.code(), Some(1));
    assert!(
        busy.stderr.starts_with("ERROR: Another receive-wal process is already running for server main.\n")
            && busy.stderr.contains(&receiver.pid().to_string()),
        "{busy}"
    );
}

#[test]
fn what_is_missing_is_said_as_barman_does() {
    let Some(_) = pg::require(15) else { return };
    let mut rig = Rig::new(15);
    let both = |rig: &Rig, arguments: &[&str]| {
        let (ours, theirs) = (rig.world.barman(arguments).unwrap(), rig.world.oracle(arguments).unwrap());
        assert_eq!(said(&ours), said(&theirs), "{arguments:?}\n{ours}\n{theirs}");
    };
    rig.world.server("main").option("slot_name", "");
    both(&rig, &["receive-wal", "--create-slot", "main"]);
    both(&rig, &["receive-wal", "--drop-slot", "main"]);
    rig.world.server("main").option("slot_name", "barman").option("archiver", "on");
    rig.world.server("main").option("streaming_archiver", "off");
    both(&rig, &["receive-wal", "main"]);
    rig.world.server("main").option("streaming_archiver", "on").option("create_slot", "manual");
    let none = rig.world.barman(&["receive-wal", "main"]).unwrap();
    assert_eq!(none.code(), Some(1));
    assert!(
        none.stderr.contains(
            "replication slot 'barman' doesn't exist. Please execute 'barman receive-wal --create-slot main'"
        ),
        "{none}"
    );
    let check = rig.world.barman(&["check", "main"]).unwrap();
    assert!(
        check.stdout.contains("replication slot: FAILED (replication slot 'barman' doesn't exist."),
        "{check}"
    );
}

/// `cron` starts a receiver where one is wanted, and ends one that is not wanted any longer.
#[test]
fn cron_keeps_a_receiver_running() {
    let Some(_) = pg::require(15) else { return };
    let mut rig = Rig::new(15);
    let cron = rig.ours(&["cron"]);
    assert!(cron.stdout.contains("Starting streaming archiver for server main\n"), "{cron}");
    let running = || rig.ours(&["list-processes", "main"]).stdout;
    wait("a receiver", running, || running().contains("receive-wal"));
    wait("a stream", || rig.world.log(), || rig.receiver_state().starts_with("streaming"));
    let closed = rig.write(10);
    rig.wait_archived(&closed);
    let again = rig.ours(&["cron"]);
    assert!(!again.stdout.contains("Starting streaming archiver"), "{again}");
    rig.world.server("main").option("archiver", "on").option("streaming_archiver", "off");
    let off = rig.ours(&["cron"]);
    assert!(off.stdout.contains("Stopped process receive-wal("), "{off}");
    assert!(!rig.ours(&["list-processes", "main"]).stdout.contains("receive-wal"));
}

/// A server without a slot that keeps little WAL, of which one segment was archived; its receiver has ended.
fn left_behind() -> Rig {
    let cluster = server(15).conf("wal_keep_size", "0").conf("min_wal_size", "2MB").start().unwrap();
    let conninfo = cluster.conninfo();
    let rig = Rig::over(cluster, &conninfo);
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    let first = rig.write(10);
    rig.wait_archived(&first);
    rig.catch_up();
    receiver.interrupt();
    rig.cluster.psql("SELECT pg_drop_replication_slot('barman')").unwrap();
    rig
}

/// Lets the server recycle the WAL that it had.
fn forget(rig: &Rig) {
    for _ in 0..4 {
        rig.write(9000);
        rig.cluster.psql("CHECKPOINT").unwrap();
    }
}

/// WAL that the server has no longer is said, with what to do; nothing is skipped in silence.
#[test]
fn wal_that_is_gone_is_said() {
    let Some(_) = pg::require(15) else { return };
    let rig = left_behind();
    forget(&rig);
    let mut receiver = rig.receive();
    assert_eq!(receiver.wait(), Some(1), "{}", receiver.log());
    let log = receiver.log();
    assert!(
        log.contains("has no longer the WAL from") && log.contains("barman receive-wal --reset main"),
        "{log}"
    );
    let reset = rig.ours(&["receive-wal", "--reset", "main"]);
    assert!(reset.stdout.contains("Creating status file"), "{reset}");
    // What was received of the unfinished segment is not thrown away, and not gone on from.
    assert_eq!(rig.archived().keys().filter(|name| name.ends_with(".partial")).count(), 1);
    assert_eq!(names(&rig.streaming_dir()).len(), 1, "{:?}", names(&rig.streaming_dir()));
    let receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    let closed = rig.write(10);
    rig.wait_archived(&closed);
    assert!(rig.compare() >= 1);
}

/// Where nothing was streamed yet and the server has no longer what follows the archive, it is said, and what there is comes in.
#[test]
fn an_archive_that_ends_too_early_is_gone_on_from_what_there_is() {
    let Some(_) = pg::require(15) else { return };
    let rig = left_behind();
    for name in names(&rig.streaming_dir()) {
        fs::remove_file(rig.streaming_dir().join(name)).unwrap();
    }
    forget(&rig);
    let mut receiver = rig.receive();
    receiver.wait_log("where the archive ends");
    let closed = rig.write(10);
    rig.wait_archived(&closed);
    assert!(receiver.is_running(), "{}", receiver.log());
    assert_eq!(receiver.log().matches("where the archive ends").count(), 1, "{}", receiver.log());
}

/// Another cluster behind the same address is not received from.
#[test]
fn another_cluster_is_refused() {
    let Some(_) = pg::require(15) else { return };
    let mut rig = Rig::new(15);
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    let closed = rig.write(10);
    rig.wait_archived(&closed);
    receiver.interrupt();
    let before = names(&rig.streaming_dir());
    let other = server(15).fresh_initdb().start().unwrap();
    rig.world.server("main").conninfo(other.conninfo()).option("streaming_conninfo", other.conninfo());
    let mut receiver = rig.receive();
    assert_eq!(receiver.wait(), Some(1), "{}", receiver.log());
    assert!(receiver.log().contains("has the system identifier"), "{}", receiver.log());
    assert_eq!(names(&rig.streaming_dir()), before);
}

/// `replication-status`, `check-wal-archive`, and `switch-wal` on a standby, beside Barman's.
#[test]
fn who_streams_and_what_is_archived() {
    let Some(_) = pg::require(15) else { return };
    let mut rig = Rig::new(15);
    let archived = |rig: &Rig| {
        for arguments in [
            &["check-wal-archive", "main"][..],
            &["check-wal-archive", "--timeline", "1", "main"],
            &["check-wal-archive", "--timeline", "2", "main"],
            &["-f", "json", "check-wal-archive", "main"],
            &["-f", "json", "check-wal-archive", "--timeline", "2", "main"],
        ] {
            let (ours, theirs) = (rig.world.barman(arguments).unwrap(), rig.world.oracle(arguments).unwrap());
            assert_eq!(
                (ours.code(), &ours.stdout, &ours.stderr),
                (theirs.code(), &theirs.stdout, &theirs.stderr)
            );
        }
    };
    archived(&rig);
    let standby = Cluster::standby_of(&rig.cluster).unwrap();
    rig.world
        .server("standby")
        .conninfo(standby.conninfo())
        .option("primary_conninfo", rig.cluster.conninfo())
        .option("backup_method", "local-rsync")
        .option("archiver", "on")
        .option("backup_options", "concurrent_backup");
    let conninfo = rig.cluster.conninfo_tcp();
    rig.world.server("main").option("streaming_conninfo", conninfo);
    let receiver = rig.receive();
    wait("a stream", || receiver.log(), || rig.receiver_state().starts_with("streaming"));
    let closed = rig.write(100);
    rig.wait_archived(&closed);
    archived(&rig);
    // Nothing is written any more; what the clients have may move for a moment.
    for arguments in [
        &["replication-status", "main"][..],
        &["replication-status", "--minimal", "main"],
        &["replication-status", "--target", "hot-standby", "main"],
        &["replication-status", "--target", "wal-streamer", "main"],
        &["replication-status", "--target", "wal-streamer", "--minimal", "main"],
        &["replication-status", "--source", "wal-host", "main"],
        &["-f", "json", "replication-status", "main"],
        &["-f", "json", "replication-status", "--minimal", "main"],
        &["replication-status", "standby"],
        &["replication-status", "--minimal", "--target", "hot-standby", "standby"],
        &["-f", "json", "replication-status", "standby"],
    ] {
        let both = || {
            let theirs = rig.world.oracle(arguments).unwrap();
            let ours = rig.world.barman(arguments).unwrap();
            ((ours.code(), ours.stdout, ours.stderr), (theirs.code(), theirs.stdout, theirs.stderr))
        };
        let same = (0..5).any(|_| {
            let (ours, theirs) = both();
            ours == theirs
        });
        let (ours, theirs) = both();
        assert!(same, "{arguments:?}\n{ours:?}\n{theirs:?}");
    }
    // The primary closes the segment for its standby.
    rig.cluster.psql("INSERT INTO t VALUES (0, 'something to close')").unwrap();
    let switched = rig.ours(&["switch-wal", "standby"]);
    assert!(switched.stdout.starts_with("The WAL file 0000000100000000"), "{switched}");
    assert!(switched.stdout.ends_with("has been closed on server 'standby'\n"), "{switched}");
}

/// What waits is counted as Barman counts it, and connections of their own for WAL are used by both.
#[test]
fn queues_and_overrides_are_barmans() {
    let Some(_) = pg::require(15) else { return };
    let mut rig = Rig::new(15);
    let (same, others) = (rig.cluster.conninfo(), rig.cluster.conninfo_tcp());
    rig.world
        .server("main")
        .option("archiver", "on")
        .option("max_incoming_wals_queue", "2")
        .option("wal_streaming_conninfo", &others)
        .option("wal_conninfo", &others);
    let both = |rig: &Rig, arguments: &[&str]| {
        let (ours, theirs) = (rig.world.barman(arguments).unwrap(), rig.world.oracle(arguments).unwrap());
        assert_eq!((ours.code(), &ours.stdout), (theirs.code(), &theirs.stdout), "{ours}\n{theirs}");
        ours.stdout
    };
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    assert!(receiver.log().contains("Configuration overrides applied"), "{}", receiver.log());
    let closed = rig.write(10);
    rig.wait_archived(&closed);
    receiver.interrupt();
    let waiting = |rig: &Rig, dir: &str, numbers: std::ops::RangeInclusive<u64>| {
        let dir = rig.world.home().join("main").join(dir);
        for number in numbers {
            fs::write(dir.join(format!("0000000100000001{number:08X}")), "").unwrap();
        }
    };
    waiting(&rig, "incoming", 1..=3);
    waiting(&rig, "streaming", 1..=3);
    let said = both(&rig, &["check", "main"]);
    assert!(said.contains("there are too many WALs in queue: 3, max 2"), "{said}");
    waiting(&rig, "streaming", 4..=9);
    both(&rig, &["check", "main"]);
    both(&rig, &["-f", "json", "check", "main"]);
    // Only what is asked by SQL decides whether WAL comes from another server.
    rig.world.server("main").option("wal_conninfo", same);
    both(&rig, &["check", "main"]);
}

/// A `streaming/` directory is handed over and back: each goes on where the other one ended.
#[test]
fn a_streaming_directory_goes_back_and_forth_with_barman() {
    let Some(_) = pg::require(15) else { return };
    if barman_testkit::oracle::Barman::require().is_none() {
        return;
    }
    let mut rig = Rig::new(15);
    let Some(tool) = rig.cluster.tool("pg_receivewal") else {
        barman_testkit::skip("pg_receivewal of PostgreSQL 15 is not there");
        return;
    };
    rig.world.server("main").option("path_prefix", tool.parent().unwrap().as_str());
    let mut closed = String::new();
    for round in 0..4 {
        let theirs = round % 2 == 0;
        let receive = &["receive-wal", "main"];
        let command =
            if theirs { rig.world.oracle_command(receive) } else { rig.world.barman_command(receive) };
        let mut receiver = rig.receive_by(command.unwrap());
        let log = || rig.world.log();
        wait("a stream", log, || rig.receiver_state().starts_with("streaming"));
        closed = rig.write(3000);
        // pg_receivewal tells now and then only how far it is.
        if theirs {
            std::thread::sleep(std::time::Duration::from_millis(500))
        } else {
            rig.catch_up()
        }
        // A process that nobody has waited for does not look gone.
        let ended = std::thread::spawn(move || receiver.wait());
        // By the one that did not start it: they find each other by the lock.
        let stop = &["receive-wal", "--stop", "main"];
        let run = if theirs { rig.world.barman(stop) } else { rig.world.oracle(stop) };
        run.unwrap().ok().unwrap();
        ended.join().unwrap();
        let archive = &["archive-wal", "main"];
        let run = if round < 2 { rig.world.oracle(archive) } else { rig.world.barman(archive) };
        // Barman leaves the last segment that pg_receivewal finished: it tells where to go on.
        run.unwrap().ok().unwrap();
    }
    rig.wait_archived(&closed);
    rig.assert_no_hole("00000001");
    assert!(rig.compare() >= 4);
    assert_eq!(names(&rig.world.home().join("main/errors")), Vec::<String>::new());
}
