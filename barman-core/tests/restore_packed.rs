//! Restoring packed trees: one pass, nothing before it, cancelled within it; and the archives on disk that it reads.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use barman_core::catalog::{
    BackupReader, Catalog, CatalogError, CatalogPaths, Draft, FileProof, FileSpec, LocalCatalog,
    MemberStream, Outline, Root,
};
use barman_core::codec::{Level, Method, compressor};
use barman_core::ctx::Cancel;
use barman_core::format::tar::{END_OF_ARCHIVE, Kind, Member, encode_header, padding};
use barman_core::io::{Locks, RealDisk};
use barman_core::model::{
    BackupId, BackupInfo, BackupMethod, Entry, EntryKind, FileTime, Oid, PgVersion, Status, Timeline,
};
use barman_core::recovery::{self, RecoveryError, RecoveryPlan, RunOptions, TablespacePlan, TreePlan};
use barman_core::transport::LocalTransport;
use barman_testkit::clock::StepClock;
use camino::{Utf8Path, Utf8PathBuf};
use time::macros::datetime;

use crate::wal_archive::Home;

const SPACE: Root = Root::Tablespace(Oid(16_386));

/// Bytes that are the same nowhere.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed;
    let mut next = move || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn entry(path: &str, content: Option<&[u8]>) -> Entry {
    let kind = if content.is_some() { EntryKind::File } else { EntryKind::Directory };
    let mode = if content.is_some() { 0o600 } else { 0o750 };
    let size = content.map_or(0, |c| c.len() as u64);
    Entry { path: path.into(), kind, size, mtime: FileTime { seconds: 1_700_000_000, nanos: 0 }, mode }
}

fn members() -> BTreeMap<Root, Vec<(Entry, Vec<u8>)>> {
    let file = |path: &str, content: Vec<u8>| (entry(path, Some(&content)), content);
    let dir = |path: &str| (entry(path, None), Vec::new());
    let mut data = vec![
        file("backup_label", b"START WAL LOCATION: 0/2000028\n".to_vec()),
        file("PG_VERSION", b"16\n".to_vec()),
        file("postgresql.conf", b"archive_command = 'cp'\n".to_vec()),
        dir("pg_wal"),
        dir("pg_wal/archive_status"),
        dir("base"),
        dir("base/5"),
        file("base/5/16384", noise(3_000_000, 7)),
    ];
    data.extend((1000..1100).map(|n| file(&format!("base/5/{n}"), noise(n as usize * 8, n))));
    data.extend([dir("pg_twophase"), dir("global"), file("global/pg_control", noise(8192, 3))]);
    let space = vec![
        dir("PG_16_202307071"),
        dir("PG_16_202307071/5"),
        file("PG_16_202307071/5/1", noise(700_000, 9)),
    ];
    BTreeMap::from([(Root::Data, data), (SPACE, space)])
}

/// A packed backup in memory that does not tell what it holds before it was read to its end, once.
struct Scripted {
    info: BackupInfo,
    members: BTreeMap<Root, Vec<(Entry, Vec<u8>)>>,
    proofs: Option<Vec<FileProof>>,
    ended: Arc<Mutex<HashMap<Root, u32>>>,
}

impl Scripted {
    fn new() -> Self {
        let mut info = BackupInfo::empty("20261122T214528".parse().unwrap());
        info.version = Some(PgVersion::new(160_000));
        let members = members();
        let proofs = members.iter().flat_map(|(root, all)| {
            let files = all.iter().filter(|(entry, _)| entry.is_file());
            files.map(|(entry, content)| proof(*root, entry, content))
        });
        let proofs = Some(proofs.collect());
        Self { info, members, proofs, ended: Arc::default() }
    }
}

fn proof(root: Root, entry: &Entry, content: &[u8]) -> FileProof {
    FileProof {
        root,
        path: entry.path.clone(),
        size: entry.size,
        mtime: entry.mtime,
        mode: entry.mode,
        crc32c: crc32c::crc32c(content),
        sha256: None,
    }
}

