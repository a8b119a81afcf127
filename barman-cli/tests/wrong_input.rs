//! Wrong input and broken surroundings: one clear sentence each, exit status 1, and nothing done by halves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use barman_testkit::pg::{self, Cluster, StopMode};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

use crate::scene::{Scene, Small, names};

const MAJOR: u32 = 15;

/// Exit status 1 and exactly one `ERROR:` that holds all of `words`; whatever follows it are its details and hints.
#[track_caller]
fn refused(run: &Run, words: &[&str]) {
    assert_eq!(run.code(), Some(1), "{run}");
    let errors = run.stderr.lines().filter(|line| line.starts_with("ERROR: ")).count();
    assert_eq!(errors, 1, "one sentence: {run}");
    let said = run.stderr.split_once("ERROR: ").unwrap().1;
    for word in words {
        assert!(said.contains(word), "{word:?} is not in it: {run}");
    }
    assert!(!run.stderr.contains("EXCEPTION") && !run.stderr.contains("panicked"), "{run}");
}

/// Fails and leaves no backup that could be taken for one.
#[track_caller]
fn no_backup(scene: &Scene, words: &[&str]) {
    let before = scene.ids();
    refused(&scene.world.barman(&["backup", "main"]).unwrap(), words);
    for (id, info) in scene.infos() {
        assert!(before.contains(&id) || info.get("status") == "FAILED", "{id} is {}", info.get("status"));
    }
}

#[test]
fn configuration() {
    let mut world = World::new().unwrap();
    world.server("main").conninfo("host=/nowhere").option("backup_method", "local-rsync");
    let program = world.barman_command(&[]).unwrap().get_program().to_owned();
    let bare = |arguments: &[&str]| Run::of(world.command(&program).args(arguments)).unwrap();

    if !Utf8Path::new("/etc/barman.conf").exists() && !Utf8Path::new("/etc/barman/barman.conf").exists() {
        let none = bare(&["list-servers"]);
        assert_eq!(none.code(), Some(1), "{none}");
        assert!(
            none.stderr.starts_with("Could not find any configuration file at default locations."),
            "{none}"
        );
    }
    let missing = bare(&["-c", "/nowhere/barman.conf", "list-servers"]);
    assert_eq!(missing.code(), Some(1), "{missing}");
    assert!(missing.stderr.contains("/nowhere/barman.conf"), "{missing}");

    let broken = world.path().join("broken.conf");
    for text in
        ["[barman\nbarman_home = /tmp\n", "barman_home = /tmp\n", "[barman]\nbarman_home = %(nothing)s\n"]
    {
        fs::write(&broken, text).unwrap();
        let run = bare(&["-c", broken.as_str(), "list-servers"]);
        assert_eq!(run.code(), Some(1), "{text}: {run}");
        let clear = run.stderr.contains("broken.conf") || run.stderr.contains("nothing");
        assert!(clear && !run.stderr.contains("panicked"), "{text}: {run}");
    }

    for command in
        [&["backup", "nobody"][..], &["archive-wal", "nobody"], &["restore", "nobody", "latest", "/x"]]
    {
        refused(&world.barman(command).unwrap(), &["Unknown server 'nobody'"]);
    }
    let several = ["restore", "--target-immediate", "--target-xid", "7", "main", "latest", "/x"];
    refused(&world.barman(&several).unwrap(), &["multiple targets"]);
    let unread = ["restore", "--target-time", "tomorrow-ish", "main", "latest", "/x"];
    refused(&world.barman(&unread).unwrap(), &["tomorrow-ish"]);
    refused(
        &world.barman(&["restore", "main", "latest", "host:/x"]).unwrap(),
        &["':'", "--remote-ssh-command"],
    );
}

