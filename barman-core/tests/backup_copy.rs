//! What a file-level backup does with files that change, vanish or are damaged while they are read, and with sessions and
//! clusters that are not what they should be.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use barman_core::backup::{BackupError, BackupReport, CorruptPagePolicy};
use barman_core::catalog::Root;
use barman_core::model::Timeline;
use camino::Utf8Path;

mod rig;

use rig::{Moment, Rig, Seen};

const PAGE: u64 = 8192;

fn size(path: &Utf8Path) -> u64 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{path}: {error}")).len()
}

fn cut(path: &Utf8Path, to: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(to).unwrap();
}

fn proven(report: &BackupReport, path: &Utf8Path) -> Option<u64> {
    report.proofs.iter().find(|proof| proof.path == path).map(|proof| proof.size)
}

#[test]
fn i15_a_dropped_table_may_vanish_and_nothing_else_may() {
    let Some(rig) = Rig::new() else { return };
    let (source, table) = (rig.pgdata.clone(), rig.table.clone());
    let kept = fs::read(source.join(&table)).unwrap();
    let (data, report) = rig.backup(&rig.session(), move |path, moment| {
        if let (Moment::Asked, true) = (moment, path == table) {
            fs::remove_file(source.join(path)).unwrap();
        }
    });
    let report = report.unwrap();
    assert!(report.skipped.iter().any(|skipped| skipped.path == rig.table), "{:?}", report.skipped);
    assert!(proven(&report, &rig.table).is_none() && !data.join(&rig.table).exists());
    assert!(proven(&report, "PG_VERSION".into()).is_some() && data.join("PG_VERSION").exists());

    fs::write(rig.pgdata.join(&rig.table), kept).unwrap();
    let source = rig.pgdata.clone();
    let (_, report) = rig.backup(&rig.session(), move |path, moment| {
        if let (Moment::Asked, "global/pg_filenode.map") = (moment, path.as_str()) {
            // It stays away, however often it is asked for.
            let _ = fs::remove_file(source.join(path));
        }
    });
    let error = report.unwrap_err();
    assert!(
        matches!(&error, BackupError::Source { path, .. } if path.ends_with("global/pg_filenode.map")),
        "{error}"
    );
}

#[test]
fn i15_what_every_database_has_vanishes_only_with_its_directory() {
    let Some(rig) = Rig::new() else { return };
    let database = rig.table.parent().unwrap().to_owned();
    let map = database.join("pg_filenode.map");
    let (source, lost) = (rig.pgdata.clone(), map.clone());
    let kept = fs::read(source.join(&map)).unwrap();
    let (_, report) = rig.backup(&rig.session(), move |path, moment| {
        if let (Moment::Asked, true) = (moment, path == lost) {
            fs::remove_file(source.join(path)).unwrap();
        }
    });
    let error = report.unwrap_err();
    let named = matches!(&error, BackupError::Source { path, .. } if *path == rig.pgdata.join(&map));
    assert!(named && error.to_string().contains("its database was not dropped"), "{error}");

    // The same file, but DROP DATABASE goes on and takes the directory, too.
    fs::write(rig.pgdata.join(&map), kept).unwrap();
    let (source, lost) = (rig.pgdata.clone(), map.clone());
    let dropped = database.clone();
    let (_, report) = rig.backup(&rig.session(), move |path, moment| {
        if let (Moment::Asked, true) = (moment, path == lost) {
            fs::remove_dir_all(source.join(&dropped)).unwrap();
        }
    });
    let skipped = report.unwrap().skipped;
    assert!(skipped.iter().any(|s| s.path == map && s.why == "the database was dropped"), "{skipped:?}");
}

