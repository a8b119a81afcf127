//! Block-level incremental backups (PostgreSQL 17 and later), and what is made of their chains.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Cluster, StopMode, tool, verify_cluster};
use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

use crate::scene::{Scene, names};

/// A server that can say which blocks changed.
fn scene(major: u32) -> Scene {
    prepared(Scene::new(major))
}

fn prepared(mut scene: Scene) -> Scene {
    let conninfo = scene.cluster.conninfo();
    scene
        .world
        .server("main")
        .option("backup_method", "postgres")
        .option("streaming_conninfo", conninfo)
        .option("reuse_backup", "off");
    summarize(&scene, "on");
    scene.fill(30_000);
    scene.cluster.psql("CREATE TABLE shrinks AS SELECT n FROM generate_series(1, 30000) AS n").unwrap();
    scene.cluster.psql("CREATE TABLE emptied AS SELECT n FROM generate_series(1, 5000) AS n").unwrap();
    scene.cluster.psql("CREATE TABLE dropped AS SELECT n FROM generate_series(1, 5000) AS n").unwrap();
    scene
}

fn summarize(scene: &Scene, on: &str) {
    scene.cluster.psql(&format!("ALTER SYSTEM SET summarize_wal = {on}")).unwrap();
    scene.cluster.psql("SELECT pg_reload_conf()").unwrap();
    scene.cluster.poll("SHOW summarize_wal", on).unwrap();
}

fn pack(scene: &mut Scene, how: &str) {
    scene.world.server("main").option("backup_compression", how);
}

/// What a server does between two backups.
fn change(scene: &Scene, step: u32) {
    // One statement at a time: some cannot be in a transaction.
    let sql = |text: &str| text.split("; ").for_each(|one| drop(scene.cluster.psql(one).unwrap()));
    sql(&format!("UPDATE t SET filler = 'step {step}' WHERE n % 100 = {step}"));
    sql(&format!("UPDATE u SET filler = 'step {step}' WHERE n BETWEEN {step}00 AND {step}40"));
    sql(&format!("INSERT INTO t SELECT n, 'grown {step}' FROM generate_series(1, 3000) AS n"));
    sql(&format!("CREATE TABLE new{step} AS SELECT n FROM generate_series(1, 4000) AS n"));
    match step {
        1 => sql("DELETE FROM shrinks WHERE n > 9000; VACUUM shrinks"),
        2 => sql("TRUNCATE emptied; DROP TABLE dropped"),
        3 => sql(
            "INSERT INTO shrinks SELECT n FROM generate_series(1, 20000) AS n; INSERT INTO emptied VALUES (1)",
        ),
        _ => sql("DELETE FROM new1 WHERE n > 100; VACUUM new1; CREATE DATABASE more"),
    };
}

fn backup(scene: &Scene, options: &[&str]) -> String {
    let known = scene.ids();
    let words = [&["backup", "--wait"], options, &["main"]].concat();
    let run = scene.ours(&words);
    let id = scene.ids().into_iter().find(|id| !known.contains(id)).unwrap();
    assert_eq!(scene.infos()[&id].get("status"), "DONE", "{run}");
    id
}