#[test]
fn restores() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let scene = Scene::new(MAJOR);
    scene.fill(100);
    scene.cluster.archive_now().unwrap();
    let early = scene.moment();
    scene.ours(&["backup", "--wait", "main"]);
    let ids = scene.ids();
    let destination = scene.world.path().join("restored");
    let place = scene.relocation(&destination);
    let restore = |options: &[&str], id: &str, to: &Utf8Path| {
        let arguments = [&["restore", "--tablespace", &place], options, &["main", id, to.as_str()]].concat();
        scene.world.barman(&arguments).unwrap()
    };

    refused(&restore(&[], "20200101T000000", &destination), &["20200101T000000"]);
    refused(&restore(&[], "no-such-name", &destination), &["no-such-name"]);
    refused(&restore(&["--tablespace", "ts9:/x"], &ids[0], &destination), &["ts9", "ts1"]);

    // Before the end of the backup: the nearest reachable point is named.
    let end = scene.infos()[&ids[0]].get("end_time").to_owned();
    let end_lsn = scene.infos()[&ids[0]].get("end_xlog").to_owned();
    refused(&restore(&["--target-time", &early], &ids[0], &destination), &["before the backup end", &end]);
    refused(&restore(&["--target-lsn", "0/1"], &ids[0], &destination), &["before the backup end", &end_lsn]);
    let beyond = restore(&["--target-lsn", "F/0"], &ids[0], &destination);
    refused(&beyond, &["F/0", "nearest reachable point"]);

    // A hole after the backup.
    scene.cluster.archive_now().unwrap();
    let lost = scene.cluster.archive_now().unwrap();
    let late = scene.moment();
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let wal = scene.world.home().join("main/wals").join(&lost[..16]).join(&lost);
    let aside = scene.world.path().join("aside");
    fs::rename(&wal, &aside).unwrap();
    for target in [&["--target-time", late.as_str()][..], &["--target-name", "x"], &[]] {
        refused(
            &restore(target, &ids[0], &destination),
            &[&lost, "not in the archive", "nearest reachable point"],
        );
    }
    // The point that is named can be reached.
    let said = restore(&[], &ids[0], &destination).stderr;
    let nearest = said.split_once("(--target-lsn ").unwrap().1.split_once(')').unwrap().0;
    restore(&["--target-lsn", nearest, "--target-action", "promote"], &ids[0], &destination).ok().unwrap();
    Cluster::open_restored(MAJOR, &destination).unwrap();
    for path in [destination.clone(), Utf8PathBuf::from(format!("{destination}-ts1"))] {
        fs::remove_dir_all(path).unwrap();
    }
    // What lies before the hole can be reached.
    restore(&["--target-immediate"], &ids[0], &destination).ok().unwrap();
    refused(&restore(&[], &ids[0], &destination), &["not in the archive"]);
    fs::rename(&aside, &wal).unwrap();

    // The destination.
    refused(&restore(&[], &ids[0], &destination), &["not empty", destination.as_str()]);
    refused(
        &restore(&[], &ids[0], scene.cluster.pgdata()),
        &["server runs", scene.cluster.pgdata().as_str()],
    );
    let elsewhere = scene.world.path().join("elsewhere");
    let taken = format!("ts1:{destination}");
    let run = ["restore", "--tablespace", &taken, "main", "latest", elsewhere.as_str()];
    refused(&scene.world.barman(&run).unwrap(), &["tablespace 'ts1'", "not empty"]);
    refused(&restore(&[], &ids[0], &scene.world.config_path()), &["not a directory"]);
    let run = ["restore", "--tablespace", &format!("ts1:{elsewhere}-ts1"), "main", "latest", "/proc/nowhere"];
    refused(&scene.world.barman(&run).unwrap(), &["/proc/nowhere"]);
    assert!(!elsewhere.exists() || names(&elsewhere).is_empty());

    // Damage in the repository names the file, and the result cannot be started.
    let victim = scene.base(&ids[0]).join("data/base/1/1259");
    let mut bytes = fs::read(&victim).unwrap();
    bytes[100] ^= 1;
    fs::write(&victim, bytes).unwrap();
    let place = format!("ts1:{elsewhere}-ts1");
    let run = ["restore", "--tablespace", &place, "main", "latest", elsewhere.as_str()];
    refused(&scene.world.barman(&run).unwrap(), &["base/1/1259", "damaged"]);
    assert!(!elsewhere.join("global/pg_control").exists());
}

