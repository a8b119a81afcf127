//! The catalog on a real disk: both layouts, ids, status moves, reuse, leases, removal; and on a disk that loses power.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail where it stands")]
#![allow(clippy::disallowed_methods, reason = "a test prepares and damages its files")]

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use barman_core::catalog::{
    BackupSpace, Catalog, CatalogError, CatalogPaths, DirSpec, Draft, FileProof, FileSpec, LocalCatalog,
    Purpose, Reused, Root,
};
use barman_core::ctx::{Cancel, Ctx, Silent};
use barman_core::io::{Disk, Locks, RealDisk};
use barman_core::model::{BackupId, BackupInfo, BackupMethod, FileTime, Keep, Oid, Status};
use barman_testkit::clock::StepClock;
use barman_testkit::crash_disk::{CrashDisk, for_every_crash_point};
use camino::{Utf8Path, Utf8PathBuf};
use time::macros::datetime;

const MTIME: FileTime = FileTime { seconds: 1_795_383_933, nanos: 123_456_789 };

/// A catalog in a directory of its own, locks and all.
struct Home {
    dir: tempfile::TempDir,
    clock: Arc<StepClock>,
    cancel: Cancel,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(StepClock::at(datetime!(2026-11-22 21:45:28 +02:00))),
            cancel: Cancel::new(),
        }
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).unwrap()
    }

    fn ctx(&self) -> Ctx<'_> {
        Ctx { clock: &*self.clock, progress: &Silent, cancel: &self.cancel }
    }

    fn catalog(&self) -> LocalCatalog {
        self.catalog_on(Arc::new(RealDisk), &self.path().join("main"))
    }

    fn catalog_on(&self, disk: Arc<dyn Disk>, at: &Utf8Path) -> LocalCatalog {
        let paths = CatalogPaths::under(at, "main".parse().unwrap());
        LocalCatalog::new(paths, disk, self.clock.clone(), Locks::new(self.path(), "barman test"))
    }

    /// A backup of these files, sealed and DONE.
    fn backup(&self, catalog: &LocalCatalog, files: &[(Root, &str, &str)]) -> (BackupId, Vec<FileProof>) {
        let (info, space) = catalog.create(draft()).unwrap();
        let proofs = fill(&*space, files);
        let report = space.seal(&proofs, &self.ctx()).unwrap();
        for status in [Status::WaitingForWals, Status::Done] {
            let change = &mut |info: &mut BackupInfo| {
                info.status = status;
                info.mode = Some(BackupMethod::RsyncConcurrent);
                info.size = Some(report.size);
                info.deduplicated_size = Some(report.deduplicated_size);
            };
            catalog.update(&info.id, change).unwrap();
        }
        (info.id, proofs)
    }
}

fn draft() -> Draft {
    let created_at = datetime!(2026-11-22 21:45:28 +02:00);
    Draft { created_at, info: BackupInfo::empty(BackupId::from_time(created_at)) }
}

fn spec(root: Root, path: &str) -> FileSpec {
    FileSpec { root, path: path.into(), mode: 0o600, mtime: MTIME, size: 0 }
}

fn fill(space: &dyn BackupSpace, files: &[(Root, &str, &str)]) -> Vec<FileProof> {
    try_fill(space, files).unwrap()
}

fn try_fill(space: &dyn BackupSpace, files: &[(Root, &str, &str)]) -> Result<Vec<FileProof>, CatalogError> {
    let mut proofs = Vec::new();
    for (root, path, text) in files {
        let mut dirs: Vec<&Utf8Path> = Utf8Path::new(path).ancestors().skip(1).collect();
        dirs.reverse();
        for dir in dirs {
            space.dir(DirSpec { root: *root, path: dir.to_owned(), mode: 0o700 })?;
        }
        let mut sink = space.file(spec(*root, path))?;
        // Small enough to be gathered: trouble with the disk shows in `finish`.
        sink.write_all(text.as_bytes()).unwrap();
        proofs.push(sink.finish()?);
    }
    Ok(proofs)
}

fn text_of(catalog: &LocalCatalog, id: &BackupId, root: Root, path: &str) -> String {
    let mut text = String::new();
    catalog.open(id).unwrap().open(root, path.into()).unwrap().read_to_string(&mut text).unwrap();
    text
}