impl BackupReader for Scripted {
    fn info(&self) -> &BackupInfo {
        &self.info
    }
    fn location(&self, root: Root) -> Utf8PathBuf {
        format!("/repository/{root:?}.tar").into()
    }
    fn files(&self, root: Root) -> Result<Vec<Entry>, CatalogError> {
        assert_eq!(self.ended.lock().unwrap().get(&root), Some(&1), "{root:?} must be read once, and before");
        Ok(self.members[&root].iter().map(|(entry, _)| entry.clone()).collect())
    }
    fn outline(&self, root: Root) -> Result<Outline, CatalogError> {
        let bytes = self.members[&root].iter().map(|(entry, _)| entry.size).sum();
        Ok(Outline { entries: None, bytes })
    }
    fn proofs(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        Ok(self.proofs.clone())
    }
    fn open(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        assert_eq!(self.ended.lock().unwrap().get(&root), Some(&1), "{path} is asked for too early");
        let found = self.members[&root].iter().find(|(entry, _)| entry.path == path);
        Ok(Box::new(Cursor::new(found.unwrap().1.clone())))
    }
    fn stream(&self, root: Root) -> Result<Option<Box<dyn MemberStream>>, CatalogError> {
        let left = self.members[&root].clone().into_iter();
        Ok(Some(Box::new(Told { root, left, ended: Arc::clone(&self.ended) })))
    }
    fn sidecar(&self, _name: &str) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        Ok(None)
    }
}

struct Told {
    root: Root,
    left: std::vec::IntoIter<(Entry, Vec<u8>)>,
    ended: Arc<Mutex<HashMap<Root, u32>>>,
}

impl MemberStream for Told {
    fn next(&mut self) -> io::Result<Option<(Entry, Box<dyn Read + Send>)>> {
        let Some((entry, content)) = self.left.next() else {
            *self.ended.lock().unwrap().entry(self.root).or_default() += 1;
            return Ok(None);
        };
        Ok(Some((entry, Box::new(Cursor::new(content)))))
    }
}

fn plan(at: &Utf8Path) -> RecoveryPlan {
    let (destination, location) = (at.join("data"), at.join("ts1"));
    RecoveryPlan {
        backup: "20261122T214528".parse().unwrap(),
        trees: vec![
            TreePlan { root: SPACE, destination: location.clone() },
            TreePlan { root: Root::Data, destination: destination.clone() },
        ],
        destination,
        tablespaces: vec![TablespacePlan { oid: Oid(16_386), name: "ts1".into(), location }],
        wal: None,
        settings: None,
        timeline: Timeline::FIRST,
        reachable: None,
        warnings: Vec::new(),
    }
}

fn restore(
    home: &Home,
    reader: &dyn BackupReader,
    jobs: usize,
) -> Result<recovery::RecoveryReport, RecoveryError> {
    let transport = LocalTransport::new(Arc::new(RealDisk), home.cancel.clone());
    let options = RunOptions { jobs, ..RunOptions::default() };
    recovery::run(&plan(home.path()), reader, &home.archive(), &transport, &options, &home.ctx())
}

#[test]
fn one_pass_writes_everything_and_tells_the_rest_afterwards() {
    for jobs in [1, 2, 5] {
        let (home, reader) = (Home::new(), Scripted::new());
        let report = restore(&home, &reader, jobs).unwrap();
        let data = home.path().join("data");
        let mut count = 0;
        for (root, top) in [(Root::Data, data.clone()), (SPACE, home.path().join("ts1"))] {
            for (entry, content) in &reader.members[&root] {
                let path = top.join(&entry.path);
                match entry.path.as_str() {
                    "postgresql.conf" => {
                        assert!(fs::read_to_string(path).unwrap().contains("archive_command = false"))
                    }
                    "pg_wal/archive_status" => assert!(!path.exists(), "WAL has no place there"),
                    "pg_wal" => assert_eq!(fs::read_dir(path).unwrap().count(), 0),
                    _ if entry.is_dir() => assert!(path.is_dir(), "{path}"),
                    _ => {
                        assert!(fs::read(&path).unwrap() == *content, "{path}");
                        count += u64::from(entry.path != "global/pg_control");
                    }
                }
            }
        }
        assert_eq!((report.files, report.unverified), (count, 0));
        assert_eq!(fs::read(data.join("postgresql.conf.origin")).unwrap(), b"archive_command = 'cp'\n");
        let mode = |path: &Utf8Path| {
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions())
        };
        // The mode of the tree is known only from what is in it.
        assert_eq!((mode(&data) & 0o777, mode(&data.join("global/pg_control")) & 0o777), (0o750, 0o640));
    }
}

