//! `backup_method = postgres`: base backups over the replication protocol, without `pg_basebackup`.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Cluster, StopMode, tool, verify_cluster};
use barman_testkit::proxy::Proxy;
use barman_testkit::world::Run;
use camino::Utf8Path;

use crate::scene::{Scene, names};

/// A server with a tablespace whose base backups come over the replication protocol.
pub(crate) fn scene(major: u32) -> Scene {
    let mut scene = Scene::new(major);
    let conninfo = scene.cluster.conninfo();
    scene
        .world
        .server("main")
        .option("backup_method", "postgres")
        .option("streaming_conninfo", conninfo)
        .option("streaming_archiver", "off")
        .option("reuse_backup", "off");
    scene.fill(2000);
    scene
}

/// Writes while a backup is taken.
pub(crate) fn busy<T>(scene: &Scene, work: impl FnOnce() -> T) -> T {
    /// Also when the work fails.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                scene.cluster.psql("UPDATE t SET n = n; CREATE TABLE gone (n int); DROP TABLE gone").unwrap();
            }
        });
        work()
    })
}

/// Starts what was restored, compares it with the source and looks at every page.
fn prove(scene: &Scene, destination: &Utf8Path) {
    let mut restored = Cluster::open_restored(scene.cluster.major(), destination).unwrap();
    let sums = "SELECT (SELECT sum(n) FROM t) || '|' || (SELECT sum(n) FROM u)";
    assert_eq!(restored.psql(sums).unwrap(), scene.cluster.psql(sums).unwrap());
    let verified = verify_cluster(&mut restored).unwrap();
    // The tables are looked at by verify_heapam, which came with 14.
    let tables = scene.cluster.major() < 14 || verified.tables > 0;
    assert!(verified.pages > 0 && tables, "{verified:?}");
}

pub(crate) fn restore(scene: &Scene, who: &dyn Fn(&[&str]) -> Run, id: &str) {
    let destination = scene.world.path().join(format!("restored-{}", names(scene.world.path()).len()));
    let place = scene.relocation(&destination);
    who(&["restore", "--tablespace", &place, "main", id, destination.as_str()]);
    prove(scene, &destination);
}

fn walk(major: u32) {
    if pg::require(major).is_none() {
        return;
    }
    let scene = scene(major);
    let run = busy(&scene, || scene.ours(&["backup", "--wait", "main"]));
    for said in [
        "Starting backup using postgres method for server main in ",
        "Finalising the backup.",
        "Copy done (time:",
    ] {
        assert!(run.stdout.contains(said), "{said}: {run}");
    }
    let id = &scene.ids()[0];
    let info = &scene.infos()[id];
    let facts = [("mode", "postgres"), ("status", "DONE"), ("compression", "None"), ("error", "None")];
    for (key, value) in facts {
        assert_eq!(info.get(key), value, "{key}: {info:?}");
    }
    assert!(info.get("backup_label").contains("START WAL LOCATION: "), "{info:?}");
    let data = scene.base(id).join("data");
    let manifest = data.join("backup_manifest");
    assert_eq!(manifest.exists(), major >= 13);
    let links = names(&data.join("pg_tblspc"));
    assert_eq!(
        data.join("pg_tblspc").join(&links[0]).read_link_utf8().unwrap(),
        scene.base(id).join(&links[0])
    );
    // PostgreSQL's own word on it.
    if let Some(verify) = tool(major, "pg_verifybackup") {
        let mut command = scene.world.command(verify);
        Run::of(command.args(["-n", data.as_str()])).unwrap().ok().unwrap();
    }
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    restore(&scene, &|arguments| scene.ours(arguments), id);
    // A second one is a full one, too; both can be listed and deleted.
    scene.ours(&["backup", "--wait", "--name", "second", "main"]);
    let list = scene.ours(&["list-backups", "main"]);
    assert!(list.stdout.contains("'second' - F - "), "{list}");
    scene.ours(&["delete", "main", id]);
    assert_eq!(scene.ids().len(), 1);
}

