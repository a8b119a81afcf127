//! What the README tells a new user to do, done on real servers as it stands there. Only names of hosts, paths, moments and ids
//! are put in place of those of the README, each of which must be found in it.

use std::fs;

use barman_testkit::pg::{self, Archive, Cluster, StopMode};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::World;
use camino::Utf8Path;

fn readme() -> String {
    fs::read_to_string(Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

/// The block in that language under the heading.
fn block(heading: &str, language: &str) -> String {
    let text = readme();
    let section = text.split("\n## ").find(|s| s.starts_with(&format!("{heading}\n")));
    let section = section.unwrap_or_else(|| panic!("README has no section '{heading}'"));
    let (_, rest) = section.split_once(&format!("```{language}\n")).unwrap_or_else(|| panic!("{heading}"));
    rest.split_once("```").unwrap().0.to_owned()
}

/// The words of each command of the console block, split as a shell does where nothing but quotes is special.
fn commands(heading: &str) -> Vec<Vec<String>> {
    let block = block(heading, "console");
    let lines = block.lines().map(|line| line.strip_prefix("$ ").unwrap_or_else(|| panic!("{line}")));
    lines
        .map(|line| {
            let (mut words, mut quoted, mut open) = (vec![String::new()], false, false);
            for c in line.chars() {
                match c {
                    '\'' => quoted = !quoted,
                    ' ' if !quoted => open = true,
                    c => {
                        if std::mem::take(&mut open) {
                            words.push(String::new());
                        }
                        words.last_mut().unwrap().push(c);
                    }
                }
            }
            words
        })
        .collect()
}

/// Puts one text in place of another, which must be there.
fn put(words: &mut [String], old: &str, new: &str) {
    let word = words.iter_mut().find(|w| w.contains(old)).unwrap_or_else(|| panic!("no {old} in README"));
    *word = word.replace(old, new);
}

/// The options of the configuration as the README has them, for a server of the test. What names a host or a place is the test's.
fn configure(world: &mut World, cluster: &Cluster, ssh: &str) {
    let mut section = String::new();
    for line in block("Configure", "ini").lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            continue;
        }
        let (key, value) = line.split_once(" = ").unwrap();
        match (section.as_str(), key) {
            ("barman", "barman_user" | "barman_home" | "log_file") => {}
            ("barman", key) => {
                world.global(key, value);
            }
            (server, "conninfo") => {
                assert_eq!(value, "host=db.example.com user=postgres");
                world.server(server).conninfo(cluster.conninfo_tcp());
            }
            (server, "ssh_command") => {
                assert_eq!(value, "ssh postgres@db.example.com");
                world.server(server).ssh(ssh);
            }
            (server, key) => {
                world.server(server).option(key, value);
            }
        }
    }
}

#[test]
fn what_the_readme_says_works_as_it_stands_there() {
    if pg::require(17).is_none() || Sshd::require().is_none() {
        return;
    }
    let mut world = World::in_memory().unwrap();
    let incoming = world.dir().subdir("barman/main/incoming").unwrap();
    assert!(readme().contains("barman@backup.example.com:/var/lib/barman/main/incoming/%f"));
    let cluster = Cluster::builder(17).tablespaces(["ts1"]).archive_to(&incoming, Archive::Plain);
    let mut cluster = cluster.start().unwrap();
    let sshd = Sshd::start().unwrap();
    configure(&mut world, &cluster, &sshd.ssh_command());
    world.account().own_tree(world.home()).unwrap();
    cluster.psql("CREATE TABLE kept TABLESPACE ts1 AS SELECT generate_series(1, 1000) AS n").unwrap();

    let run = |words: &[String]| {
        let (program, arguments) = words.split_first().unwrap();
        assert_eq!(program, "barman");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        world.barman(&arguments).unwrap().ok().unwrap_or_else(|error| panic!("{words:?}: {error}"))
    };
    let first = commands("First backup");
    cluster.archive_now().unwrap();
    run(&["barman".to_owned(), "archive-wal".to_owned(), "main".to_owned()]);
    let said: Vec<String> = first.iter().map(|words| run(words).stdout).collect();
    let id = said.last().unwrap().split(' ').nth(1).unwrap().to_owned();
    assert!(said[1].contains("Backup completed"), "{said:?}");
    assert!(said[2].starts_with(&format!("main {id} - R - ")), "{said:?}");

    std::thread::sleep(std::time::Duration::from_millis(50));
    let moment = cluster
        .psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'");
    std::thread::sleep(std::time::Duration::from_millis(50));
    cluster.psql("DROP TABLE kept").unwrap();
    cluster.archive_now().unwrap();
    let mut restores = commands("First restore");
    let (local, remote) = (world.path().join("restored/data"), world.path().join("remote/data"));
    put(&mut restores[0], "2026-11-22 21:46:00+00:00", &moment.unwrap());
    put(&mut restores[0], "/var/lib/postgresql/restored", local.as_str());
    let spaces = world.path().join("ts1 of the first");
    restores[0].insert(2, "--tablespace".to_owned());
    restores[0].insert(3, format!("ts1:{spaces}"));
    put(&mut restores[1], "ssh postgres@other", &sshd.ssh_command());
    put(&mut restores[1], "/srv/ts1", world.path().join("ts1").as_str());
    put(&mut restores[1], "20261122T214528", &id);
    put(&mut restores[1], "/srv/restored", remote.as_str());
    for words in &restores {
        let plan = [&words[..], &["--native-dry-run".to_owned()]].concat();
        run(&plan);
        run(words);
    }
    cluster.stop(StopMode::Fast).unwrap();
    let server = Cluster::restored(17, &local).start().unwrap();
    assert_eq!(server.psql("SELECT count(*) FROM kept").unwrap(), "1000", "the table is back");
    drop(server);
    let server = Cluster::restored(17, &remote).start().unwrap();
    assert_eq!(server.psql("SELECT to_regclass('kept') IS NULL").unwrap(), "t", "replayed to the end");
}

/// The two commands for a fresh machine name what is there.
#[test]
fn the_commands_of_the_workspace_exist() {
    let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    assert_eq!(block("See it work", "console"), "$ cargo run --release --example quickstart\n");
    assert!(root.join("examples/quickstart.rs").exists());
    assert_eq!(block("Test it", "console"), "$ cargo xtask test\n");
    assert!(fs::read_to_string(root.join(".cargo/config.toml")).unwrap().contains("xtask = "));
    assert!(fs::read_to_string(root.join(".ci/run")).unwrap().contains("cargo xtask test"));
    for link in ["examples/embed_backup.rs", "examples/custom_compressor.rs", "LICENSE-MIT", "LICENSE-APACHE"]
    {
        assert!(readme().contains(&format!("({link})")) && root.join(link).exists(), "{link}");
    }
}
