//! `verify-backup` and `generate-manifest`: the same verdicts as `pg_verifybackup`, on every kind of backup, and the place of
//! the damage is named.

use std::fs;

use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, tool};
use barman_testkit::world::Run;
use camino::{Utf8Path, Utf8PathBuf};

use crate::scene::{Scene, names};

/// A server with a tablespace, and how its backups are taken.
fn scene(major: u32, method: &str) -> Scene {
    let mut scene = Scene::new(major);
    let conninfo = scene.cluster.conninfo();
    let server = scene.world.server("main").option("backup_method", method);
    server
        .option("streaming_conninfo", conninfo)
        .option("streaming_archiver", "off")
        .option("reuse_backup", "off");
    if let Some(bin) = tool(major, "pg_verifybackup") {
        scene.world.server("main").option("path_prefix", bin.parent().unwrap().as_str());
    }
    scene.fill(500);
    scene
}

fn backup(scene: &Scene) -> String {
    scene.ours(&["backup", "--wait", "main"]);
    scene.ids().pop().unwrap()
}

fn verify(scene: &Scene, id: &str) -> Run {
    scene.world.barman(&["verify-backup", "main", id]).unwrap()
}

fn sound(scene: &Scene, id: &str) {
    let run = verify(scene, id);
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(run.stdout.ends_with("backup successfully verified\n"), "{run}");
}

