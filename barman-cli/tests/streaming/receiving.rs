//! What a receiver does as long as nothing goes wrong, and when little does.

use std::fs;
use std::time::{Duration, Instant};

use barman_testkit::pg::{self, Cluster, StopMode, Wait};
use barman_testkit::proxy::Proxy;

use super::rig::{Rig, server, wait};
use crate::scene::{Small, names};

/// Everything comes in by itself, is the same as on the server, and is gone on with after an end.
fn comes_in(major: u32) {
    let rig = Rig::new(major);
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    let first = rig.write(100);
    // On an idle server nothing waits for the next segment.
    rig.wait_archived(&first);
    for _ in 0..3 {
        rig.write(3000);
    }
    let last = rig.write(10);
    rig.wait_archived(&last);
    assert!(rig.compare() >= 5, "{:?}", rig.archived());
    rig.assert_no_hole("00000001");
    // What is on its way is a file of full size, as pg_receivewal's.
    let left = names(&rig.streaming_dir());
    assert!(left.len() == 1 && left[0].ends_with(".partial"), "{left:?}");

    let status = rig.ours(&["list-processes", "main"]);
    assert!(status.stdout.contains(&format!("{} receive-wal", receiver.pid())), "{status}");
    let check = rig.world.barman(&["check", "main"]).unwrap();
    for line in ["replication slot: OK", "receive-wal running: OK", "PostgreSQL streaming: OK"] {
        assert!(check.stdout.contains(&format!("\t{line}\n")), "{line}: {check}");
    }
    let stopped = rig.ours(&["receive-wal", "--stop", "main"]);
    assert_eq!(stopped.stdout, format!("Stopped process receive-wal({})\n", receiver.pid()));
    assert_eq!(receiver.wait(), Some(0), "{}", receiver.log());
    let check = rig.world.barman(&["check", "main"]).unwrap();
    assert!(
        check.stdout.contains("receive-wal running: FAILED (See the Barman log file for more details)"),
        "{check}"
    );

    // Meanwhile the slot keeps everything.
    let missed = rig.write(2000);
    let mut receiver = rig.receive();
    rig.wait_archived(&missed);
    rig.assert_no_hole("00000001");
    assert!(rig.compare() >= 6);
    assert_eq!(receiver.interrupt(), Some(0), "{}", receiver.log());
}

macro_rules! majors {
    ($($name:ident $major:literal)+) => {
        mod comes_in {
            $(#[test]
            fn $name() {
                if barman_testkit::pg::require($major).is_some() {
                    super::comes_in($major);
                }
            })+
        }
    };
}

majors!(pg10 10 pg11 11 pg12 12 pg13 13 pg14 14 pg15 15 pg16 16 pg17 17 pg18 18);

/// With streaming alone a backup is complete in seconds, and can be restored.
#[test]
fn a_backup_needs_no_archive_command() {
    let Some(_) = pg::require(17) else { return };
    let rig = Rig::new(17);
    let receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    rig.write(500);
    let began = Instant::now();
    let backup = rig.ours(&["backup", "--wait", "main"]);
    assert!(began.elapsed() < Duration::from_secs(30), "{backup}");
    let listed = rig.ours(&["list-backups", "main"]);
    assert!(!listed.stdout.contains("WAITING_FOR_WALS"), "{listed}");
    rig.cluster.psql("INSERT INTO t VALUES (-1, 'after')").unwrap();
    let last = rig.cluster.switch_wal().unwrap();
    rig.wait_archived(&last);

    let dest = rig.cluster.scratch().path().join("restored");
    rig.ours(&["restore", "main", "latest", dest.as_str()]);
    let mut restored = Cluster::restored(17, &dest).wait(Wait::Recovered).start().unwrap();
    assert_eq!(restored.psql("SELECT count(*), min(n) FROM t").unwrap(), "501|-1");
    assert_eq!(restored.stop(StopMode::Fast).map_err(|e| e.to_string()), Ok(()));
}

/// The server is restarted and killed, the wire is cut: the receiver stays and goes on.
#[test]
fn restarts_and_cuts_are_waited_out() {
    let Some(_) = pg::require(15) else { return };
    let cluster = server(15).start().unwrap();
    let proxy = Proxy::before(cluster.port()).unwrap();
    let mut rig = Rig::over(cluster, &proxy.conninfo());
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    rig.write(100);

    // A shutdown in order ends when all has been sent and is durable here.
    let began = Instant::now();
    rig.cluster.stop(StopMode::Fast).unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "the shutdown waited for the receiver");
    receiver.wait_log("the server was shut down");
    rig.cluster.start().unwrap();
    let after = rig.write(100);
    rig.wait_archived(&after);

    rig.cluster.kill9().unwrap();
    rig.cluster.start().unwrap();
    let after = rig.write(100);
    rig.wait_archived(&after);

    let before = proxy.connections();
    proxy.cut_after(700_001);
    let after = rig.write(6000);
    rig.wait_archived(&after);
    assert!(proxy.connections() > before);
    assert!(receiver.is_running(), "{}", receiver.log());
    rig.assert_no_hole("00000001");
    assert!(rig.compare() >= 4, "{:?}", rig.archived());
}