#[test]
fn servers() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let mut scene = Scene::new(MAJOR);
    scene.fill(100);
    scene.ours(&["backup", "--wait", "main"]);
    let own = scene.cluster.conninfo();

    let other = Cluster::builder(MAJOR)
        .fresh_initdb()
        .hba("host all secretive 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    scene.world.server("main").conninfo(other.conninfo());
    let (expected, found) = (scene.cluster.system_id().unwrap(), other.system_id().unwrap());
    no_backup(&scene, &["systemid coherence"]);
    let identity = fs::read_to_string(scene.world.home().join("main/identity.json")).unwrap();
    assert!(identity.contains(&expected) && !identity.contains(&found));

    other.psql("CREATE ROLE secretive LOGIN SUPERUSER PASSWORD 'correct'").unwrap();
    let tcp = format!("host=127.0.0.1 port={} user=secretive dbname=postgres", other.port());
    scene.world.server("main").conninfo(format!("{tcp} password=battery-staple"));
    let wrong = scene.world.barman(&["backup", "main"]).unwrap();
    refused(&wrong, &["password authentication failed for user \"secretive\""]);
    scene.world.server("main").conninfo(&tcp);
    refused(&scene.world.barman(&["backup", "main"]).unwrap(), &["password"]);
    // I32: secrets are neither said nor logged.
    assert!(!wrong.to_string().contains("battery-staple") && !scene.world.log().contains("battery-staple"));

    scene.world.server("main").conninfo("host=127.0.0.1 port=1 user=postgres");
    no_backup(&scene, &["port 1", "refused"]);
    scene.world.server("main").conninfo("host=127.0.0.1 prot=1");
    no_backup(&scene, &["prot"]);
    scene.world.server("main").conninfo(own);
    scene.cluster.stop(StopMode::Fast).unwrap();
    no_backup(&scene, &["PostgreSQL", "No such file or directory"]);
}

#[test]
fn hosts() {
    if pg::require(MAJOR).is_none() || Sshd::require().is_none() {
        return;
    }
    let mut scene = Scene::new(MAJOR);
    scene.fill(100);
    scene.cluster.archive_now().unwrap();
    let mut sshd = Sshd::start().unwrap();
    scene.over_ssh(&sshd);

    sshd.stop().unwrap();
    no_backup(&scene, &["ssh", "refused"]);
    sshd.restart().unwrap();
    let foreign = sshd.ssh_command().replace(sshd.key().as_str(), sshd.foreign_key().unwrap().as_str());
    scene.world.server("main").ssh(foreign);
    no_backup(&scene, &["ssh", "ermission denied"]);
    scene.over_ssh(&sshd);
    sshd.rotate_host_key().unwrap();
    no_backup(&scene, &["ssh", "host key"]);

    // conninfo leads to one cluster, ssh to a host that has another one in the same place.
    let other = Cluster::builder(MAJOR).fresh_initdb().start().unwrap();
    let (own, there) = (scene.cluster.pgdata(), other.pgdata());
    let elsewhere =
        format!("sh -c 'eval \"$(printf %s \"$SSH_ORIGINAL_COMMAND\" | sed s#{own}#{there}#g)\"'");
    let confused = Sshd::builder().forced_command(elsewhere).start().unwrap();
    scene.over_ssh(&confused);
    let (found, expected) = (other.system_id().unwrap(), scene.cluster.system_id().unwrap());
    no_backup(&scene, &[&found, &expected]);

    // Programs that talk.
    let noisy =
        Sshd::builder().forced_command("echo Welcome; sh -c \"$SSH_ORIGINAL_COMMAND\"").start().unwrap();
    scene.over_ssh(&noisy);
    no_backup(&scene, &["ssh", "must print nothing"]);
}

fn mode(path: &Utf8Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn permissions() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let scene = Scene::new(MAJOR);
    scene.fill(100);
    scene.ours(&["backup", "--wait", "main"]);

    for (directory, what) in [("main/base", "base"), ("main/meta", "meta")] {
        let path = scene.world.home().join(directory);
        mode(&path, 0o500);
        no_backup(&scene, &["ermission denied", what]);
        mode(&path, 0o755);
    }
    let unreadable = scene.cluster.pgdata().join("base/1/1259");
    mode(&unreadable, 0o000);
    no_backup(&scene, &["base/1/1259", "ermission denied"]);
    mode(&unreadable, 0o600);
    let wals = scene.world.home().join("main/wals");
    let wals = wals.join(names(&wals).iter().find(|name| name.len() == 16).unwrap());
    scene.cluster.archive_now().unwrap();
    mode(&wals, 0o500);
    let kept = names(&scene.world.incoming("main"));
    let run = scene.world.barman(&["archive-wal", "main"]).unwrap();
    mode(&wals, 0o755);
    assert!(run.code() == Some(1) && run.stderr.contains("ermission denied"), "{run}");
    assert_eq!(names(&scene.world.incoming("main")), kept);

    scene.ours(&["backup", "--wait", "main"]);
    let failed = scene.infos().into_values().filter(|info| info.get("status") == "FAILED");
    let reasons: Vec<String> = failed.map(|info| info.get("error").to_owned()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("base/1/1259")), "{reasons:?}");
}

