//! Backup, second backup and restore of a real cluster on this host, against `cp` and Barman.

use std::process::Command;

use barman_testkit::pg::{self, Cluster};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::World;
use barman_testkit::{Error, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::measure::{Rival, Row, compare};
use super::{Options, shell};

/// A home with a server `main`, run by one of the programs.
pub(super) struct Home {
    pub(super) world: World,
    original: bool,
}

impl Home {
    /// `original` is Barman's own program, else ours.
    pub(super) fn new(program: &Utf8Path, original: bool) -> Result<Self> {
        let mut world = World::new()?;
        world.program(program).global("log_level", "INFO");
        Ok(Self { world, original })
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Result<Command> {
        if self.original {
            self.world.oracle_command(arguments)
        } else {
            self.world.barman_command(arguments)
        }
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Result<()> {
        let run = if self.original { self.world.oracle(arguments) } else { self.world.barman(arguments) };
        run?.ok().map(drop)
    }

    fn server(&self) -> Utf8PathBuf {
        self.world.home().join("main")
    }

    /// The newest backup.
    fn newest(&self) -> Result<Utf8PathBuf> {
        let base = self.server().join("base");
        let mut names: Vec<Utf8PathBuf> = base
            .read_dir_utf8()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.into_path()))
            .filter(|path| path.file_name().is_some_and(|name| name.starts_with("20")))
            .collect();
        names.sort();
        names.pop().ok_or_else(|| Error::Missing {
            what: format!("a backup in {base}"),
            hint: "look at its log".into(),
        })
    }

    /// Takes the newest backup out of the catalog. Its files stay until the end: ext4 avoids the numbers of inodes that
    /// were freed in the last minutes, and looking for others makes whoever creates files next several times slower.
    pub(super) fn forget_newest(&self) -> Result<()> {
        let newest = self.newest()?;
        let id = newest.file_name().unwrap_or_default().to_owned();
        // Backups are named by the second.
        shell(&format!("rm {}/meta/{id}-backup.info; sleep 1.1", self.server()))?;
        self.set_aside(&newest)
    }

    pub(super) fn set_aside(&self, path: &Utf8Path) -> Result<()> {
        shell(&format!("mkdir -p {0}/aside && mv {path} $(mktemp -d {0}/aside/XXXXXX)", self.world.path()))
    }
}

pub(super) fn run(options: &Options, program: &Utf8Path) -> Result<Vec<Row>> {
    let ours = Home::new(program, false)?;
    let barman = if options.oracle { Some(Home::new(program, true)?) } else { None };
    let mut homes: Vec<Home> = [Some(ours), barman].into_iter().flatten().collect();
    let cluster = cluster(options)?;
    for home in &mut homes {
        let conninfo = cluster.conninfo();
        home.world
            .server("main")
            .conninfo(conninfo)
            .option("backup_method", "local-rsync")
            .option("archiver", "on")
            .option("immediate_checkpoint", "true")
            .option("reuse_backup", "off");
        home.run(&["list-servers"])?;
    }
    archive_into(&cluster, &homes)?;
    // On the disk of the backups: the cluster itself may lie in memory.
    let copy = homes[0].world.path().join("copy");
    let files = homes[0].world.path().join("files");
    let plain = |from: Utf8PathBuf, how: &'static str| {
        let copy = copy.clone();
        move || {
            let line = format!("cp {how} {from} {copy} && sync -f {copy}");
            let mut command = Command::new("sh");
            command.args(["-c", &line]);
            Ok(command)
        }
    };
    let remove_copy = || homes[0].set_aside(&copy);
    let named = |home: &Home| if home.original { "barman 3.19.1" } else { "ours" };

    let mut rows = Vec::new();
    // The first run makes directories and the identity. What it copied is what cp copies: PGDATA has WAL besides.
    for home in &homes {
        home.run(&["backup", "main"])?;
        if !home.original {
            shell(&format!("cp -r {}/data {files}", home.newest()?))?;
        }
        home.forget_newest()?;
    }
    let full = |home: &'_ Home| home.command(&["backup", "main", "--reuse-backup=off"]);
    let mut rivals = vec![
        Rival::new("ours", || full(&homes[0])).after(|| homes[0].forget_newest()),
        Rival::new("cp -r + sync", plain(files.clone(), "-r")).after(remove_copy),
    ];
    rivals.extend(homes.get(1).map(|h| Rival::new(named(h), || full(h)).after(|| h.forget_newest())));
    rows.extend(compare("full backup, page checks and manifest", options.rounds, &rivals));

    for home in &homes {
        home.run(&["backup", "main"])?;
    }
    let again = |home: &'_ Home| home.command(&["backup", "main", "--reuse-backup=link"]);
    let mut rivals = vec![
        Rival::new("ours", || again(&homes[0])).after(|| homes[0].forget_newest()),
        Rival::new("cp -rl + sync", plain(homes[0].newest()?, "-rl")).after(remove_copy),
    ];
    rivals.extend(homes.get(1).map(|h| Rival::new(named(h), || again(h)).after(|| h.forget_newest())));
    rows.extend(compare("second backup, nothing changed, link", options.rounds, &rivals));

    for home in &homes {
        // The WAL that the backup needs.
        home.run(&["archive-wal", "main"])?;
    }
    let destination = homes[0].world.path().join("restored");
    let restore = |home: &'_ Home| home.command(&["recover", "main", "latest", destination.as_str()]);
    let remove = || homes[0].set_aside(&destination);
    let mut rivals = vec![
        Rival::new("ours", || restore(&homes[0])).after(remove),
        Rival::new("cp -r + sync", plain(files.clone(), "-r")).after(remove_copy),
    ];
    let theirs = homes.get(1).map(|h| Rival::new(named(h), || restore(h)).after(remove));
    rivals.extend(theirs);
    rows.extend(compare("restore, local", options.rounds, &rivals));
    rows.extend(over_ssh(options, program, &cluster)?);
    Ok(rows)
}