/// I6: what was acknowledged is written again by nobody; a killed receiver goes on where it was.
#[test]
fn i6_a_partial_segment_is_compared_and_never_cut() {
    let Some(_) = pg::require(15) else { return };
    let rig = Rig::new(15);
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    rig.write(10);
    rig.cluster.psql("INSERT INTO t SELECT n, 'y' FROM generate_series(1, 1000) AS n").unwrap();
    let flushed = rig.cluster.psql("SELECT pg_current_wal_flush_lsn()").unwrap();
    let acknowledged = format!(
        "SELECT flush_lsn >= '{flushed}' AND replay_lsn IS NULL FROM pg_stat_replication \
         WHERE application_name = 'barman_receive_wal'"
    );
    rig.cluster.poll(&acknowledged, "t").unwrap();
    receiver.kill9();
    let partial = rig.streaming_dir().join(names(&rig.streaming_dir()).pop().unwrap());
    let kept = fs::read(&partial).unwrap();
    let used = kept.iter().rposition(|b| *b != 0).unwrap();
    assert!(kept.len() == 1 << 20 && used > 50_000, "{} {used}", kept.len());

    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    rig.cluster.psql("INSERT INTO t VALUES (0, 'more')").unwrap();
    let more = || fs::read(&partial).unwrap();
    wait("more in the partial", String::new, || more().iter().rposition(|b| *b != 0).unwrap() > used);
    assert_eq!(more().get(..used), kept.get(..used));
    receiver.kill9();

    // Somebody else's bytes where ours are due: it is left alone, and said.
    let mut foreign = more();
    foreign[4000] ^= 0x55;
    let foreign_at = 4000;
    fs::write(&partial, &foreign).unwrap();
    let mut receiver = rig.receive();
    assert_eq!(receiver.wait(), Some(1), "{}", receiver.log());
    let log = receiver.log();
    assert!(log.contains(&format!("differs at byte {foreign_at}")) && log.contains("--reset"), "{log}");
    assert!(fs::read(&partial).unwrap() == foreign);

    // What never reached the disk is zeros, and is written again.
    let mut torn = more();
    torn[4000] ^= 0x55;
    torn[40_000..48_000].fill(0);
    fs::write(&partial, &torn).unwrap();
    let mut receiver = rig.receive();
    let closed = rig.cluster.switch_wal().unwrap();
    rig.wait_archived(&closed);
    assert!(receiver.is_running());
    assert!(rig.compare() >= 2);
}

/// A server whose commits wait for us loses none that its client saw, whatever becomes of it.
#[test]
fn a_lost_primary_loses_no_commit_that_was_acknowledged() {
    let Some(_) = pg::require(16) else { return };
    let mut rig = Rig::new(16);
    rig.cluster.psql("CREATE TABLE acknowledged (n int)").unwrap();
    let receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    rig.ours(&["backup", "--wait", "main"]);
    drop(receiver);
    rig.cluster.psql("ALTER SYSTEM SET synchronous_standby_names = 'barman_receive_wal'").unwrap();
    rig.cluster.psql("SELECT pg_reload_conf()").unwrap();
    let receiver = rig.receive();
    wait("a synchronous receiver", || receiver.log(), || rig.receiver_state() == "streaming|sync");

    let mut session = rig.cluster.connect().unwrap();
    let (mut seen, began) = (0, Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        session.query(&format!("INSERT INTO acknowledged VALUES ({})", seen + 1)).unwrap();
        seen += 1;
    }
    // A commit waits for one fsync of ours, not for a timer.
    assert!(seen > 60, "only {seen} commits in three seconds");
    let writer = std::thread::spawn(move || {
        let mut seen = seen;
        while session.query(&format!("INSERT INTO acknowledged VALUES ({})", seen + 1)).is_ok() {
            seen += 1;
        }
        seen
    });
    std::thread::sleep(Duration::from_millis(300));
    rig.cluster.kill9().unwrap();
    let acknowledged = writer.join().unwrap();
    // The host is gone with its disk.
    fs::rename(rig.cluster.pgdata(), rig.cluster.scratch().path().join("burnt")).unwrap();
    drop(receiver);

    let dest = rig.cluster.scratch().path().join("restored");
    let restored = rig.ours(&["restore", "--partial-wal", "main", "latest", dest.as_str()]);
    assert!(restored.to_string().contains(".partial is used: it recovers"), "{restored}");
    let restored = Cluster::restored(16, &dest).wait(Wait::Recovered).start().unwrap();
    let rows = restored.psql("SELECT count(*), max(n) FROM acknowledged").unwrap();
    let (count, max) = rows.split_once('|').unwrap();
    assert_eq!(count, max);
    let max: i32 = max.parse().unwrap();
    assert!(max >= acknowledged && max <= acknowledged + 1, "{acknowledged} acknowledged, {max} restored");
}

