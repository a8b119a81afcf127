//! `encryption = gpg`: backups and WAL that only the key opens, written by either of the two programs and read by the other.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use barman_testkit::oracle::Barman;
use barman_testkit::os::which;
use barman_testkit::pg::{self, Cluster, tool, verify_cluster};
use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

use crate::scene::{Scene, names};

const PASSPHRASE: &str = "open ses\u{e4}me 7";
const KEY: &str = "keeper@example.org";

fn ready(major: u32) -> bool {
    // Barman recognises encrypted files by the `file` program.
    for program in ["gpg", "file"] {
        if which(program).is_none() {
            barman_testkit::skip(&format!("the program {program} is not on this machine"));
            return false;
        }
    }
    pg::require(major).is_some() && Barman::require().is_some()
}

/// Makes a key in the keyring of the world.
fn make_key(world: &World, name: &str, passphrase: &str) {
    let mut command = world.command("gpg");
    command.args(["--batch", "--pinentry-mode", "loopback", "--passphrase", passphrase]);
    command.args(["--quick-gen-key", name, "rsa2048", "encr", "never"]);
    Run::of(&mut command).unwrap().ok().unwrap();
}

/// gpg's agent remembers passphrases.
fn forget(world: &World) {
    Run::of(world.command("gpgconf").args(["--kill", "gpg-agent"])).unwrap().ok().unwrap();
}

/// A server with a tablespace whose base backups and WAL are encrypted.
fn scene(major: u32) -> Scene {
    let mut scene = Scene::new(major);
    make_key(&scene.world, KEY, PASSPHRASE);
    let conninfo = scene.cluster.conninfo();
    scene
        .world
        .server("main")
        .option("backup_method", "postgres")
        .option("streaming_conninfo", conninfo)
        .option("streaming_archiver", "off")
        .option("reuse_backup", "off")
        .option("backup_compression", "gzip")
        .option("backup_compression_format", "tar")
        .option("encryption", "gpg")
        .option("encryption_key_id", KEY)
        .option("encryption_passphrase_command", format!("echo '{PASSPHRASE}'"));
    if let Some(bin) = tool(major, "pg_basebackup") {
        scene.world.server("main").option("path_prefix", bin.parent().unwrap().as_str());
    }
    scene.fill(2000);
    scene
}

fn prove(scene: &Scene, destination: &Utf8Path) {
    let mut restored = Cluster::open_restored(scene.cluster.major(), destination).unwrap();
    let sums = "SELECT (SELECT sum(n) FROM t) || '|' || (SELECT sum(n) FROM u)";
    assert_eq!(restored.psql(sums).unwrap(), scene.cluster.psql(sums).unwrap());
    let verified = verify_cluster(&mut restored).unwrap();
    assert!(verified.pages > 0 && verified.tables > 0, "{verified:?}");
}

fn restore(scene: &Scene, who: &dyn Fn(&[&str]) -> Run, id: &str) {
    let destination = scene.world.path().join(format!("restored-{}", names(scene.world.path()).len()));
    let place = scene.relocation(&destination);
    forget(&scene.world);
    let moment = scene.moment();
    scene.cluster.psql(&format!("CREATE TABLE later_{} (n int)", names(scene.world.path()).len())).unwrap();
    scene.cluster.archive_now().unwrap();
    // With WAL, up to now.
    who(&[
        "restore",
        "--target-time",
        &moment,
        "--target-action",
        "promote",
        "--tablespace",
        &place,
        "main",
        id,
        destination.as_str(),
    ]);
    prove(scene, &destination);
}

/// The lines of xlog.db: name, compression, encryption.
fn index(scene: &Scene) -> Vec<(String, String, String)> {
    let path = scene.world.home().join("main/wals/main-xlog.db");
    let path = if path.exists() { path } else { scene.world.home().join("main/wals/xlog.db") };
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let row = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        (words[0].to_owned(), words[3].to_owned(), words[4].to_owned())
    };
    text.lines().map(row).collect()
}

fn wal(scene: &Scene, name: &str) -> Utf8PathBuf {
    scene.world.home().join("main/wals").join(&name[..16]).join(name)
}

fn segments(scene: &Scene) -> Vec<String> {
    index(scene).into_iter().map(|(name, ..)| name).filter(|name| name.len() == 24).collect()
}

