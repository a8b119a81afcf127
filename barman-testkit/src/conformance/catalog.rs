//! What every [`Catalog`] must do.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use barman_core::catalog::{
    BackupSpace, Catalog, CatalogError, DirSpec, Draft, FileProof, FileSpec, Purpose, Reused, Root,
};
use barman_core::ctx::Ctx;
use barman_core::model::{BackupId, BackupInfo, BackupMethod, FileTime, Keep, Oid, Status};
use camino::Utf8PathBuf;

const MTIME: FileTime = FileTime { seconds: 1_795_383_933, nanos: 123_456_789 };
const FILES: [(Root, &str, &[u8]); 3] = [
    (Root::Data, "PG_VERSION", b"17\n"),
    (Root::Data, "base/1/1259", &[7; 20_000]),
    (Root::Tablespace(Oid(16_386)), "PG_17_202406281/5/1", b"in a tablespace"),
];

/// A backup's life: created, written, sealed, changed, leased, kept, read, reused and removed. `open` gives the catalog as
/// another process would see it: each call must show what those before it made durable. It must be empty at first.
pub fn catalog(open: &dyn Fn() -> Box<dyn Catalog>, ctx: &Ctx<'_>) {
    assert!(open().list().unwrap().is_empty(), "it must be empty at first");
    let unknown: BackupId = "20010101T000000".parse().unwrap();
    for result in [
        open().get(&unknown).map(drop),
        open().update(&unknown, &mut |_| {}).map(drop),
        open().open(&unknown).map(drop),
        open().remove(&unknown, &|| Ok(()), ctx).map(drop),
    ] {
        assert!(matches!(result, Err(CatalogError::NotFound { id }) if id == unknown), "{result:?}");
    }
    let first = taken(open, ctx);
    let second = taken(open, ctx);
    assert!(second > first, "ids increase, also within a second");
    assert_eq!(ids(open), [first, second]);
    states(open, &first);
    reading(open, &first);
    reusing(open, &first, ctx);
    keeping(open, &first, ctx);
    removing(open, &first, ctx);
}

fn ids(open: &dyn Fn() -> Box<dyn Catalog>) -> Vec<BackupId> {
    let survey = open().survey().unwrap();
    assert!(survey.unreadable.is_empty(), "{:?}", survey.unreadable);
    survey.backups.iter().map(|backup| backup.id).collect()
}

fn draft(ctx: &Ctx<'_>) -> Draft {
    let created_at = ctx.clock.now();
    Draft { created_at, info: BackupInfo::empty(BackupId::from_time(created_at)) }
}

fn spec(root: Root, path: &str, size: u64) -> FileSpec {
    FileSpec { root, path: path.into(), mode: 0o600, mtime: MTIME, size }
}

fn directories(space: &dyn BackupSpace) {
    for (root, path, _) in FILES {
        let mut above: Vec<Utf8PathBuf> =
            Utf8PathBuf::from(path).ancestors().skip(1).map(Into::into).collect();
        above.reverse();
        for path in above {
            space.dir(DirSpec { root, path, mode: 0o700 }).unwrap();
        }
    }
}

fn settle(catalog: &dyn Catalog, id: &BackupId) {
    for status in [Status::Started, Status::WaitingForWals, Status::Done] {
        let change = &mut |info: &mut BackupInfo| {
            info.status = status;
            info.mode = Some(BackupMethod::RsyncConcurrent);
        };
        assert_eq!(catalog.update(id, change).unwrap().status, status);
    }
}

/// A backup with [`FILES`], DONE.
fn taken(open: &dyn Fn() -> Box<dyn Catalog>, ctx: &Ctx<'_>) -> BackupId {
    let catalog = open();
    let (info, space) = catalog.create(draft(ctx)).unwrap();
    assert_eq!((info.status, space.id()), (Status::Empty, info.id));
    assert_eq!(open().get(&info.id).unwrap().status, Status::Empty, "EMPTY is there on return");
    assert!(open().open(&info.id).is_err(), "nothing can be read of it yet");
    directories(&*space);
    let mut proofs = Vec::new();
    for (root, path, content) in FILES {
        let mut sink = space.file(spec(root, path, content.len() as u64)).unwrap();
        for piece in content.chunks(7000) {
            sink.write_all(piece).unwrap();
        }
        let proof = sink.finish().unwrap();
        assert_eq!((proof.root, proof.path.as_str(), proof.size), (root, path, content.len() as u64));
        assert_eq!((proof.crc32c, proof.mtime, proof.mode), (crc32c::crc32c(content), MTIME, 0o600));
        proofs.push(proof);
    }
    let mut dropped = space.file(spec(Root::Data, "given_up", 0)).unwrap();
    dropped.write_all(b"half").unwrap();
    drop(dropped);
    let mut note = space.sidecar("conformance").unwrap();
    note.write_all(b"a note").unwrap();
    note.finish().unwrap();
    let missing = FileProof { path: "never_written".into(), ..proofs[0].clone() };
    let refused = space.seal(&[&proofs[..], &[missing]].concat(), ctx);
    assert!(matches!(refused, Err(CatalogError::Damaged { .. })), "a file that is not there: {refused:?}");
    let report = space.seal(&proofs, ctx).unwrap();
    let size = FILES.iter().map(|(.., content)| content.len() as u64).sum::<u64>();
    assert_eq!((report.size, report.files), (size, 3));
    settle(&*catalog, &info.id);
    info.id
}

