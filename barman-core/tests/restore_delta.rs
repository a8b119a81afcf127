//! Delta restores into an older cluster, with the power lost at every step; and what they never touch.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use barman_core::catalog::{BackupReader, CatalogError, FileProof, MemberStream, Root};
use barman_core::io::{Disk, RealDisk};
use barman_core::model::{BackupInfo, Entry, EntryKind, FileTime, PgVersion, Timeline};
use barman_core::recovery::{self, RecoveryError, RecoveryPlan, RecoveryReport, RunOptions, TreePlan};
use barman_core::transport::LocalTransport;
use barman_testkit::crash_disk::{CrashDisk, for_every_crash_point};
use camino::{Utf8Path, Utf8PathBuf};

use crate::wal_archive::Home;

/// What the backup holds.
const BACKUP: [(&str, &str); 7] = [
    ("PG_VERSION", "16\n"),
    ("backup_label", "START WAL LOCATION: 0/5000028\n"),
    ("base/5/equal", "the same"),
    ("base/5/other", "as backed up"),
    ("base/5/new", "not there before"),
    ("postgresql.conf", "port = 5432\n"),
    ("global/pg_control", "control of the backup"),
];

/// What the cluster holds that was there before. The last name is another name of the one before it.
const OLD: [(&str, &str); 13] = [
    ("PG_VERSION", "16\n"),
    ("backup_label.old", "old"),
    ("recovery.signal", ""),
    ("base/5/equal", "the same"),
    ("base/5/other", "as it was !!"),
    ("base/5/extra", "dropped since"),
    ("base/7/1", "of a database that is gone"),
    ("postgresql.conf", "port = 1\n"),
    ("global/pg_control", "control of the old"),
    ("pg_wal/000000010000000000000007", "precious"),
    ("pg_wal/000000010000000000000006", "archived"),
    ("pg_wal/archive_status/000000010000000000000006.done", ""),
    ("log/server.log", "what happened"),
];

struct Shelf {
    info: BackupInfo,
    packed: bool,
    proofs: bool,
    /// A file of which no checksum is known.
    unknown: &'static str,
}

impl Shelf {
    fn new(packed: bool, proofs: bool) -> Self {
        let mut info = BackupInfo::empty("20261122T214528".parse().unwrap());
        info.version = Some(PgVersion::new(160_000));
        Self { info, packed, proofs, unknown: "" }
    }
}

fn entries() -> Vec<(Entry, Vec<u8>)> {
    let mtime = FileTime { seconds: 1_700_000_000, nanos: 0 };
    let dir = |path: &str| {
        (Entry { path: path.into(), kind: EntryKind::Directory, size: 0, mtime, mode: 0o700 }, Vec::new())
    };
    let mut all: Vec<_> = ["base", "base/5", "global", "pg_wal"].into_iter().map(dir).collect();
    all.extend(BACKUP.iter().map(|(path, text)| {
        let size = text.len() as u64;
        (
            Entry { path: (*path).into(), kind: EntryKind::File, size, mtime, mode: 0o600 },
            text.as_bytes().to_vec(),
        )
    }));
    all
}

impl BackupReader for Shelf {
    fn info(&self) -> &BackupInfo {
        &self.info
    }
    fn location(&self, _root: Root) -> Utf8PathBuf {
        "/repository/data".into()
    }
    fn files(&self, _root: Root) -> Result<Vec<Entry>, CatalogError> {
        Ok(entries().into_iter().map(|(entry, _)| entry).collect())
    }
    fn proofs(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        let rows =
            entries().into_iter().filter(|(entry, _)| entry.is_file()).map(|(entry, content)| FileProof {
                root: Root::Data,
                path: entry.path,
                size: entry.size,
                mtime: entry.mtime,
                mode: entry.mode,
                crc32c: crc32c::crc32c(&content),
                sha256: None,
            });
        let rows = rows.filter(|row| row.path != self.unknown);
        Ok(self.proofs.then(|| rows.collect()))
    }
    fn open(&self, _root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        assert!(!self.packed || !path.starts_with("base"), "{path} is looked for in the whole archive");
        let found = entries().into_iter().find(|(entry, _)| entry.path == path).unwrap();
        Ok(Box::new(Cursor::new(found.1)))
    }
    fn stream(&self, _root: Root) -> Result<Option<Box<dyn MemberStream>>, CatalogError> {
        let members = self.packed.then(|| Told(entries().into_iter()));
        Ok(members.map(|told| Box::new(told) as Box<dyn MemberStream>))
    }
    fn sidecar(&self, _name: &str) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        Ok(None)
    }
}

