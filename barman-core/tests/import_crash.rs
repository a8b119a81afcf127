//! `import-backup` and `generate-manifest` on a disk that loses what was not fsynced, with the power lost at every step.

use std::io::Write as _;
use std::sync::Arc;

use barman_core::catalog::Catalog;
use barman_core::codec::{Algorithm, Level, packing};
use barman_core::config::{Config, LoadEnv};
use barman_core::ctx::{Cancel, Ctx, Silent, SystemClock};
use barman_core::format::backup_info;
use barman_core::format::tar::{END_OF_ARCHIVE, Kind, Member, encode_header, padding};
use barman_core::format::wal_page::synthetic;
use barman_core::io::Disk;
use barman_core::model::{
    BackupId, BackupInfo, BackupMethod, Keep, Oid, PgVersion, SegmentName, SegmentNo, SegmentSize, Status,
    SystemId, Tablespace, Timeline,
};
use barman_core::pg::Environment;
use barman_core::server::{Host, Server};
use barman_core::transport::SshEnvironment;
use barman_testkit::crash_disk::{Aftermath, CrashDisk, for_every_crash_point};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

const ID: &str = "20260101T000000";
const SYSTEM: u64 = 7;

/// A home on a disk of its own; only the locks are real.
struct Home {
    locks: tempfile::TempDir,
    clock: Arc<SystemClock>,
    cancel: Cancel,
}

impl Home {
    fn new() -> Self {
        let locks = tempfile::tempdir().unwrap();
        Self { locks, clock: Arc::new(SystemClock::utc()), cancel: Cancel::new() }
    }

    fn ctx(&self) -> Ctx<'_> {
        Ctx { clock: self.clock.as_ref(), progress: &Silent, cancel: &self.cancel }
    }

    fn write_config(&self, disk: &CrashDisk) {
        let text = format!(
            "[barman]\nbarman_home = /home\nbarman_lock_directory = {}\n\
             [main]\ndescription = x\nconninfo = host=/nonexistent\nbackup_method = local-rsync\narchiver = on\n\
             backup_options = concurrent_backup\n",
            self.locks.path().display()
        );
        put(disk, "/etc/barman.conf", text.as_bytes());
    }

    fn server(&self, disk: &CrashDisk) -> Server {
        let env = LoadEnv { disk, home: None, cwd: Utf8Path::new("/") };
        let config = Config::load(Utf8Path::new("/etc/barman.conf"), &env).unwrap();
        let host = Host {
            disk: Arc::new(disk.clone()),
            clock: self.clock.clone(),
            environment: Environment::new(std::iter::empty::<(String, String)>()),
            ssh: SshEnvironment::default(),
            cancel: self.cancel.clone(),
            command: "a test".to_owned(),
            configuration: "/etc/barman.conf".into(),
            workers: 1,
        };
        Server::open(config.server("main").unwrap().clone(), &config.globals, host).unwrap()
    }
}

fn put(disk: &CrashDisk, path: &str, bytes: &[u8]) {
    let path = Utf8Path::new(path);
    disk.mkdir_all(path.parent().unwrap(), 0o755).unwrap();
    disk.create_new(path).unwrap().put(bytes).unwrap();
}

fn member(tar: &mut Vec<u8>, name: &str, content: Option<&[u8]>) {
    let kind = if content.is_some() { Kind::File } else { Kind::Directory };
    let content = content.unwrap_or_default();
    let size = content.len() as u64;
    tar.extend(encode_header(&Member { size, ..Member::new(name, kind) }).unwrap());
    tar.extend(content);
    tar.resize(tar.len() + padding(size), 0);
}