fn what_one_program_encrypts_both_restore(algorithm: &str) {
    if !ready(15) {
        return;
    }
    let mut scene = scene(15);
    scene.world.server("main").option("backup_compression", algorithm);
    let said = "Encrypting backup using gpg encryption\n";
    let run = scene.ours(&["backup", "--wait", "main"]);
    assert!(run.stdout.contains(said), "{run}");
    let run = scene.theirs(&["backup", "--wait", "main"]);
    assert!(run.stdout.contains(said), "{run}");
    let ids = scene.ids();
    let infos = scene.infos();
    for id in &ids {
        let (info, files) = (&infos[id], names(&scene.base(id).join("data")));
        assert_eq!((info.get("status"), info.get("encryption")), ("DONE", "gpg"));
        assert_eq!(files, names(&scene.base(&ids[0]).join("data")));
        assert_eq!((info.keys(), files.len()), (infos[&ids[0]].keys(), 3));
        for archive in files.iter().filter(|name| *name != "backup_manifest") {
            let bytes = fs::read(scene.base(id).join("data").join(archive)).unwrap();
            assert!(archive.ends_with(".gpg") && matches!(bytes[0], 0x84 | 0x85), "{archive}");
        }
        let both = [scene.ours(&["show-backup", "main", id]), scene.theirs(&["show-backup", "main", id])];
        assert_eq!(both[0].stdout, both[1].stdout);
    }
    restore(&scene, &|arguments| scene.theirs(arguments), &ids[0]);
    restore(&scene, &|arguments| scene.ours(arguments), &ids[0]);
    restore(&scene, &|arguments| scene.ours(arguments), &ids[1]);
}

#[test]
fn what_one_program_packs_and_encrypts_both_restore() {
    what_one_program_encrypts_both_restore("gzip");
}

#[test]
fn what_one_program_only_encrypts_both_restore() {
    what_one_program_encrypts_both_restore("none");
}

/// WAL by name, plain and packed, from both programs, whoever archived it; and the index made anew.
#[test]
fn encrypted_wal_is_served_as_barman_serves_it() {
    if !ready(15) {
        return;
    }
    let scene = scene(15);
    scene.ours(&["backup", "--wait", "main"]);
    scene.cluster.psql("SELECT pg_switch_wal()").unwrap();
    scene.cluster.archive_now().unwrap();
    let history = scene.world.incoming("main").join("00000002.history");
    fs::write(&history, "1\t0/1\tno recovery target specified\n").unwrap();
    scene.world.account().own(&history).unwrap();
    scene.theirs(&["archive-wal", "main"]);
    for (name, compression, encryption) in index(&scene) {
        assert_eq!((compression.as_str(), encryption.as_str()), ("gzip", "gpg"), "{name}");
    }
    let names = segments(&scene);
    for name in [&names[0], &names[names.len() - 1], &"00000002.history".to_owned()] {
        forget(&scene.world);
        for options in [&["get-wal"][..], &["get-wal", "--keep-compression"], &["get-wal", "--gzip"]] {
            let arguments = [options, &["main", name]].concat();
            let ours = scene.world.barman_command(&arguments).unwrap().output().unwrap();
            let theirs = scene.world.oracle_command(&arguments).unwrap().output().unwrap();
            assert!(ours.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ours.stderr));
            assert!(ours.stdout == theirs.stdout && ours.stdout.len() > 30, "{arguments:?}");
            let packed = ours.stdout.starts_with(b"\x1f\x8b\x08");
            assert!(packed || options.len() == 1, "{arguments:?}");
        }
    }
    let run = scene.ours(&["native-wal", "main"]);
    assert!(run.stdout.contains(&scene.ids()[0]) && run.stderr.is_empty(), "{run}");
    scene.ours(&["rebuild-xlogdb", "main"]);
    let mine = index(&scene);
    scene.theirs(&["rebuild-xlogdb", "main"]);
    assert_eq!(mine, index(&scene));
    assert!(mine.iter().all(|(_, compression, encryption)| compression == "None" && encryption == "gpg"));
}