struct Told(std::vec::IntoIter<(Entry, Vec<u8>)>);

impl MemberStream for Told {
    fn next(&mut self) -> io::Result<Option<(Entry, Box<dyn Read + Send>)>> {
        let next = self.0.next();
        Ok(next.map(|(entry, content)| (entry, Box::new(Cursor::new(content)) as Box<dyn Read + Send>)))
    }
}

fn restore(
    home: &Home,
    disk: Arc<dyn Disk>,
    destination: &Utf8Path,
    shelf: &Shelf,
    discard_wal: bool,
) -> Result<RecoveryReport, RecoveryError> {
    let plan = RecoveryPlan {
        backup: "20261122T214528".parse().unwrap(),
        trees: vec![TreePlan { root: Root::Data, destination: destination.to_owned() }],
        destination: destination.to_owned(),
        tablespaces: Vec::new(),
        wal: None,
        settings: None,
        timeline: Timeline::FIRST,
        reachable: None,
        warnings: Vec::new(),
    };
    let transport = LocalTransport::new(disk, home.cancel.clone());
    let options = RunOptions { delta: true, discard_wal, ..RunOptions::default() };
    recovery::run(&plan, shelf, &home.archive(), &transport, &options, &home.ctx())
}

/// Everything below a directory with its content.
fn content(disk: &dyn Disk, root: &Utf8Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    barman_core::io::walk(disk, root, barman_core::io::WalkOptions::default(), &mut |entry, _| {
        if entry.is_file() {
            all.insert(entry.path.to_string(), disk.read_text(&root.join(&entry.path)).unwrap());
        }
        barman_core::io::Step::Go
    })
    .unwrap();
    all
}

/// The destination is what the backup says, and what had to be kept of the old cluster is there.
fn is_restored(all: &BTreeMap<String, String>) {
    let text = |path: &str| all.get(path).map(String::as_str);
    for (path, content) in BACKUP {
        if path != "postgresql.conf" {
            assert_eq!(text(path), Some(content), "{path}");
        }
    }
    assert!(text("postgresql.conf").unwrap().starts_with("port = 5432\n"));
    for gone in ["recovery.signal", "backup_label.old", "base/5/extra", "base/7/1", ".barman-native-restore"]
    {
        assert_eq!(text(gone), None, "{gone}");
    }
    assert_eq!(text("log/server.log"), Some("what happened"));
    let kept = all.iter().filter(|(path, _)| path.ends_with("/000000010000000000000007"));
    let kept: Vec<_> = kept.collect();
    assert!(
        kept.len() == 1 && kept[0].0.starts_with("pg_wal.before-restore") && kept[0].1 == "precious",
        "{kept:?}"
    );
    assert!(!all.keys().any(|path| path.contains("pg_control.") || path.ends_with(".tmp")), "{all:?}");
}

#[test]
fn i23_i27_with_the_power_lost_at_any_step_nothing_half_done_starts_and_the_same_again_completes_it() {
    let home = Home::new();
    for shelf in [Shelf::new(false, false), Shelf::new(true, true)] {
        let before = CrashDisk::new();
        let data = Utf8Path::new("/pg/data");
        for (path, text) in OLD {
            let path = data.join(path);
            before.mkdir_all(path.parent().unwrap(), 0o700).unwrap();
            let mut file = before.create_new(&path).unwrap();
            file.put(text.as_bytes()).unwrap();
            file.set_mode(0o600).unwrap();
        }
        before.settle();
        let old = content(&before, data);
        let run = |disk: &CrashDisk| restore(&home, Arc::new(disk.clone()), data, &shelf, false);
        let mut again = 0;
        for_every_crash_point(&before, run, |after| {
            let now = content(&after.disk, data);
            match now.get("global/pg_control").map(String::as_str) {
                Some("control of the old") => {
                    // A server that starts here finds the old cluster, or no WAL directory and ends.
                    for (path, text) in old.iter().filter(|(path, _)| !path.starts_with("pg_wal")) {
                        assert_eq!(now.get(path), Some(text), "{path}");
                    }
                }
                Some("control of the backup") => is_restored(&now),
                None => assert!(!after.completed),
                other => panic!("{other:?}"),
            }
            if !after.completed && !now.contains_key("global/pg_control") {
                again += 1;
                // It is the same disk for the second attempt.
                run(&after.disk).unwrap();
                is_restored(&content(&after.disk, data));
            }
        });
        assert!(again > 50, "{again} states to go on from");
    }
}

fn lay(data: &Utf8Path) {
    for (path, text) in OLD {
        let path = data.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path, mode).unwrap();
    }
}

