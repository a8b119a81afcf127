//! `delete`, `keep` and `check-backup` on hand-made homes, next to Barman's own on the same home.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test is the outside world"
)]

use barman_testkit::clock::StepClock;
use barman_testkit::oracle::Barman;
use time::macros::datetime;

use std::sync::{Arc, Mutex};

use barman_core::catalog::{Catalog, Purpose};
use barman_core::config::{Config, LoadEnv};
use barman_core::ctx::{Cancel, Ctx, Event, ProgressSink, Silent};
use barman_core::io::{LockGuard, LockName, Locks, RealDisk};
use barman_core::server::{Host, Server, ServerError};

use crate::hand_made::{Home, Made, done, said, segment};

const A: &str = "20260101T000001";
const B: &str = "20260101T000002";
const C: &str = "20260101T000003";
const D: &str = "20260101T000004";

/// Runs the commands on two equal homes, one with each Barman: the same is said and the same is left.
fn same(make: impl Fn() -> Home, commands: &[&[&str]]) {
    if Barman::require().is_none() {
        return;
    }
    let (ours, theirs) = (make(), make());
    for command in commands {
        let (our, their) = (ours.barman(command), theirs.oracle(command));
        assert_eq!(said(&our), said(&their), "{command:?}");
        assert_eq!(ours.tree(), theirs.tree(), "{command:?}");
    }
}

fn homes(backups: &'static [fn() -> Made]) -> impl Fn() -> Home {
    || Home::new(1..=12).backups(&backups.iter().map(|make| make()).collect::<Vec<_>>())
}

#[test]
fn one_after_the_other_says_and_leaves_what_barman_does() {
    let make = homes(&[
        || done(A, 2, 3),
        || done(B, 5, 6),
        || done(C, 8, 9).keep("full"),
        || done(D, 10, 10).status("FAILED"),
    ]);
    same(
        make,
        &[
            &["delete", "main", B],
            &["delete", "main", "oldest"],
            &["delete", "main", C],
            &["delete", "main", D],
            &["delete", "main", "nope"],
            &["delete", "nope", "oldest"],
            &["keep", "main", C, "--status"],
            &["keep", "main", C, "--release"],
            &["keep", "main", C, "--release"],
            &["keep", "main", C, "-s"],
            &["-f", "json", "keep", "main", C, "-s"],
            &["delete", "main", C],
        ],
    );
}

/// I17: what a backup needs whose facts cannot be read, nobody knows. The others are shown, and nothing goes.
#[test]
fn i17_while_one_backup_cannot_be_read_nothing_is_deleted() {
    let home = homes(&[|| done(A, 2, 3), || done(B, 5, 6), || done(C, 8, 9)])();
    let path = format!("meta/{B}-backup.info");
    let sound = home.read(&path);
    home.write(&path, sound.replace("status=DONE", "status=HALF"));
    let tree = home.tree();
    let left_out = |run: &barman_testkit::world::Run| {
        assert!(run.stderr.contains(&format!("Backup {B} of server main is left out: ")), "{run}");
        assert!(run.stderr.contains("status") && run.stderr.contains("HALF"), "{run}");
    };
    let list = home.barman(&["list-backups", "main"]).ok().unwrap();
    left_out(&list);
    let shown: Vec<_> = list.stdout.lines().filter_map(|l| l.split(' ').nth(1)).collect();
    assert_eq!(shown, [C, A]);
    left_out(&home.barman(&["show-backup", "main", "latest"]).ok().unwrap());
    let check = home.barman(&["check", "main"]);
    assert!(check.stdout.contains("\tbackup information: FAILED (Cannot read "), "{check}");
    for command in [&["delete", "main", A][..], &["delete", "main", "latest"], &["delete", "main", B]] {
        let run = home.barman(command);
        assert_eq!(run.code(), Some(1), "{run}");
        assert!(run.stderr.contains(&path[5..]) && run.stderr.contains("HALF"), "{run}");
    }
    assert_eq!(home.tree(), tree, "nothing was touched");
    home.write(&path, sound);
    home.barman(&["delete", "main", A]).ok().unwrap();
}