/// Backup and restore over a real sshd on loopback, against Barman with rsync. The second part adds 100,000 small files, which is
/// where a round trip or a process for each file would show; there rsync alone is the rival, since Barman needs minutes.
fn over_ssh(options: &Options, program: &Utf8Path, cluster: &Cluster) -> Result<Vec<Row>> {
    let sshd = Sshd::start()?;
    let ours = Home::new(program, false)?;
    let barman = if options.oracle { Some(Home::new(program, true)?) } else { None };
    let mut homes: Vec<Home> = [Some(ours), barman].into_iter().flatten().collect();
    for home in &mut homes {
        home.world
            .server("main")
            .conninfo(cluster.conninfo())
            .ssh(sshd.ssh_command())
            .option("backup_method", "rsync")
            .option("archiver", "on")
            .option("immediate_checkpoint", "true")
            .option("reuse_backup", "off");
        home.run(&["list-servers"])?;
    }
    archive_into(cluster, &homes)?;
    for home in &homes {
        home.run(&["backup", "main"])?;
        home.forget_newest()?;
    }
    let full = |home: &'_ Home| home.command(&["backup", "main"]);
    let mut rows = Vec::new();
    let mut rivals = vec![Rival::new("ours", || full(&homes[0])).after(|| homes[0].forget_newest())];
    rivals.extend(homes.get(1).map(|h| Rival::new("barman 3.19.1", || full(h)).after(|| h.forget_newest())));
    rows.extend(compare("full backup over ssh", options.rounds, &rivals));

    for home in &homes {
        home.run(&["backup", "main"])?;
        home.run(&["archive-wal", "main"])?;
    }
    let destination = homes[0].world.path().join("restored");
    let remote = sshd.ssh_command();
    let restore = |home: &'_ Home| {
        let there = ["--remote-ssh-command", &remote, "main", "latest", destination.as_str()];
        home.command(&[&["recover"], &there[..]].concat())
    };
    let remove = || homes[0].set_aside(&destination);
    let mut rivals = vec![Rival::new("ours", || restore(&homes[0])).after(remove)];
    rivals.extend(homes.get(1).map(|h| Rival::new("barman 3.19.1", || restore(h)).after(remove)));
    rows.extend(compare("restore over ssh", options.rounds, &rivals));

    let small = cluster.pgdata().join("small_files");
    shell(&format!(
        "mkdir {small} && cd {small} && head -c 170000000 /dev/zero | split -a 5 -b 1700 && ls | wc -l"
    ))?;
    homes[0].world.account().own_tree(&small)?;
    let copy = homes[0].world.path().join("rsynced");
    let rsync = || {
        // The words of the ssh command without the destination, which is its last.
        let (words, host) = remote.rsplit_once(' ').unwrap_or((&remote, ""));
        let line = format!("rsync -a -e '{words}' {host}:{}/ {copy}", cluster.pgdata());
        let mut command = homes[0].world.command("sh");
        command.args(["-c", &line]);
        Ok(command)
    };
    let rivals = [
        Rival::new("ours", || full(&homes[0])).after(|| homes[0].forget_newest()),
        Rival::new("rsync -a, nothing durable", rsync).after(|| homes[0].set_aside(&copy)),
    ];
    rows.extend(compare("100,000 small files more, over ssh", options.rounds, &rivals));
    Ok(rows)
}