macro_rules! majors {
    ($what:ident: $($name:ident $major:literal)+) => {
        $(#[test]
        fn $name() {
            $what($major);
        })+
    };
}

majors! { walk: pg10 10 pg11 11 pg12 12 pg13 13 pg14 14 pg15 15 pg16 16 pg17 17 pg18 18 }

/// What we receive, Barman shows and restores, and the other way round; the facts have the same keys.
#[test]
fn one_home_with_barman() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let mut scene = scene(15);
    let bin = tool(15, "pg_basebackup").unwrap();
    scene.world.server("main").option("path_prefix", bin.parent().unwrap().as_str());
    let ours = scene.ours(&["backup", "--wait", "main"]);
    let theirs = scene.theirs(&["backup", "--wait", "main"]);
    let plain = |run: &Run| {
        let lines = run.stdout.lines().map(|line| line.split(['/', ':', '(']).next().unwrap().to_owned());
        // What is archived and what is purged differs from one backup to the next.
        let kept = |line: &String| !line.starts_with(['\t', 'W', 'P', 'T']);
        lines.map(|line| line.split(" for 2").next().unwrap().to_owned()).filter(kept).collect::<Vec<_>>()
    };
    assert_eq!(plain(&ours), plain(&theirs), "{ours}\n{theirs}");
    let infos = scene.infos();
    let ids = scene.ids();
    assert_eq!(infos[&ids[0]].keys(), infos[&ids[1]].keys());
    let (own, other) = (scene.base(&ids[0]), scene.base(&ids[1]));
    let files = |dir: &Utf8Path| {
        let sort = |name: &String| !name.starts_with('.');
        names(dir).into_iter().filter(sort).collect::<Vec<_>>()
    };
    assert_eq!(files(&own), files(&other));
    assert_eq!(files(&own.join("data")), files(&other.join("data")));
    for id in &ids {
        let both = [scene.ours(&["show-backup", "main", id]), scene.theirs(&["show-backup", "main", id])];
        assert_eq!(both[0].stdout, both[1].stdout);
    }
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    restore(&scene, &|arguments| scene.theirs(arguments), &ids[0]);
    restore(&scene, &|arguments| scene.ours(arguments), &ids[1]);
}

/// A connection that breaks: the backup is FAILED with the reason, or, where it may be tried again, it is.
#[test]
fn a_connection_that_breaks_is_tried_again() {
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = scene(15);
    let proxy = Proxy::before(scene.cluster.port()).unwrap();
    scene.world.server("main").option("streaming_conninfo", proxy.conninfo());
    proxy.cut_after(3_000_000);
    let run = scene.world.barman(&["backup", "--wait", "main"]).unwrap();
    assert_eq!(run.code(), Some(1), "{run}");
    let failed = scene.ids().remove(0);
    let info = &scene.infos()[&failed];
    assert_eq!(info.get("status"), "FAILED");
    assert!(info.get("error").starts_with("failure copying files"), "{}", info.get("error"));
    let server = scene.world.server("main").option("basebackup_retry_times", "1");
    server.option("basebackup_retry_sleep", "1");
    proxy.cut_after(3_000_000);
    let run = scene.ours(&["backup", "--wait", "main"]);
    assert!(run.stdout.matches("Starting backup copy via pg_basebackup").count() == 2, "{run}");
    assert!(run.stderr.contains("is tried again in 1 seconds (0 further attempts)"), "{run}");
    let id = scene.ids().pop().unwrap();
    assert_eq!(scene.infos()[&id].get("status"), "DONE");
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    restore(&scene, &|arguments| scene.ours(arguments), &id);
}