const FILES: [(Root, &str, &str); 3] = [
    (Root::Data, "PG_VERSION", "15\n"),
    (Root::Data, "base/1/2619", "a relation"),
    (Root::Tablespace(Oid(16386)), "PG_15_202209061/5", "in a tablespace"),
];

#[test]
fn a_backup_from_creation_to_reading() {
    let home = Home::new();
    let catalog = home.catalog();
    assert_eq!(catalog.list().unwrap(), []);
    let (id, proofs) = home.backup(&catalog, &FILES);
    assert_eq!(id.as_str(), "20261122T214528");
    let info = catalog.get(&id).unwrap();
    assert_eq!((info.size, info.deduplicated_size, info.status), (Some(28), Some(28), Status::Done));
    assert_eq!(catalog.list().unwrap(), [info]);
    let text = std::fs::read_to_string(catalog.paths().info(&id)).unwrap();
    assert!(text.starts_with("backup_label=None\n") && text.contains("\nserver_name=main\n"), "{text}");

    let reader = catalog.open(&id).unwrap();
    assert_eq!(reader.proofs().unwrap().unwrap(), proofs);
    let paths: Vec<String> =
        reader.files(Root::Data).unwrap().iter().map(|e| format!("{} {:o}", e.path, e.mode)).collect();
    assert_eq!(paths, [" 700", "PG_VERSION 600", "base 700", "base/1 700", "base/1/2619 600"]);
    assert_eq!(text_of(&catalog, &id, Root::Tablespace(Oid(16386)), "PG_15_202209061/5"), "in a tablespace");
    let data = catalog.paths().tree(&id, Root::Data);
    let meta = std::fs::metadata(data.join("PG_VERSION")).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec(), meta.mode() & 0o7777), (MTIME.seconds, 123_456_789, 0o600));
    for outside in ["../../../meta/x", "/etc/passwd"] {
        assert!(reader.open(Root::Data, outside.into()).is_err(), "{outside}");
    }
}

#[test]
fn ids_are_unique_and_increase_even_after_removal_and_a_clock_change() {
    let home = Home::new();
    let catalog = home.catalog();
    let ids: Vec<BackupId> = (0..3).map(|_| catalog.create(draft()).unwrap().0.id).collect();
    assert_eq!(
        ids.iter().map(BackupId::as_str).collect::<Vec<_>>(),
        ["20261122T214528", "20261122T214529", "20261122T214530"]
    );
    catalog.remove(&ids[2], &|| Ok(()), &home.ctx()).unwrap();
    let mut earlier = draft();
    earlier.created_at -= time::Duration::HOUR;
    assert_eq!(catalog.create(earlier).unwrap().0.id.as_str(), "20261122T214531");
}

#[test]
fn a_status_never_moves_where_it_may_not() {
    let home = Home::new();
    let catalog = home.catalog();
    let (info, _) = catalog.create(draft()).unwrap();
    let before = std::fs::read(catalog.paths().info(&info.id)).unwrap();
    let refused = catalog.update(&info.id, &mut |info| info.status = Status::Done);
    assert!(matches!(refused, Err(CatalogError::IllegalStatus { .. })));
    assert_eq!(std::fs::read(catalog.paths().info(&info.id)).unwrap(), before);
    let absent = "20200101T000000".parse().unwrap();
    assert!(matches!(catalog.update(&absent, &mut |_| ()), Err(CatalogError::NotFound { .. })));
    assert!(matches!(catalog.open(&info.id), Err(CatalogError::WrongStatus { .. })));
    let (done, _) = home.backup(&catalog, &FILES);
    assert!(matches!(catalog.reopen(&done), Err(CatalogError::WrongStatus { .. })));
}