/// Verification fails and its complaint has all of these words.
fn damaged(scene: &Scene, id: &str, words: &[&str]) {
    let run = verify(scene, id);
    assert_eq!(run.code(), Some(1), "{words:?}: {run}");
    assert!(!run.stdout.contains("successfully"), "{run}");
    let place = format!("ERROR: verify backup failure on directory '{}'", scene.base(id).join("data"));
    assert!(run.stderr.lines().any(|line| line == place), "{run}");
    assert!(run.stderr.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {run}");
}

fn flip(path: &Utf8Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// PostgreSQL's own verdict, by each version of the tool that is here.
fn tools(scene: &Scene, id: &str) -> Vec<Run> {
    let mut said = Vec::new();
    // A tool knows the manifests of its own version and of those before it.
    for major in [15, 17].into_iter().filter(|major| *major >= scene.cluster.major()) {
        match tool(major, "pg_verifybackup") {
            Some(program) => {
                let mut command = scene.world.command(program);
                let data = scene.base(id).join("data");
                said.push(Run::of(command.args(["-n", data.as_str()])).unwrap());
            }
            None => barman_testkit::skip(&format!("pg_verifybackup of {major} is not on this machine")),
        }
    }
    said
}

/// A file with rows of the table in the data directory, and one in the tablespace: path in the backup, and as manifests name it.
fn victims(scene: &Scene, id: &str) -> [(Utf8PathBuf, String); 2] {
    let base = scene.base(id);
    let path = |table: &str| scene.cluster.psql(&format!("SELECT pg_relation_filepath('{table}')")).unwrap();
    let (t, u) = (path("t"), path("u"));
    let (oid, rest) = u.strip_prefix("pg_tblspc/").unwrap().split_once('/').unwrap();
    [(base.join("data").join(&t), t), (base.join(oid).join(rest), u.clone())]
}

/// Damages a plain backup in every way, one after the other; `agree` is told of each before the damage is mended.
fn each_damage(scene: &Scene, id: &str, agree: &dyn Fn(&str)) {
    for (path, name) in victims(scene, id) {
        let whole = fs::read(&path).unwrap();
        flip(&path, 5000);
        damaged(scene, id, &["checksum mismatch for file", &name]);
        agree(&name);
        fs::write(&path, &whole[..whole.len() - 8192]).unwrap();
        let sizes = [
            format!("has size {} on disk", whole.len() - 8192),
            format!("size {} in the manifest", whole.len()),
        ];
        damaged(scene, id, &[&name, &sizes[0], &sizes[1]]);
        agree(&name);
        fs::remove_file(&path).unwrap();
        damaged(scene, id, &[&name, "is present in the manifest but not on disk"]);
        agree(&name);
        fs::write(&path, &whole).unwrap();
        scene.world.account().own(&path).unwrap();
        let more = Utf8PathBuf::from(format!("{path}_more"));
        fs::write(&more, "what").unwrap();
        damaged(scene, id, &[&format!("{name}_more"), "is present on disk but not in the manifest"]);
        agree(&format!("{name}_more"));
        fs::remove_file(&more).unwrap();
    }
    sound(scene, id);
}

fn plain_backups_of_the_postgres_method(major: u32) {
    if pg::require(major).is_none() {
        return;
    }
    let scene = scene(major, "postgres");
    let id = backup(&scene);
    sound(&scene, &id);
    tools(&scene, &id).into_iter().for_each(|run| drop(run.ok().unwrap()));
    each_damage(&scene, &id, &|name| {
        for said in tools(&scene, &id) {
            assert!(!said.status.success() && said.stderr.contains(name), "{said}");
        }
    });
    // What is no part of a backup by PostgreSQL's rules is none here.
    fs::write(scene.base(&id).join("data/standby.signal"), "").unwrap();
    sound(&scene, &id);
    // With the manifest damaged, what we stored ourselves is still known.
    let manifest = scene.base(&id).join("data/backup_manifest");
    let text = fs::read_to_string(&manifest).unwrap();
    let at = text.find("PG_VERSION").unwrap();
    flip(&manifest, at);
    damaged(&scene, &id, &["backup_manifest", "is damaged", "checksum"]);
    for said in tools(&scene, &id) {
        assert!(!said.status.success(), "{said}");
    }
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    damaged(&scene, &id, &["backup_manifest", "is damaged"]);
    fs::write(&manifest, text).unwrap();
    sound(&scene, &id);
}

#[test]
fn plain_backups_on_15() {
    plain_backups_of_the_postgres_method(15);
}

#[test]
fn plain_backups_on_17() {
    plain_backups_of_the_postgres_method(17);
}

#[test]
fn file_level_backups_by_what_was_stored() {
    if pg::require(15).is_none() {
        return;
    }
    let scene = scene(15, "local-rsync");
    let id = backup(&scene);
    sound(&scene, &id);
    each_damage(&scene, &id, &|_| ());
    // A sidecar that is damaged is not believed.
    let manifest = scene.base(&id).join(".native/manifest");
    flip(&manifest, 200);
    damaged(&scene, &id, &[".native/manifest", "is damaged"]);
}

#[test]
fn the_wal_up_to_consistency_belongs_to_it() {
    if pg::require(15).is_none() {
        return;
    }
    // Plain in the archive, where no checksum of a packing helps: only what a segment says of itself.
    let mut scene = scene(15, "local-rsync");
    scene.world.server("main").option("compression", "");
    let id = backup(&scene);
    let info = &scene.infos()[&id];
    for name in [info.get("begin_wal").to_owned(), info.get("end_wal").to_owned()] {
        let path = scene.world.home().join("main/wals").join(&name[..16]).join(&name);
        let whole = fs::read(&path).unwrap();
        // The position that the first page claims.
        flip(&path, 9);
        damaged(&scene, &id, &[&format!("WAL file {name} is not sound")]);
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        damaged(&scene, &id, &[&format!("WAL file {name} is not sound")]);
        fs::remove_file(&path).unwrap();
        damaged(&scene, &id, &[&format!("WAL file {name} is not in the archive")]);
        fs::write(&path, whole).unwrap();
        scene.world.account().own(&path).unwrap();
        sound(&scene, &id);
    }
    let run = scene.ours(&["-f", "json", "verify", "main", &id]).json().unwrap();
    let found = &run["native_verification"];
    assert_eq!((found["sound"].as_bool(), found["files_unknown"].as_u64()), (Some(true), Some(0)), "{run}");
    assert!(
        found["files_verified"].as_u64().unwrap() > 900 && found["wal_verified"].as_u64().unwrap() > 0,
        "{run}"
    );
    assert!(
        run["_INFO"].as_array().unwrap().iter().any(|line| line == "backup successfully verified"),
        "{run}"
    );
}

/// Every algorithm that a manifest can have, by PostgreSQL's own tool.
#[test]
fn every_checksum_algorithm_of_a_manifest() {
    let (Some(_), Some(program)) = (pg::require(15), tool(15, "pg_basebackup")) else { return };
    let scene = scene(15, "postgres");
    let id = backup(&scene);
    let [(_, _), (_, u)] = victims(&scene, &id);
    let oid = u.split('/').nth(1).unwrap();
    let source =
        scene.cluster.psql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'ts1'");
    let source = source.unwrap();
    for algorithm in ["CRC32C", "SHA224", "SHA256", "SHA384", "SHA512", "NONE"] {
        let base = scene.base(&id);
        for dir in [base.join("data"), base.join(oid), base.join(".native")] {
            let _ = fs::remove_dir_all(dir);
        }
        let mut command = scene.world.command(&program);
        command.args(["-D", base.join("data").as_str(), "-X", "none", "-c", "fast", "-d"]);
        command.arg(scene.cluster.conninfo()).arg(format!("--manifest-checksums={algorithm}"));
        Run::of(command.arg("-T").arg(format!("{source}={}", base.join(oid)))).unwrap().ok().unwrap();
        let run = verify(&scene, &id);
        assert_eq!(run.code(), Some(0), "{algorithm}: {run}");
        let [(path, name), _] = victims(&scene, &id);
        flip(&path, 5000);
        if algorithm == "NONE" {
            // Nobody can know: that is said, and a length is known all the same.
            assert!(
                run.stderr.contains("files could not be verified: the backup was taken without checksums"),
                "{run}"
            );
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[8192..]).unwrap();
            damaged(&scene, &id, &[&name, "has size"]);
        } else {
            assert_eq!(run.stderr, "", "{run}");
            damaged(&scene, &id, &["checksum mismatch for file", &name]);
        }
        for said in tools(&scene, &id) {
            assert!(!said.status.success() && said.stderr.contains(&name), "{said}");
        }
    }
}

/// Packed by us and by Barman, with every codec.
fn packed(major: u32, barman: bool) {
    if pg::require(major).is_none() || barman && Barman::require().is_none() {
        return;
    }
    let mut scene = scene(major, "postgres");
    for (algorithm, ending) in [("gzip", "tar.gz"), ("zstd", "tar.zst"), ("lz4", "tar.lz4"), ("none", "tar")]
    {
        scene.world.server("main").option("backup_compression", algorithm);
        if barman {
            scene.theirs(&["backup", "--wait", "main"]);
        } else {
            scene.ours(&["backup", "--wait", "main"]);
        }
        let id = scene.ids().pop().unwrap();
        sound(&scene, &id);
        let data = scene.base(&id).join("data");
        for name in names(&data).into_iter().filter(|name| name.ends_with(ending)) {
            let path = data.join(&name);
            let whole = fs::read(&path).unwrap();
            flip(&path, whole.len() / 2);
            let run = verify(&scene, &id);
            assert_eq!(run.code(), Some(1), "{algorithm}: {run}");
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            let run = verify(&scene, &id);
            assert!(run.code() == Some(1) && run.stderr.contains(&name), "{algorithm}: {run}");
            // One complaint, not one for each file that was in it.
            assert!(run.stderr.lines().count() < 4, "{algorithm}: {run}");
            fs::remove_file(&path).unwrap();
            if name.starts_with("base.") {
                let run = verify(&scene, &id);
                assert_eq!(run.code(), Some(1), "{algorithm}: {run}");
            } else {
                damaged(&scene, &id, &[]);
            }
            fs::write(&path, &whole).unwrap();
            scene.world.account().own(&path).unwrap();
        }
        fs::write(data.join("more.tar"), "what").unwrap();
        damaged(&scene, &id, &["more.tar", "is present on disk but not in the manifest"]);
        fs::remove_file(data.join("more.tar")).unwrap();
        sound(&scene, &id);
    }
    // A bit in the body of a table, where no header of the archive is.
    let id = scene.ids().pop().unwrap();
    let path = scene.base(&id).join("data/base.tar");
    let bytes = fs::read(&path).unwrap();
    flip(&path, bytes.windows(20).rposition(|piece| piece == [b'x'; 20]).unwrap());
    if major >= 13 {
        let table = scene.cluster.psql("SELECT pg_relation_filepath('t')").unwrap();
        damaged(&scene, &id, &["checksum mismatch for file", &table]);
    } else {
        damaged(&scene, &id, &["base.tar", "not those that were stored"]);
    }
}

#[test]
fn packed_backups_of_ours() {
    packed(17, false);
}

#[test]
fn packed_backups_of_ours_before_there_were_manifests() {
    packed(12, false);
}

#[test]
fn packed_backups_of_barmans() {
    packed(15, true);
}

/// Barman's own backups, and its own words.
#[test]
fn one_verdict_with_barman() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let scene = scene(15, "postgres");
    scene.theirs(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    let both = |code: i32| {
        let run = scene.world.oracle(&["verify-backup", "main", &id]).unwrap();
        let ours = verify(&scene, &id);
        assert_eq!((ours.code(), run.code()), (Some(code), Some(code)), "{ours}\n{run}");
        assert_eq!(ours.stdout, run.stdout);
        (ours, run)
    };
    both(0);
    let [(path, name), _] = victims(&scene, &id);
    flip(&path, 5000);
    let (ours, theirs) = both(1);
    assert_eq!(ours.stderr.lines().next(), theirs.stderr.lines().next());
    for run in [&ours, &theirs] {
        assert!(run.stderr.contains(&format!("checksum mismatch for file \"{name}\"")), "{run}");
    }
}

/// A backup of which nothing is known gets a manifest, of ours and of Barman's: the same rows, which PostgreSQL accepts.
#[test]
fn a_manifest_is_made_once_and_never_over_another() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let scene = scene(15, "local-rsync");
    scene.theirs(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    let run = verify(&scene, &id);
    assert!(run.code() == Some(1) && run.stderr.contains("nothing is known of its"), "{run}");
    let path = scene.base(&id).join("data/backup_manifest");
    let make = ["generate-manifest", "main", id.as_str()];
    let theirs = scene.theirs(&make);
    let other = fs::read_to_string(&path).unwrap();
    let refused = [scene.world.barman(&make).unwrap(), scene.world.oracle(&make).unwrap()];
    assert_eq!((&refused[0].stderr, refused[0].code()), (&refused[1].stderr, refused[1].code()));
    let json = [&["-f", "json"][..], &make].concat();
    let refused = [scene.world.barman(&json).unwrap(), scene.world.oracle(&json).unwrap()];
    assert_eq!((&refused[0].stdout, refused[0].code()), (&refused[1].stdout, refused[1].code()));
    assert_eq!(fs::read_to_string(&path).unwrap(), other);
    fs::remove_file(&path).unwrap();
    let ours = scene.ours(&make);
    assert_eq!(ours.stdout, theirs.stdout);
    let own = fs::read_to_string(&path).unwrap();
    let rows = |text: &str| {
        let mut rows: Vec<String> = text
            .lines()
            .filter(|l| l.contains("\"Path\""))
            .map(|l| l.trim_end_matches([',', ']']).to_owned())
            .collect();
        rows.sort();
        rows
    };
    assert_eq!(rows(&own), rows(&other));
    tools(&scene, &id).into_iter().for_each(|run| drop(run.ok().unwrap()));
    // Barman's has nothing of the tablespace, and that is said.
    let run = verify(&scene, &id);
    assert!(
        run.code() == Some(0) && run.stderr.contains("no manifest that can be read speaks of them"),
        "{run}"
    );
    let [(file, name), _] = victims(&scene, &id);
    flip(&file, 5000);
    damaged(&scene, &id, &["checksum mismatch for file", &name]);
}

/// Damage must not become what is right by a list of what is there.
#[test]
fn no_manifest_is_made_of_damage() {
    if pg::require(15).is_none() {
        return;
    }
    let scene = scene(15, "local-rsync");
    let id = backup(&scene);
    let [(path, _), _] = victims(&scene, &id);
    let whole = fs::read(&path).unwrap();
    let manifest = scene.base(&id).join("data/backup_manifest");
    let refused = || {
        let run = scene.world.barman(&["generate-manifest", "main", &id]).unwrap();
        assert!(run.code() == Some(1) && run.stderr.contains(path.as_str()), "{run}");
        assert!(run.stderr.contains("is damaged") && !manifest.exists(), "{run}");
    };
    flip(&path, 5000);
    refused();
    fs::write(&path, &whole[1..]).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    refused();
    fs::write(&path, whole).unwrap();
    scene.world.account().own(&path).unwrap();
    scene.ours(&["generate-manifest", "main", &id]);
    tools(&scene, &id).into_iter().for_each(|run| drop(run.ok().unwrap()));
    sound(&scene, &id);
}