#[test]
fn checks_say_what_barman_says() {
    if !ready(15) {
        return;
    }
    let mut scene = scene(15);
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let line =
        |run: &Run| run.stdout.lines().find(|l| l.trim_start().starts_with("encryption:")).map(str::to_owned);
    let usual = [
        ("encryption_key_id", KEY),
        ("backup_method", "postgres"),
        ("backup_compression", "gzip"),
        ("backup_compression_format", "tar"),
    ];
    for (key, value) in [
        ("", ""),
        ("encryption_key_id", ""),
        ("encryption_key_id", "nobody"),
        ("backup_method", "local-rsync"),
        ("backup_compression", ""),
        ("backup_compression_format", "plain"),
        ("backup_compression_format", ""),
    ] {
        for (other, usual) in usual {
            scene.world.server("main").option(other, usual);
        }
        if !key.is_empty() {
            scene.world.server("main").option(key, value);
        }
        let (ours, theirs) = (
            scene.world.barman(&["check", "main"]).unwrap(),
            scene.world.oracle(&["check", "main"]).unwrap(),
        );
        assert!(line(&theirs).is_some(), "{theirs}");
        assert_eq!(line(&ours), line(&theirs), "{key} = {value}: {ours}");
    }
    // WAL is encrypted whatever the method of backups.
    let server = scene.world.server("main").option("backup_method", "local-rsync");
    server.option("backup_compression", "").option("backup_compression_format", "tar");
    let archive = |who: &dyn Fn(&[&str]) -> Run| {
        scene.cluster.psql("SELECT pg_switch_wal()").unwrap();
        scene.cluster.archive_now().unwrap();
        who(&["archive-wal", "main"]);
        index(&scene).pop().unwrap().2
    };
    assert_eq!(
        (archive(&|a| scene.ours(a)), archive(&|a| scene.theirs(a))),
        ("gpg".to_owned(), "gpg".to_owned())
    );
}

/// What has been delivered is delivered again: the same is known by its plain bytes, another is kept aside.
#[test]
fn i3_an_encrypted_segment_that_comes_again() {
    if !ready(15) {
        return;
    }
    let mut scene = scene(15);
    scene.cluster.psql("SELECT pg_switch_wal()").unwrap();
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let name = segments(&scene).remove(0);
    let incoming = scene.world.incoming("main").join(&name);
    let errors = scene.world.home().join("main/errors");
    let plain = scene.world.barman_command(&["get-wal", "main", &name]).unwrap().output().unwrap().stdout;
    let stored = fs::read(wal(&scene, &name)).unwrap();
    let account = scene.world.account().clone();
    let deliver = |bytes: &[u8]| {
        fs::write(&incoming, bytes).unwrap();
        account.own(&incoming).unwrap();
    };

    deliver(&plain);
    scene.ours(&["archive-wal", "main"]);
    assert!(!incoming.exists() && names(&errors).is_empty(), "{:?}", names(&errors));

    // Without a passphrase nobody can tell: as with Barman it is kept aside.
    scene.world.server("main").option("encryption_passphrase_command", "");
    forget(&scene.world);
    // The sender, who may only repeat itself after a broken connection, is not told that this is an error.
    let parcel = scene.world.dir().subdir("parcel").unwrap();
    fs::write(parcel.join(&name), &plain).unwrap();
    let (bin, config) = (scene.world.path().join("bin/barman"), scene.world.write_config().unwrap());
    let line = format!(
        "cd {parcel} && sha256sum -b {name} > SHA256SUMS && tar -cf - {name} SHA256SUMS | {bin} -c {config} put-wal main"
    );
    Run::of(scene.world.command("/bin/sh").args(["-c", &line])).unwrap().ok().unwrap();
    assert!(incoming.exists());
    let run = scene.world.barman(&["archive-wal", "main"]).unwrap();
    assert!(!incoming.exists(), "{run}");
    let [aside] = <[String; 1]>::try_from(names(&errors)).unwrap();
    assert!(aside.starts_with(&name) && aside.ends_with(".duplicate"), "{aside}");
    assert!(fs::read(errors.join(&aside)).unwrap() == plain);

    // A wrong passphrase says nothing against what is archived: it stays.
    scene.world.server("main").option("encryption_passphrase_command", "echo wrong");
    deliver(&plain);
    scene.world.barman(&["archive-wal", "main"]).unwrap();
    assert!(!incoming.exists());
    assert_eq!(names(&errors).len(), 2, "{:?}", names(&errors));
    assert!(fs::read(wal(&scene, &name)).unwrap() == stored);

    // What is archived was damaged: a sound one takes its place, with the same passphrase.
    let command = format!("echo '{PASSPHRASE}'");
    scene.world.server("main").option("encryption_passphrase_command", command);
    let mut damaged = stored.clone();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    fs::write(wal(&scene, &name), &damaged).unwrap();
    let run = scene.world.barman(&["get-wal", "main", &name]).unwrap();
    assert!(run.code() != Some(0) && run.stderr.contains(&format!("{name} is not sound: ")), "{run}");
    assert_eq!(run.stdout, "");
    deliver(&plain);
    scene.ours(&["archive-wal", "main"]);
    assert_eq!(names(&errors).len(), 3, "{:?}", names(&errors));
    let again = scene.world.barman_command(&["get-wal", "main", &name]).unwrap().output().unwrap().stdout;
    assert!(again == plain);
    assert_eq!(index(&scene).iter().find(|(known, ..)| *known == name).unwrap().2, "gpg");
}