/// I34, I22: what is equal keeps its inode, what has another name gets a new one, what a link leads to stays.
#[test]
fn only_what_differs_is_written_and_nothing_through_links() {
    for shelf in [Shelf::new(false, true), Shelf::new(false, false), Shelf::new(true, true)] {
        let home = Home::new();
        let data = home.path().join("data");
        lay(&data);
        let outside = home.path().join("outside");
        fs::create_dir_all(outside.join("dir")).unwrap();
        fs::write(outside.join("dir/file"), "elsewhere").unwrap();
        fs::hard_link(data.join("base/5/equal"), outside.join("second-name")).unwrap();
        fs::write(data.join("base/5/new"), "not there before").unwrap();
        fs::set_permissions(data.join("base/5/new"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        for (target, link) in
            [("dir", "base/linked"), ("dir/file", "base/5/7"), ("nowhere", "pg_tblspc/16400")]
        {
            fs::create_dir_all(data.join(link).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(outside.join(target), data.join(link)).unwrap();
        }
        let inode = |path: &str| fs::metadata(data.join(path)).unwrap().ino();
        let kept = [inode("base/5/new"), inode("PG_VERSION")];
        let twin = inode("base/5/equal");
        let report = restore(&home, Arc::new(RealDisk), &data, &shelf, false).unwrap();
        assert_eq!([inode("base/5/new"), inode("PG_VERSION")], kept);
        assert_ne!(inode("base/5/equal"), twin, "a file with another name is never shared");
        assert_eq!(fs::read(outside.join("second-name")).unwrap(), b"the same");
        assert_eq!(fs::metadata(outside.join("second-name")).unwrap().ino(), twin);
        assert_eq!(fs::read(outside.join("dir/file")).unwrap(), b"elsewhere");
        for link in ["base/linked", "base/5/7", "pg_tblspc/16400"] {
            assert!(fs::symlink_metadata(data.join(link)).is_err(), "{link}");
        }
        is_restored(&content(&RealDisk, &data));
        // `PG_VERSION` and `base/5/new` stay; `backup_label`, `equal` and `other` are written.
        assert_eq!((report.kept, report.kept_bytes), (2, 3 + 16));
        assert_eq!((report.files, report.bytes), (3, 30 + 8 + 12));
        // Once more: nothing differs but the label, which a server would act on.
        fs::remove_file(outside.join("second-name")).unwrap();
        let report = restore(&home, Arc::new(RealDisk), &data, &shelf, true).unwrap();
        assert_eq!((report.kept, report.files), (4, 1));
    }
}

/// To find a file in an archive is to read all of it: without a checksum of its own it is written.
#[test]
fn what_cannot_be_compared_cheaply_is_written() {
    let (home, mut shelf) = (Home::new(), Shelf::new(true, true));
    shelf.unknown = "base/5/equal";
    let data = home.path().join("data");
    lay(&data);
    let report = restore(&home, Arc::new(RealDisk), &data, &shelf, false).unwrap();
    is_restored(&content(&RealDisk, &data));
    assert_eq!((report.kept, report.files, report.unverified), (1, 4, 1), "only PG_VERSION stays");
}

#[test]
fn i27_old_wal_goes_only_when_that_is_asked_for() {
    let home = Home::new();
    let data = home.path().join("data");
    lay(&data);
    restore(&home, Arc::new(RealDisk), &data, &Shelf::new(false, true), true).unwrap();
    let all = content(&RealDisk, &data);
    assert!(!all.keys().any(|path| path.contains("0000000000000007")), "{all:?}");
}

/// I22: a running server, and a directory that is something else, are left as they are.
#[test]
fn i22_what_is_no_stopped_cluster_is_refused_untouched() {
    type Change = fn(&Utf8Path);
    type Expected = fn(&RecoveryError) -> bool;
    let changes: [(Change, Expected); 2] = [
        (
            |data| fs::write(data.join("postmaster.pid"), "1\n").unwrap(),
            |e| matches!(e, RecoveryError::InUse { .. }),
        ),
        (
            |data| fs::remove_file(data.join("PG_VERSION")).unwrap(),
            |e| matches!(e, RecoveryError::NotACluster { .. }),
        ),
    ];
    for (change, expected) in changes {
        let home = Home::new();
        let data = home.path().join("data");
        lay(&data);
        change(&data);
        let before = content(&RealDisk, &data);
        let error = restore(&home, Arc::new(RealDisk), &data, &Shelf::new(false, true), false).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert_eq!(content(&RealDisk, &data), before);
    }
}