#[test]
fn chains_go_from_their_leaves_as_with_barman() {
    let make = homes(&[
        || done(A, 2, 3),
        || done(B, 5, 6).parent(A),
        || done(C, 8, 9).parent(B),
        || done(D, 10, 11),
    ]);
    same(&make, &[&["delete", "main", B], &["delete", "main", A]]);
    same(&make, &[&["delete", "main", C], &["delete", "main", D], &["delete", "main", A]]);
    same(
        &make,
        &[
            &["keep", "main", B, "--target", "full"],
            &["keep", "main", B, "-r"],
            &["keep", "main", B, "-s"],
            &["delete", "main", "latest"],
        ],
    );
}

#[test]
fn standalone_keeps_stop_the_removal_of_wal_as_with_barman() {
    let make = homes(&[|| done(A, 2, 3).keep("standalone"), || done(B, 5, 6), || done(C, 8, 9)]);
    same(make, &[&["delete", "main", B], &["delete", "main", A], &["delete", "main", C]]);
}

#[test]
fn the_minimum_redundancy_holds_as_with_barman() {
    let make = || {
        let mut home = homes(&[
            || done(A, 2, 3),
            || done(B, 5, 6),
            || done(C, 8, 9).status("WAITING_FOR_WALS"),
            || done(D, 10, 10).status("FAILED"),
        ])();
        home.world.server("main").option("minimum_redundancy", "2");
        home
    };
    same(make, &[&["delete", "main", A], &["delete", "main", C], &["delete", "main", D]]);
}

#[test]
fn keep_and_check_backup_answer_as_barman() {
    let make = || {
        let home = homes(&[
            || done(A, 2, 3),
            || done(B, 5, 6),
            || done(C, 8, 9).status("FAILED"),
            || done(D, 11, 20).status("WAITING_FOR_WALS"),
        ])();
        std::fs::remove_file(home.path(&format!("wals/{}/{}", &segment(6)[..16], segment(6)))).unwrap();
        home
    };
    same(
        make,
        &[
            &["check-backup", "main", A],
            &["check-backup", "main", C],
            &["check-backup", "main", D],
            &["check-backup", "main", B],
            &["check-backup", "main", B],
            &["keep", "main", D, "--target", "full"],
            &["keep", "main", A],
            &["keep", "main", A, "--target", "standalone"],
            &["keep", "main", A, "--target", "full"],
            &["keep", "main", C, "--target", "full"],
        ],
    );
}

#[test]
fn wal_without_an_index_line_goes_and_stays_like_the_rest() {
    let home = Home::new(1..=3).backups(&[done(A, 2, 3), done(B, 8, 9)]);
    for number in 4..=12 {
        home.wal(&segment(number), number != 5 && number != 9);
    }
    let run = home.barman(&["delete", "main", A]);
    assert_eq!(run.code(), Some(0), "{run}");
    for number in 1..=12 {
        assert_eq!(home.has_wal(&segment(number)), number >= 8, "{number}");
    }
    assert!(!home.read("wals/main-xlog.db").contains(&segment(7)));
}

/// Barman removes the whole directory here, with WAL that the remaining backup needs.
#[test]
fn i16_a_directory_of_256_files_loses_only_those_that_go() {
    let home = Home::new(0..=255).backups(&[done(A, 1, 2), done(B, 100, 101), done(C, 0xfe, 0xff)]);
    for id in [B, A] {
        let run = home.barman(&["delete", "main", id]);
        assert_eq!(run.code(), Some(0), "{run}");
    }
    for number in 0..=255 {
        assert_eq!(home.has_wal(&segment(number)), number >= 0xfe, "{number:X}");
    }
    let index = home.read("wals/main-xlog.db");
    assert_eq!(index.lines().count(), 3, "{index}");
}

