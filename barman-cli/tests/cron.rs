//! `cron` on hand-made homes, next to Barman's own on the same home.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test is the outside world"
)]

use std::time::{Duration, Instant};

use barman_testkit::oracle::Barman;

use crate::hand_made::{Home, Made, done, said, segment};

const A: &str = "20260101T000001";
const B: &str = "20260101T000002";
const C: &str = "20260101T000003";
const D: &str = "20260101T000004";
const E: &str = "20260101T000005";

fn home(policy: &str, minimum: &str, backups: &[Made]) -> Home {
    let mut home = Home::new(1..=20).backups(backups);
    home.world.server("main").option("retention_policy", policy).option("minimum_redundancy", minimum);
    home
}

/// The ids that cron says it removes, in order of ids.
fn removed(stdout: &str) -> Vec<String> {
    let mut ids: Vec<String> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("Enforcing retention policy: removing backup "))
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    ids.sort_unstable();
    ids
}

/// What retention leaves is the same. (Barman removes the root of a chain first and names WAL with each backup; we go
/// from the leaves and name it with the last.)
#[test]
fn i17_retention_leaves_what_barman_leaves() {
    if Barman::require().is_none() {
        return;
    }
    let five = [done(A, 2, 3), done(B, 5, 6), done(C, 8, 9), done(D, 11, 12), done(E, 14, 15)];
    let with = |at: usize, change: fn(Made) -> Made| {
        let mut all = five.clone();
        all[at] = change(all[at].clone());
        all
    };
    for (policy, minimum, backups) in [
        ("REDUNDANCY 2", "0", five.clone()),
        ("REDUNDANCY 1", "3", five.clone()),
        ("REDUNDANCY 2", "0", with(0, |b| b.keep("full"))),
        ("REDUNDANCY 2", "0", with(0, |b| b.keep("standalone"))),
        ("REDUNDANCY 2", "0", with(1, |b| b.keep("standalone"))),
        ("REDUNDANCY 2", "0", with(4, |b| b.status("FAILED"))),
        ("REDUNDANCY 2", "0", with(1, |b| b.status("FAILED"))),
        ("REDUNDANCY 2", "0", with(1, |b| b.parent(A))),
        ("REDUNDANCY 1", "0", with(4, |b| b.parent(D))),
        ("RECOVERY WINDOW OF 1 DAYS", "0", five.clone()),
        ("RECOVERY WINDOW OF 1 DAYS", "3", five.clone()),
        ("RECOVERY WINDOW OF 1000 DAYS", "0", five.clone()),
    ] {
        let (ours, theirs) = (home(policy, minimum, &backups), home(policy, minimum, &backups));
        let (our, their) = (ours.barman(&["cron"]), theirs.oracle(&["cron"]));
        assert_eq!(our.code(), their.code(), "{policy} {minimum}\n{our}\n{their}");
        assert_eq!(removed(&our.stdout), removed(&their.stdout), "{policy} {minimum}\n{our}\n{their}");
        assert_eq!(our.stderr, their.stderr, "{policy} {minimum}");
        // The detached archive-wal of either may or may not have had its lock by now; locks are no part of the tree.
        assert_eq!(ours.tree(), theirs.tree(), "{policy} {minimum}");
    }
}

#[test]
fn one_obsolete_backup_is_told_of_as_by_barman() {
    if Barman::require().is_none() {
        return;
    }
    let make = || home("REDUNDANCY 1", "0", &[done(A, 2, 3), done(B, 5, 6)]);
    let (ours, theirs) = (make(), make());
    assert_eq!(said(&ours.barman(&["cron"])), said(&theirs.oracle(&["cron"])));
}

