//! Homes made by hand: a catalog and an archive in files, so that no server is needed and both Barmans can be given the
//! same one.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test is the outside world"
)]

use std::collections::BTreeMap;
use std::fs;

use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

/// The system identifier of everything in a hand-made home.
pub(crate) const SYSTEM_ID: u64 = 7_711_114_132_867_599_874;
/// Segments of 1 MiB: sound ones are cheap.
pub(crate) const SEGMENT: u64 = 1 << 20;

/// A world with the server `main`, whose backups and WAL are made by hand.
pub(crate) struct Home {
    pub(crate) world: World,
}

/// A backup of a hand-made home.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) id: &'static str,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) status: &'static str,
    pub(crate) parent: Option<&'static str>,
    pub(crate) keep: Option<&'static str>,
}

/// A DONE backup that needs these segments.
pub(crate) fn done(id: &'static str, begin: u64, end: u64) -> Made {
    Made { id, begin, end, status: "DONE", parent: None, keep: None }
}

impl Made {
    pub(crate) fn status(mut self, status: &'static str) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn keep(mut self, keep: &'static str) -> Self {
        self.keep = Some(keep);
        self
    }

    pub(crate) fn parent(mut self, parent: &'static str) -> Self {
        self.parent = Some(parent);
        self
    }
}

/// Segment `number` of timeline 1.
pub(crate) fn segment(number: u64) -> String {
    let per_log = (1_u64 << 32) / SEGMENT;
    format!("00000001{:08X}{:08X}", number / per_log, number % per_log)
}

impl Home {
    /// Without backups, with the segments of this range in archive and index.
    pub(crate) fn new(segments: std::ops::RangeInclusive<u64>) -> Self {
        let mut world = World::new().unwrap();
        world
            .server("main")
            .conninfo("host=/nonexistent user=postgres dbname=postgres")
            .option("backup_method", "local-rsync")
            .option("archiver", "on")
            .option("backup_options", "concurrent_backup");
        let home = Self { world };
        for dir in ["base", "meta", "wals", "incoming", "streaming", "errors"] {
            fs::create_dir_all(home.path(dir)).unwrap();
        }
        home.write(
            "identity.json",
            format!("{{\n    \"systemid\": \"{SYSTEM_ID}\",\n    \"version\": \"17\"\n}}\n"),
        );
        for number in segments {
            home.wal(&segment(number), true);
        }
        home
    }

    pub(crate) fn path(&self, below: &str) -> Utf8PathBuf {
        self.world.home().join("main").join(below)
    }

    pub(crate) fn write(&self, below: &str, content: impl AsRef<[u8]>) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap_or_default()
    }

    pub(crate) fn exists(&self, below: &str) -> bool {
        self.path(below).exists()
    }

    /// Puts a small file under a WAL's name into the archive, with or without its line in the index.
    pub(crate) fn wal(&self, name: &str, indexed: bool) {
        self.write(&format!("wals/{}/{name}", &name[..16]), "sixteen bytes…");
        if indexed {
            let index = self.read("wals/main-xlog.db");
            let mut lines: Vec<&str> = index.lines().collect();
            let line = format!("{name}\t16\t1795384342.0\tNone\tNone");
            lines.push(&line);
            lines.sort_unstable();
            self.write("wals/main-xlog.db", lines.join("\n") + "\n");
        }
    }

    pub(crate) fn has_wal(&self, name: &str) -> bool {
        self.exists(&format!("wals/{}/{name}", &name[..16]))
    }

    /// Adds backups, each with the backup history file in the archive.
    pub(crate) fn backups(self, all: &[Made]) -> Self {
        for made in all {
            let children: Vec<&str> =
                all.iter().filter(|b| b.parent == Some(made.id)).map(|b| b.id).collect();
            self.wal(&format!("{}.00000028.backup", segment(made.begin)), true);
            self.write(&format!("base/{}/data/PG_VERSION", made.id), "17\n");
            self.write(&format!("meta/{}-backup.info", made.id), info(made, &children));
            if let Some(keep) = made.keep {
                self.write(&format!("meta/{}-keep", made.id), keep);
            }
        }
        self
    }

    fn own(&self) {
        self.world.account().own_tree(self.world.home()).unwrap();
    }

    /// Runs our command.
    pub(crate) fn barman(&self, arguments: &[&str]) -> Run {
        self.own();
        self.world.barman(arguments).unwrap()
    }

    /// Runs the original Barman.
    pub(crate) fn oracle(&self, arguments: &[&str]) -> Run {
        self.own();
        self.world.oracle(arguments).unwrap()
    }

    /// Everything that a catalog and an archive are: names of files, and the contents of those of Barman's formats.
    /// Locks and what only we keep are left out.
    pub(crate) fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        let root = self.world.home();
        let mut pending = vec![root.join("main")];
        while let Some(dir) = pending.pop() {
            for found in dir.read_dir_utf8().unwrap() {
                let path = found.unwrap().into_path();
                let name = path.strip_prefix(&root).unwrap().to_string();
                if name.contains("/.native") {
                    continue;
                }
                let text = if path.is_dir() {
                    pending.push(path.clone());
                    String::new()
                } else {
                    content(&path)
                };
                tree.insert(name, text);
            }
        }
        tree
    }
}