/// A large database takes long to go; as long as its files become fewer it is being dropped.
#[test]
fn i15_a_database_that_is_being_dropped_is_waited_for() {
    let Some(rig) = Rig::new() else { return };
    let database = rig.table.parent().unwrap().to_owned();
    let directory = rig.pgdata.join(&database);
    (90000..90020).for_each(|n| fs::write(directory.join(n.to_string()), "").unwrap());
    let (map, mark) = (database.join("pg_filenode.map"), database.join("PG_VERSION"));
    let (lost, looks) = (map.clone(), Seen::default());
    let seen = looks.clone();
    let (_, report) = rig.backup(&rig.session(), move |path, moment| match moment {
        Moment::Asked if path == lost => fs::remove_file(directory.join("pg_filenode.map")).unwrap(),
        // Once a look.
        Moment::Listed if path == mark && !directory.join("pg_filenode.map").exists() => {
            match seen.add("look") {
                look @ 0..15 => fs::remove_file(directory.join((90000 + look).to_string())).unwrap(),
                _ => fs::remove_dir_all(&directory).unwrap(),
            }
        }
        _ => {}
    });
    let skipped = report.unwrap().skipped;
    assert!(skipped.iter().any(|s| s.path == map && s.why == "the database was dropped"), "{skipped:?}");
    assert!(looks.all().len() >= 15);
}

#[test]
fn the_session_is_kept_alive_while_files_are_listed_and_read_one_by_one() {
    let Some(mut rig) = Rig::new() else { return };
    rig.job.keepalive = Duration::from_millis(1);
    let session = rig.session();
    let (pings, seen) = (session.pings.clone(), Seen::default());
    let times = seen.clone();
    let (_, report) = rig.backup(&session, move |_, moment| {
        let slow = match moment {
            Moment::Listed => times.add("listed") == 1,
            Moment::Read(_) => times.add("read") == 2,
            _ => false,
        };
        // So long takes this one step: until two signs of life were given, or none is to be hoped for.
        let before = pings.load(Ordering::SeqCst);
        let mut waits = if slow { 0 } else { 500 };
        while waits < 500 && pings.load(Ordering::SeqCst) < before + 2 {
            std::thread::sleep(Duration::from_millis(10));
            waits += 1;
        }
        if slow && waits == 500 {
            times.add("silence");
        }
    });
    report.unwrap();
    let all = seen.all();
    assert!(all.iter().filter(|s| *s == "read").count() >= 2, "pg_control is read at the end");
    assert!(!all.contains(&"silence".to_owned()), "a step of five seconds passed without a sign of life");
}

#[test]
fn i9_a_session_lost_while_files_are_listed_ends_the_listing() {
    let Some(mut rig) = Rig::new() else { return };
    rig.job.keepalive = Duration::from_millis(1);
    let mut session = rig.session();
    session.lost = true;
    let (pings, seen) = (session.pings.clone(), Seen::default());
    let asked = seen.clone();
    let (_, report) = rig.backup(&session, move |_, moment| match moment {
        Moment::Listed => {
            asked.add("listed");
            let mut waits = 0;
            while waits < 500 && pings.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(10));
                waits += 1;
            }
            // What the ping found out has to reach the lister.
            std::thread::sleep(Duration::from_millis(20));
        }
        Moment::Asked => {
            asked.add("asked");
        }
        _ => {}
    });
    let error = report.unwrap_err();
    assert!(matches!(error, BackupError::SessionLost), "{error}");
    let all = seen.all();
    assert!(!all.contains(&"asked".to_owned()) && all.len() < 10, "{} files were listed", all.len());
}

#[test]
fn i15_a_table_that_is_truncated_is_taken_as_far_as_it_goes() {
    let Some(rig) = Rig::new() else { return };
    let (source, table) = (rig.pgdata.clone(), rig.table.clone());
    let whole = fs::read(rig.pgdata.join(&rig.table)).unwrap();
    let (data, report) = rig.backup(&rig.session(), move |path, moment| {
        if let (Moment::Began, true) = (moment, path == table) {
            cut(&source.join(path), 3 * PAGE);
        }
    });
    let report = report.unwrap();
    assert_eq!(proven(&report, &rig.table), Some(3 * PAGE));
    // No padding takes the place of what is gone.
    assert_eq!(fs::read(data.join(&rig.table)).unwrap(), whole[..3 * PAGE as usize]);
    assert!(report.skipped.iter().any(|skipped| skipped.path == rig.table && skipped.root == Root::Data));
}