#[test]
fn i24_what_is_not_as_stored_ends_the_restore_before_the_control_file() {
    type Damage = fn(&mut Scripted);
    let damages: [(&str, Damage); 5] = [
        ("a bit of a large file", |s| s.members.get_mut(&Root::Data).unwrap()[7].1[2_000_000] ^= 1),
        ("a bit of a small file", |s| s.members.get_mut(&Root::Data).unwrap()[20].1[5] ^= 1),
        ("a file that is not there", |s| drop(s.members.get_mut(&SPACE).unwrap().remove(2))),
        ("a file that is shorter", |s| {
            let (entry, content) = &mut s.members.get_mut(&SPACE).unwrap()[2];
            content.truncate(400_000);
            entry.size = 400_000;
        }),
        ("an archive that ends in a file", |s| {
            s.members.get_mut(&Root::Data).unwrap()[7].1.truncate(1_000_000)
        }),
    ];
    for (what, damage) in damages {
        let (home, mut reader) = (Home::new(), Scripted::new());
        damage(&mut reader);
        let error = restore(&home, &reader, 2).unwrap_err();
        assert!(!matches!(error, RecoveryError::Cancelled(_)), "{what}: {error:?}");
        let text = barman_core::format::text::with_reasons(&error);
        assert!(text.contains("damaged"), "{what}: {text}");
        assert!(!home.path().join("data/global/pg_control").exists(), "{what}");
    }
}

/// A backup without end that sets the flag.
struct Endless {
    inner: Scripted,
    cancel: Cancel,
    large: bool,
}

struct Stream {
    cancel: Cancel,
    large: bool,
    count: u64,
}

struct Zeros(Cancel, Arc<AtomicU64>);

impl Read for Zeros {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.1.fetch_add(out.len() as u64, Ordering::SeqCst) > 5_000_000 {
            self.0.cancel();
        }
        out.fill(0);
        Ok(out.len())
    }
}

impl MemberStream for Stream {
    fn next(&mut self) -> io::Result<Option<(Entry, Box<dyn Read + Send>)>> {
        self.count += 1;
        let mut entry = entry(&format!("f{}", self.count), Some(b""));
        if self.large {
            entry.size = 1 << 50;
            return Ok(Some((entry, Box::new(Zeros(self.cancel.clone(), Arc::default())))));
        }
        if self.count > 200 {
            self.cancel.cancel();
        }
        Ok(Some((entry, Box::new(io::empty()))))
    }
}

impl BackupReader for Endless {
    fn info(&self) -> &BackupInfo {
        self.inner.info()
    }
    fn location(&self, root: Root) -> Utf8PathBuf {
        self.inner.location(root)
    }
    fn files(&self, root: Root) -> Result<Vec<Entry>, CatalogError> {
        self.inner.files(root)
    }
    fn outline(&self, _root: Root) -> Result<Outline, CatalogError> {
        Ok(Outline { entries: None, bytes: 0 })
    }
    fn proofs(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        Ok(None)
    }
    fn open(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        self.inner.open(root, path)
    }
    fn stream(&self, _root: Root) -> Result<Option<Box<dyn MemberStream>>, CatalogError> {
        Ok(Some(Box::new(Stream { cancel: self.cancel.clone(), large: self.large, count: 0 })))
    }
    fn sidecar(&self, _name: &str) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        Ok(None)
    }
}

/// It would never end otherwise.
#[test]
fn a_cancellation_is_heard_within_files_and_between_them() {
    for (large, jobs) in [(true, 1), (true, 3), (false, 1), (false, 3)] {
        let home = Home::new();
        let reader = Endless { inner: Scripted::new(), cancel: home.cancel.clone(), large };
        let error = restore(&home, &reader, jobs).unwrap_err();
        assert!(matches!(error, RecoveryError::Cancelled(_)), "{error:?}");
        assert!(
            !home.path().join("data/f1").exists() || !large,
            "half a file does not look like a whole one"
        );
    }
}