#[test]
fn an_old_catalog_is_read_and_written_anew() {
    let home = Home::new();
    let catalog = home.catalog();
    let id: BackupId = "20150101T120000".parse().unwrap();
    let base = catalog.paths().base(&id);
    std::fs::create_dir_all(base.join("annotations")).unwrap();
    std::fs::create_dir_all(base.join("pgdata/pg_tblspc/16386")).unwrap();
    std::fs::write(base.join("pgdata/PG_VERSION"), "9.5\n").unwrap();
    let facts = "begin_time=2015-01-01 12:00:00\nfrom_the_future=1\nsize=3\nstatus=DONE\nversion=90503\n";
    std::fs::write(base.join("backup.info"), facts).unwrap();
    std::fs::write(base.join("annotations/keep"), "standalone").unwrap();
    std::fs::create_dir_all(catalog.paths().base(&"20150102T120000".parse().unwrap())).unwrap();

    let infos = catalog.list().unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(infos[0].begin_time, Some(datetime!(2015-01-01 12:00:00 +02:00)));
    assert_eq!(text_of(&catalog, &id, Root::Data, "PG_VERSION"), "9.5\n");
    let tablespace = catalog.open(&id).unwrap().location(Root::Tablespace(Oid(16386)));
    assert!(tablespace.ends_with("pgdata/pg_tblspc/16386"));
    assert_eq!(catalog.open(&id).unwrap().proofs().unwrap(), None);
    assert_eq!(catalog.kept(&id).unwrap(), Some(Keep::Standalone));

    catalog.update(&id, &mut |info| info.backup_name = Some("old".into())).unwrap();
    let text = std::fs::read_to_string(catalog.paths().info(&id)).unwrap();
    assert!(text.contains("backup_name=old\n") && text.contains("from_the_future=1\n"), "{text}");
    catalog.keep(&id, Some(Keep::Full)).unwrap();
    assert_eq!(std::fs::read_to_string(home.path().join("main/meta/20150101T120000-keep")).unwrap(), "full");
    catalog.keep(&id, None).unwrap();
    assert_eq!(catalog.kept(&id).unwrap(), None);
    catalog.remove(&id, &|| Ok(()), &home.ctx()).unwrap();
    assert!(!base.exists() && catalog.list().unwrap().is_empty());
}

#[test]
fn a_backup_info_that_cannot_be_read_is_named() {
    let home = Home::new();
    let catalog = home.catalog();
    let (info, _) = catalog.create(draft()).unwrap();
    std::fs::write(catalog.paths().info(&info.id), "status=HALF\n").unwrap();
    let (other, _) = catalog.create(draft()).unwrap();
    let survey = catalog.survey().unwrap();
    assert_eq!(survey.backups, std::slice::from_ref(&other), "the others are seen");
    assert!(matches!(&survey.unreadable[..], [one] if one.id == info.id));
    let error = catalog.list().unwrap_err().to_string();
    assert!(error.contains("20261122T214528-backup.info") && error.contains("HALF"), "{error}");
    catalog.remove(&info.id, &|| Ok(()), &home.ctx()).unwrap();
    assert_eq!(catalog.list().unwrap(), [other]);
}