/// I12: the page is named, by us also where the server does not look, and the backup is kept as far as it goes.
fn names_a_corrupt_page(major: u32) {
    if pg::require(major).is_none() {
        return;
    }
    let mut scene = scene(major);
    let path = scene.cluster.psql("SELECT pg_relation_filepath('t')").unwrap();
    scene.cluster.psql("CHECKPOINT").unwrap();
    scene.cluster.stop(StopMode::Fast).unwrap();
    let file = scene.cluster.pgdata().join(&path);
    let mut bytes = fs::read(&file).unwrap();
    bytes[3 * 8192 + 5000] ^= 1;
    fs::write(&file, bytes).unwrap();
    scene.cluster.start().unwrap();
    let run = scene.ours(&["backup", "--wait", "main"]);
    let said = format!("Corrupt page: block 3 of {path} has checksum");
    assert!(run.stderr.contains(&said), "{run}");
    // The server's own verdict came with 11.
    assert_eq!(run.stderr.contains("checksum verification failure during base backup"), major >= 11, "{run}");
    let (_, info) = scene.infos().pop_first().unwrap();
    assert_eq!(info.get("status"), "DONE");
}

#[test]
fn i12_a_corrupt_page_is_named_on_10() {
    names_a_corrupt_page(10);
}

#[test]
fn i12_a_corrupt_page_is_named_on_17() {
    names_a_corrupt_page(17);
}

/// I8: killed at any moment it is no backup, and the next one is.
#[test]
fn i8_a_killed_base_backup_is_failed_by_the_next() {
    if pg::require(15).is_none() {
        return;
    }
    let scene = scene(15);
    for delay in [30, 80, 150, 250, 400] {
        let mut child = scene.world.barman_command(&["backup", "main"]).unwrap();
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    scene.ours(&["backup", "--wait", "main"]);
    let infos = scene.infos();
    let status = |status: &str| infos.values().filter(|info| info.get("status") == status).count();
    // One that was killed at its very end may be complete.
    assert_eq!(status("DONE") + status("FAILED") + status("WAITING_FOR_WALS"), infos.len(), "{infos:?}");
    assert!(status("DONE") >= 1);
    // The server waits for nobody.
    let busy = "SELECT count(*) FROM pg_stat_replication WHERE state = 'backup'";
    assert_eq!(scene.cluster.psql(busy).unwrap(), "0");
    let id = infos.into_iter().filter(|(_, info)| info.get("status") == "DONE").map(|(id, _)| id).next_back();
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    restore(&scene, &|arguments| scene.ours(arguments), &id.unwrap());
}

/// A standby whose backups are taken, and the primary that archives.
fn standby(method: &str) -> (Scene, Cluster) {
    let mut scene = scene(15);
    let standby = Cluster::standby_of(&scene.cluster).unwrap();
    let caught_up = "SELECT pg_current_wal_lsn() <= replay_lsn FROM pg_stat_replication";
    wait("the standby", || scene.cluster.psql(caught_up).unwrap() == "t");
    let (conninfo, primary) = (standby.conninfo(), scene.cluster.conninfo());
    scene
        .world
        .server("main")
        .conninfo(&conninfo)
        .option("streaming_conninfo", conninfo)
        .option("primary_conninfo", primary)
        .option("backup_method", method);
    (scene, standby)
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "still no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Both methods on a standby: the primary closes the last segment, and the result is a primary's.
#[test]
fn a_standby_is_backed_up() {
    if pg::require(15).is_none() {
        return;
    }
    for method in ["postgres", "local-rsync"] {
        let (scene, _standby) = standby(method);
        let run = busy(&scene, || scene.ours(&["backup", "--wait", "main"]));
        let id = &scene.ids()[0];
        let info = &scene.infos()[id];
        assert_eq!(info.get("status"), "DONE", "{method}: {run}");
        assert!(info.get("backup_label").contains("BACKUP FROM: standby"), "{info:?}");
        scene.cluster.archive_now().unwrap();
        scene.ours(&["archive-wal", "main"]);
        restore(&scene, &|arguments| scene.ours(arguments), id);
    }
}

/// I9: a standby that becomes a primary in the middle of its backup has made no backup.
#[test]
fn i9_a_promotion_in_the_middle_fails_the_backup() {
    if pg::require(15).is_none() {
        return;
    }
    for method in ["postgres", "local-rsync"] {
        let (scene, mut standby) = standby(method);
        let mut command = scene.world.barman_command(&["backup", "--bwlimit", "6000", "main"]).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait("a backup", || scene.infos().values().any(|info| info.get("status") == "STARTED"));
        standby.promote().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{method}: {said}");
        assert!(said.contains("promoted"), "{method}: {said}");
        let (_, info) = scene.infos().pop_first().unwrap();
        assert_eq!(info.get("status"), "FAILED");
        assert!(info.get("error").contains("promoted"), "{}", info.get("error"));
    }
}

/// Backups that Barman packed (`backup_compression`) are shown and restored; damage is named and nothing of it can start.
#[test]
fn packed_backups_of_barmans_are_restored() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let mut scene = scene(15);
    let bin = tool(15, "pg_basebackup").unwrap();
    scene.world.server("main").option("path_prefix", bin.parent().unwrap().as_str());
    for algorithm in ["gzip", "zstd", "lz4", "none"] {
        scene.world.server("main").option("backup_compression", algorithm);
        scene.theirs(&["backup", "--wait", "main"]);
    }
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let ids = scene.ids();
    for id in &ids {
        let both = [scene.ours(&["show-backup", "main", id]), scene.theirs(&["show-backup", "main", id])];
        assert_eq!(both[0].stdout, both[1].stdout);
        restore(&scene, &|arguments| scene.ours(arguments), id);
    }
    // One bit of the data, and an archive that was cut off.
    let plain = scene.base(&ids[3]).join("data/base.tar");
    let mut bytes = fs::read(&plain).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&plain, bytes).unwrap();
    let packed = scene.base(&ids[1]).join("data/base.tar.zst");
    let length = fs::metadata(&packed).unwrap().len();
    fs::File::options().write(true).open(&packed).unwrap().set_len(length / 2).unwrap();
    for (id, path) in [(&ids[3], &plain), (&ids[1], &packed)] {
        let destination = scene.world.path().join(format!("damaged-{id}"));
        let place = scene.relocation(&destination);
        let run = scene
            .world
            .barman(&["restore", "--tablespace", &place, "main", id, destination.as_str()])
            .unwrap();
        assert_eq!(run.code(), Some(1), "{run}");
        assert!(run.stderr.contains(path.parent().unwrap().as_str()), "{run}");
        assert!(!destination.join("global/pg_control").exists());
    }
}