/// WAL is received from a standby, which is promoted: the stream goes on over the same connection, on the new timeline.
fn promoted_in_place(major: u32) {
    let primary = server(major).start().unwrap();
    primary.psql("CREATE TABLE t (n int, filler text)").unwrap();
    let standby = Cluster::standby_of(&primary).unwrap();
    let conninfo = standby.conninfo();
    let mut rig = Rig::over(standby, &conninfo);
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    for _ in 0..3 {
        primary.psql("INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(1, 3000) AS n").unwrap();
    }
    rig.cluster.catch_up(&primary).unwrap();
    drop(primary);
    rig.cluster.promote().unwrap();
    receiver.wait_log("switched to timeline 2 at");
    let closed = rig.write(3000);
    assert!(closed.starts_with("00000002"), "{closed}");
    rig.wait_archived(&closed);
    rig.wait_archived("00000002.history");
    assert!(receiver.is_running(), "{}", receiver.log());
    assert!(!receiver.log().contains("trying again"), "{}", receiver.log());
    assert!(rig.compare() >= 2);
    rig.assert_no_hole("00000001");
    rig.assert_no_hole("00000002");
    assert_eq!(names(&rig.world.home().join("main/errors")), Vec::<String>::new());
}

#[test]
fn a_promotion_in_place_is_followed_on_11() {
    let Some(_) = pg::require(11) else { return };
    promoted_in_place(11);
}

#[test]
fn a_promotion_in_place_is_followed_on_15() {
    let Some(_) = pg::require(15) else { return };
    promoted_in_place(15);
}

#[test]
fn a_promotion_in_place_is_followed_on_18() {
    let Some(_) = pg::require(18) else { return };
    promoted_in_place(18);
}

/// A standby is promoted under load: the receiver follows to the new timeline by itself.
#[test]
fn a_promotion_is_followed() {
    let Some(_) = pg::require(14) else { return };
    let cluster = server(14).start().unwrap();
    let proxy = Proxy::before(cluster.port()).unwrap();
    let mut rig = Rig::over(cluster, &proxy.conninfo());
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    rig.write(500);
    rig.ours(&["backup", "--wait", "main"]);
    let mut standby = Cluster::standby_of(&rig.cluster).unwrap();
    standby.psql("SELECT 1").unwrap();
    for n in 0..5 {
        rig.write(500 + n);
    }
    standby.catch_up(&rig.cluster).unwrap();
    // Rows after the last segment was closed: the switch happens in the middle of one.
    rig.cluster.psql("INSERT INTO t SELECT n, 'last' FROM generate_series(1, 700) AS n").unwrap();
    standby.catch_up(&rig.cluster).unwrap();
    rig.cluster.kill9().unwrap();
    standby.promote().unwrap();
    proxy.redirect(standby.port());
    standby.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").unwrap();
    std::mem::swap(&mut rig.cluster, &mut standby);
    receiver.wait_log("(timeline 2)");
    let after = rig.write(800);
    assert!(after.starts_with("00000002"), "{after}");
    rig.wait_archived(&after);
    rig.wait_archived("00000002.history");
    assert!(receiver.is_running(), "{}", receiver.log());
    assert!(rig.compare() >= 1);
    rig.assert_no_hole("00000001");
    rig.assert_no_hole("00000002");
    let errors = names(&rig.world.home().join("main/errors"));
    assert!(errors.is_empty(), "{errors:?}");

    let dest = rig.cluster.scratch().path().join("restored");
    rig.ours(&["restore", "--target-tli", "latest", "main", "latest", dest.as_str()]);
    let restored = Cluster::restored(14, &dest).wait(Wait::Recovered).start().unwrap();
    let count = |cluster: &Cluster| cluster.psql("SELECT count(*) FROM t").unwrap();
    assert_eq!(count(&restored), count(&rig.cluster));
}

/// I7: no room for what is received: that is said, nothing is acknowledged that is not there, and it goes on when there is room.
#[test]
fn i7_a_full_disk_of_the_receiver_is_waited_out() {
    let Some(_) = pg::require(15) else { return };
    let rig = Rig::new(15);
    rig.ours(&["check-wal-archive", "main"]);
    let dir = rig.world.dir().subdir("barman/main/streaming").unwrap();
    let account = rig.world.account();
    let owner = format!("size=4m,uid={},gid={}", account.uid, account.gid);
    let Some(_small) = Small::mount(&dir, &owner) else { return };
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    let first = rig.write(10);
    rig.wait_archived(&first);
    let ballast = dir.join(".ballast");
    let written = std::io::copy(&mut std::io::repeat(0), &mut fs::File::create(&ballast).unwrap());
    assert!(written.is_err(), "the small disk is full");
    for _ in 0..4 {
        rig.write(6000);
    }
    receiver.wait_log("No space left");
    fs::remove_file(&ballast).unwrap();
    let last = rig.write(10);
    let began = std::time::Instant::now();
    while !rig.archived().contains_key(&last) {
        assert!(began.elapsed().as_secs() < 60, "{}", receiver.log());
        if !receiver.is_running() {
            // cron does it every minute.
            receiver = rig.receive();
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    rig.assert_no_hole("00000001");
    assert_eq!(rig.compare(), rig.archived().keys().filter(|name| name.len() == 24).count());
    assert_eq!(names(&rig.world.home().join("main/errors")), Vec::<String>::new());
}