/// I34: what is shared is never written; a link that would not be right becomes a copy.
#[test]
fn files_are_linked_or_copied_and_never_written_in_place() {
    let home = Home::new();
    let catalog = home.catalog();
    let (parent, proofs) = home.backup(&catalog, &FILES);
    let (info, space) = catalog.create(draft()).unwrap();
    assert_eq!(space.proofs_of(&parent).unwrap().unwrap(), proofs);
    fill(
        &*space,
        &[(Root::Data, "base/1/other", "x"), (Root::Data, "PG_VERSION", "from an earlier attempt")],
    );
    let link = |path: &str, change: fn(&mut FileSpec), link: bool| {
        let mut wanted = spec(Root::Data, path);
        change(&mut wanted);
        let proof = proofs.iter().find(|p| p.path == path).unwrap();
        space.reuse(wanted, proof, &parent, link).unwrap()
    };
    assert_eq!(link("PG_VERSION", |_| (), true), Reused::Linked);
    assert_eq!(link("base/1/2619", |spec| spec.mode = 0o640, true), Reused::Copied);
    let at = |id: &BackupId, path: &str| {
        std::fs::metadata(catalog.paths().tree(id, Root::Data).join(path)).unwrap()
    };
    assert_eq!(at(&parent, "PG_VERSION").ino(), at(&info.id, "PG_VERSION").ino());
    assert_ne!(at(&parent, "base/1/2619").ino(), at(&info.id, "base/1/2619").ino());
    assert_eq!(at(&info.id, "base/1/2619").mode() & 0o777, 0o640);
    assert_eq!(at(&info.id, "base/1/2619").mtime(), MTIME.seconds);

    let mut kept = proofs.clone();
    kept.retain(|p| p.root == Root::Data);
    let report = space.seal(&kept, &home.ctx()).unwrap();
    assert_eq!((report.files, report.size, report.deduplicated_size), (2, 13, 10));
    assert!(!catalog.paths().tree(&info.id, Root::Data).join("base/1/other").exists(), "a left-over stays");

    // A file begun anew takes a new inode.
    fill(&*space, &[(Root::Data, "PG_VERSION", "16\n")]);
    assert_eq!(text_of(&catalog, &parent, Root::Data, "PG_VERSION"), "15\n");
    assert_eq!(link("base/1/2619", |_| (), false), Reused::Copied);
    // A parent's file that is not what its manifest says is not handed on.
    let damaged = catalog.paths().tree(&parent, Root::Data).join("base/1/2619");
    std::fs::write(&damaged, "a relatioN").unwrap();
    let proof = proofs.iter().find(|p| p.path == "base/1/2619").unwrap();
    let error = space.reuse(spec(Root::Data, "base/1/2619"), proof, &parent, false).unwrap_err();
    assert!(matches!(&error, CatalogError::Damaged { path, .. } if *path == damaged), "{error}");
    std::fs::write(&damaged, "short").unwrap();
    assert!(space.reuse(spec(Root::Data, "base/1/2619"), proof, &parent, true).is_err());
}

#[test]
fn sealing_notices_what_is_missing_and_a_dropped_sink_leaves_nothing() {
    let home = Home::new();
    let catalog = home.catalog();
    let (info, space) = catalog.create(draft()).unwrap();
    let proofs = fill(&*space, &FILES);
    let mut dropped = space.file(spec(Root::Data, "vanished")).unwrap();
    dropped.write_all(b"half").unwrap();
    drop(dropped);
    let data = catalog.paths().tree(&info.id, Root::Data);
    assert!(!data.join("vanished").exists());
    let mut side = space.sidecar("tablespace_map").unwrap();
    side.write_all(b"16386 /srv/ts\n").unwrap();
    side.finish().unwrap();
    assert!(space.sidecar("../x").is_err());
    assert!(space.file(spec(Root::Data, "../x")).is_err());
    assert_eq!(space.seal(&proofs, &home.ctx()).unwrap().size, 28, "the sidecar counts in no size");
    std::fs::write(data.join("PG_VERSION"), "longer\n").unwrap();
    assert!(matches!(space.seal(&proofs, &home.ctx()), Err(CatalogError::Damaged { .. })));
    std::fs::remove_file(data.join("PG_VERSION")).unwrap();
    assert!(matches!(space.seal(&proofs, &home.ctx()), Err(CatalogError::Damaged { .. })));
    space.discard().unwrap();
    assert!(!data.exists());
    assert_eq!(catalog.get(&info.id).unwrap().status, Status::Empty);
}

#[test]
fn a_manifest_that_was_cut_off_is_refused() {
    let home = Home::new();
    let catalog = home.catalog();
    let (id, _) = home.backup(&catalog, &FILES);
    let manifest = catalog.paths().sidecar(&id).join("manifest");
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &bytes[..bytes.len() / 2]).unwrap();
    let error = catalog.open(&id).unwrap().proofs().unwrap_err();
    assert!(matches!(error, CatalogError::Manifest { .. }), "{error}");
}

#[test]
fn a_backup_with_a_lease_stays() {
    let home = Home::new();
    let catalog = home.catalog();
    let (id, _) = home.backup(&catalog, &FILES);
    let first = catalog.lease(&id, Purpose::Restore).unwrap();
    let second = catalog.lease(&id, Purpose::Parent).unwrap();
    drop(first);
    let error = catalog.remove(&id, &|| Ok(()), &home.ctx()).unwrap_err();
    assert!(matches!(&error, CatalogError::Busy { holder, .. } if holder.contains("barman test")), "{error}");
    assert_eq!(text_of(&catalog, &id, Root::Data, "PG_VERSION"), "15\n");
    drop(second);
    assert_eq!(catalog.remove(&id, &|| Ok(()), &home.ctx()).unwrap().files, 4);
    assert!(matches!(catalog.lease(&id, Purpose::Restore), Err(CatalogError::NotFound { .. })));
}