#[test]
fn a_dry_run_shows_reasons_and_touches_nothing() {
    let home = homes(&[|| done(A, 2, 3), || done(B, 5, 6).parent(A), || done(C, 8, 9)])();
    let before = home.tree();
    let run = home.barman(&["delete", "--native-dry-run", "main", A]).ok().unwrap();
    for line in [
        format!("Backup {B} would be deleted: it depends on backup {A}"),
        format!("Backup {A} would be deleted: asked for"),
        format!("WAL file {} would be deleted: no backup that stays needs it", segment(7)),
        format!("6 WAL files from {} to {} stay: ", segment(8), segment(12)),
    ] {
        assert!(run.stdout.contains(&line), "{line}\n{run}");
    }
    assert_eq!(home.tree(), before);
}

fn lock(home: &Home, name: &LockName, shared: bool) -> LockGuard {
    let clock = StepClock::at(datetime!(2026-11-23 14:00:00 UTC));
    let cancel = Cancel::new();
    let ctx = Ctx { clock: &clock, progress: &Silent, cancel: &cancel };
    let locks = Locks::new(home.world.home(), "barman restore main latest /srv");
    let guard = if shared {
        locks.share(name, "a restore", &ctx).unwrap()
    } else {
        locks.try_lock(name, "a base backup", &ctx).unwrap()
    };
    home.world.account().own(guard.path()).unwrap();
    guard
}

#[test]
fn i28_whoever_is_in_the_way_is_named() {
    let home = homes(&[|| done(A, 2, 3), || done(B, 5, 6).parent(A), || done(C, 8, 9)])();
    let before = home.tree();
    let holder = format!(
        "process {} (barman restore main latest /srv), since 2026-11-23 14:00:00 +00:00, for a",
        std::process::id()
    );
    let name = "main".parse().unwrap();
    let backup = lock(&home, &LockName::Backup(name), false);
    let run = home.barman(&["delete", "main", A]);
    let first = "ERROR: Another process in running on server main. Impossible to delete the backup.\n";
    assert!(run.stderr.starts_with(first) && run.stderr.contains(&holder), "{run}");
    assert_eq!(run.code(), Some(1));
    drop(backup);

    // A restore reads the incremental: it stays, and what it needs too.
    let lease = lock(&home, &LockName::BackupId("main".parse().unwrap(), B.parse().unwrap()), true);
    let run = home.barman(&["delete", "main", A]);
    let first = format!("ERROR: Another process is holding the lock for backup {B} of server main.\n");
    assert!(run.stderr.starts_with(&first) && run.stderr.contains(&holder), "{run}");
    assert_eq!(home.tree(), before);
    drop(lease);
    home.barman(&["delete", "main", A]).ok().unwrap();
    assert!(!home.exists(&format!("base/{A}")) && !home.exists(&format!("base/{B}")));
}

#[test]
fn a_backup_half_deleted_counts_for_nothing() {
    let mut home = homes(&[|| done(A, 2, 3), || done(B, 5, 6)])();
    home.world.server("main").option("minimum_redundancy", "1");
    home.write(&format!("meta/{A}-delete_this"), "delete");
    let run = home.barman(&["delete", "main", B]);
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.stderr.contains("(minimum redundancy = 1, current redundancy = 1)"), "{run}");
    let run = home.barman(&["keep", "main", A, "--target", "full"]);
    assert!(run.stderr.contains("its removal was begun"), "{run}");
    home.barman(&["delete", "main", A]).ok().unwrap();
}

/// Does something once, when a message with these words comes.
struct Interfering<'a, F: FnMut() + Send> {
    words: &'a str,
    act: Mutex<Option<F>>,
}

impl<F: FnMut() + Send> ProgressSink for Interfering<'_, F> {
    fn event(&self, event: &Event<'_>) {
        if let Event::Message { text, .. } = event
            && text.contains(self.words)
            && let Some(mut act) = self.act.lock().unwrap().take()
        {
            act();
        }
    }
}

