//! What the tests about interplay, kills and wrong input begin with: a server that archives, and a home that protects it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use barman_testkit::pg::{Archive, Cluster};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

/// A PostgreSQL server, and a home with one server, `main`, that protects it.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) cluster: Cluster,
}

impl Scene {
    /// A local server (`backup_method = local-rsync`) with a tablespace and segments of 1 MiB (16 MiB before 11).
    pub(crate) fn new(major: u32) -> Scene {
        Scene::within(World::in_memory().unwrap(), major)
    }

    /// The same in a world of the caller's: on the disk, for what is large.
    pub(crate) fn within(mut world: World, major: u32) -> Scene {
        let builder = Cluster::builder(major);
        let builder = if major >= 11 { builder.wal_segment_size_mb(1) } else { builder };
        let cluster =
            builder.archive_to(world.incoming("main"), Archive::Atomic).tablespace("ts1").start().unwrap();
        world
            .server("main")
            .conninfo(cluster.conninfo())
            .option("backup_method", "local-rsync")
            .option("archiver", "on")
            .option("backup_options", "concurrent_backup")
            .option("immediate_checkpoint", "true")
            .option("compression", "gzip")
            .option("basebackup_retry_times", "0")
            .option("reuse_backup", "link");
        Scene { world, cluster }
    }

    /// The same server reached over ssh (`backup_method = rsync`).
    pub(crate) fn over_ssh(&mut self, sshd: &Sshd) {
        self.world.server("main").option("backup_method", "rsync").ssh(sshd.ssh_command());
    }

    /// Makes table `t` (in the data directory) and `u` (in the tablespace), with `rows` rows each.
    pub(crate) fn fill(&self, rows: u32) {
        let rows = format!("SELECT n, repeat('x', 100) AS filler FROM generate_series(1, {rows}) AS n");
        self.cluster.psql(&format!("CREATE TABLE t AS {rows}")).unwrap();
        self.cluster.psql(&format!("CREATE TABLE u TABLESPACE ts1 AS {rows}")).unwrap();
        self.cluster.psql("CREATE INDEX ON t (n)").unwrap();
    }

    /// Our command; its output when it fails ends the test.
    pub(crate) fn ours(&self, arguments: &[&str]) -> Run {
        self.world.barman(arguments).unwrap().ok().unwrap()
    }

    /// The original command. Its backups are named by the second and it looks at nobody else's: one that begins in the second of
    /// another is written over it.
    pub(crate) fn theirs(&self, arguments: &[&str]) -> Run {
        if arguments.contains(&"backup") {
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        self.world.oracle(arguments).unwrap().ok().unwrap()
    }

    /// Ids in the catalog, oldest first.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.infos().into_keys().collect();
        ids.sort();
        ids
    }

    /// Id and `backup.info` of every backup.
    pub(crate) fn infos(&self) -> BTreeMap<String, Info> {
        names(&self.meta())
            .into_iter()
            .filter_map(|name| {
                let id = name.strip_suffix("-backup.info")?.to_owned();
                Some((id, Info::read(&self.meta().join(&name))))
            })
            .collect()
    }

    pub(crate) fn meta(&self) -> Utf8PathBuf {
        self.world.home().join("main/meta")
    }

    pub(crate) fn base(&self, id: &str) -> Utf8PathBuf {
        self.world.home().join("main/base").join(id)
    }

    /// Where the tablespace of the server has to go when it is restored next to itself.
    pub(crate) fn relocation(&self, destination: &Utf8Path) -> String {
        format!("ts1:{destination}-ts1")
    }

    /// `now()` of the server, after which nothing happens for a moment: a target for a restore.
    pub(crate) fn moment(&self) -> String {
        let now = self.cluster.psql("SELECT now()").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        now
    }
}

/// The lines of a `backup.info`.
#[derive(Debug, Clone)]
pub(crate) struct Info(pub(crate) Vec<(String, String)>);

impl Info {
    pub(crate) fn read(path: &Utf8Path) -> Info {
        let text = fs::read_to_string(path).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Info(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }

    pub(crate) fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(k, _)| k.as_str()).collect()
    }
}

/// The names in a directory, sorted; none when it is not there.
pub(crate) fn names(dir: &Utf8Path) -> Vec<String> {
    let Ok(entries) = dir.read_dir_utf8() else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_owned()).collect();
    names.sort();
    names
}

/// A small file system in memory.
pub(crate) struct Small(Utf8PathBuf);

impl Small {
    pub(crate) fn mount(path: &Utf8Path, options: &str) -> Option<Small> {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none", path.as_str()])
            .stderr(Stdio::null())
            .status();
        let mounted = mounted.is_ok_and(|status| status.success());
        if !mounted {
            barman_testkit::skip(
                "a small file system cannot be mounted here (that needs root), so no full disk",
            );
        }
        mounted.then(|| Small(path.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}