fn wait_until(what: &str, mut true_now: impl FnMut() -> bool) {
    let began = Instant::now();
    while !true_now() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn wal_is_archived_and_waiting_backups_are_finished_by_processes_of_their_own() {
    let mut home = Home::new(1..=3).backups(&[done(A, 2, 3).status("WAITING_FOR_WALS")]);
    home.world.server("main").option("retention_policy", "REDUNDANCY 1");
    home.write("incoming/no-wal", "x");
    let run = home.barman(&["cron"]).ok().unwrap();
    assert!(run.stdout.contains("Starting WAL archiving for server main\n"), "{run}");
    assert!(run.stdout.contains(&format!("Starting check-backup for backup {A} of server main\n")), "{run}");
    wait_until("archiving", || !home.exists("incoming/no-wal"));
    let info = format!("meta/{A}-backup.info");
    wait_until("check-backup", || home.read(&info).contains("status=DONE"));
}

#[test]
fn one_failing_server_does_not_stop_the_others() {
    let mut home = home("REDUNDANCY 1", "0", &[done(A, 2, 3), done(B, 5, 6)]);
    for other in ["also", "zebra"] {
        home.world
            .server(other)
            .conninfo("host=/nonexistent")
            .option("backup_method", "local-rsync")
            .option("archiver", "on")
            .option("backup_options", "concurrent_backup")
            .option("retention_policy", "REDUNDANCY 1");
    }
    home.world.server("inactive").option("active", "false");
    home.world.server("bad").option("archiver", "on");
    home.write("../also/meta/20260101T000001-backup.info", "status=NONSENSE\n");
    let run = home.barman(&["cron"]);
    assert_eq!(run.code(), Some(1), "{run}");
    for line in [
        "ERROR: Unable to run cron on server 'also', please look in the barman log file for more details.\n",
        "DETAILS: ",
    ] {
        assert!(run.stderr.contains(line), "{line}: {run}");
    }
    for line in [
        "Skipping temporarily disabled server 'bad'\n",
        "Skipping inactive server 'inactive'\n",
        "Enforcing retention policy: removing backup 20260101T000001 for server main\n",
        "Starting WAL archiving for server zebra\n",
    ] {
        assert!(run.stdout.contains(line), "{line}: {run}");
    }
}

#[test]
fn i18_a_deletion_cut_short_is_finished() {
    // The mark and some files are left, the facts are gone; and one that still has its facts.
    let home = home("REDUNDANCY 2", "0", &[done(B, 5, 6), done(C, 8, 9), done(D, 11, 12)]);
    home.write(&format!("meta/{A}-delete_this"), "delete");
    home.write(&format!("base/{A}/data/PG_VERSION"), "17\n");
    home.write(&format!("meta/{C}-delete_this"), "delete");
    home.barman(&["cron"]).ok().unwrap();
    for id in [A, C] {
        assert!(
            !home.exists(&format!("base/{id}")) && !home.exists(&format!("meta/{id}-delete_this")),
            "{id}"
        );
    }
    // The two others are the two that the policy wants.
    assert!(home.exists(&format!("base/{B}")) && home.exists(&format!("base/{D}")));
    assert!(home.has_wal(&segment(5)));
}

#[test]
fn locks_that_nobody_holds_go() {
    let home = Home::new(1..=1);
    home.write("../.main-backup.lock", "1\n");
    home.barman(&["lock-directory-cleanup"]).ok().unwrap();
    assert!(!home.exists("../.main-backup.lock"));
    home.write("../.main-backup.lock", "1\n");
    home.barman(&["cron"]).ok().unwrap();
    assert!(!home.exists("../.main-backup.lock"));
}

#[test]
fn what_this_version_lacks_is_said_and_the_rest_is_done() {
    let mut home = home("REDUNDANCY 1", "0", &[done(A, 2, 3), done(B, 5, 6)]);
    home.world.server("main").option("encryption", "gpg");
    home.world.server("copy").option("primary_ssh_command", "ssh nowhere");
    home.world.server("zebra").conninfo("host=/nonexistent").option("backup_method", "local-rsync");
    let run = home.barman(&["cron"]);
    assert_eq!(run.code(), Some(1), "{run}");
    for line in [
        "ERROR: primary_ssh_command = (a passive node) of server 'copy' is not available in this version\n",
        "ERROR: Encryption is set as gpg, but encryption_key_id is unset (server 'main')",
    ] {
        assert!(run.stderr.contains(line), "{line}: {run}");
    }
    assert_eq!(removed(&run.stdout), [A], "{run}");
    assert!(!run.stdout.contains("Starting WAL archiving for server main"), "{run}");
    assert!(run.stdout.contains("Starting WAL archiving for server zebra"), "{run}");
}

#[test]
fn a_cron_that_runs_already_is_left_alone() {
    if Barman::require().is_none() {
        return;
    }
    let home = home("REDUNDANCY 1", "0", &[done(A, 2, 3), done(B, 5, 6)]);
    let lock = home.world.home().join(".main-cron.lock");
    home.barman(&["list-servers"]);
    let mut held = home
        .world
        .command("flock")
        .args(["-n", lock.as_str(), "sh", "-c", &format!("echo $$ > {lock}; exec sleep 60")])
        .spawn()
        .unwrap();
    wait_until("the lock", || !home.read("../.main-cron.lock").is_empty());
    let (our, their) = (home.barman(&["cron"]), home.oracle(&["cron"]));
    assert!(our.stdout.starts_with(&their.stdout), "{our}\n{their}");
    assert!(our.stdout.contains("DETAILS: ") && our.stdout.contains(" is held by process "), "{our}");
    assert_eq!((our.code(), our.stderr), (their.code(), their.stderr));
    assert!(home.exists(&format!("base/{A}")));
    home.barman(&["terminate-process", "main", "cron"]).ok().unwrap();
    held.wait().unwrap();
}
