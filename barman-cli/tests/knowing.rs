//! What the archive holds, what it did not take, and what happened when: commands of our own.

use std::fs;

use std::collections::BTreeMap;
use std::process::Command;

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};
use barman_testkit::pg::{self, Archive, Cluster, Wait};
use barman_testkit::world::World;
use serde_json::Value;

use crate::hand_made::{Home, SEGMENT, SYSTEM_ID, done, segment};
use crate::scene::names;

fn sound(number: u64) -> Vec<u8> {
    synthetic::segment(
        Timeline::FIRST,
        SegmentNo::new(number),
        SegmentSize::from_bytes(SEGMENT).unwrap(),
        SystemId::new(SYSTEM_ID),
        PgVersion::new(170_000),
    )
}

/// A hole after a backup is shown loudly, and what can be restored all the same.
#[test]
fn holes_are_shown_with_what_they_cost() {
    let home = Home::new(1..=12).backups(&[
        done("20260101T000001", 1, 2),
        done("20260102T000001", 5, 5),
        done("20260103T000001", 9, 10),
    ]);
    for number in 1..=12 {
        home.write(&format!("wals/{}/{}", &segment(number)[..16], segment(number)), sound(number));
    }
    let whole = home.barman(&["native-wal", "main"]);
    assert_eq!(whole.code(), Some(0), "{whole}");
    assert!(
        whole.stdout.contains(&format!("\t\t{} - {} (12), written from", segment(1), segment(12))),
        "{whole}"
    );
    for number in [4, 7, 8] {
        fs::remove_file(home.path(&format!("wals/{}/{}", &segment(number)[..16], segment(number)))).unwrap();
    }
    let run = home.barman(&["native-wal", "main"]);
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.stdout.contains(&format!("\t\tMISSING {} - {} (1)\n", segment(4), segment(4))), "{run}");
    assert!(run.stdout.contains(&format!("\t\tMISSING {} - {} (2)\n", segment(7), segment(8))), "{run}");
    for (backup, missing) in [("20260101T000001", 4), ("20260102T000001", 7)] {
        let said = format!(
            "WAL file {} is missing: backup {backup} cannot be rolled forward beyond it.",
            segment(missing)
        );
        assert!(run.stderr.contains(&said), "{run}");
    }
    assert!(!run.stderr.contains("20260103T000001"), "{run}");
    // A check says so, too, beside the lines that are Barman's, and what to do about refused files.
    home.write("errors/x.20260101T000000Z.unknown", "");
    let check = home.barman(&["check", "main"]);
    for said in
        [&format!("WARNING: WAL file {} is missing: backup", segment(4)), "'barman native-errors main'"]
    {
        assert!(check.stderr.contains(said), "{check}");
    }
    let json = home.barman(&["-f", "json", "native-wal", "main"]).json().unwrap();
    let main = &json["main"];
    assert_eq!(main["timelines"][0]["holes"][1]["count"], 2);
    assert_eq!(main["timelines"][0]["ranges"].as_array().unwrap().len(), 3);
    let backups = main["backups"].as_array().unwrap();
    assert_eq!(backups[0]["missing"], segment(4));
    assert_eq!(backups[2]["missing"], serde_json::Value::Null);
    assert_eq!(backups[2]["until_lsn"], "0/D00000");
    // The nearest point before the hole is one that a restore accepts.
    let lsn = backups[1]["until_lsn"].as_str().unwrap().to_owned();
    let plan = |lsn: &str| {
        let options =
            ["restore", "--native-dry-run", "--target-lsn", lsn, "main", "20260102T000001", "/tmp/x"];
        home.barman(&options).code()
    };
    assert_eq!((plan(&lsn), plan("0/900000")), (Some(0), Some(1)), "{lsn}");
}