/// Table by table.
fn sums(cluster: &Cluster) -> String {
    let tables = cluster
        .psql("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
        .unwrap();
    let sum = |table: &str| {
        let sql = format!("SELECT count(*) || ':' || coalesce(sum(hashtext({table}::text)), 0) FROM {table}");
        format!("{table} {}\n", cluster.psql(&sql).unwrap())
    };
    tables.split(' ').map(sum).collect()
}

fn prove(scene: &Scene, destination: &Utf8Path, expected: &str) {
    let mut restored = Cluster::open_restored(scene.cluster.major(), destination).unwrap();
    assert_eq!(sums(&restored), expected);
    let verified = verify_cluster(&mut restored).unwrap();
    assert!(verified.pages > 1000 && verified.tables > 0, "{verified:?}");
}

fn place(scene: &Scene) -> Utf8PathBuf {
    scene.world.path().join(format!("restored-{}", names(scene.world.path()).len()))
}

fn restore(scene: &Scene, who: &dyn Fn(&[&str]) -> Run, id: &str, options: &[&str]) -> Utf8PathBuf {
    let destination = place(scene);
    let moved = scene.relocation(&destination);
    let words = [&["restore"], options, &["--tablespace", &moved, "main", id, destination.as_str()]].concat();
    let run = who(&words);
    assert!(run.stdout.contains(&format!("combining backup via pg_combinebackup for backup {id}")), "{run}");
    destination
}

/// Every file below a data directory, tablespaces too, but for what a restore changes on purpose.
fn content(data: &Utf8Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(at: &Utf8Path, below: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for name in names(at) {
            let (path, below) = (at.join(&name), format!("{below}/{name}"));
            let left = ["/pg_wal", "/backup_manifest", "/tablespace_map"].contains(&below.as_str());
            let own = ["/postgresql.", "/backup_manifest.", "/.barman-recover.info"];
            if left || own.iter().any(|name| below.starts_with(name)) {
                continue;
            }
            match path.is_dir() {
                true => walk(&path, &below, found),
                false => drop(found.insert(below, fs::read(&path).unwrap())),
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(data, "", &mut found);
    found
}

/// Whether a file is the one that pg_combinebackup made. In a visibility map bits may be cleared that are set there, and no
/// other way round: see `a_stale_visibility_map_does_not_come_back`.
fn equal(name: &str, ours: &[u8], theirs: &[u8]) -> bool {
    if !name.ends_with("_vm") || ours.len() != theirs.len() {
        return ours == theirs;
    }
    let pages = ours.chunks(8192).zip(theirs.chunks(8192));
    pages.flat_map(|(own, other)| own[24..].iter().zip(&other[24..])).all(|(own, other)| own & !other == 0)
}

/// Sizes and checksums of a manifest, and its WAL. Those of visibility maps may differ.
fn listed(path: &Utf8Path) -> (BTreeMap<String, String>, String) {
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let row = |row: &serde_json::Value| {
        let name = row["Path"].as_str().unwrap().to_owned();
        let sum = if name.ends_with("_vm") { String::new() } else { row["Checksum"].to_string() };
        (name, format!("{} {sum}", row["Size"]))
    };
    (json["Files"].as_array().unwrap().iter().map(row).collect(), json["WAL-Ranges"].to_string())
}

/// The tree of a backup as PostgreSQL's tool reads it: archives are unpacked beside.
fn unpacked(scene: &Scene, id: &str) -> Utf8PathBuf {
    let data = scene.base(id).join("data");
    let Some(archive) = names(&data).into_iter().find(|name| name.starts_with("base.tar")) else {
        return data;
    };
    let out = scene.world.path().join(format!("unpacked-{id}"));
    let ending = archive.strip_prefix("base.").unwrap();
    let shell = |line: String| {
        let mut command = scene.world.command("/bin/sh");
        Run::of(command.args(["-c", &line])).unwrap().ok().unwrap();
    };
    let program = match ending {
        "tar.zst" => "zstd",
        "tar.gz" => "gzip",
        "tar.lz4" => "lz4",
        _ => "cat",
    };
    let unpack = if program == "cat" { "cat".to_owned() } else { format!("{program} -d -c") };
    shell(format!("mkdir -p {out}/data && {unpack} {data}/base.{ending} | tar -x -C {out}/data"));
    shell(format!("cp {data}/backup_manifest {out}/data/"));
    for name in names(&data) {
        let Some(oid) = name.strip_suffix(&format!(".{ending}")).filter(|stem| *stem != "base") else {
            continue;
        };
        shell(format!("mkdir -p {out}/{oid} && {unpack} {data}/{name} | tar -x -C {out}/{oid}"));
        shell(format!("ln -sfn {out}/{oid} {out}/data/pg_tblspc/{oid}"));
    }
    out.join("data")
}

/// What pg_combinebackup makes of a chain.
fn combined(scene: &Scene, ids: &[String]) -> Utf8PathBuf {
    let out = scene.world.path().join(format!("combined-{}", ids.last().unwrap()));
    let trees: Vec<Utf8PathBuf> = ids.iter().map(|id| unpacked(scene, id)).collect();
    let leaf = trees.last().unwrap();
    let mut command = scene.world.command(tool(scene.cluster.major(), "pg_combinebackup").unwrap());
    command.args(["-o", out.join("data").as_str()]);
    for oid in names(&leaf.join("pg_tblspc")) {
        let from = leaf.join("pg_tblspc").join(&oid).read_link_utf8().unwrap();
        command.arg(format!("--tablespace-mapping={from}={out}/{oid}"));
    }
    Run::of(command.args(&trees)).unwrap().ok().unwrap();
    out.join("data")
}

/// I33: every length of a chain, each way of packing and mixed, gives what PostgreSQL's own tool gives, and starts.
fn chain(major: u32, packing: &[&str]) {
    if pg::require(major).is_none() {
        return;
    }
    let mut scene = scene(major);
    let mut ids: Vec<String> = Vec::new();
    for (step, how) in (0..).zip(packing) {
        pack(&mut scene, how);
        if step > 0 {
            change(&scene, step);
        }
        let id = match ids.last() {
            Some(parent) => backup(&scene, &["--incremental", parent]),
            None => backup(&scene, &[]),
        };
        let info = &scene.infos()[&id];
        assert_eq!(info.get("parent_backup_id"), ids.last().map_or("None", String::as_str));
        ids.push(id);
        let expected = sums(&scene.cluster);
        scene.cluster.archive_now().unwrap();
        scene.ours(&["archive-wal", "main"]);
        if step == 0 {
            continue;
        }
        let ours = restore(&scene, &|words| scene.ours(words), ids.last().unwrap(), &[]);
        if tool(major, "pg_combinebackup").is_some() {
            let theirs = content(&combined(&scene, &ids));
            let found = content(&ours);
            let names = |of: &BTreeMap<String, Vec<u8>>| of.keys().cloned().collect::<Vec<_>>();
            let (own, other) = (names(&found), names(&theirs));
            let more = own.iter().find(|name| !other.contains(name));
            let less = other.iter().find(|name| !own.contains(name));
            assert_eq!((more, less), (None, None));
            let differ: Vec<&String> =
                theirs.iter().filter(|(k, v)| !equal(k, &found[*k], v)).map(|(k, _)| k).collect();
            assert!(differ.is_empty(), "step {step}: {differ:?}");
            assert!(theirs.len() > 900, "{}", theirs.len());
            let own = ours.join(format!("backup_manifest.{}", ids.last().unwrap()));
            let other =
                scene.world.path().join(format!("combined-{}/data/backup_manifest", ids.last().unwrap()));
            assert_eq!(listed(&own), listed(&other));
        }
        prove(&scene, &ours, &expected);
    }
    // The parent knows, the child is smaller, and an incremental cannot outlive what it builds on.
    let infos = scene.infos();
    assert_eq!(infos[&ids[0]].get("children_backup_ids"), ids[1]);
    let show = scene.ours(&["show-backup", "main", &ids[2]]);
    assert!(show.stdout.contains("Backup chain size    : 3"), "{show}");
    let size = |id: &String| infos[id].get("size").parse::<u64>().unwrap();
    if packing[0] == packing[1] {
        assert!(size(&ids[1]) * 2 < size(&ids[0]), "{} {}", size(&ids[1]), size(&ids[0]));
    }
    let words = ["restore", "--native-dry-run", "main", &ids[2], "/nowhere/else"];
    let plan = scene.ours(&words);
    let said = format!("put together from the full backup {} and {}, {}", ids[0], ids[1], ids[2]);
    assert!(plan.stdout.contains(&said) && plan.stdout.contains("of the base backup and"), "{plan}");
    let json = scene.ours(&[&["-f", "json"], &words[..]].concat()).json().unwrap();
    let plan = &json["native_plan"];
    assert_eq!(plan["backups"].as_array().unwrap().len(), 3, "{plan}");
    assert!(plan["bytes"].as_u64().unwrap() > 10_000_000 && plan["estimated_seconds"].is_u64(), "{plan}");
    let list = scene.ours(&["list-backups", "main"]);
    assert_eq!(list.stdout.matches(" - I - ").count(), packing.len() - 1, "{list}");
    scene.ours(&["delete", "main", &ids[1]]);
    assert_eq!(scene.ids(), [ids[0].as_str()]);
}

#[test]
fn i33_plain_17() {
    chain(17, &["", "", "", "", ""]);
}

#[test]
fn i33_plain_18() {
    chain(18, &["", "", ""]);
}

#[test]
fn i33_packed_17() {
    chain(17, &["zstd", "zstd", "zstd"]);
}

#[test]
fn i33_mixed_17() {
    chain(17, &["none", "", "lz4", "gzip", ""]);
}

#[test]
fn i33_mixed_18() {
    chain(18, &["", "zstd", ""]);
}

/// PostgreSQL clears bits of a visibility map without saying so in the WAL that it sums up: put together as pg_combinebackup
/// does it, the map calls pages all-visible that have dead rows, and index-only scans bring those back. It must not, however
/// the chain lies.
fn stale_map(major: u32, packing: [&str; 3]) {
    if pg::require(major).is_none() {
        return;
    }
    let mut scene = scene(major);
    let mut last = String::new();
    for (step, how) in packing.iter().enumerate() {
        pack(&mut scene, how);
        if step > 0 {
            scene.cluster.psql(&format!("UPDATE t SET n = n WHERE n % 10 = {step} AND n < 9000")).unwrap();
            last = backup(&scene, &["--incremental", &last]);
        } else {
            scene.cluster.psql("VACUUM (FREEZE) t").unwrap();
            last = backup(&scene, &[]);
        }
    }
    let expected = sums(&scene.cluster);
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let destination = restore(&scene, &|words| scene.ours(words), &last, &[]);
    let restored = Cluster::open_restored(major, &destination).unwrap();
    restored.psql("CREATE EXTENSION pg_visibility").unwrap();
    for wrong in ["pg_check_visible", "pg_check_frozen"] {
        assert_eq!(restored.psql(&format!("SELECT count(*) FROM {wrong}('t')")).unwrap(), "0", "{wrong}");
    }
    // The rest of the map is of use.
    let visible = restored.psql("SELECT all_visible FROM pg_visibility_map_summary('t')").unwrap();
    assert!(visible.parse::<u32>().unwrap() > 100, "{visible}");
    let sum = "SELECT sum(n) FROM t WHERE n > 0";
    let by_index = format!("SET enable_seqscan = off; SET enable_bitmapscan = off; {sum}");
    assert_eq!(restored.psql(&by_index).unwrap(), scene.cluster.psql(sum).unwrap());
    drop(restored);
    // Again, since the extension was made there.
    let destination = restore(&scene, &|words| scene.ours(words), &last, &[]);
    prove(&scene, &destination, &expected);
}

#[test]
fn a_stale_visibility_map_does_not_come_back() {
    stale_map(17, ["", "", ""]);
    stale_map(18, ["", "", ""]);
}

#[test]
fn a_stale_visibility_map_does_not_come_back_out_of_archives() {
    stale_map(17, ["zstd", "zstd", "zstd"]);
    stale_map(17, ["", "none", ""]);
}

/// Barman makes incrementals of our backups and we of its, and each restores what the other made.
#[test]
fn one_chain_with_barman() {
    if pg::require(17).is_none() || Barman::require().is_none() {
        return;
    }
    let Some(bin) = tool(17, "pg_combinebackup").filter(|_| tool(17, "pg_basebackup").is_some()) else {
        barman_testkit::skip("pg_combinebackup and pg_basebackup of 17 are not on this machine");
        return;
    };
    let mut scene = scene(17);
    scene.world.server("main").option("path_prefix", bin.parent().unwrap().as_str());
    let first = backup(&scene, &[]);
    change(&scene, 1);
    scene.theirs(&["backup", "--wait", "--incremental", &first, "main"]);
    change(&scene, 2);
    let ours = backup(&scene, &["--incremental", "latest"]);
    change(&scene, 3);
    scene.theirs(&["backup", "--wait", "--incremental", "latest", "main"]);
    let theirs = scene.ids().pop().unwrap();
    assert_eq!(scene.infos()[&theirs].get("parent_backup_id"), ours);
    for id in scene.ids() {
        let both = [scene.ours(&["show-backup", "main", &id]), scene.theirs(&["show-backup", "main", &id])];
        assert_eq!(both[0].stdout, both[1].stdout);
    }
    let expected = sums(&scene.cluster);
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    prove(&scene, &restore(&scene, &|words| scene.theirs(words), &theirs, &[]), &expected);
    prove(&scene, &restore(&scene, &|words| scene.ours(words), &theirs, &[]), &expected);
    prove(&scene, &restore(&scene, &|words| scene.theirs(words), &ours, &[]), &expected);
    prove(&scene, &restore(&scene, &|words| scene.ours(words), &ours, &[]), &expected);
}

/// What cannot be taken is refused before anything is written, in Barman's words where it has some.
#[test]
fn i13_what_cannot_be_the_parent_is_refused() {
    if pg::require(17).is_none() || pg::require(15).is_none() {
        return;
    }
    let mut scene = scene(17);
    let refused = |scene: &Scene, token: &str| {
        let before = scene.ids();
        let run = scene.world.barman(&["backup", "--incremental", token, "main"]).unwrap();
        assert_eq!((run.code(), scene.ids()), (Some(1), before), "{run}");
        run.stderr
    };
    assert!(refused(&scene, "nope").contains("Unknown backup 'nope' for server 'main'"));
    scene.world.server("main").option("backup_method", "local-rsync");
    let copied = backup(&scene, &[]);
    assert!(refused(&scene, &copied).contains(
        "failed to start backup: Backup using the `--incremental` flag is available only for 'backup_method = postgres'."
    ));
    scene.world.server("main").option("backup_method", "postgres");
    assert!(refused(&scene, &copied).contains("was not taken with 'backup_method = postgres'"));
    summarize(&scene, "off");
    let without = backup(&scene, &[]);
    assert!(
        refused(&scene, &without).contains("'summarize_wal' option has to be enabled in the Postgres server")
    );
    summarize(&scene, "on");
    assert!(
        refused(&scene, &without)
            .contains("because WAL summaries were not enabled when that backup was taken")
    );
    let full = backup(&scene, &[]);
    let child = backup(&scene, &["--incremental", &full]);
    let manifest = scene.base(&child).join("data/backup_manifest");
    let aside = manifest.with_extension("aside");
    fs::rename(&manifest, &aside).unwrap();
    assert!(refused(&scene, &child).contains("its backup_manifest is not there any more"));
    fs::rename(&aside, &manifest).unwrap();
    // Its parent goes behind our back.
    let info = scene.meta().join(format!("{full}-backup.info"));
    fs::rename(&info, scene.world.path().join("info")).unwrap();
    let said = refused(&scene, &child);
    assert!(said.contains(&full) && said.contains("not in the catalog"), "{said}");
    let destination = place(&scene);
    let moved = scene.relocation(&destination);
    let words = ["restore", "--tablespace", &moved, "main", &child, destination.as_str()];
    let run = scene.world.barman(&words).unwrap();
    assert!(run.code() == Some(1) && run.stderr.contains(&full) && !destination.exists(), "{run}");
    fs::rename(scene.world.path().join("info"), &info).unwrap();
    // A version without.
    let old = Scene::new(15);
    let run = old.world.barman(&["backup", "--incremental", "latest", "main"]).unwrap();
    assert!(run.stderr.contains("Unknown backup 'latest'"), "{run}");
    backup(&old, &[]);
    assert!(
        refused(&old, "latest")
            .contains("Postgres version 17 or greater is required for incremental backups")
    );
}

/// Without the summaries of all WAL since the parent the server refuses; the backup is FAILED and says so.
#[test]
fn i13_a_gap_in_the_summaries_is_no_backup() {
    if pg::require(17).is_none() {
        return;
    }
    let mut scene = scene(17);
    backup(&scene, &[]);
    summarize(&scene, "off");
    scene.cluster.stop(StopMode::Fast).unwrap();
    let summaries = scene.cluster.pgdata().join("pg_wal/summaries");
    for name in names(&summaries) {
        fs::remove_file(summaries.join(name)).unwrap();
    }
    scene.cluster.start().unwrap();
    change(&scene, 1);
    scene.cluster.archive_now().unwrap();
    scene.cluster.psql("CHECKPOINT").unwrap();
    scene.cluster.archive_now().unwrap();
    scene.cluster.psql("CHECKPOINT").unwrap();
    summarize(&scene, "on");
    let run = scene.world.barman(&["backup", "--incremental", "latest", "main"]).unwrap();
    let (_, info) = scene.infos().pop_last().unwrap();
    assert_eq!((run.code(), info.get("status")), (Some(1), "FAILED"), "{run}");
    assert!(run.stderr.contains("WAL summaries are required"), "{run}");
}

/// I24: one bit in any backup of the chain, or a file of it that is gone, and nothing is there that could be started.
#[test]
fn i24_damage_in_a_chain_is_found_and_named() {
    if pg::require(17).is_none() {
        return;
    }
    let mut scene = scene(17);
    let full = backup(&scene, &[]);
    change(&scene, 1);
    let middle = backup(&scene, &["--incremental", &full]);
    change(&scene, 2);
    let leaf = backup(&scene, &["--incremental", &middle]);
    pack(&mut scene, "none");
    change(&scene, 3);
    let packed = backup(&scene, &["--incremental", &leaf]);
    let relation = scene.cluster.psql("SELECT pg_relation_filepath('t')").unwrap();
    let (directory, node) = relation.rsplit_once('/').unwrap();
    let incremental = format!("data/{directory}/INCREMENTAL.{node}");
    let found = |scene: &Scene, id: &str, path: &Utf8Path| {
        let destination = place(scene);
        let moved = scene.relocation(&destination);
        let words = ["restore", "--tablespace", &moved, "main", id, destination.as_str()];
        let run = scene.world.barman(&words).unwrap();
        assert_eq!(run.code(), Some(1), "{path}: {run}");
        assert!(run.stderr.contains(path.as_str()), "{path}: {run}");
        assert!(!destination.join("global/pg_control").exists());
    };
    let data = format!("data/{relation}");
    for (backup, file) in [(&full, &data), (&middle, &incremental), (&leaf, &incremental)] {
        let path = scene.base(backup).join(file);
        let sound = fs::read(&path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            bytes
        };
        // In the header, in the last block; shorter by a block.
        for bytes in [flipped(0), flipped(sound.len() - 100), sound[..sound.len() - 8192].to_vec()] {
            fs::write(&path, bytes).unwrap();
            for id in [&leaf, &packed] {
                found(&scene, id, &path);
            }
        }
        fs::remove_file(&path).unwrap();
        for id in [&leaf, &packed] {
            let by_name = if file == &data { scene.base(&full).join(&data) } else { path.clone() };
            let name = Utf8Path::new(by_name.file_name().unwrap().trim_start_matches("INCREMENTAL."));
            found(&scene, id, name);
        }
        fs::write(&path, sound).unwrap();
    }
    let archive = scene.base(&packed).join("data/base.tar");
    let mut bytes = fs::read(&archive).unwrap();
    let at = bytes
        .windows(11)
        .rposition(|piece| piece == b"step 3 step" || piece == b"grown 3grow")
        .unwrap_or(bytes.len() / 2);
    bytes[at] ^= 1;
    fs::write(&archive, &bytes).unwrap();
    found(&scene, &packed, &archive);
    bytes[at] ^= 1;
    fs::write(&archive, &bytes).unwrap();
    // Another backup in the place of the parent.
    let other = backup(&scene, &[]);
    let info = scene.meta().join(format!("{leaf}-backup.info"));
    let text = fs::read_to_string(&info).unwrap();
    fs::write(
        &info,
        text.replace(&format!("parent_backup_id={middle}"), &format!("parent_backup_id={other}")),
    )
    .unwrap();
    found(&scene, &leaf, Utf8Path::new(&other));
    fs::write(&info, text).unwrap();
    let expected = sums(&scene.cluster);
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    prove(&scene, &restore(&scene, &|words| scene.ours(words), &packed, &[]), &expected);
}

/// Growth past the length of one file (1 GB), with few bytes on the disk: a relation of zero pages.
#[test]
fn i33_a_relation_of_two_files() {
    if pg::require(17).is_none() {
        return;
    }
    let scene = prepared(Scene::within(World::new().unwrap(), 17));
    // 1 GB and a little, most of it a hole: PostgreSQL takes zero pages for empty ones.
    let path = scene.cluster.pgdata().join(scene.cluster.psql("SELECT pg_relation_filepath('t')").unwrap());
    scene.cluster.psql("CHECKPOINT").unwrap();
    let grow = |path: &Utf8Path, length: u64| {
        fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap()
            .set_len(length)
            .unwrap();
        scene.cluster.account().own(path).unwrap();
    };
    grow(&path, 1 << 30);
    grow(&Utf8PathBuf::from(format!("{path}.1")), 4 << 20);
    let full = backup(&scene, &[]);
    scene.cluster.psql("INSERT INTO t SELECT n, 'behind' FROM generate_series(1, 40000) AS n").unwrap();
    change(&scene, 1);
    let id = backup(&scene, &["--incremental", &full]);
    let expected = sums(&scene.cluster);
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let ours = restore(&scene, &|words| scene.ours(words), &id, &[]);
    if tool(17, "pg_combinebackup").is_some() {
        let theirs = combined(&scene, &[full, id]);
        let mut diff = Command::new("diff");
        diff.args([
            "-r",
            "--brief",
            "--exclude=postgresql.*",
            "--exclude=pg_wal",
            "--exclude=backup_manifest",
            "--exclude=*_vm",
        ]);
        let output = diff.args([&theirs, &ours]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let others =
            said.lines().filter(|line| !line.contains(": .barman") && !line.contains(": backup_manifest."));
        assert_eq!(others.count(), 0, "{said}");
    }
    prove(&scene, &ours, &expected);
}