fn content(path: &Utf8Path) -> String {
    let mut text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    if path.as_str().ends_with("xlog.db") {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        text = lines.join("\n");
    }
    text
}

fn info(made: &Made, children: &[&str]) -> String {
    let Made { id, begin, end, status, parent, .. } = made;
    let time = format!(
        "{}-{}-{} {}:{}:{}+00:00",
        &id[..4],
        &id[4..6],
        &id[6..8],
        &id[9..11],
        &id[11..13],
        &id[13..15]
    );
    let lsn = |number: u64, offset: u64| {
        let at = number * SEGMENT + offset;
        format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff)
    };
    let (first, last) = (segment(*begin), segment(*end));
    let (from, to) = (lsn(*begin, 40), lsn(*end, 256));
    let children = if children.is_empty() { "None".to_owned() } else { children.join(",") };
    let mode = if parent.is_some() || children != "None" { "postgres" } else { "rsync-concurrent" };
    let parent = parent.unwrap_or("None");
    format!(
        "backup_label='START WAL LOCATION: {from} (file {first})\\n'\n\
         begin_offset=40\nbegin_time={time}\nbegin_wal={first}\nbegin_xlog={from}\n\
         children_backup_ids={children}\ncluster_size=1000\ncompression=None\nconfig_file=None\ncopy_stats=None\n\
         data_checksums=on\ndeduplicated_size=3\nencryption=None\nend_offset=256\nend_time={time}\n\
         end_wal={last}\nend_xlog={to}\nerror=None\nhba_file=None\nident_file=None\nincluded_files=None\n\
         mode={mode}\nparent_backup_id={parent}\npgdata=/srv/data\nserver_name=main\nsize=3\nstatus={status}\n\
         summarize_wal=None\nsystemid={SYSTEM_ID}\ntablespaces=None\ntimeline=1\nversion=170010\n\
         xlog_segment_size={SEGMENT}\n"
    )
}

/// What was printed, without the time that a deletion began and took, and without the facts of a backup that Barman
/// prints where it refuses.
pub(crate) fn said(run: &Run) -> (Option<i32>, String, String) {
    let tidy = |text: &str| {
        let mut tidy = String::new();
        for line in text.lines() {
            let line = match line.split_once(" (start time: ") {
                Some((before, _)) => before.to_owned(),
                None => line.to_owned(),
            };
            let line = match line.split_once("Cannot delete backup (main ") {
                Some((before, _)) => format!("{before}Cannot delete backup (main …"),
                None => line,
            };
            tidy.push_str(&line);
            tidy.push('\n');
        }
        tidy
    };
    (run.code(), tidy(&run.stdout), tidy(&run.stderr))
}
