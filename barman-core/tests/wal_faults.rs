//! The WAL archive with the power lost at every step and with a full disk; put-wal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail where it stands")]
#![allow(clippy::disallowed_methods, reason = "a test prepares and damages its files")]

use std::sync::Arc;

use barman_core::codec::Method;
use barman_core::format::tar::{self, Kind, Member};
use barman_core::io::{Disk, RealDisk, digest};
use barman_core::model::WalFileName;
use barman_core::wal::{LocalWalArchive, TakenHow, WalArchive, WalError};
use barman_testkit::crash_disk::{Aftermath, CrashDisk, assert_every_sync_matters, for_every_crash_point};

use super::wal_archive::{Home, LONG_AGO, name, other, plain, run, segment, wal, write};

fn on(home: &Home, disk: &CrashDisk) -> LocalWalArchive {
    home.archive_on(Arc::new(disk.clone()), "/main".into())
}

/// The history of a backup: small, and taken in by the same steps as a segment.
fn label(number: u64) -> (WalFileName, Vec<u8>) {
    let text = format!("START WAL LOCATION: 0/{number}00028 (file {})\n{}", wal(number), "x\n".repeat(200));
    (name(&format!("{}.00000028.backup", wal(number))), text.into_bytes())
}

/// A disk with sources in incoming, one of them archived before.
fn delivered(home: &Home) -> CrashDisk {
    let disk = CrashDisk::new();
    let archive = on(home, &disk);
    let deliver = |number| {
        let (name, text) = label(number);
        write(&disk, &archive.paths().incoming_directory.join(name.to_string()), &text, LONG_AGO);
    };
    (1..=2).for_each(deliver);
    run(&archive, &home.ctx()).unwrap();
    (2..=4).for_each(deliver);
    disk.settle();
    disk
}

/// Every file is whole, in the archive or still at its source; what has no source has its line.
fn nothing_is_lost(home: &Home, disk: &CrashDisk, completed: bool) {
    let archive = on(home, disk);
    for number in 1..=4 {
        let (name, text) = label(number);
        let source = archive.paths().incoming_directory.join(name.to_string());
        let has_source = number > 1 && disk.exists(&source).unwrap();
        match archive.find(&name).unwrap() {
            None => assert!(has_source && !completed, "{number} is lost"),
            Some(entry) => {
                assert!(plain(&archive, &name) == text, "{number} is damaged");
                assert!(entry.indexed || has_source && !completed, "{number} has no line and no source");
            }
        }
        if has_source {
            assert!(disk.read(&source).unwrap() == text);
        }
    }
}

/// I1, I2.
#[test]
fn power_lost_while_wal_is_taken_in() {
    power_lost(&Home::packed(Method::Zstd));
}

#[test]
fn power_lost_while_wal_is_encrypted() {
    power_lost(&crate::wal_encryption::home(Some(Method::Zstd)).0);
}

fn power_lost(home: &Home) {
    let before = delivered(home);
    for_every_crash_point(
        &before,
        |disk| {
            run(&on(home, disk), &home.ctx()).map(|how| {
                assert!(how.iter().all(|h| !matches!(h.1, TakenHow::Failed { .. }) || disk.crashed()))
            })
        },
        |after| {
            nothing_is_lost(home, &after.disk, after.completed);
            // The next run ends what this one began.
            let archive = on(home, &after.disk);
            run(&archive, &home.ctx()).unwrap();
            nothing_is_lost(home, &after.disk, true);
        },
    );
}

/// I7: a full disk is told, nothing is acknowledged that is not durable, and everything goes on when there is room.
#[test]
fn a_full_disk_is_an_explicit_state() {
    full_disk(&Home::packed(Method::Zstd));
    full_disk(&crate::wal_encryption::home(None).0);
}