/// Runs `work` with the library on a home, and `act` when the words are said.
fn interfered<T>(
    home: &Home,
    words: &str,
    act: impl FnMut(&Server, &Ctx<'_>) + Send,
    work: impl FnOnce(&Server, &Ctx<'_>) -> T,
) -> T {
    let clock = Arc::new(StepClock::at(datetime!(2026-11-23 14:00:00 UTC)));
    let cancel = Cancel::new();
    let host = Host {
        disk: Arc::new(RealDisk),
        clock: clock.clone(),
        environment: barman_core::pg::Environment::default(),
        ssh: barman_core::transport::SshEnvironment::default(),
        cancel: cancel.clone(),
        command: "test".into(),
        configuration: "/etc/barman.conf".into(),
        workers: 1,
    };
    let env = LoadEnv { disk: &RealDisk, home: None, cwd: "/".into() };
    let config = Config::load(&home.world.write_config().unwrap(), &env).unwrap();
    let server = Server::open(config.server("main").unwrap().clone(), &config.globals, host).unwrap();
    let silent = Ctx { clock: &*clock, progress: &Silent, cancel: &cancel };
    let mut act = act;
    let sink = Interfering { words, act: Mutex::new(Some(|| act(&server, &silent))) };
    work(&server, &Ctx { clock: &*clock, progress: &sink, cancel: &cancel })
}

/// I17: a restore of a standalone backup that begins while another one is being deleted needs the WAL after it.
#[test]
fn i17_wal_that_somebody_needs_meanwhile_stays() {
    for begins in [false, true] {
        let mut home = homes(&[|| done(A, 2, 3).keep("standalone"), || done(B, 5, 6), || done(C, 8, 9)])();
        home.world.server("main").option("retention_policy", "REDUNDANCY 1");
        let lease = Mutex::new(None);
        let act = |server: &Server, _: &Ctx<'_>| {
            if begins {
                let of_a = server.catalog().lease(&A.parse().unwrap(), Purpose::Restore).unwrap();
                *lease.lock().unwrap() = Some(of_a);
            }
        };
        let pruned = interfered(&home, "Deleting backup", act, |server, ctx| server.enforce_retention(ctx));
        assert_eq!(pruned.unwrap().backups, [B.parse().unwrap()]);
        for number in 4..=7 {
            assert_eq!(home.has_wal(&segment(number)), begins, "{number}");
        }
        assert!([2, 3, 8, 9].into_iter().all(|number| home.has_wal(&segment(number))));
    }
}

/// I21: what another process removed, or what the user decided to keep, since the plan was made.
#[test]
fn i21_what_changed_meanwhile_counts() {
    let refused = |act: &(dyn Fn(&Server, &Ctx<'_>) + Sync)| {
        let mut home = homes(&[|| done(A, 2, 3), || done(B, 5, 6), || done(C, 8, 9).parent(B)])();
        home.world.server("main").option("minimum_redundancy", "1");
        let result =
            interfered(&home, "Deleting backup", act, |server, ctx| server.delete(B.parse().unwrap(), ctx));
        assert!(matches!(result, Err(ServerError::NotDeleted { .. })), "{result:?}");
        assert!(home.exists(&format!("base/{B}")) && home.exists(&format!("base/{C}")));
    };
    refused(&|server, ctx| {
        server.catalog().remove(&A.parse().unwrap(), &|| Ok(()), ctx).unwrap();
    });
    // An incremental that was taken from it meanwhile.
    refused(&|server, _| {
        let meta = server.config().meta_directory();
        let info = std::fs::read_to_string(meta.join(format!("{A}-backup.info"))).unwrap();
        let child = info.replace("parent_backup_id=None", &format!("parent_backup_id={B}"));
        assert_ne!(child, info);
        std::fs::write(meta.join(format!("{D}-backup.info")), child).unwrap();
    });
    refused(&|server, _| {
        server.catalog().keep(&B.parse().unwrap(), Some(barman_core::model::Keep::Full)).unwrap();
    });
}
