//! One PostgreSQL server, one Barman that protects it, and what the tests ask of both.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use barman_testkit::pg::{self, Archive, Builder, Cluster, Restored, verify_cluster};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

/// The name of the server in the configuration.
pub(crate) const SERVER: &str = "main";

/// A server, its Barman, and the way between them.
pub(crate) struct Scene {
    pub(crate) major: u32,
    pub(crate) cluster: Cluster,
    pub(crate) sshd: Sshd,
    pub(crate) world: World,
}

impl Scene {
    /// A running server with two tablespaces that archives into incoming, and a configuration as users write it. `None`, with
    /// a word about it, where the machine lacks the major or OpenSSH.
    pub(crate) fn new(major: u32) -> Option<Scene> {
        Scene::with(major, |builder| builder)
    }

    /// The same on one host, without ssh, for what does not depend on the way: many restores in little time. The connection
    /// string has keys that PostgreSQL's library still knows and no longer heeds.
    pub(crate) fn local(major: u32, change: impl FnOnce(Builder) -> Builder) -> Option<Scene> {
        let mut scene = Scene::with(major, change)?;
        let conninfo = format!("{} sslcompression=1 krbsrvname=postgres", scene.cluster.conninfo_tcp());
        scene
            .world
            .server(SERVER)
            .conninfo(conninfo)
            .option("archiver", "on")
            .option("backup_options", "concurrent_backup")
            .option("backup_method", "local-rsync")
            .ssh("");
        Some(scene)
    }

    /// A scene with a changed server.
    pub(crate) fn with(major: u32, change: impl FnOnce(Builder) -> Builder) -> Option<Scene> {
        pg::require(major)?;
        Sshd::require()?;
        let mut world = World::in_memory().unwrap();
        let incoming = world.dir().subdir("incoming").unwrap();
        let builder = Cluster::builder(major)
            .tablespaces(["hot", "cold"])
            .archive_to(&incoming, Archive::Plain)
            .conf("include_if_exists", "not_there.conf");
        let cluster = change(builder).start().unwrap();
        let sshd = Sshd::start().unwrap();
        world
            .global("compression", "gzip")
            .global("reuse_backup", "link")
            .global("minimum_redundancy", "1")
            .global("immediate_checkpoint", "true")
            .global("basebackup_retry_times", "3")
            .global("basebackup_retry_sleep", "30")
            .global("last_backup_maximum_age", "1 DAYS");
        // As in an installation of the time before `archiver` and `backup_options`.
        world
            .server(SERVER)
            .option("description", "\"the server of the walk\"")
            .ssh(sshd.ssh_command())
            .conninfo(cluster.conninfo_tcp())
            .option("incoming_wals_directory", incoming)
            .option("retention_policy_mode", "auto")
            .option("retention_policy", "RECOVERY WINDOW OF 7 days")
            .option("wal_retention_policy", "main");
        Some(Scene { major, cluster, sshd, world })
    }

    /// Tables and indexes in the data directory and in both tablespaces.
    pub(crate) fn fill(&self) {
        self.sql("CREATE TABLE orders AS SELECT n, md5(n::text) AS code FROM generate_series(1, 2000) AS n");
        self.sql("CREATE INDEX orders_code ON orders (code) TABLESPACE hot");
        self.sql("CREATE TABLE precious TABLESPACE cold AS SELECT generate_series(1, 3000) AS n");
        self.sql("CREATE TABLE log (line text)");
        self.sql("CREATE UNLOGGED TABLE scratch (n int)");
    }