fn full_disk(home: &Home) {
    let before = delivered(home);
    let mut told = 0;
    for step in 0.. {
        let disk = before.fork();
        disk.fail_once_after(step, 28);
        match run(&on(home, &disk), &home.ctx()) {
            Err(WalError::NoSpace { .. }) => told += 1,
            // Reading or removing does not run out of space; whatever fails, fails loudly.
            Err(_) => {}
            Ok(how) => {
                let failed = how.iter().any(|(_, how)| matches!(how, TakenHow::Failed { .. }));
                assert!(
                    failed || disk.steps() - before.steps() <= step || disk.last_step().contains("unlink"),
                    "step {step} ignored an error"
                );
            }
        }
        nothing_is_lost(home, &disk, false);
        if disk.steps() - before.steps() <= step {
            break;
        }
        run(&on(home, &disk), &home.ctx()).unwrap();
        nothing_is_lost(home, &disk, true);
    }
    assert!(told > 5, "{told}");
}

/// A tar stream as `barman-wal-archive` sends it.
fn stream(members: &[(&str, Kind, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, kind, body) in members {
        let member = Member { size: body.len() as u64, ..Member::new(*path, kind.clone()) };
        bytes.extend(tar::encode_header(&member).unwrap());
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len() + tar::padding(body.len() as u64), 0);
    }
    bytes.extend(tar::END_OF_ARCHIVE);
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    let wanted = digest::Wanted { sha256: true, md5: true };
    digest::hex(&digest::DigestSet::of(bytes, wanted).sha256.unwrap())
}

#[test]
fn put_wal_stores_what_is_proven_and_nothing_else() {
    let home = Home::new();
    let archive = home.archive();
    let incoming = archive.paths().incoming_directory.clone();
    let receive = |members: &[(&str, Kind, &[u8])]| archive.receive(&mut &*stream(members), &home.ctx());
    let file = wal(7).to_string();
    let path = format!("./{file}");
    let good = segment(7);
    let sums = format!("{} *{file}\n", sha256(&good));
    let delivery =
        receive(&[(&path, Kind::File, &good), ("SHA256SUMS", Kind::File, sums.as_bytes())]).unwrap();
    assert_eq!(delivery.stored, [wal(7)]);
    assert_eq!(std::fs::read(incoming.join(&file)).unwrap(), good);

    let md5 = digest::DigestSet::of(&good, digest::Wanted { sha256: false, md5: true }).md5.unwrap();
    let sums = format!("{} *{file}\n", digest::hex(&md5));
    let delivery = receive(&[(&path, Kind::File, &good), ("MD5SUMS", Kind::File, sums.as_bytes())]).unwrap();
    assert_eq!((delivery.known, delivery.conflicts.len()), (vec![wal(7)], 0));

    let rest = " in put-wal for server 'main'";
    let junk: &[u8] = b"junk";
    let wrong = format!("00 *{file}\n");
    let unsound = format!("{} *{file}\n", sha256(junk));
    let two = format!("{} *{file}\n00 *{}\n", sha256(&good), wal(8));
    for (members, expected) in [
        (vec![(file.as_str(), Kind::File, &*good)], format!("Missing checksum for file '{file}'{rest}")),
        (
            vec![(file.as_str(), Kind::File, &*good), ("SHA256SUMS", Kind::File, wrong.as_bytes())],
            format!("Bad file checksum '{}' (should be 00) for file '{file}'{rest}", sha256(&good)),
        ),
        (
            vec![(file.as_str(), Kind::File, &*good), ("SHA256SUMS", Kind::File, two.as_bytes())],
            format!("Checksum without corresponding file '{}'{rest}", wal(8)),
        ),
        (vec![("dd", Kind::Directory, b"")], format!("Unsupported file type 'b'5'' for file 'dd'{rest}")),
        (vec![("a/b", Kind::File, junk)], format!("Unsupported filename 'a/b'{rest}")),
        (vec![("../x", Kind::File, junk)], format!("Unsupported filename '../x'{rest}")),
        (
            vec![(file.as_str(), Kind::File, junk), ("SHA256SUMS", Kind::File, unsound.as_bytes())],
            format!("File '{file}' is not what its name says"),
        ),
    ] {
        let error = receive(&members).unwrap_err().to_string();
        assert!(error.starts_with(&expected), "{error}");
    }
    for (bytes, expected) in [(Vec::new(), "empty file"), (vec![7; 5000], "truncated header")] {
        let error = archive.receive(&mut &*bytes, &home.ctx()).unwrap_err();
        assert!(matches!(&error, WalError::DeliveryStream { reason } if reason == expected), "{error}");
    }
    let whole = stream(&[(&file, Kind::File, &good)]);
    assert!(archive.receive(&mut &whole[..whole.len() / 2], &home.ctx()).is_err());
    assert_eq!(RealDisk.names(&incoming).unwrap().join(" "), file, "something was left behind");

    // I3: a differing sound file is an error, in incoming and in the archive.
    let differing = other(7);
    let sums = format!("{} *{file}\n", sha256(&differing));
    let conflicting = [(path.as_str(), Kind::File, &*differing), ("SHA256SUMS", Kind::File, sums.as_bytes())];
    let mut kept = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let delivery = receive(&conflicting).unwrap();
        assert_eq!((delivery.stored.len(), delivery.conflicts.len()), (0, 1));
        kept.insert(delivery.conflicts[0].1.clone());
        assert_eq!(std::fs::read(&delivery.conflicts[0].1).unwrap(), differing);
        assert!(delivery.conflicts[0].1.as_str().ends_with("Z.duplicate"));
        home.run(&archive);
        assert_eq!(plain(&archive, &wal(7)), good);
        assert_eq!(RealDisk.names(&incoming).unwrap(), [""; 0]);
    }
    // Whoever sends it sends it again and again: one copy is kept, with its reason.
    let errors = RealDisk.names(&archive.paths().errors_directory).unwrap();
    assert_eq!(
        (kept.len(), errors.iter().filter(|n| n.ends_with(".duplicate")).count()),
        (1, 1),
        "{errors:?}"
    );
}