/// A cluster of about that size in about 3,500 files, with checksums and without a tablespace, so that `cp` copies the same.
pub(super) fn cluster(options: &Options) -> Result<Cluster> {
    cluster_of(options, &[15, 17, 16])
}

/// The same of the first of these majors that is here.
pub(super) fn cluster_of(options: &Options, majors: &[u32]) -> Result<Cluster> {
    let found = majors.iter().copied().find(|major| pg::find(*major).is_some());
    let major = found.or(majors.first().copied()).unwrap_or(15);
    println!("filling a cluster of {} MB", options.size_mb);
    let cluster = Cluster::builder(major)
        .data_checksums(true)
        .conf("archive_mode", "on")
        .conf("archive_command", "/bin/true")
        .conf("fsync", "off")
        .conf("max_wal_size", "512MB")
        .conf("checkpoint_timeout", "1h")
        .conf("autovacuum", "off")
        .start()?;
    // A row of 32 × 32 pseudo-random hexadecimal digits: about 7 a page.
    let rows = options.size_mb * 1024 * 1024 / 1170 / 4;
    for table in 0..4 {
        cluster.psql(&format!(
            "CREATE TABLE big_{table} AS SELECT n AS id, \
             (SELECT string_agg(md5(n::text || i::text), '') FROM generate_series(1, 33) AS i) AS note \
             FROM generate_series(1, {rows}) AS n"
        ))?;
    }
    // Every database has about 300 files.
    for database in 0..8 {
        cluster.psql(&format!("CREATE DATABASE small_{database}"))?;
    }
    cluster.psql("VACUUM FREEZE; ")?;
    cluster.psql("CHECKPOINT")?;
    Ok(cluster)
}

/// Archives from now on into the incoming directory of every home.
pub(super) fn archive_into(cluster: &Cluster, homes: &[Home]) -> Result<()> {
    let mut command = Vec::new();
    for home in homes {
        let incoming = home.world.incoming("main");
        shell(&format!("mkdir -p {incoming}"))?;
        home.world.account().own_tree(home.server())?;
        command.push(format!("cp %p {incoming}/%f"));
    }
    cluster.psql(&format!("ALTER SYSTEM SET archive_command = '{}'", command.join(" && ")))?;
    cluster.psql("SELECT pg_reload_conf()")?;
    cluster.archive_now().map(drop)
}