#[test]
fn full_disks() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let scene = Scene::new(MAJOR);
    scene.fill(100);
    let account = scene.world.account().clone();
    let base = scene.world.dir().subdir("barman/main/base").unwrap();
    let wals = scene.world.dir().subdir("barman/main/wals").unwrap();
    let owner = format!("uid={},gid={}", account.uid, account.gid);

    let Some(small) = Small::mount(&base, &format!("size=8m,{owner}")) else { return };
    let run = scene.world.barman(&["backup", "main"]).unwrap();
    refused(&run, &["No space left on device"]);
    let infos = scene.infos();
    let (_, info) = infos.iter().next().unwrap();
    assert_eq!(info.get("status"), "FAILED");
    assert!(info.get("error").contains("No space left"), "{}", info.get("error"));
    drop(small);

    // The archive is full: what waits in incoming stays there, and goes in when there is room. What the backup wrote goes
    // before: a file for which there is no room at all takes what there is from those beside it while it is tried.
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let aside = scene.world.path().join("wals");
    fs::rename(&wals, &aside).unwrap();
    scene.world.dir().subdir("barman/main/wals").unwrap();
    let full = Small::mount(&wals, &format!("size=160k,{owner}")).unwrap();
    // The index of the archive is there already, and has room for some lines more in its last block.
    fs::copy(aside.join("main-xlog.db"), wals.join("main-xlog.db")).unwrap();
    account.own_tree(&wals).unwrap();
    // More than is worked on at a time, so that what comes after the trouble is still handed over.
    let small = |count| {
        for _ in 0..count {
            scene.cluster.psql("SELECT pg_switch_wal() FROM txid_current()").unwrap();
        }
    };
    small(8);
    for table in ["v", "w", "x", "y"] {
        let rows = "SELECT md5(n::text) FROM generate_series(1, 3000) AS n";
        scene.cluster.psql(&format!("CREATE TABLE {table} AS {rows}; SELECT pg_switch_wal()")).unwrap();
    }
    small(20);
    scene.cluster.archive_now().unwrap();
    let waiting = names(&scene.world.incoming("main"));
    let mut left = waiting.len();
    for again in [false, true] {
        let run = scene.world.barman(&["archive-wal", "main"]).unwrap();
        refused(&run, &["No space left for WAL", wals.as_str()]);
        let still = names(&scene.world.incoming("main"));
        let index = fs::read_to_string(wals.join("main-xlog.db")).unwrap();
        // What had room is done with: its line is there and its source is gone, so that the room in incoming is free.
        for name in waiting.iter().filter(|name| !still.contains(name)) {
            assert!(wals.join(&name[..16]).join(name).exists() && index.contains(name.as_str()), "{name}");
        }
        assert!(!still.is_empty() && (still.len() < left || again), "{waiting:?} {still:?}");
        left = still.len();
    }
    drop(full);
    fs::remove_dir(&wals).unwrap();
    fs::rename(&aside, &wals).unwrap();
    scene.ours(&["archive-wal", "main"]);
    assert_eq!(names(&scene.world.incoming("main")), Vec::<String>::new());

    // Too small for a restore: said before anything is written.
    scene.ours(&["backup", "--wait", "main"]);
    let tight = scene.world.dir().subdir("tight").unwrap();
    let _small = Small::mount(&tight, &format!("size=8m,{owner}")).unwrap();
    let destination = tight.join("restored");
    let place = scene.relocation(&destination);
    let restore = ["restore", "--tablespace", &place, "main", "latest", destination.as_str()];
    refused(&scene.world.barman(&restore).unwrap(), &["bytes free", destination.as_str()]);
    assert_eq!(names(&tight), Vec::<String>::new());
}

#[test]
fn i28_a_second_backup_is_told_who_takes_the_first() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let scene = Scene::new(MAJOR);
    scene.fill(100);
    scene.cluster.archive_now().unwrap();
    let slow = ["backup", "--bwlimit", "200", "main"];
    let mut first = scene.world.barman_command(&slow).unwrap();
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !scene.infos().values().any(|info| info.get("status") == "STARTED") {
        assert!(began.elapsed() < Duration::from_secs(60) && first.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = scene.world.barman(&["backup", "main"]).unwrap();
    refused(
        &second,
        &["Another backup process is running", &first.id().to_string(), "since", "--bwlimit 200"],
    );
    assert_eq!(scene.ids().len(), 1);
    // SIGTERM: the backup ends as FAILED by itself.
    scene.world.command("kill").arg(first.id().to_string()).status().unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(1));
    let infos = scene.infos();
    let (_, info) = infos.iter().next().unwrap();
    assert_eq!((info.get("status"), info.get("error").is_empty()), ("FAILED", false));
    scene.ours(&["backup", "--wait", "main"]);
}