/// I1: what lies in incoming without an fsync (cp brought it) is acknowledged only when it is durable.
#[test]
fn i1_a_known_file_is_made_durable_before_it_is_acknowledged() {
    let home = Home::new();
    let (name, text) = label(3);
    let path = format!("/main/incoming/{name}");
    let before = CrashDisk::new();
    before.mkdir_all("/main/incoming".into(), 0o755).unwrap();
    before.settle();
    before.create_new(path.as_str().into()).unwrap().put(&text).unwrap();
    let sums = format!("{} *{name}\n", sha256(&text));
    let bytes =
        stream(&[(&name.to_string(), Kind::File, &text), ("SHA256SUMS", Kind::File, sums.as_bytes())]);
    let operation = |disk: &CrashDisk| {
        on(&home, disk).receive(&mut &*bytes, &home.ctx()).map(|delivery| assert_eq!(delivery.known, [name]))
    };
    let check = |after: &Aftermath| {
        if after.completed {
            assert_eq!(after.disk.read(path.as_str().into()).unwrap(), text);
        }
    };
    for_every_crash_point(&before, operation, check);
}

/// A delivery is durable when the sender hears of success.
#[test]
fn power_lost_while_put_wal_receives() {
    let home = Home::new();
    let before = CrashDisk::new();
    on(&home, &before);
    before.mkdir_all("/main/incoming".into(), 0o755).unwrap();
    before.settle();
    let (name, text) = label(3);
    let file = name.to_string();
    let sums = format!("{} *{file}\n", sha256(&text));
    let bytes = stream(&[(&file, Kind::File, &text), ("SHA256SUMS", Kind::File, sums.as_bytes())]);
    let operation = |disk: &CrashDisk| on(&home, disk).receive(&mut &*bytes, &home.ctx()).map(|_| ());
    let check = |after: &Aftermath| {
        let path = format!("/main/incoming/{file}");
        match after.disk.exists(path.as_str().into()).unwrap() {
            true => assert_eq!(after.disk.read(path.as_str().into()).unwrap(), text),
            false => assert!(!after.completed),
        }
    };
    for_every_crash_point(&before, operation, check);
    assert_every_sync_matters(&before, operation, check);
}