/// I4: what was refused tells why, can be looked at again, and removed.
#[test]
fn i4_refused_files_tell_why_and_can_be_tried_again() {
    let home = Home::new(100..=100).backups(&[done("20260101T000001", 100, 100)]);
    let mut flipped = sound(1);
    flipped[500_000] ^= 1;
    home.write(&format!("incoming/{}", segment(1)), flipped);
    home.write(&format!("incoming/{}", segment(2)), b"this is no WAL");
    home.write("incoming/notes.txt", b"hello");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    for name in [segment(1), segment(2)] {
        let file = fs::File::options().write(true).open(home.path(&format!("incoming/{name}"))).unwrap();
        file.set_modified(old).unwrap();
    }
    assert!(home.barman(&["native-errors", "main"]).stdout.contains("No file of server main was refused"));
    home.barman(&["archive-wal", "main"]);
    let check = home.barman(&["check", "main"]);
    assert!(check.stdout.contains("archiver errors: FAILED (unknown: 3)"), "{check}");
    let run = home.barman(&["-f", "json", "native-errors", "main"]);
    let files = run.json().unwrap()["main"].as_array().unwrap().clone();
    assert_eq!(files.len(), 3, "{run}");
    let (first, text) = (&files[0], &files[2]);
    assert_eq!(
        (first["name"].as_str(), first["kind"].as_str()),
        (Some(segment(1).as_str()), Some("unknown"))
    );
    assert!(first["reason"].as_str().unwrap().contains("CRC"), "{run}");
    assert_eq!(text["reason"], "its name is not that of a WAL file");

    // Somebody mends it in place, and has it looked at again.
    let name = first["file"].as_str().unwrap();
    fs::write(home.path(&format!("errors/{name}")), sound(1)).unwrap();
    let retried = home.barman(&["native-errors", "--retry", name, "--", "main"]);
    assert_eq!(retried.code(), Some(0), "{retried}");
    assert!(retried.stdout.contains(&format!("\t{}\n", segment(1))), "{retried}");
    assert!(home.exists(&format!("wals/{}/{}", &segment(1)[..16], segment(1))));
    // One that is still not sound comes back.
    let again = home.barman(&["native-errors", "main", "--retry", files[1]["file"].as_str().unwrap()]);
    assert!(again.to_string().contains("is not a sound WAL file"), "{again}");
    assert_eq!(names(&home.path("errors")).len(), 2);
    let unknown = home.barman(&["native-errors", "main", "--discard", "nothing"]);
    assert_eq!(unknown.code(), Some(1), "{unknown}");
    let gone = home.barman(&["native-errors", "main", "--discard", "all"]);
    assert_eq!(gone.code(), Some(0), "{gone}");
    assert_eq!(names(&home.path("errors")), Vec::<String>::new());
    let check = home.barman(&["check", "main"]);
    assert!(check.stdout.contains("archiver errors: OK"), "{check}");
}

/// A server that archives, and transactions of all sorts.
fn busy(major: u32) -> (World, Cluster) {
    let mut world = World::in_memory().unwrap();
    let builder = Cluster::builder(major)
        .archive_to(world.incoming("main"), Archive::Atomic)
        .conf("track_commit_timestamp", "on")
        .conf("max_prepared_transactions", "5");
    let builder = if major >= 11 { builder.wal_segment_size_mb(1) } else { builder };
    let cluster = builder.start().unwrap();
    world
        .server("main")
        .conninfo(cluster.conninfo())
        .option("backup_method", "local-rsync")
        .option("archiver", "on")
        .option("compression", "lz4")
        .option("backup_options", "concurrent_backup")
        .option("immediate_checkpoint", "true");
    (world, cluster)
}