    /// Runs SQL on the source server.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.cluster.psql(sql).unwrap()
    }

    /// Writes a line into the table `log`, in a transaction of its own, and gives its id.
    pub(crate) fn note(&self, line: &str) -> String {
        let mut session = self.cluster.connect().unwrap();
        session.psql("BEGIN").unwrap();
        session.psql(&format!("INSERT INTO log VALUES ('{line}')")).unwrap();
        let xid = session.psql("SELECT txid_current()").unwrap();
        session.psql("COMMIT").unwrap();
        xid
    }

    /// Where the server will write next.
    pub(crate) fn position(&self) -> String {
        self.sql("SELECT pg_current_wal_insert_lsn()")
    }

    /// The time on the server, with some room to the transactions before and after.
    pub(crate) fn moment(&self) -> String {
        std::thread::sleep(Duration::from_millis(30));
        let now = self.sql(
            "SET timezone = 'UTC'; SELECT to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.US') || '+00'",
        );
        std::thread::sleep(Duration::from_millis(30));
        now
    }

    /// A command that must succeed.
    pub(crate) fn barman(&self, arguments: &[&str]) -> Run {
        let begun = Instant::now();
        let run = self.world.barman(arguments).unwrap();
        println!("PostgreSQL {}: {:?} for {arguments:?}", self.major, begun.elapsed());
        run.ok().unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// A command that must fail with status 1; gives what it said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let run = self.world.barman(arguments).unwrap();
        assert_eq!(run.code(), Some(1), "{arguments:?}: {run}");
        format!("{}{}", run.stdout, run.stderr)
    }

    /// `barman backup --wait`; gives the id of the backup, which is DONE.
    pub(crate) fn backup(&self) -> String {
        let run = self.barman(&["backup", "--wait", SERVER]);
        let id = self.backups().pop().unwrap();
        assert!(self.info(&id).contains("status=DONE\n"), "{run}");
        id
    }

    /// The ids of all backups, oldest first.
    pub(crate) fn backups(&self) -> Vec<String> {
        let base = self.world.home().join(SERVER).join("base");
        let mut ids: Vec<String> =
            base.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
        ids.sort();
        ids
    }

    /// The directory of a backup.
    pub(crate) fn base(&self, id: &str) -> Utf8PathBuf {
        self.world.home().join(SERVER).join("base").join(id)
    }

    /// The text of a `backup.info`.
    pub(crate) fn info(&self, id: &str) -> String {
        let path = self.world.home().join(SERVER).join("meta").join(format!("{id}-backup.info"));
        fs::read_to_string(path).unwrap()
    }

    /// Closes the current segment and archives all.
    pub(crate) fn archive(&self) -> Run {
        self.cluster.archive_now().unwrap();
        self.barman(&["archive-wal", SERVER])
    }

    /// A place for a restore, and arguments that relocate both tablespaces beside it.
    pub(crate) fn place(&self, name: &str) -> Place {
        Place { pgdata: self.world.path().join(name).join("data") }
    }

    /// Restores with these options to a new place and gives it.
    pub(crate) fn restore(&self, name: &str, id: &str, options: &[&str]) -> Place {
        self.restore_said(name, id, options).0
    }

    /// The same with what was said.
    pub(crate) fn restore_said(&self, name: &str, id: &str, options: &[&str]) -> (Place, Run) {
        let place = self.place(name);
        let run = self.barman(&self.restore_arguments(&place, id, options).each());
        (place, run)
    }

    /// The command line of a restore.
    pub(crate) fn restore_arguments(&self, place: &Place, id: &str, options: &[&str]) -> Words {
        let mut words = vec!["restore".to_owned()];
        words.extend(options.iter().map(|o| (*o).to_owned()));
        for space in ["hot", "cold"] {
            words.extend(["--tablespace".to_owned(), format!("{space}:{}", place.tablespace(space))]);
        }
        words.extend([SERVER.to_owned(), id.to_owned(), place.pgdata.to_string()]);
        Words(words)
    }

    /// A server on a restored place, to be started.
    pub(crate) fn restored(&self, place: &Place) -> Restored {
        Cluster::restored(self.major, &place.pgdata).env("PATH", self.world.search_path())
    }

    /// Starts a server on a restored place, waits for the end of recovery.
    pub(crate) fn open(&self, place: &Place) -> Cluster {
        let begun = Instant::now();
        let server = self.restored(place).start().unwrap_or_else(|error| panic!("{}: {error}", place.pgdata));
        println!("PostgreSQL {}: {:?} for recovery in {}", self.major, begun.elapsed(), place.pgdata);
        server
    }
}

/// Command line words.
pub(crate) struct Words(Vec<String>);

impl Words {
    pub(crate) fn each(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

/// Where a backup was restored to.
pub(crate) struct Place {
    pub(crate) pgdata: Utf8PathBuf,
}

impl Place {
    pub(crate) fn tablespace(&self, name: &str) -> Utf8PathBuf {
        self.pgdata.with_file_name(name)
    }

    pub(crate) fn text(&self, file: &str) -> String {
        let path = self.pgdata.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.pgdata.join(file).symlink_metadata().is_ok()
    }

    /// The file with the recovery settings of that major.
    pub(crate) fn settings(&self, major: u32) -> String {
        self.text(if major >= 12 { "postgresql.auto.conf" } else { "recovery.conf" })
    }
}

/// Waits until a query on a restored server answers as expected.
pub(crate) fn wait_for(server: &Cluster, sql: &str, expected: &str) {
    server.poll(sql, expected).unwrap_or_else(|error| panic!("{error}\n{}", server.log_tail(30)));
}

/// What the table `log` holds, in order.
pub(crate) fn log_of(server: &Cluster) -> String {
    server.psql("SELECT coalesce(string_agg(line, ' ' ORDER BY line), '') FROM log").unwrap()
}

/// The restored server holds the first three tables whole, pages and indexes are sound, tablespaces lie where they were put,
/// and it takes writes.
pub(crate) fn prove_sound(place: &Place, server: &mut Cluster) {
    assert_eq!(server.psql("SELECT pg_is_in_recovery()").unwrap(), "f");
    assert_eq!(server.psql("SELECT count(DISTINCT code) FROM orders").unwrap(), "2000");
    assert_eq!(server.psql("SELECT count(*) FROM scratch").unwrap(), "0");
    for space in ["hot", "cold"] {
        let location = server
            .psql(&format!("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{space}'"))
            .unwrap();
        assert_eq!(location, place.tablespace(space));
    }
    server.psql("INSERT INTO orders VALUES (0, 'after the restore')").unwrap();
    let verified = verify_cluster(server).unwrap();
    assert!(verified.pages > 1000 && verified.indexes > 100, "{verified:?}");
}

/// How many names a file has.
pub(crate) fn links(path: &Utf8Path) -> u64 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{path}: {error}")).nlink()
}
