//! `get-wal`, `put-wal`, `switch-wal`, `rebuild-xlogdb` and the small commands around them.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test is the outside world"
)]

use std::io::Write;
use std::process::{Command, Stdio};

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};
use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Archive, Cluster};
use barman_testkit::world::{Run, World};

use crate::hand_made::{Home, SEGMENT, SYSTEM_ID, done, said, segment};

fn sound(number: u64) -> Vec<u8> {
    synthetic::segment(
        Timeline::FIRST,
        SegmentNo::new(number),
        SegmentSize::from_bytes(SEGMENT).unwrap(),
        SystemId::new(SYSTEM_ID),
        PgVersion::new(170_010),
    )
}

/// An archive with the sound segments 1 to 4, the third packed with gzip.
fn archive() -> Home {
    let home = Home::new(1..=4).backups(&[done("20260101T000001", 1, 2)]);
    for number in 1..=4 {
        let path = format!("wals/{}/{}", &segment(number)[..16], segment(number));
        home.write(&path, sound(number));
        if number == 3 {
            let path = home.path(&path);
            let status = Command::new("gzip").arg("-n").arg(&path).status().unwrap();
            assert!(status.success());
            std::fs::rename(format!("{path}.gz"), path).unwrap();
        }
    }
    home
}

fn stdout_of(home: &Home, arguments: &[&str]) -> Vec<u8> {
    home.barman(&["list-servers"]);
    let done = home.world.barman_command(arguments).unwrap().output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

#[test]
fn wal_comes_out_as_it_went_in() {
    let home = archive();
    for number in 1..=4 {
        assert!(stdout_of(&home, &["get-wal", "main", &segment(number)]) == sound(number), "{number}");
    }
    assert!(stdout_of(&home, &["-f", "json", "get-wal", "main", &segment(3)]) == sound(3));
    let stored = std::fs::read(home.path(&format!("wals/{}/{}", &segment(3)[..16], segment(3)))).unwrap();
    assert!(stdout_of(&home, &["get-wal", "--keep-compression", "main", &segment(3)]) == stored);
    assert!(stdout_of(&home, &["get-wal", "-z", "main", &segment(3)]) == stored);
    assert!(stdout_of(&home, &["get-wal", "-j", "main", &segment(3)]).starts_with(b"BZh"));

    let out = home.world.dir().subdir("out").unwrap();
    let run = home.barman(&["get-wal", "-o", out.as_str(), "main", &segment(3)]).ok().unwrap();
    let expected = format!("Sending WAL '{0}' for server 'main' into '{out}/{0}' file\n", segment(3));
    assert_eq!(run.stdout, expected);
    assert!(std::fs::read(out.join(segment(3))).unwrap() == sound(3));
    assert_eq!(out.read_dir_utf8().unwrap().count(), 1, "no temporary file is left");
}

/// After a `pg_upgrade`, as long as backups of the cluster before it are in the catalog.
#[test]
fn wal_of_the_cluster_before_an_upgrade_is_served_too() {
    let home = Home::new(1..=4).backups(&[done("20260101T000001", 1, 2), done("20260101T000002", 3, 4)]);
    let info = "meta/20260101T000001-backup.info";
    let id = format!("systemid={SYSTEM_ID}");
    assert!(home.read(info).contains(&id));
    home.write(info, home.read(info).replace(&id, "systemid=5"));
    let of = |number: u64, system: u64| {
        let size = SegmentSize::from_bytes(SEGMENT).unwrap();
        let number = SegmentNo::new(number);
        synthetic::segment(Timeline::FIRST, number, size, SystemId::new(system), PgVersion::new(140_000))
    };
    for (number, system) in [(1, 5), (3, SYSTEM_ID), (4, 6)] {
        home.write(&format!("wals/{}/{}", &segment(number)[..16], segment(number)), of(number, system));
    }
    assert!(stdout_of(&home, &["get-wal", "main", &segment(1)]) == of(1, 5));
    assert!(stdout_of(&home, &["get-wal", "main", &segment(3)]) == of(3, SYSTEM_ID));
    let run = home.barman(&["get-wal", "main", &segment(4)]);
    assert!(run.code() == Some(1) && run.stderr.contains("system 6"), "{run}");
}

/// After a `pg_upgrade` with another segment size: identity.json is of the new cluster, all backups are of the old one.
#[test]
fn wal_of_a_cluster_with_another_segment_size_is_taken_in() {
    let home = Home::new(1..=2).backups(&[done("20260101T000001", 1, 2)]);
    home.write("identity.json", "{\n    \"systemid\": \"5\",\n    \"version\": \"18\"\n}\n");
    let large = SegmentSize::from_bytes(2 << 20).unwrap();
    let bytes = synthetic::segment(
        Timeline::FIRST,
        SegmentNo::new(3),
        large,
        SystemId::new(5),
        PgVersion::new(180_000),
    );
    home.write("incoming/000000010000000000000003", &bytes);
    home.barman(&["archive-wal", "main"]).ok().unwrap();
    assert!(stdout_of(&home, &["get-wal", "main", "000000010000000000000003"]) == bytes);
    assert!(home.path("errors").read_dir_utf8().unwrap().next().is_none());
}

#[test]
fn get_wal_answers_as_barman() {
    if Barman::require().is_none() {
        return;
    }
    let mut home = archive();
    let commands: Vec<Vec<String>> = [
        "get-wal main ABSENT",
        "get-wal main zzz",
        "get-wal -t main x",
        "get-wal -p 2 main FIRST",
        "get-wal -p 9 main FIRST",
        "get-wal -p 9 main ABSENT",
        "get-wal -z --keep-compression main FIRST",
        "get-wal -o /nowhere main ABSENT",
        "get-wal nope FIRST",
    ]
    .iter()
    .map(|line| {
        line.split(' ')
            .map(|word| match word {
                "ABSENT" => segment(15),
                "FIRST" => segment(1),
                other => other.to_owned(),
            })
            .collect()
    })
    .collect();
    for round in 0..2 {
        for command in &commands {
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            if command.contains(&"/nowhere") {
                continue;
            }
            assert_eq!(said(&home.barman(&command)), said(&home.oracle(&command)), "{command:?} {round}");
        }
        home.world.env("SSH_CONNECTION", "10.0.0.7 5000 10.0.0.1 22");
    }
    let run = home.barman(&["get-wal", "-o", "/nowhere", "main", &segment(1)]);
    assert_eq!(run.code(), Some(3), "{run}");
    assert!(
        run.stderr.starts_with(&format!("ERROR: Unable to open '/nowhere/{}' file: ", segment(1))),
        "{run}"
    );
}

/// A run in a directory as a server would have it, with these files.
fn from_pgdata(home: &Home, files: &[(&str, &str)], arguments: &[&str]) -> Run {
    let dir = home.world.dir().subdir("pgdata").unwrap();
    for found in dir.read_dir_utf8().unwrap() {
        std::fs::remove_file(found.unwrap().path()).unwrap();
    }
    for (name, content) in files {
        home.write(&format!("../../pgdata/{name}"), content);
    }
    home.world.account().own_tree(&dir).unwrap();
    home.world.account().own_tree(home.world.home()).unwrap();
    Run::of(home.world.barman_command(arguments).unwrap().current_dir(&dir)).unwrap()
}

#[test]
fn i25_recovery_never_takes_trouble_for_the_end_of_the_wal() {
    let recovery: &[(&str, &str)] = &[("PG_VERSION", "17"), ("recovery.signal", "")];
    let old = &[("PG_VERSION", "11"), ("recovery.conf", "restore_command = 'x'\n")];
    let standby = &[("PG_VERSION", "17"), ("standby.signal", ""), ("recovery.signal", "")];
    let old_standby = &[("PG_VERSION", "11"), ("recovery.conf", "standby_mode = on\n")];
    let elsewhere: &[(&str, &str)] = &[("recovery.signal", "")];
    let home = archive();
    let absent = ["get-wal", "main", &segment(15)];
    let history = ["get-wal", "main", "00000002.history"];
    let unknown = ["get-wal", "nope", &segment(1)];
    let bad = ["get-wal", "main", "x"];
    let damaged = ["get-wal", "main", &segment(2)];
    home.write(&format!("wals/{}/{}", &segment(2)[..16], segment(2)), &sound(2)[..70_000]);
    for (files, trouble, bad_name) in [
        (recovery, 126, 126),
        (old, 126, 126),
        (standby, 1, 3),
        (old_standby, 1, 3),
        (elsewhere, 1, 3),
        (&[], 1, 3),
    ] {
        for (arguments, expected) in
            [(&absent, 1), (&history, 1), (&unknown, trouble), (&bad, bad_name), (&damaged, trouble)]
        {
            let run = from_pgdata(&home, files, arguments);
            assert_eq!(run.code(), Some(expected), "{files:?} {arguments:?} {run}");
            assert!(run.stdout.is_empty(), "{files:?} {arguments:?}");
        }
    }
    // A configuration that cannot be read, and an archive that is not mounted.
    let mut command = home.world.barman_command(&absent).unwrap();
    let program = command.get_program().to_owned();
    command = home.world.command(program);
    let dir = home.world.path().join("pgdata");
    from_pgdata(&home, recovery, &absent);
    let run = Run::of(command.args(["-c", "/nowhere/barman.conf"]).args(absent).current_dir(&dir)).unwrap();
    assert_eq!(run.code(), Some(126), "{run}");
    std::fs::rename(home.path("wals"), home.path("unmounted")).unwrap();
    let run = from_pgdata(&home, recovery, &absent);
    assert_eq!(run.code(), Some(126), "{run}");
    let run = from_pgdata(&home, &[], &absent);
    assert_eq!(run.code(), Some(1), "{run}");
}

fn delivery(home: &Home, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let dir = home.world.dir().subdir("delivery").unwrap();
    let mut sums = String::new();
    let mut names = Vec::new();
    for (name, content) in files {
        home.write(&format!("../../delivery/{name}"), content);
        let sum = Command::new("sha256sum").arg("-b").arg(name).current_dir(&dir).output().unwrap();
        sums.push_str(&String::from_utf8(sum.stdout).unwrap());
        names.push(name.clone());
    }
    home.write("../../delivery/SHA256SUMS", sums);
    names.push("SHA256SUMS".to_owned());
    Command::new("tar")
        .args(["--format=pax", "-cf", "-"])
        .args(names)
        .current_dir(&dir)
        .output()
        .unwrap()
        .stdout
}

fn put(home: &Home, stream: &[u8]) -> Run {
    home.barman(&["list-servers"]);
    let mut command = home.world.barman_command(&["put-wal", "main"]).unwrap();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A refusal may come before the whole was sent.
    let _ = child.stdin.take().unwrap().write_all(stream);
    let done = child.wait_with_output().unwrap();
    let line = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let status = done.status.code().unwrap();
    let mut shown = Command::new("sh");
    shown.arg("-c").arg(format!("cat; exit {status}")).stdin(Stdio::null());
    let mut run = Run::of(&mut shown).unwrap();
    run.stderr = line;
    run
}

#[test]
fn put_wal_takes_what_is_sound_and_says_what_is_not() {
    let home = archive();
    let name = segment(5);
    let run = put(&home, &delivery(&home, &[(name.clone(), sound(5))]));
    assert_eq!((run.code(), run.stderr.as_str()), (Some(0), ""));
    assert!(std::fs::read(home.path(&format!("incoming/{name}"))).unwrap() == sound(5));
    // Again the same.
    let run = put(&home, &delivery(&home, &[(name.clone(), sound(5))]));
    assert_eq!(run.code(), Some(0), "{run}");
    // I3: another content under an archived name must not be called archived.
    let mut other = synthetic::switched_segment(
        Timeline::FIRST,
        SegmentNo::new(4),
        SegmentSize::from_bytes(SEGMENT).unwrap(),
        SystemId::new(SYSTEM_ID),
        PgVersion::new(170_010),
        50_000,
    );
    let run = put(&home, &delivery(&home, &[(segment(4), other.clone())]));
    assert_eq!(run.code(), Some(1), "{run}");
    other.truncate(1000);
    let run = put(&home, &delivery(&home, &[(segment(6), other)]));
    assert!(run.code() == Some(1) && run.stderr.starts_with("ERROR: "), "{run}");
    assert!(!home.exists(&format!("incoming/{}", segment(6))));
    assert_eq!(put(&home, b"").code(), Some(1));
    assert_eq!(put(&home, b"no tar at all").code(), Some(1));
    let run = home.barman(&["put-wal", "-t", "main"]).ok().unwrap();
    assert_eq!(run.stdout, "Ready to accept WAL files for the server main\n");
}

#[test]
fn small_commands_answer_as_barman() {
    if Barman::require().is_none() {
        return;
    }
    let mut home = archive();
    home.world.server("m1").option("model", "true").option("cluster", "main").option("compression", "bzip2");
    home.world.server("m2").option("model", "true").option("cluster", "other");
    home.world.server("off").option("active", "false");
    for command in [
        &["rebuild-xlogdb", "main"] as &[&str],
        &["-f", "json", "rebuild-xlogdb", "main", "off"],
        &["rebuild-xlogdb", "nope", "main"],
        &["list-processes", "main"],
        &["-f", "json", "list-process", "main"],
        &["list-processes", "off"],
        &["terminate-process", "main", "backup"],
        &["terminate-process", "main", "foo"],
        &["config-switch", "main"],
        &["config-switch", "main", "nope"],
        &["config-switch", "main", "m2"],
        &["config-switch", "main", "--reset"],
        &["config-switch", "main", "nope", "--reset"],
        &["check-backup", "off", "latest"],
        &["keep", "off", "latest", "-s"],
        &["get-wal", "-t", "off", "x"],
        &["put-wal", "-t", "off"],
        &["switch-wal", "off"],
    ] {
        assert_eq!(said(&home.barman(command)), said(&home.oracle(command)), "{command:?}");
    }
    let switched = home.barman(&["config-switch", "main", "m1"]);
    assert_eq!(home.read(".active-model.auto"), "m1");
    home.barman(&["config-switch", "main", "--reset"]).ok().unwrap();
    assert!(!home.exists(".active-model.auto"));
    // Barman gives the options in no order.
    let sorted = |run: &Run| {
        let mut lines: Vec<String> = run.stdout.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        (run.code(), lines, run.stderr.clone())
    };
    assert_eq!(sorted(&switched), sorted(&home.oracle(&["config-switch", "main", "m1"])));
    for command in [&["config-switch", "main", "m1"], &["config-switch", "main", "m2"]] {
        assert_eq!(said(&home.barman(command)), said(&home.oracle(command)), "{command:?}");
    }
}

#[test]
fn a_process_is_found_by_its_lock_and_interrupted() {
    let home = archive();
    // Waits for a stream that never ends, under the lock that a backup has.
    let lock = home.world.home().join(".main-backup.lock");
    home.barman(&["list-servers"]);
    let mut holder = home
        .world
        .command("flock")
        .args(["-n", lock.as_str(), "sh", "-c", &format!("echo $$ > {lock}; exec sleep 60")])
        .spawn()
        .unwrap();
    while std::fs::read_to_string(&lock).unwrap_or_default().is_empty() {
        std::thread::yield_now();
    }
    let pid = std::fs::read_to_string(&lock).unwrap().trim().to_owned();
    let run = home.barman(&["list-processes", "main"]).ok().unwrap();
    assert_eq!(run.stdout, format!("Active subprocesses for server main:\n{pid} backup\n"));
    let run = home.barman(&["terminate-process", "main", "backup"]).ok().unwrap();
    assert_eq!(run.stdout, format!("Stopped process backup({pid})\n"));
    assert!(!holder.wait().unwrap().success());
}

fn live(world: &mut World) -> Cluster {
    let cluster = Cluster::builder(15)
        .wal_segment_size_mb(1)
        .archive_to(world.incoming("main"), Archive::Atomic)
        .start()
        .unwrap();
    world
        .server("main")
        .conninfo(cluster.conninfo())
        .option("backup_method", "local-rsync")
        .option("archiver", "on")
        .option("backup_options", "concurrent_backup");
    cluster
}

#[test]
fn a_segment_is_closed_and_waited_for() {
    if pg::require(15).is_none() {
        return;
    }
    let mut world = World::new().unwrap();
    let cluster = live(&mut world);
    cluster.psql("CREATE TABLE t AS SELECT 1").unwrap();
    let run = world.barman(&["switch-wal", "--archive", "main"]).unwrap().ok().unwrap();
    let first = run.stdout.lines().next().unwrap_or_default().to_owned();
    let name = first
        .strip_prefix("The WAL file ")
        .and_then(|rest| rest.strip_suffix(" has been closed on server 'main'"))
        .unwrap_or_else(|| panic!("{run}"));
    assert!(
        run.stdout
            .contains(&format!("Waiting for the WAL file {name} from server 'main' (max: 30 seconds)\n")),
        "{run}"
    );
    assert!(run.stdout.contains(&format!("\t{name}\n")), "{run}");
    let wal = world.home().join("main/wals").join(&name[..16]).join(name);
    assert!(wal.exists());
    // Nothing was written since, or next to nothing: force makes something to close.
    let forced = world.barman(&["switch-wal", "--force", "main"]).unwrap().ok().unwrap();
    assert!(forced.stdout.contains("has been closed on server 'main'"), "{forced}");
    cluster.psql("CREATE ROLE humble LOGIN; GRANT pg_monitor TO humble").unwrap();
    world.server("main").conninfo(cluster.conninfo_for("humble", "postgres"));
    let refused = world.barman(&["switch-wal", "--force", "main"]).unwrap();
    assert_eq!(refused.code(), Some(1));
    if Barman::require().is_some() {
        assert_eq!(said(&refused), said(&world.oracle(&["switch-wal", "--force", "main"]).unwrap()));
        let (our, their) = (world.barman(&["switch-wal", "main"]), world.oracle(&["switch-wal", "main"]));
        let (our, their) = (our.unwrap(), their.unwrap());
        let last = "ERROR: Unable to perform pg_switch_wal for server 'main'.\n";
        assert!(our.stderr.starts_with(last) && our.code() == their.code(), "{our}\n{their}");
    }
}
