//! Scripts around the archiving of WAL: told the same as by Barman, and in nobody's way.

use std::fs;
use std::time::{Duration, Instant};

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};
use barman_testkit::oracle::Barman;
use barman_testkit::world::Run;

use crate::hand_made::{Home, SEGMENT, SYSTEM_ID, done, segment};
use crate::scene::names;

/// A home with segments that have come in, the last of which is not sound.
fn home(numbers: std::ops::RangeInclusive<u64>) -> Home {
    let home = Home::new(100..=100).backups(&[done("20260101T000001", 100, 100)]);
    for number in numbers {
        let bytes = synthetic::segment(
            Timeline::FIRST,
            SegmentNo::new(number),
            SegmentSize::from_bytes(SEGMENT).unwrap(),
            SystemId::new(SYSTEM_ID),
            PgVersion::new(170_000),
        );
        home.write(&format!("incoming/{}", segment(number)), bytes);
        let path = home.path(&format!("incoming/{}", segment(number)));
        let time = fs::FileTimes::new()
            .set_modified(std::time::UNIX_EPOCH + Duration::from_millis(1_795_797_482_500));
        fs::File::options().write(true).open(path).unwrap().set_times(time).unwrap();
    }
    home
}

fn scripts(home: &mut Home, which: &[(&str, &str)]) {
    for (name, command) in which {
        home.world.server("main").option(name, *command);
    }
    home.world.account().own_tree(home.world.path()).unwrap();
}

/// What the scripts were told, with the home's own path left out.
fn told(home: &Home) -> String {
    let text = fs::read_to_string(home.world.path().join("told")).unwrap_or_default();
    text.replace(home.world.path().as_str(), "~")
}

#[test]
fn scripts_are_told_what_barman_tells_them() {
    let Some(_) = Barman::require() else { return };
    let all = |who: fn(&Home) -> Run| {
        let mut home = home(1..=2);
        let line = format!("env | grep ^BARMAN_ | sort >> {0}/told; echo -- >> {0}/told", home.world.path());
        let which: Vec<(&str, &str)> = [
            "pre_archive_script",
            "pre_archive_retry_script",
            "post_archive_script",
            "post_archive_retry_script",
        ]
        .map(|name| (name, line.as_str()))
        .to_vec();
        scripts(&mut home, &which);
        let run = who(&home);
        assert_eq!(run.code(), Some(0), "{run}");
        // One file after the other, or some before and some after: a file's own order is the same.
        let mut records: Vec<String> = told(&home).split("--\n").map(str::to_owned).collect();
        let of =
            |record: &String| record.lines().find(|l| l.starts_with("BARMAN_SEGMENT")).map(str::to_owned);
        records.sort_by_key(of);
        records
    };
    let ours = all(|home| home.barman(&["archive-wal", "main"]));
    let theirs = all(|home| home.world.oracle(&["archive-wal", "main"]).unwrap());
    assert_eq!(ours.len(), 9, "{ours:?}");
    assert_eq!(ours, theirs);
}

#[test]
fn a_retry_script_can_stop_a_run_and_a_plain_one_cannot() {
    let mut home = home(1..=3);
    let stop = format!(
        "case $BARMAN_SEGMENT in *2) exit 63;; esac; echo $BARMAN_SEGMENT >> {}/told",
        home.world.path()
    );
    scripts(&mut home, &[("pre_archive_retry_script", &stop), ("post_archive_script", "exit 63")]);
    let run = home.barman(&["archive-wal", "main"]);
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(
        run.stderr.contains("pre_archive_retry_script has stopped the operation (exit status 63)"),
        "{run}"
    );
    // What came before it is archived; it and what follows stay.
    assert_eq!(told(&home).lines().collect::<Vec<_>>(), [segment(1)]);
    assert!(home.exists(&format!("wals/{}/{}", &segment(1)[..16], segment(1))));
    assert_eq!(names(&home.path("incoming")), [segment(2), segment(3)]);
    assert!(home.world.log().contains("post_archive_script returned 63"), "{}", home.world.log());
}

/// I7: a script that hangs keeps nobody else waiting: not the readers of the archive, not those who deliver.
#[test]
fn i7_a_slow_script_holds_no_lock_of_others() {
    let mut home = home(1..=2);
    let hang = format!("touch {0}/began; while [ ! -e {0}/go ]; do sleep 0.05; done", home.world.path());
    scripts(&mut home, &[("post_archive_script", &hang)]);
    let mut archiver = home.world.barman_command(&["archive-wal", "main"]).unwrap().spawn().unwrap();
    let began = Instant::now();
    while !home.world.path().join("began").exists() {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    for arguments in [
        &["list-backups", "main"][..],
        &["show-backup", "main", "latest"],
        &["get-wal", "-o", home.world.path().as_str(), "main", &segment(1)],
        &["rebuild-xlogdb", "main"],
    ] {
        let run = home.barman(arguments);
        assert_eq!(run.code(), Some(0), "{run}");
    }
    let second = home.barman(&["archive-wal", "main"]);
    assert!(second.stdout.contains("Another archive-wal process is already running"), "{second}");
    fs::write(home.world.path().join("go"), "").unwrap();
    assert!(archiver.wait().unwrap().success());
}