fn states(open: &dyn Fn() -> Box<dyn Catalog>, id: &BackupId) {
    let before = open().get(id).unwrap();
    let refused = open().update(id, &mut |info| {
        info.status = Status::Started;
        info.backup_name = Some("changed".to_owned());
    });
    assert!(matches!(refused, Err(CatalogError::IllegalStatus { .. })), "{refused:?}");
    assert_eq!(open().get(id).unwrap(), before, "a refused change changes nothing");
    open().update(id, &mut |info| info.backup_name = Some("a name".to_owned())).unwrap();
    assert_eq!(open().get(id).unwrap().backup_name.as_deref(), Some("a name"));
}

fn reading(open: &dyn Fn() -> Box<dyn Catalog>, id: &BackupId) {
    let reader = open().open(id).unwrap();
    assert_eq!(reader.info().id, *id);
    let proofs = reader.proofs().unwrap().expect("a full manifest");
    assert_eq!(proofs.len(), FILES.len());
    let mut found = BTreeMap::new();
    for root in [Root::Data, Root::Tablespace(Oid(16_386))] {
        for entry in reader.files(root).unwrap().into_iter().filter(|entry| entry.is_file()) {
            assert_eq!((entry.mtime, entry.mode), (MTIME, 0o600), "{}", entry.path);
            let mut content = Vec::new();
            reader.open(root, &entry.path).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(entry.size, content.len() as u64);
            found.insert((root, entry.path.to_string()), content);
        }
    }
    let expected: BTreeMap<_, _> =
        FILES.iter().map(|(root, path, content)| ((*root, (*path).to_owned()), content.to_vec())).collect();
    assert_eq!(found, expected, "these files and no others");
    let mut note = String::new();
    reader.sidecar("conformance").unwrap().unwrap().read_to_string(&mut note).unwrap();
    assert_eq!(note, "a note");
    assert!(reader.sidecar("another").unwrap().is_none());
    assert!(reader.open(Root::Data, "nowhere".into()).is_err());
}

fn reusing(open: &dyn Fn() -> Box<dyn Catalog>, parent: &BackupId, ctx: &Ctx<'_>) {
    for link in [true, false] {
        let catalog = open();
        let (info, space) = catalog.create(draft(ctx)).unwrap();
        directories(&*space);
        let proofs = space.proofs_of(parent).unwrap().expect("a full manifest");
        for proof in &proofs {
            let spec = spec(proof.root, proof.path.as_str(), proof.size);
            let how = space.reuse(spec, proof, parent, link).unwrap();
            assert!(link || how == Reused::Copied);
        }
        space.seal(&proofs, ctx).unwrap();
        settle(&*catalog, &info.id);
        reading_files(open, &info.id);
        catalog.remove(&info.id, &|| Ok(()), ctx).unwrap();
        reading_files(open, parent);
    }
    let catalog = open();
    let (info, space) = catalog.create(draft(ctx)).unwrap();
    space.discard().unwrap();
    assert_eq!(open().get(&info.id).unwrap().status, Status::Empty, "the facts stay");
    catalog.remove(&info.id, &|| Ok(()), ctx).unwrap();
}

fn reading_files(open: &dyn Fn() -> Box<dyn Catalog>, id: &BackupId) {
    let reader = open().open(id).unwrap();
    for (root, path, content) in FILES {
        let mut found = Vec::new();
        reader.open(root, path.into()).unwrap().read_to_end(&mut found).unwrap();
        assert!(found == content, "{path} of {id}");
    }
}

fn keeping(open: &dyn Fn() -> Box<dyn Catalog>, id: &BackupId, ctx: &Ctx<'_>) {
    assert_eq!(open().kept(id).unwrap(), None);
    for keep in [Some(Keep::Full), Some(Keep::Standalone), None] {
        open().keep(id, keep).unwrap();
        assert_eq!(open().kept(id).unwrap(), keep);
    }
    let lease = open().lease(id, Purpose::Restore).unwrap();
    let second = open().lease(id, Purpose::Restore).expect("leases are shared");
    drop(second);
    let refused = open().remove(id, &|| Ok(()), ctx);
    assert!(matches!(refused, Err(CatalogError::Busy { .. })), "{refused:?}");
    drop(lease);
    reading_files(open, id);
}

fn removing(open: &dyn Fn() -> Box<dyn Catalog>, id: &BackupId, ctx: &Ctx<'_>) {
    let no = || Err(CatalogError::MustStay { id: *id });
    assert!(matches!(open().remove(id, &no, ctx), Err(CatalogError::MustStay { .. })));
    assert!(open().removals_pending().unwrap().is_empty());
    reading_files(open, id);
    let others: Vec<BackupId> = ids(open).into_iter().filter(|other| other != id).collect();
    let removed = open().remove(id, &|| Ok(()), ctx).unwrap();
    assert!(removed.files >= FILES.len() as u64 && !removed.resumed, "{removed:?}");
    assert_eq!(ids(open), others);
    assert!(open().removals_pending().unwrap().is_empty());
    assert!(matches!(open().get(id), Err(CatalogError::NotFound { .. })));
    for other in others {
        reading_files(open, &other);
    }
}