#[test]
fn i15_what_is_cut_within_a_page_is_read_again() {
    let Some(rig) = Rig::new() else { return };
    let (source, table, seen) = (rig.pgdata.clone(), rig.table.clone(), Seen::default());
    let whole = fs::read(rig.pgdata.join(&rig.table)).unwrap();
    let (all, again) = (whole.clone(), seen.clone());
    let (data, report) = rig.backup(&rig.session(), move |path, moment| {
        if path != table {
            return;
        }
        match (moment, again.add("")) {
            (Moment::Began, n) if n <= 2 => cut(&source.join(path), 2 * PAGE + 100),
            (Moment::Asked, n) if n > 2 => fs::write(source.join(path), &all).unwrap(),
            _ => {}
        }
    });
    let report = report.unwrap();
    assert!(seen.all().len() > 3, "{:?}", seen.all());
    assert_eq!(fs::read(data.join(&rig.table)).unwrap(), whole);
    assert_eq!(proven(&report, &rig.table), Some(whole.len() as u64));

    // A file that never stands still is an error, and not a guess.
    let source = rig.pgdata.clone();
    let (_, report) = rig.backup(&rig.session(), move |path, moment| {
        if let (Moment::Began, "postgresql.conf") = (moment, path.as_str()) {
            let path = source.join(path);
            cut(&path, size(&path) - 1);
        }
    });
    let error = report.unwrap_err().to_string();
    assert!(error.contains("postgresql.conf became shorter each of the 5 times"), "{error}");
}

#[test]
fn a_file_that_grows_is_taken_as_it_was_when_it_was_opened() {
    let Some(rig) = Rig::new() else { return };
    let (source, table) = (rig.pgdata.clone(), rig.table.clone());
    let whole = fs::read(rig.pgdata.join(&rig.table)).unwrap();
    let (data, report) = rig.backup(&rig.session(), move |path, moment| {
        if let (Moment::Began, true) = (moment, path == table) {
            let mut file = OpenOptions::new().append(true).open(source.join(path)).unwrap();
            file.write_all(&[0; 100_000]).unwrap();
        }
    });
    assert_eq!(proven(&report.unwrap(), &rig.table), Some(whole.len() as u64));
    assert_eq!(fs::read(data.join(&rig.table)).unwrap(), whole);
}

#[test]
fn i12_a_torn_page_is_read_again_and_a_corrupt_one_is_named() {
    let Some(mut rig) = Rig::new() else { return };
    let (table, seen) = (rig.table.clone(), Seen::default());
    let (again, whole) = (seen.clone(), fs::read(rig.pgdata.join(&rig.table)).unwrap());
    let first = Seen::default();
    let (data, report) = rig.backup(&rig.session(), move |path, moment| match moment {
        Moment::Began if path == table => {
            again.add("began");
        }
        // Half of page 4 is from another moment, in the first piece that ever comes.
        Moment::Bytes(bytes) if path == table && first.add("bytes") == 1 => {
            bytes[4 * PAGE as usize + 5000] ^= 0xFF;
        }
        _ => {}
    });
    assert!(report.unwrap().corrupt_pages.is_empty());
    assert_eq!(seen.all().len(), 2);
    assert_eq!(fs::read(data.join(&rig.table)).unwrap(), whole);

    let path = rig.pgdata.join(&rig.table);
    let mut broken = whole;
    broken[2 * PAGE as usize + 5000] ^= 1;
    fs::write(&path, &broken).unwrap();
    let (_, report) = rig.backup(&rig.session(), |_, _| {});
    let error = report.unwrap_err();
    let named =
        matches!(&error, BackupError::CorruptPages { count: 1, path, block: 2 } if *path == rig.table);
    assert!(named, "{error}");

    rig.job.corrupt_pages = CorruptPagePolicy::Warn;
    let (data, report) = rig.backup(&rig.session(), |_, _| {});
    let report = report.unwrap();
    assert_eq!(report.corrupt_pages.len(), 1);
    assert_eq!((&report.corrupt_pages[0].path, report.corrupt_pages[0].block), (&rig.table, 2));
    assert_eq!(fs::read(data.join(&rig.table)).unwrap(), broken);
}