/// A writer that fails while the archive is being read is what is told, and reading ends.
#[test]
fn trouble_with_writing_ends_the_reading() {
    let (home, mut reader) = (Home::new(), Scripted::new());
    // A file in the place of a directory.
    let blocked = entry("base/5/16384/x", Some(b"x"));
    reader.members.get_mut(&Root::Data).unwrap().push((blocked, b"x".to_vec()));
    let error = restore(&home, &reader, 2).unwrap_err();
    assert!(matches!(error, RecoveryError::Transport(_)), "{error:?}");
    assert!(!home.path().join("data/global/pg_control").exists());
}

/// A catalog with one packed backup.
struct Shelf {
    home: Home,
    catalog: LocalCatalog,
    id: BackupId,
}

impl Shelf {
    /// The data tree of [`members`] packed in frames of this many bytes, with or without an index of them.
    fn new(method: Method, frame: usize, index: bool) -> Self {
        let home = Home::new();
        let clock = Arc::new(StepClock::at(datetime!(2026-11-22 21:45:28 UTC)));
        let paths = CatalogPaths::under(&home.path().join("main"), "main".parse().unwrap());
        let locks = Locks::new(home.path(), "barman test");
        let catalog = LocalCatalog::new(paths, Arc::new(RealDisk), clock, locks);
        let created_at = datetime!(2026-11-22 21:45:28 UTC);
        let draft = Draft { created_at, info: BackupInfo::empty(BackupId::from_time(created_at)) };
        let (info, space) = catalog.create(draft).unwrap();
        space.dir(barman_core::catalog::DirSpec { root: Root::Data, path: "".into(), mode: 0o700 }).unwrap();
        let plain = tar();
        let packing = compressor(method, Level::Low, None).unwrap();
        let (mut encoder, mut packed, mut rows) =
            (packing.encoder(), Vec::new(), "barman-native-frames 1\n".to_owned());
        for piece in plain.chunks(frame) {
            let mut one = Vec::new();
            encoder.encode(piece, &mut one).unwrap();
            rows += &format!("{} {}\n", piece.len(), one.len());
            packed.extend(one);
        }
        let count = rows.lines().count() - 1;
        rows += &format!("end {count} {:08x}\n", crc32c::crc32c(rows.as_bytes()));
        let name = format!("base.{}", ending(method));
        if index {
            let mut sink = space.sidecar(&format!("{name}.frames")).unwrap();
            sink.write_all(rows.as_bytes()).unwrap();
            sink.finish().unwrap();
        }
        let spec = FileSpec {
            root: Root::Data,
            path: name.into(),
            mode: 0o600,
            mtime: FileTime::default(),
            size: 0,
        };
        let mut sink = space.file(spec).unwrap();
        sink.write_all(&packed).unwrap();
        let proof = sink.finish().unwrap();
        space.seal(&[proof], &home.ctx()).unwrap();
        for status in [Status::WaitingForWals, Status::Done] {
            let change = &mut |info: &mut BackupInfo| {
                (info.status, info.mode) = (status, Some(BackupMethod::Postgres));
            };
            catalog.update(&info.id, change).unwrap();
        }
        Self { home, catalog, id: info.id }
    }

    fn archive(&self, method: Method) -> Utf8PathBuf {
        self.home.path().join(format!("main/base/{}/data/base.{}", self.id, ending(method)))
    }

    fn reader(&self) -> Box<dyn BackupReader> {
        self.catalog.open(&self.id).unwrap()
    }
}

fn ending(method: Method) -> &'static str {
    match method {
        Method::Gzip => "tar.gz",
        Method::Zstd => "tar.zst",
        Method::Lz4 => "tar.lz4",
        _ => "tar",
    }
}

fn tar() -> Vec<u8> {
    let mut tar = Vec::new();
    for (entry, content) in &members()[&Root::Data] {
        let kind = if entry.is_dir() { Kind::Directory } else { Kind::File };
        let mut member = Member::new(entry.path.as_str(), kind);
        (member.size, member.mode, member.mtime) = (entry.size, entry.mode, entry.mtime);
        tar.extend(encode_header(&member).unwrap());
        tar.extend(content);
        tar.resize(tar.len() + padding(entry.size), 0);
    }
    tar.extend(END_OF_ARCHIVE);
    tar
}