#[test]
fn removal_follows_no_link_corrects_the_parent_and_counts_the_next_anew() {
    let home = Home::new();
    let catalog = home.catalog();
    let (first, proofs) = home.backup(&catalog, &FILES);
    let (info, space) = catalog.create(draft()).unwrap();
    for dir in ["", "base", "base/1"] {
        space.dir(DirSpec { root: Root::Data, path: dir.into(), mode: 0o700 }).unwrap();
    }
    let data_proofs: Vec<FileProof> = proofs.iter().filter(|p| p.root == Root::Data).cloned().collect();
    for proof in &data_proofs {
        space.reuse(spec(proof.root, proof.path.as_str()), proof, &first, true).unwrap();
    }
    let report = space.seal(&data_proofs, &home.ctx()).unwrap();
    assert_eq!(report.deduplicated_size, 0);
    for status in [Status::WaitingForWals, Status::Done] {
        let change = &mut |info: &mut BackupInfo| {
            info.status = status;
            info.mode = Some(BackupMethod::RsyncConcurrent);
            info.size = Some(report.size);
            info.deduplicated_size = Some(0);
        };
        catalog.update(&info.id, change).unwrap();
    }
    let (parent, _) = home.backup(&catalog, &FILES);
    catalog.update(&parent, &mut |p| p.children_backup_ids = vec![first, info.id]).unwrap();
    catalog.update(&first, &mut |f| f.parent_backup_id = Some(parent)).unwrap();
    let outside = home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, catalog.paths().tree(&first, Root::Data).join("link")).unwrap();

    let removed = catalog.remove(&first, &|| Ok(()), &home.ctx()).unwrap();
    assert!(!removed.resumed && outside.join("precious").exists());
    assert_eq!(catalog.get(&parent).unwrap().children_backup_ids, [info.id]);
    assert_eq!(catalog.get(&info.id).unwrap().deduplicated_size, Some(13));
    assert!(!home.path().join(".main-20261122T214528.lock").exists());
    assert_eq!(catalog.removals_pending().unwrap(), []);
}