#[test]
fn i10_pg_control_is_read_last_and_until_it_is_sound() {
    let Some(rig) = Rig::new() else { return };
    let seen = Seen::default();
    let order = seen.clone();
    let (data, report) = rig.backup(&rig.session(), move |path, moment| match moment {
        Moment::Asked => {
            order.add(path.as_str());
        }
        Moment::Read(bytes) => {
            let times = order.add(path.as_str());
            // The first read tells which cluster it is. Of those that follow, two see a write in progress.
            if times == 2 || times == 3 {
                bytes[40] ^= 1;
            }
        }
        _ => {}
    });
    report.unwrap();
    let all = seen.all();
    assert_eq!(all.last().unwrap(), "global/pg_control");
    assert_eq!(all.iter().filter(|path| *path == "global/pg_control").count(), 4);
    assert!(all.iter().rev().skip_while(|path| *path == "global/pg_control").count() > 100);
    let control = fs::read(data.join("global/pg_control")).unwrap();
    assert_eq!(control, fs::read(rig.pgdata.join("global/pg_control")).unwrap());

    let (_, report) = rig.backup(&rig.session(), |_, moment| {
        if let Moment::Read(bytes) = moment {
            bytes[40] ^= 1;
        }
    });
    let error = report.unwrap_err().to_string();
    assert!(error.contains("global/pg_control was read 20 times and is not sound"), "{error}");
}

#[test]
fn i9_a_promotion_in_the_middle_fails_the_backup() {
    let Some(rig) = Rig::new() else { return };
    let mut session = rig.session();
    session.end_timeline = Timeline::new(2).unwrap();
    let (_, report) = rig.backup(&session, |_, _| {});
    let error = report.unwrap_err();
    assert!(matches!(error, BackupError::Identity(_)), "{error}");
    assert!(error.to_string().contains("promoted during the backup"), "{error}");
}

#[test]
fn i9_a_lost_session_fails_the_backup() {
    let Some(mut rig) = Rig::new() else { return };
    rig.job.keepalive = Duration::from_millis(1);
    let mut session = rig.session();
    session.lost = true;
    let (_, report) = rig.backup(&session, |_, moment| {
        if let Moment::Began = moment {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let error = report.unwrap_err();
    assert!(matches!(error, BackupError::SessionLost), "{error}");
    assert_eq!(session.stops.load(Ordering::SeqCst), 0, "there is nobody to speak to");
}

#[test]
fn i10_the_files_of_another_cluster_are_refused() {
    let Some(rig) = Rig::new() else { return };
    let mut session = rig.session();
    session.facts.system_id = "7000000000000000001".parse().unwrap();
    let seen = Seen::default();
    let asked = seen.clone();
    let (_, report) = rig.backup(&session, move |path, moment| {
        if let Moment::Asked = moment {
            asked.add(path.as_str());
        }
    });
    let error = report.unwrap_err();
    assert!(matches!(error, BackupError::Identity(_)), "{error}");
    assert!(error.to_string().contains("7000000000000000001"), "{error}");
    assert!(seen.all().is_empty(), "not a file was copied");
    assert_eq!(session.stops.load(Ordering::SeqCst), 1, "backup mode was left");
}
