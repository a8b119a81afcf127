//! Scripts around operations: told the same as by Barman, and in nobody's way.

use std::fs;
use std::time::{Duration, Instant};

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};
use barman_testkit::oracle::Barman;
use barman_testkit::pg;
use barman_testkit::world::Run;

use crate::hand_made::{Home, SEGMENT, SYSTEM_ID, done, segment};
use crate::scene::{Scene, names};

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

/// All scripts around an operation, with this line.
fn around(scene: &mut Scene, operations: &[&str], line: &str) {
    for operation in operations {
        for phase in ["pre", "post"] {
            for kind in ["", "retry_"] {
                scene.world.server("main").option(&format!("{phase}_{operation}_{kind}script"), line);
            }
        }
    }
    scene.world.account().own_tree(scene.world.path()).unwrap();
}

/// A scene whose scripts write down what they are told.
fn telling(operations: &[&str]) -> Scene {
    let mut scene = Scene::new(15);
    scene.fill(50);
    let told = scene.world.path().join("told");
    let line = format!("(env | grep ^BARMAN_ | sort; echo --) >> {told}");
    around(&mut scene, operations, &line);
    scene
}

/// What scripts were told since the last look, a record each, without what differs from one world to the next.
fn heard(scene: &Scene) -> Vec<String> {
    let path = scene.world.path().join("told");
    let mut text = fs::read_to_string(&path).unwrap_or_default().replace(scene.world.path().as_str(), "~");
    let _ = fs::remove_file(&path);
    for (number, id) in scene.ids().iter().enumerate() {
        text = text.replace(id.as_str(), &format!("ID{number}"));
    }
    let tidy = |line: &str| match line.split_once('=') {
        Some((key @ ("BARMAN_SIZE" | "BARMAN_TIMESTAMP"), value)) => {
            assert!(value.parse::<f64>().is_ok(), "{line}");
            format!("{key}=N")
        }
        // One Barman closes more segments than the other.
        Some((key @ ("BARMAN_SEGMENT" | "BARMAN_FILE"), value)) => {
            let name = value.rsplit('/').next().unwrap();
            assert!(name.starts_with("00000001"), "{line}");
            format!("{key}={}{}", value.split("00000001").next().unwrap(), &name[24..])
        }
        _ => line.to_owned(),
    };
    let mut records: Vec<String> = Vec::new();
    for record in text.split("--\n").filter(|record| !record.is_empty()) {
        let record = record.lines().map(tidy).collect::<Vec<_>>().join("\n");
        if !records.contains(&record) {
            records.push(record);
        }
    }
    // WAL files one after the other, or some before and some after: a file's own order is the same.
    let of = |record: &String| record.lines().find(|l| l.starts_with("BARMAN_SEGMENT")).map(str::to_owned);
    records.sort_by_key(of);
    records
}

/// Backups that succeed and that fail, restores, deletions: each script is told of each as by Barman, in the same order.
#[test]
fn scripts_around_operations_are_told_what_barman_tells_them() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let walk = |who: &dyn Fn(&Scene, &[&str]) -> Run| {
        let mut scene = telling(&["backup", "delete", "wal_delete", "recovery"]);
        let mut all = Vec::new();
        let archive = |scene: &Scene| {
            scene.cluster.archive_now().unwrap();
            scene.cluster.archive_now().unwrap();
            who(scene, &["archive-wal", "main"]).ok().unwrap();
        };
        archive(&scene);
        // The first one deletes WAL that nobody needs.
        who(&scene, &["backup", "main"]).ok().unwrap();
        all.push(heard(&scene));
        archive(&scene);
        who(&scene, &["check-backup", "main", "latest"]).ok().unwrap();
        who(&scene, &["backup", "--wait", "main"]).ok().unwrap();
        all.push(heard(&scene));
        let moment = scene.moment();
        scene.cluster.psql("CREATE TABLE later (n int)").unwrap();
        scene.cluster.psql("SELECT pg_create_restore_point('here')").unwrap();
        archive(&scene);
        let ids = scene.ids();
        let options = [
            &["--target-time", &moment, "--target-tli", "1", "--exclusive", "--target-action", "pause"][..],
            &["--target-immediate"],
            &["--get-wal", "--standby-mode", "--recovery-conf-filename", "x.conf", "--target-tli", "latest"],
            &["--target-name", "here", "--jobs", "2", "--target-action", "shutdown"],
        ];
        for (number, options) in options.iter().enumerate() {
            let destination = scene.world.path().join(format!("r{number}"));
            let place = scene.relocation(&destination);
            let words = ["--tablespace", &place, "main", &ids[0], destination.as_str()];
            who(&scene, &[&["restore"], *options, &words].concat()).ok().unwrap();
            all.push(heard(&scene).into_iter().map(|record| record.replace(&moment, "MOMENT")).collect());
        }
        // A destination that is in use is refused before anybody is told.
        let destination = scene.world.path().join("r0");
        let run = who(&scene, &["restore", "main", &ids[0], destination.as_str()]);
        assert_eq!(run.code(), Some(1), "{run}");
        all.push(heard(&scene));
        // A backup that fails: its directory cannot be written to.
        let told = scene.world.path().join("told");
        let line = format!(
            "(env | grep ^BARMAN_ | grep -v ERROR | sort; test -n \"$BARMAN_ERROR\" && echo FAILED; echo --) >> {told}; \
             mkdir -p $BARMAN_BACKUP_DIR; chmod 500 $BARMAN_BACKUP_DIR"
        );
        around(&mut scene, &["backup"], &line);
        let run = who(&scene, &["backup", "main"]);
        assert_eq!(run.code(), Some(1), "{run}");
        all.push(heard(&scene));
        who(&scene, &["delete", "main", &ids[0]]).ok().unwrap();
        let last = heard(&scene);
        all.push(last.into_iter().map(|record| record.replace(ids[0].as_str(), "GONE")).collect());
        all
    };
    let ours = walk(&|scene, words| scene.world.barman(words).unwrap());
    let theirs = walk(&|scene, words| scene.world.oracle(words).unwrap());
    // Around a backup and a restore 4, with WAL that is deleted 4 more.
    assert_eq!(ours.iter().map(Vec::len).collect::<Vec<_>>(), [8, 4, 4, 4, 4, 4, 0, 4, 12], "{ours:#?}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
}