/// I21: two removals that are each allowed alone are not both done: who asks sees the mark of whoever was first.
#[test]
fn i21_two_removals_at_once_do_not_take_both() {
    for _ in 0..20 {
        let home = Home::new();
        let catalog = home.catalog();
        let ids = [home.backup(&catalog, &FILES).0, home.backup(&catalog, &FILES).0];
        let enough = || {
            let pending = catalog.removals_pending()?;
            match catalog.list()?.iter().filter(|b| !pending.contains(&b.id)).count() {
                0 | 1 => Err(CatalogError::MustStay { id: ids[0] }),
                _ => Ok(()),
            }
        };
        let removed = std::thread::scope(|scope| {
            let both = ids.map(|id| {
                let (catalog, home, enough) = (&catalog, &home, &enough);
                scope.spawn(move || catalog.remove(&id, enough, &home.ctx()).is_ok())
            });
            both.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(removed.iter().filter(|done| **done).count(), 1, "{removed:?}");
        assert_eq!((catalog.list().unwrap().len(), catalog.removals_pending().unwrap().len()), (1, 0));
    }
}

#[test]
fn a_cancelled_removal_is_found_and_finished() {
    let home = Home::new();
    let catalog = home.catalog();
    let (id, _) = home.backup(&catalog, &FILES);
    home.cancel.cancel();
    assert!(matches!(catalog.remove(&id, &|| Ok(()), &home.ctx()), Err(CatalogError::Cancelled(_))));
    assert_eq!(catalog.removals_pending().unwrap(), [id]);
    assert!(matches!(catalog.lease(&id, Purpose::Restore), Err(CatalogError::Busy { .. })));
    let cancel = Cancel::new();
    let ctx = Ctx { cancel: &cancel, ..home.ctx() };
    assert!(catalog.remove(&id, &|| Ok(()), &ctx).unwrap().resumed);
    assert!(matches!(catalog.remove(&id, &|| Ok(()), &ctx), Err(CatalogError::NotFound { .. })));
}

fn root() -> Utf8PathBuf {
    "/main".into()
}

fn on(home: &Home, disk: &CrashDisk) -> LocalCatalog {
    home.catalog_on(Arc::new(disk.clone()), &root())
}

/// I8: a crash leaves no backup, or one that is EMPTY.
#[test]
fn power_lost_while_a_backup_is_created() {
    let home = Home::new();
    let before = CrashDisk::new();
    before.settle();
    for_every_crash_point(
        &before,
        |disk| on(&home, disk).create(draft()).map(|(info, _)| info.id),
        |after| {
            let catalog = on(&home, &after.disk);
            let infos = catalog.list().unwrap();
            assert!(infos.iter().all(|info| info.status == Status::Empty));
            assert!(infos.len() == 1 || !after.completed && infos.is_empty());
            let (next, _) = catalog.create(draft()).unwrap();
            assert!(infos.iter().all(|info| info.id < next.id));
        },
    );
}

/// I8: facts are the old or the new ones, and the new ones once update returned.
#[test]
fn power_lost_while_facts_change() {
    let home = Home::new();
    let before = CrashDisk::new();
    let id = on(&home, &before).create(draft()).unwrap().0.id;
    before.settle();
    for_every_crash_point(
        &before,
        |disk| on(&home, disk).update(&id, &mut |info| info.status = Status::Started),
        |after| match on(&home, &after.disk).get(&id).unwrap().status {
            Status::Empty => assert!(!after.completed),
            status => assert_eq!(status, Status::Started),
        },
    );
}

/// After seal nothing of the space is lost; before, no manifest speaks of files that are not there.
#[test]
fn power_lost_while_a_backup_is_sealed() {
    let home = Home::new();
    for whole in [true, false] {
        let catalog = |disk: &CrashDisk| {
            if whole { on(&home, disk) } else { on(&home, disk).with_fsync_of_each_file() }
        };
        let before = CrashDisk::new();
        let id = catalog(&before).create(draft()).unwrap().0.id;
        before.settle();
        for_every_crash_point(
            &before,
            |disk| {
                let space = catalog(disk).reopen(&id)?;
                let proofs = try_fill(&*space, &FILES)?;
                space.seal(&proofs, &home.ctx())
            },
            |after| {
                let catalog = catalog(&after.disk);
                let Some(proofs) = catalog.reopen(&id).unwrap().proofs_of(&id).unwrap() else {
                    assert!(!after.completed);
                    return;
                };
                for ((root, path, text), proof) in FILES.iter().zip(&proofs) {
                    let file = catalog.paths().tree(&id, *root).join(path);
                    assert_eq!(after.disk.read_text(&file).unwrap(), *text);
                    assert_eq!((proof.crc32c, proof.mtime), (crc32c::crc32c(text.as_bytes()), MTIME));
                    assert_eq!(after.disk.stat(&file).unwrap().mtime, MTIME);
                }
            },
        );
    }
}

/// I18: a removal cut short is found again, and never leaves facts that look whole without a mark.
#[test]
fn power_lost_while_a_backup_is_removed() {
    let home = Home::new();
    let before = CrashDisk::new();
    let (id, _) = home.backup(&on(&home, &before), &FILES);
    before.settle();
    for_every_crash_point(
        &before,
        |disk| on(&home, disk).remove(&id, &|| Ok(()), &home.ctx()),
        |after| {
            let catalog = on(&home, &after.disk);
            let files = FILES.iter().filter(|(root, path, _)| {
                after.disk.exists(&catalog.paths().tree(&id, *root).join(path)).unwrap()
            });
            let whole = files.count() == FILES.len();
            let marked = catalog.removals_pending().unwrap() == [id];
            let known = catalog.get(&id).is_ok();
            assert!(marked || known == whole, "marked {marked}, facts {known}, whole {whole}");
            if after.completed {
                assert!(!known && !marked);
            } else if marked {
                catalog.remove(&id, &|| Ok(()), &home.ctx()).unwrap();
                assert!(catalog.get(&id).is_err());
                assert!(!after.disk.exists(&catalog.paths().base(&id)).unwrap());
            }
        },
    );
}