/// Our own packed backups: on every major, one codec each in turn; facts, files and both restores as with Barman on 15.
fn packed(major: u32) {
    if pg::require(major).is_none() {
        return;
    }
    let mut scene = scene(major);
    let algorithms = ["gzip", "zstd", "lz4", "none"];
    let endings = ["tar.gz", "tar.zst", "tar.lz4", "tar"];
    let at = major as usize % 4;
    // All of them where there is somebody to compare with.
    let turns = if major == 15 { 0..4 } else { at..at + 1 };
    for turn in turns {
        scene.world.server("main").option("backup_compression", algorithms[turn]);
        busy(&scene, || scene.ours(&["backup", "--wait", "main"]));
        let id = scene.ids().pop().unwrap();
        let info = &scene.infos()[&id];
        assert_eq!((info.get("status"), info.get("compression")), ("DONE", algorithms[turn]));
        let oid = info.get("tablespaces").split(", ").nth(1).unwrap().to_owned();
        let mut expected = vec![format!("base.{}", endings[turn]), format!("{oid}.{}", endings[turn])];
        expected.extend((major >= 13).then(|| "backup_manifest".to_owned()));
        expected.sort();
        assert_eq!(names(&scene.base(&id).join("data")), expected);
        // A program that everybody has can read it.
        let archive = scene.base(&id).join("data").join(format!("base.{}", endings[turn]));
        if matches!(algorithms[turn], "gzip" | "none") {
            let list = std::process::Command::new("tar").args(["-tf", archive.as_str()]).output().unwrap();
            assert!(String::from_utf8_lossy(&list.stdout).contains("global/pg_control"), "{list:?}");
        }
        scene.cluster.archive_now().unwrap();
        scene.ours(&["archive-wal", "main"]);
        restore(&scene, &|arguments| scene.ours(arguments), &id);
        if major == 15 && Barman::require().is_some() {
            restore(&scene, &|arguments| scene.theirs(arguments), &id);
        }
    }
}