/// A retry script before an operation can stop it, and then nothing was done; plain ones, and those after it, cannot.
#[test]
fn scripts_stop_operations_before_anything_is_done() {
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = Scene::new(15);
    scene.fill(50);
    for operation in ["backup", "delete", "wal_delete", "recovery"] {
        for name in ["pre_{}_script", "post_{}_script", "post_{}_retry_script"] {
            scene.world.server("main").option(&name.replace("{}", operation), "echo trouble; exit 63");
        }
    }
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    scene.ours(&["backup", "--wait", "main"]);
    let log = scene.world.log();
    for name in
        ["pre_backup_script", "post_backup_script", "post_backup_retry_script", "post_wal_delete_script"]
    {
        assert!(log.contains(&format!("{name} returned 63: trouble")), "{name}");
    }
    scene.cluster.archive_now().unwrap();
    scene.ours(&["backup", "--wait", "main"]);
    let ids = scene.ids();
    let destination = scene.world.path().join("restored");
    let place = scene.relocation(&destination);
    let restore = ["restore", "--tablespace", &place, "main", &ids[0], destination.as_str()];
    let stopped = |scene: &Scene, name: &str, words: &[&str]| {
        let run = scene.world.barman(words).unwrap();
        assert_eq!(run.code(), Some(1), "{run}");
        assert!(run.stderr.contains(&format!("{name} has stopped the operation (exit status 63)")), "{run}");
    };
    for operation in ["backup", "delete", "recovery"] {
        scene.world.server("main").option(&format!("pre_{operation}_retry_script"), "exit 63");
    }
    stopped(&scene, "pre_backup_retry_script", &["backup", "main"]);
    let failed = scene.ids().pop().unwrap();
    let info = &scene.infos()[&failed];
    assert_eq!((info.get("status"), info.get("begin_wal")), ("FAILED", "None"));
    assert!(info.get("error").starts_with("failure starting backup (pre_backup_retry_script"), "{info:?}");
    stopped(&scene, "pre_delete_retry_script", &["delete", "main", &ids[0]]);
    assert_eq!(scene.ids().len(), 3);
    stopped(&scene, "pre_recovery_retry_script", &restore);
    assert!(!destination.exists());
    // Given up, but not stopped.
    scene.world.server("main").option("pre_recovery_retry_script", "exit 62");
    scene.ours(&restore);
    // The backup goes, its WAL stays until somebody lets it go.
    scene.world.server("main").option("pre_delete_retry_script", "true");
    scene.world.server("main").option("pre_wal_delete_retry_script", "exit 63");
    let begin = scene.infos()[&ids[0]].get("begin_wal").to_owned();
    let wal = scene.world.home().join("main/wals").join(&begin[..16]).join(&begin);
    stopped(&scene, "pre_wal_delete_retry_script", &["delete", "main", &ids[0]]);
    assert!(wal.exists() && !scene.base(&ids[0]).exists());
    scene.world.server("main").option("pre_wal_delete_retry_script", "true");
    scene.ours(&["delete", "main", &ids[1]]);
    assert!(!wal.exists());
}

/// A script that hangs before a backup: an interruption ends it and the backup, and those after it still clean up.
#[test]
fn an_interruption_ends_a_hanging_script_and_the_backup() {
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = Scene::new(15);
    let place = scene.world.path().to_owned();
    let hang = format!("trap '' TERM; echo $$ > {place}/began; while :; do sleep 0.1; done");
    let clean = format!("echo $BARMAN_STATUS $BARMAN_ERROR > {place}/cleaned");
    scene.world.server("main").option("pre_backup_script", hang).option("post_backup_script", clean);
    let mut backup = scene.world.barman_command(&["backup", "main"]).unwrap();
    let mut backup = backup.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let script = loop {
        let text = fs::read_to_string(place.join("began")).unwrap_or_default();
        if text.ends_with('\n') {
            break text.trim().to_owned();
        }
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    };
    // Others can look meanwhile.
    scene.ours(&["list-backups", "main"]);
    scene.ours(&["archive-wal", "main"]);
    let kill = std::process::Command::new("kill").args(["-INT", &backup.id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert_eq!(backup.wait().unwrap().code(), Some(1));
    assert!(!std::path::Path::new(&format!("/proc/{script}")).exists());
    let cleaned = fs::read_to_string(place.join("cleaned")).unwrap();
    assert!(cleaned.starts_with("FAILED failure") && cleaned.contains("interrupted"), "{cleaned}");
    let (_, info) = scene.infos().pop_first().unwrap();
    assert_eq!(info.get("status"), "FAILED");
    scene.world.server("main").option("pre_backup_script", "true");
    scene.ours(&["backup", "--wait", "main"]);
}