/// Wrong key, no passphrase, no gpg, a flipped bit: a sentence for each, and nothing that could start.
#[test]
fn mistakes_and_damage_are_named_and_nothing_is_half_restored() {
    if !ready(15) {
        return;
    }
    let mut scene = scene(15);
    scene.ours(&["backup", "--wait", "main"]);
    let id = scene.ids().remove(0);
    let archive = scene.base(&id).join("data/base.tar.gz.gpg");
    let destination = scene.world.path().join("restored");
    let place = scene.relocation(&destination);
    // With no WAL to copy, whose key would be missed first.
    let refused = |scene: &Scene, untouched: bool, said: &str| {
        forget(&scene.world);
        let run = scene
            .world
            .barman(&["restore", "--get-wal", "--tablespace", &place, "main", &id, destination.as_str()])
            .unwrap();
        assert_eq!(run.code(), Some(1), "{run}");
        assert!(run.stderr.contains(said) && !run.stderr.contains(PASSPHRASE), "{said}: {run}");
        assert_eq!(destination.exists(), !untouched, "{run}");
        assert!(!destination.join("global/pg_control").exists());
        let _ = fs::remove_dir_all(&destination);
        let _ = fs::remove_dir_all(format!("{destination}-ts1"));
    };
    scene.world.server("main").option("encryption_passphrase_command", "echo wrong");
    refused(&scene, true, "Bad passphrase");
    scene.world.server("main").option("encryption_passphrase_command", "echo some secret; exit 7");
    refused(&scene, true, "encryption_passphrase_command failed (exit status: 7)");
    scene.world.server("main").option("encryption_passphrase_command", "");
    refused(&scene, true, "encryption_passphrase_command is not set");
    let command = format!("echo '{PASSPHRASE}'");
    scene.world.server("main").option("encryption_passphrase_command", &command);

    // Another keyring, without the key.
    let home = scene.world.dir().subdir("other").unwrap();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    scene.world.env("GNUPGHOME", home.as_str());
    refused(&scene, true, "No secret key");
    scene.world.env("GNUPGHOME", scene.world.user_home().join(".gnupg").to_string());

    // A program that is not gpg at all.
    let program = scene.world.path().join("bin/gpg");
    fs::write(&program, "#!/bin/sh\nexit 127\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    refused(&scene, true, "gpg cannot decrypt it: it does not say why");
    fs::remove_file(&program).unwrap();

    let sound = fs::read(&archive).unwrap();
    let mut damaged = sound.clone();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    fs::write(&archive, &damaged).unwrap();
    refused(&scene, false, "base.tar.gz.gpg");
    fs::write(&archive, &sound[..at]).unwrap();
    refused(&scene, true, "base.tar.gz.gpg");
    // What Barman wrote has no checksum of ours: gpg's own is what tells.
    fs::remove_dir_all(scene.base(&id).join(".native")).unwrap();
    refused(&scene, false, "it is damaged");
    fs::write(&archive, &damaged).unwrap();
    refused(&scene, false, "base.tar.gz.gpg cannot be restored");
    fs::write(&archive, &sound).unwrap();
    restore(&scene, &|arguments| scene.ours(arguments), &id);

    // A backup in the clear whose WAL is not: known before the first file is written.
    scene.world.server("main").option("encryption", "none");
    scene.ours(&["backup", "--wait", "main"]);
    let clear = scene.ids().pop().unwrap();
    assert_eq!(scene.infos()[&clear].get("encryption"), "None");
    scene.world.server("main").option("encryption", "gpg").option("encryption_passphrase_command", "");
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let arguments = ["restore", "--tablespace", &place, "main", &clear, destination.as_str()];
    let run = scene.world.barman(&arguments).unwrap();
    assert!(run.code() == Some(1) && !destination.exists(), "{run}");
    assert!(run.stderr.contains("encryption_passphrase_command is not set"), "{run}");
    scene.world.server("main").option("encryption_passphrase_command", &command);
    scene.ours(&arguments);
    prove(&scene, &destination);

    // A key that nobody has: no backup, no archived WAL, and nothing lost.
    scene.world.server("main").option("encryption_key_id", "nobody");
    let run = scene.world.barman(&["backup", "main"]).unwrap();
    assert!(run.code() == Some(1) && run.stderr.contains("encryption test failed"), "{run}");
    assert!(run.stderr.contains("nobody: skipped: No public key"), "{run}");
    let archived = segments(&scene);
    scene.cluster.archive_now().unwrap();
    let run = scene.world.barman(&["archive-wal", "main"]).unwrap();
    assert!(format!("{run}").contains("No public key"), "{run}");
    assert_eq!(segments(&scene), archived);
    assert!(!names(&scene.world.incoming("main")).is_empty());
    scene.world.server("main").option("encryption_key_id", KEY);
    scene.ours(&["archive-wal", "main"]);
    assert!(segments(&scene).len() > archived.len());
}

/// A chain of incremental backups, encrypted; both programs restore it.
#[test]
fn a_chain_of_encrypted_incrementals() {
    if !ready(17) {
        return;
    }
    let mut scene = scene(17);
    scene.cluster.psql("ALTER SYSTEM SET summarize_wal = on").unwrap();
    scene.cluster.psql("SELECT pg_reload_conf()").unwrap();
    scene.ours(&["backup", "--wait", "main"]);
    for (turn, location) in ["client", "server"].into_iter().enumerate() {
        scene.world.server("main").option("backup_compression_location", location);
        scene.cluster.psql(&format!("UPDATE t SET n = n + {turn} WHERE n % 100 = 0")).unwrap();
        scene.ours(&["backup", "--wait", "--incremental", "latest", "main"]);
        let id = scene.ids().pop().unwrap();
        let files = names(&scene.base(&id).join("data"));
        assert!(files.contains(&"base.tar.gz.gpg".to_owned()) && files.len() == 3, "{files:?}");
        assert_eq!(scene.infos()[&id].get("encryption"), "gpg");
    }
    let id = scene.ids().pop().unwrap();
    restore(&scene, &|arguments| scene.ours(arguments), &id);
    restore(&scene, &|arguments| scene.theirs(arguments), &id);
}

/// A process that is killed while it encrypts has published nothing, and the next ones go on.
#[test]
fn a_killed_process_leaves_nothing_published() {
    if !ready(15) {
        return;
    }
    let mut scene = scene(15);
    // One that never ends, so that it is killed in the middle.
    let program = scene.world.path().join("bin/gpg");
    fs::write(&program, "#!/bin/sh\ncase \"$*\" in *--encrypt*) head -c 1000; exec sleep 600;; esac\n")
        .unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    scene.cluster.archive_now().unwrap();
    let waiting = names(&scene.world.incoming("main"));
    assert!(!waiting.is_empty());
    let mut command = scene.world.barman_command(&["archive-wal", "main"]).unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let dir = scene.world.home().join("main/wals").join(&waiting[0][..16]);
    for _ in 0..2000 {
        if !names(&dir).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(names(&dir).iter().all(|name| name.starts_with('.')), "{:?}", names(&dir));
    assert_eq!(names(&scene.world.incoming("main")), waiting);
    fs::remove_file(&program).unwrap();
    scene.ours(&["archive-wal", "main"]);
    assert!(names(&dir).iter().all(|name| !name.starts_with('.')), "{:?}", names(&dir));
    assert!(names(&scene.world.incoming("main")).is_empty());
    // The same with a backup.
    scene.world.server("main").option("backup_compression", "none");
    let mut command = scene.world.barman_command(&["backup", "--bwlimit", "500", "main"]).unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let files =
        |scene: &Scene| scene.ids().first().map(|id| names(&scene.base(id).join("data"))).unwrap_or_default();
    for _ in 0..2000 {
        if !files(&scene).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(files(&scene).iter().all(|name| name.contains(".gpg")), "{:?}", files(&scene));
    let killed = scene.ids().remove(0);
    assert!(matches!(scene.infos()[&killed].get("status"), "EMPTY" | "STARTED"));
    scene.ours(&["backup", "--wait", "main"]);
    assert_eq!(scene.infos()[&killed].get("status"), "FAILED");
    restore(&scene, &|arguments| scene.ours(arguments), &scene.ids()[1]);
}