// The other majors: see the matrix.
majors! { packed: packed10 10 packed15 15 packed18 18 }

/// What the server packs is stored as it comes, or unpacked where plain files are wanted; checked either way.
fn packed_by_the_server(major: u32, algorithms: &[&str]) {
    if pg::require(major).is_none() {
        return;
    }
    let mut scene = scene(major);
    for (algorithm, format) in algorithms.iter().flat_map(|a| [(a, "tar"), (a, "plain")]) {
        let server = scene.world.server("main").option("backup_compression", *algorithm);
        let server =
            server.option("backup_compression_location", "server").option("backup_compression_level", "2");
        let server = server.option("backup_compression_format", format);
        if *algorithm == "zstd" {
            server.option("backup_compression_workers", "1");
        }
        let run = busy(&scene, || scene.ours(&["backup", "--wait", "main"]));
        let id = scene.ids().pop().unwrap();
        let info = &scene.infos()[&id];
        let recorded = if format == "tar" { *algorithm } else { "None" };
        assert_eq!((info.get("status"), info.get("compression")), ("DONE", recorded), "{run}");
        let data = scene.base(&id).join("data");
        let archives: Vec<String> = names(&data).into_iter().filter(|name| name.contains(".tar")).collect();
        assert_eq!(archives.len(), if format == "tar" { 2 } else { 0 }, "{archives:?}");
        assert_eq!(data.join("PG_VERSION").exists(), format == "plain");
        if format == "tar" {
            let path = data.join(&archives[1]);
            let program = if *algorithm == "lz4" { "lz4" } else { *algorithm };
            let mut command = scene.world.command("/bin/sh");
            let line = format!("{program} -dc {path} | tar -t | grep -q global/pg_control");
            Run::of(command.args(["-c", &line])).unwrap().ok().unwrap();
        }
        if let Some(verify) = tool(major, "pg_verifybackup").filter(|_| format == "plain") {
            let mut command = scene.world.command(verify);
            Run::of(command.args(["-n", data.as_str()])).unwrap().ok().unwrap();
        }
        scene.cluster.archive_now().unwrap();
        scene.ours(&["archive-wal", "main"]);
        restore(&scene, &|arguments| scene.ours(arguments), &id);
        if major == 15 && format == "tar" && Barman::require().is_some() {
            restore(&scene, &|arguments| scene.theirs(arguments), &id);
        }
    }
}

#[test]
fn packed_by_the_server_15() {
    packed_by_the_server(15, &["gzip"]);
}

#[test]
fn packed_by_the_server_17() {
    packed_by_the_server(17, &["gzip"]);
}

/// Of the majors here only Debian's is built with all of them.
#[test]
fn packed_by_the_server_with_lz4_and_zstd() {
    packed_by_the_server(15, &["lz4", "zstd"]);
}