fn commits(world: &World, options: &[&str]) -> Vec<Value> {
    let words = [&["-f", "json", "native-commits"], options, &["main"]].concat();
    let run = world.barman(&words).unwrap().ok().unwrap();
    run.json().unwrap()["main"].as_array().unwrap().clone()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Every commit is found, with the time that the server itself knows, and replay stops where it says.
fn transactions_are_known(major: u32) {
    let (world, cluster) = busy(major);
    let mut session = cluster.connect().unwrap();
    let mut ask = |sql: &str| session.psql(sql).unwrap();
    ask("CREATE TABLE t (n int PRIMARY KEY, filler text)");
    ask("CREATE TABLE doomed AS SELECT generate_series(1, 10) AS n");
    let doomed = ask("SELECT pg_relation_filepath('doomed')");
    world.barman(&["backup", "--wait", "main"]).unwrap().ok().unwrap();
    // Ends of transactions on the edges of segments: thousands of them, of odd lengths.
    for n in 0..1500 {
        ask(&format!("INSERT INTO t VALUES ({n}, repeat('x', {}))", n % 700));
    }
    ask("SELECT pg_create_restore_point('before the drop')");
    let before = ask("SELECT clock_timestamp()");
    std::thread::sleep(std::time::Duration::from_millis(20));
    ask("DROP TABLE doomed");
    ask("BEGIN; INSERT INTO t VALUES (100000, ''); ROLLBACK");
    ask("BEGIN; INSERT INTO t VALUES (100001, ''); PREPARE TRANSACTION 'two'");
    ask("COMMIT PREPARED 'two'");
    ask(
        "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (100002, ''); RELEASE a; SAVEPOINT b; INSERT INTO t VALUES (100003, ''); COMMIT",
    );
    ask("TRUNCATE t");
    for n in 0..500 {
        ask(&format!("INSERT INTO t VALUES ({n}, repeat('y', {}))", n % 700));
    }
    ask("INSERT INTO t SELECT n, repeat('z', 200) FROM generate_series(1000, 16000) AS n");
    ask("INSERT INTO t VALUES (200000, '')");
    cluster.archive_now().unwrap();
    world.barman(&["archive-wal", "main"]).unwrap().ok().unwrap();

    let all = commits(&world, &["--count", "1000000"]);
    let committed: Vec<&Value> = all.iter().filter(|l| text(l, "kind") == "commit").collect();
    assert!(committed.len() >= 2004, "{}", committed.len());
    // The server's own knowledge of each.
    let xids: Vec<String> = committed.iter().map(|l| l["xid"].to_string()).collect();
    let list = xids.join(",");
    let known = ask(&format!(
        "SET timezone = 'UTC'; SELECT x, to_char(pg_xact_commit_timestamp(x::text::xid), 'YYYY-MM-DD HH24:MI:SS.US') \
         FROM unnest(ARRAY[{list}]) AS x WHERE x::bigint >= (SELECT min(y) FROM unnest(ARRAY[{list}]) AS y)"
    ));
    let known: BTreeMap<&str, &str> = known.lines().filter_map(|line| line.split_once('|')).collect();
    let mut compared = 0;
    for landmark in &committed {
        let Some(time) = known.get(landmark["xid"].to_string().as_str()).filter(|time| !time.is_empty())
        else {
            continue;
        };
        let shown = text(landmark, "time").trim_end_matches("+00:00");
        let shown = if shown.contains('.') { shown.to_owned() } else { format!("{shown}.000000") };
        assert_eq!(shown, **time, "{landmark}");
        compared += 1;
    }
    assert!(compared >= 2000, "{compared} of {}", committed.len());
    assert!(all.iter().any(|l| text(l, "kind") == "restore_point" && text(l, "name") == "before the drop"));
    assert!(all.iter().any(|l| text(l, "kind") == "rollback"));

    // Which one dropped the table, and how to get back to before it.
    let drops = commits(&world, &["--drops"]);
    let dropping = drops.iter().find(|l| l["dropped_files"].to_string().contains(&doomed)).unwrap();
    let around = commits(&world, &["--around", &before, "--count", "3"]);
    assert_eq!(around.len(), 6);
    assert_eq!(around[3]["xid"], dropping["xid"], "the first transaction after that moment");

    // I22: replay to the time stops before it; WAL is copied up to there and no further.
    let place = world.path().join("restored/data");
    let restore = |options: &[&str]| {
        world.barman(&[&["restore"], options, &["main", "latest", place.as_str()]].concat()).unwrap()
    };
    let plan =
        restore(&["--native-dry-run", "--target-time", &before, "--target-action", "promote"]).ok().unwrap();
    let whole = restore(&["--native-dry-run"]).ok().unwrap();
    let copied = |plan: &str| -> usize {
        let line = plan.lines().find(|line| line.contains("WAL files")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (some, more) = (copied(&plan.stdout), copied(&whole.stdout));
    assert!(some < more || major == 10, "{some} of {more}");
    restore(&["--target-time", &before, "--target-action", "promote"]).ok().unwrap();
    let server = Cluster::restored(major, &place).wait(Wait::Recovered).start().unwrap();
    assert_eq!(
        server.psql("SELECT count(*), max(n), (SELECT count(*) FROM doomed) FROM t").unwrap(),
        "1500|1499|10"
    );
    drop(server);
    fs::remove_dir_all(&place).unwrap();

    // No transaction ended later: it is said beforehand, with what can be had.
    let late = restore(&["--native-dry-run", "--target-time", "2099-01-01 00:00:00+00:00"]);
    let latest = text(all.iter().rfind(|l| text(l, "kind") != "restore_point").unwrap(), "time").to_owned();
    if major >= 13 {
        assert_eq!(late.code(), Some(1), "{late}");
        assert!(late.stderr.contains("No transaction in the archive ended after 2099"), "{late}");
        assert!(late.stderr.contains(&format!("--target-time '{latest}'")), "{late}");
    } else {
        assert_eq!(late.code(), Some(0), "{late}");
        assert!(late.to_string().contains("No transaction in the archive ended after 2099"), "{late}");
    }
    // I19: the index is made anew from the segments, and says the same.
    let index = world.home().join("main/.native/commit-index");
    assert!(fs::metadata(&index).unwrap().len() > 0);
    world.barman(&["native-commits", "--rebuild", "main"]).unwrap().ok().unwrap();
    assert_eq!(commits(&world, &["--drops"]), drops);
    fs::write(&index, "no such thing\n{\n").unwrap();
    assert_eq!(commits(&world, &["--around", &before, "--count", "3"]), around);
}

macro_rules! majors {
    ($($name:ident $major:literal)+) => {
        mod transactions {
            $(#[test]
            fn $name() {
                if barman_testkit::pg::require($major).is_some() {
                    super::transactions_are_known($major);
                }
            })+
        }
    };
}

majors!(pg10 10 pg11 11 pg12 12 pg13 13 pg14 14 pg15 15 pg16 16 pg17 17 pg18 18);

/// PostgreSQL's own tool finds the same, position by position.
fn as_waldump(major: u32) {
    let Some(_) = pg::require(major) else { return };
    let Some(tool) = pg::tool(major, "pg_waldump") else {
        barman_testkit::skip(&format!("pg_waldump of PostgreSQL {major} is not there"));
        return;
    };
    let (world, cluster) = busy(major);
    let mut session = cluster.connect().unwrap();
    let mut ask = |sql: &str| session.psql(sql).unwrap();
    ask("CREATE TABLE t (n int, filler text)");
    let first = ask("SELECT pg_walfile_name(pg_switch_wal())");
    world.barman(&["backup", "--wait", "main"]).unwrap().ok().unwrap();
    for n in 0..4000 {
        ask(&format!("INSERT INTO t VALUES ({n}, repeat('x', {}))", (n * 37) % 900));
        if n % 400 == 7 {
            ask(&format!(
                "CREATE TABLE d{n} (a text); CREATE INDEX ON d{n} (a); SELECT pg_create_restore_point('p{n}')"
            ));
            ask(&format!("DROP TABLE d{n}"));
            ask("BEGIN; INSERT INTO t VALUES (0, ''); ROLLBACK");
        }
    }
    let last = cluster.archive_now().unwrap();
    world.barman(&["archive-wal", "main"]).unwrap().ok().unwrap();
    let pg_wal = world.path().join("plain");
    fs::create_dir(&pg_wal).unwrap();
    world.account().own(&pg_wal).unwrap();
    let wals = world.home().join("main/wals/0000000100000000");
    let segments: Vec<String> =
        names(&wals).into_iter().filter(|n| n.len() == 24 && *n >= first && *n <= last).collect();
    for name in &segments {
        world.barman(&["get-wal", "-o", pg_wal.as_str(), "main", name]).unwrap().ok().unwrap();
    }
    let mut dump = Command::new(tool);
    dump.env("TZ", "UTC").args(["-p", pg_wal.as_str(), "-r", "Transaction", "-r", "XLOG"]);
    let dump = dump.args([segments.first().unwrap(), segments.last().unwrap()]).output().unwrap();
    let listed = String::from_utf8(dump.stdout).unwrap();
    let mut theirs = Vec::new();
    for line in listed.lines() {
        let field = |mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim_start()).unwrap_or_default();
        let until = |text: &str, end: &str| text.split(end).next().unwrap_or_default().to_owned();
        let (xid, lsn) = (until(field(", tx:"), ","), until(field(", lsn: "), ","));
        let (desc, lsn) = (field(", desc: "), lsn.replacen("/0", "/", 1));
        let lsn = format!(
            "{}/{}",
            lsn.split('/').next().unwrap(),
            lsn.split('/').nth(1).unwrap().trim_start_matches('0')
        );
        if let Some(rest) = desc.strip_prefix("COMMIT ").or_else(|| desc.strip_prefix("ABORT ")) {
            let time = until(rest, " UTC");
            let files = rest.split_once("rels: ").map(|(_, files)| until(files, ";")).unwrap_or_default();
            theirs.push((lsn, xid, time, files));
        } else if let Some(name) = desc.strip_prefix("RESTORE_POINT ") {
            theirs.push((lsn, "0".to_owned(), name.to_owned(), String::new()));
        }
    }
    let start = u64::from_str_radix(&first[16..24], 16).unwrap() << 20;
    let ours: Vec<_> = commits(&world, &["--count", "1000000"])
        .iter()
        .filter(|l| u64::from_str_radix(text(l, "lsn").split_once('/').unwrap().1, 16).unwrap() >= start)
        .map(|l| {
            let files: Vec<&str> =
                l["dropped_files"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let time = text(l, "time").trim_end_matches("+00:00");
            let time = if time.contains('.') { time.to_owned() } else { format!("{time}.000000") };
            match text(l, "kind") {
                "restore_point" => {
                    (text(l, "lsn").to_owned(), "0".to_owned(), text(l, "name").to_owned(), String::new())
                }
                _ => (text(l, "lsn").to_owned(), l["xid"].to_string(), time, files.join(" ")),
            }
        })
        .collect();
    assert!(theirs.len() > 4030, "{}", theirs.len());
    for (own, other) in ours.iter().zip(&theirs) {
        assert_eq!(own, other);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn transactions_are_those_of_pg_waldump_15() {
    as_waldump(15);
}

#[test]
fn transactions_are_those_of_pg_waldump_17() {
    as_waldump(17);
}