/// An export as Barman makes it, with a segment that is small because it is packed.
fn export() -> (String, Vec<u8>) {
    let (size, timeline) = (SegmentSize::from_bytes(1 << 20).unwrap(), Timeline::FIRST);
    let (system, version) = (SystemId::new(SYSTEM), PgVersion::new(170_000));
    let name = SegmentName::new(timeline, SegmentNo::new(3), size);
    let segment = synthetic::segment(timeline, SegmentNo::new(3), size, system, version);
    let mut packed = Vec::new();
    packing(Algorithm::Gzip, Level::Low).unwrap().encoder().encode(&segment, &mut packed).unwrap();
    let info = BackupInfo {
        status: Status::Done,
        mode: Some(BackupMethod::RsyncConcurrent),
        timeline: Some(timeline),
        systemid: Some(system),
        version: Some(version),
        xlog_segment_size: size,
        begin_wal: Some(name),
        end_wal: Some(name),
        begin_xlog: Some("0/300028".parse().unwrap()),
        end_xlog: Some("0/300100".parse().unwrap()),
        server_name: Some("main".parse().unwrap()),
        tablespaces: vec![Tablespace { name: "ts".to_owned(), oid: Oid(16384), location: "/srv/ts".into() }],
        ..BackupInfo::empty(ID.parse().unwrap())
    };
    let mut tar = Vec::new();
    member(&mut tar, "identity.json", Some(br#"{"systemid": "7", "version": "17"}"#));
    member(&mut tar, "backup.info", Some(backup_info::print(&info).as_bytes()));
    member(&mut tar, "backup", None);
    member(&mut tar, "backup/16384", None);
    member(&mut tar, "backup/16384/1", Some(b"in a tablespace"));
    member(&mut tar, "backup/data", None);
    member(&mut tar, "backup/data/PG_VERSION", Some(b"17\n"));
    member(&mut tar, "backup/data/base", None);
    member(&mut tar, "backup/data/base/1", Some(&[7; 700]));
    let text = name.to_string();
    member(&mut tar, &format!("wals/{}/{text}", &text[..16]), Some(&packed));
    let line = format!("{text}\t{}\t1795825925.5\tgzip\tNone\n", packed.len());
    member(&mut tar, "xlog.db", Some(line.as_bytes()));
    tar.write_all(&END_OF_ARCHIVE).unwrap();
    let sum = hex::encode(Sha256::digest(&tar));
    (format!("backup-export-main-{ID}-20260101T000000-{}.tar", &sum[..8]), tar)
}

fn names(disk: &CrashDisk, path: &Utf8Path) -> Vec<String> {
    disk.names(path).unwrap_or_default()
}

/// There is no such backup, or all of it is there and kept.
#[test]
fn power_lost_while_a_backup_is_imported() {
    let home = Home::new();
    let before = CrashDisk::new();
    home.write_config(&before);
    let (name, tar) = export();
    let archive = Utf8PathBuf::from(format!("/exports/{name}"));
    put(&before, archive.as_str(), &tar);
    for dir in ["", "/etc", "/exports"] {
        before.sync_dir(Utf8Path::new(if dir.is_empty() { "/" } else { dir })).unwrap();
    }
    before.settle();
    let id: BackupId = ID.parse().unwrap();
    let import = |disk: &CrashDisk| home.server(disk).import_backup(&archive, &home.ctx());
    let whole = |server: &Server| {
        // One that came to its place, and no further, is complete as soon as somebody looks.
        let info = server.check_completeness(&id, &home.ctx()).unwrap();
        assert_eq!((info.status, info.size), (Status::Done, Some(718)));
        assert_eq!(server.catalog().kept(&id).unwrap(), Some(Keep::Standalone));
        let found = server.verify_backup(&id, &home.ctx()).unwrap();
        assert!(found.is_sound() && found.files.verified == 3 && found.wal == 1, "{found:?}");
    };
    for_every_crash_point(&before, import, |after: &Aftermath| {
        let server = home.server(&after.disk);
        if let [info] = server.catalog().list().unwrap().as_slice() {
            assert!(info.status == Status::Done || !after.completed, "{}", info.status);
            whole(&server);
            return;
        }
        assert!(!after.completed);
        // It can be done again, and what the first attempt left is gone.
        if after.moment.contains("Minimum") || after.moment.contains("Maximum") {
            import(&after.disk).unwrap();
            whole(&home.server(&after.disk));
            assert_eq!(names(&after.disk, "/home/main/base".into()), [ID]);
        }
    });
}

/// There is no manifest, or a whole one.
#[test]
fn power_lost_while_a_manifest_is_made() {
    let home = Home::new();
    let before = CrashDisk::new();
    home.write_config(&before);
    let (name, tar) = export();
    let archive = Utf8PathBuf::from(format!("/exports/{name}"));
    put(&before, archive.as_str(), &tar);
    home.server(&before).import_backup(&archive, &home.ctx()).unwrap();
    before.settle();
    let id: BackupId = ID.parse().unwrap();
    for_every_crash_point(
        &before,
        |disk| home.server(disk).generate_manifest(&id, &home.ctx()),
        |after: &Aftermath| {
            let server = home.server(&after.disk);
            let path = server.catalog().paths().base(&id).join("data/backup_manifest");
            assert!(after.disk.exists(&path).unwrap() || !after.completed);
            // The left-over of an attempt is no file of the backup, and is told of as such.
            let found = server.verify_backup(&id, &home.ctx()).unwrap();
            let names: Vec<String> = found.files.problems.iter().map(|p| p.name.clone()).collect();
            assert!(names.is_empty() || names == ["backup_manifest.tmp"] && !after.completed, "{found:?}");
            if !after.disk.exists(&path).unwrap() {
                server.generate_manifest(&id, &home.ctx()).unwrap();
                assert!(server.verify_backup(&id, &home.ctx()).unwrap().is_sound());
            }
        },
    );
}