/// What does not go together is refused in Barman's words.
#[test]
fn options_of_packing_that_do_not_go_together_are_refused() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let mut scene = scene(15);
    let bin = tool(15, "pg_basebackup").unwrap();
    scene.world.server("main").option("path_prefix", bin.parent().unwrap().as_str());
    for (algorithm, key, value) in [
        ("gzip", "format", "plain"),
        ("gzip", "level", "0"),
        ("gzip", "level", "10"),
        ("lz4", "level", "13"),
        ("zstd", "level", "23"),
        ("none", "level", "1"),
        ("none", "workers", "1"),
        ("lz4", "workers", "1"),
        ("gzip", "workers", "1"),
        ("zstd", "workers", "-1"),
    ] {
        // Later options are left as Barman takes them for unset.
        for (other, usual) in [("format", "tar"), ("level", "x"), ("workers", "x")] {
            scene.world.server("main").option(&format!("backup_compression_{other}"), usual);
        }
        let server = scene.world.server("main").option("backup_compression", algorithm);
        server.option(&format!("backup_compression_{key}"), value);
        let said = |run: Run| {
            assert_eq!(run.code(), Some(1), "{run}");
            let lines = run.stderr.lines().filter(|line| !line.contains("Ignoring invalid"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let ours = said(scene.world.barman(&["backup", "main"]).unwrap());
        let theirs = said(scene.world.oracle(&["backup", "main"]).unwrap());
        assert_eq!(ours, theirs, "{algorithm} {key} {value}");
    }
    assert!(scene.ids().is_empty());
}

#[test]
fn a_server_that_cannot_pack_is_told() {
    if pg::require(14).is_none() {
        return;
    }
    let mut scene = scene(14);
    let server = scene.world.server("main").option("backup_compression", "gzip");
    server.option("backup_compression_location", "server");
    let run = scene.world.barman(&["backup", "main"]).unwrap();
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.stderr.contains("needs PostgreSQL 15 or later, and this is 14"), "{run}");
    // A connection that breaks in the middle of a packed archive.
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = self::scene(15);
    let proxy = Proxy::before(scene.cluster.port()).unwrap();
    let server = scene.world.server("main").option("streaming_conninfo", proxy.conninfo());
    server.option("backup_compression", "gzip").option("backup_compression_location", "server");
    proxy.cut_after(1_000_000);
    let run = scene.world.barman(&["backup", "--wait", "main"]).unwrap();
    assert!(run.code() == Some(1) && run.stderr.contains("connection"), "{run}");
    assert_eq!(scene.infos().pop_last().unwrap().1.get("status"), "FAILED");
}

/// I24: before 13 there is no manifest to compare with; what was stored is known all the same.
#[test]
fn i24_damage_of_a_packed_backup_without_a_manifest_is_found() {
    if pg::require(12).is_none() {
        return;
    }
    let mut scene = scene(12);
    scene.world.server("main").option("backup_compression", "none");
    scene.ours(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    let path = scene.base(&id).join("data/base.tar");
    let mut bytes = fs::read(&path).unwrap();
    // In the body of a table, where no header of the archive is.
    let at = bytes.windows(20).rposition(|piece| piece == [b'x'; 20]).unwrap();
    bytes[at] = b'y';
    fs::write(&path, bytes).unwrap();
    let destination = scene.world.path().join("damaged");
    let place = scene.relocation(&destination);
    let words = ["restore", "--tablespace", &place, "main", &id, destination.as_str()];
    let run = scene.world.barman(&words).unwrap();
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.stderr.contains(path.as_str()), "{run}");
    assert!(!destination.join("global/pg_control").exists());
}

/// An archive among the files of the server is one of its files.
#[test]
fn an_archive_in_the_data_directory_is_no_packed_backup() {
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = scene(15);
    fs::write(scene.cluster.pgdata().join("base.tar.gz"), "old").unwrap();
    scene.cluster.account().own(scene.cluster.pgdata().join("base.tar.gz")).unwrap();
    for method in ["local-rsync", "postgres"] {
        scene.world.server("main").option("backup_method", method);
        scene.ours(&["backup", "--wait", "main"]);
        scene.cluster.archive_now().unwrap();
        scene.ours(&["archive-wal", "main"]);
        restore(&scene, &|arguments| scene.ours(arguments), &scene.ids().pop().unwrap());
    }
}

/// The server is killed and comes back: tried again, over new connections. A limit of the role ends no session.
#[test]
fn a_restart_of_the_server_is_waited_out() {
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = scene(15);
    scene.cluster.psql("ALTER ROLE postgres SET idle_session_timeout = '500ms'").unwrap();
    let server = scene.world.server("main").option("basebackup_retry_times", "5");
    server.option("basebackup_retry_sleep", "1");
    let mut command =
        scene.world.barman_command(&["backup", "--wait", "--bwlimit", "12000", "main"]).unwrap();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait("a backup", || scene.infos().values().any(|info| info.get("status") == "STARTED"));
    std::thread::sleep(Duration::from_millis(300));
    scene.cluster.kill9().unwrap();
    scene.cluster.start().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("is tried again in 1 seconds"), "{said}");
    let (id, info) = scene.infos().pop_last().unwrap();
    assert_eq!(info.get("status"), "DONE");
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    restore(&scene, &|arguments| scene.ours(arguments), &id);
}