fn read_all(stream: &mut dyn MemberStream) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut all = Vec::new();
    while let Some((entry, mut bytes)) = stream.next()? {
        let mut content = Vec::new();
        bytes.read_to_end(&mut content)?;
        all.push((entry, content));
    }
    Ok(all)
}

const CODECS: [Method; 3] = [Method::Gzip, Method::Zstd, Method::Lz4];

#[test]
fn an_archive_is_read_once_and_what_was_small_is_known_afterwards() {
    for method in CODECS {
        // Frames far smaller than those of backups, so that there are many; and one for all.
        for (frame, index) in [(100_000, true), (100_000, false), (1 << 30, true)] {
            let shelf = Shelf::new(method, frame, index);
            let reader = shelf.reader();
            let outline = reader.outline(Root::Data).unwrap();
            assert_eq!(outline.entries, None, "nobody wrote it down");
            let mut stream = reader.stream(Root::Data).unwrap().unwrap();
            // Nobody can read it a second time.
            fs::remove_file(shelf.archive(method)).unwrap();
            let expected = &members()[&Root::Data];
            assert!(read_all(&mut *stream).unwrap() == *expected, "{method:?} {frame} {index}");
            let entries: Vec<Entry> = expected.iter().map(|(entry, _)| entry.clone()).collect();
            assert_eq!(reader.files(Root::Data).unwrap(), entries);
            for path in ["PG_VERSION", "backup_label", "postgresql.conf", "global/pg_control"] {
                let mut content = Vec::new();
                reader.open(Root::Data, path.into()).unwrap().read_to_end(&mut content).unwrap();
                assert!(expected.iter().any(|(e, c)| e.path == path && *c == content), "{path}");
            }
        }
    }
}

#[test]
fn i24_damage_of_an_archive_is_found_with_an_index_and_without() {
    for method in CODECS {
        for index in [true, false] {
            let shelf = Shelf::new(method, 100_000, index);
            let path = shelf.archive(method);
            let sound = fs::read(&path).unwrap();
            for at in [sound.len() / 2, sound.len() - 3] {
                let mut bytes = sound.clone();
                bytes[at] ^= 0x10;
                fs::write(&path, bytes).unwrap();
                let read = read_all(&mut *shelf.reader().stream(Root::Data).unwrap().unwrap());
                assert!(read.is_err(), "{method:?} with an index: {index}, byte {at}");
            }
            // Another length is seen before anything is read.
            fs::write(&path, &sound[..sound.len() - 100]).unwrap();
            assert!(matches!(shelf.reader().outline(Root::Data), Err(CatalogError::Damaged { .. })));
            assert!(shelf.reader().stream(Root::Data).is_err());
        }
    }
}

/// An index that is damaged, or of another archive, is left alone.
#[test]
fn an_index_that_cannot_be_used_is_not_used() {
    let shelf = Shelf::new(Method::Zstd, 100_000, true);
    let index = shelf.home.path().join(format!("main/base/{}/.native/base.tar.zst.frames", shelf.id));
    let sound = fs::read_to_string(&index).unwrap();
    let other = {
        let rows = "barman-native-frames 1\n100 100\n";
        format!("{rows}end 1 {:08x}\n", crc32c::crc32c(rows.as_bytes()))
    };
    for text in [String::new(), sound.replacen("100000", "100001", 1), other] {
        fs::write(&index, &text).unwrap();
        let read = read_all(&mut *shelf.reader().stream(Root::Data).unwrap().unwrap()).unwrap();
        assert!(read == members()[&Root::Data], "{text:?}");
    }
}

/// Whoever stops in the middle is not kept waiting, and leaves no thread behind that reads on.
#[test]
fn a_stream_can_be_given_up() {
    for index in [true, false] {
        let shelf = Shelf::new(Method::Gzip, 50_000, index);
        let mut stream = shelf.reader().stream(Root::Data).unwrap().unwrap();
        stream.next().unwrap();
        drop(stream);
        let mut again = shelf.reader().stream(Root::Data).unwrap().unwrap();
        assert!(read_all(&mut *again).unwrap() == members()[&Root::Data]);
    }
}
