//! The files of a stream of WAL: with the power lost at every step, with full and broken disks, and what is there before.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail where it stands")]

use std::cell::Cell;
use std::sync::Arc;

use barman_core::format::wal_page::synthetic;
use barman_core::io::Disk;
use barman_core::model::{
    Lsn, PgVersion, SegmentName, SegmentNo, SegmentSize, SystemId, Timeline, WalFileName,
};
use barman_core::pg::WalSink;
use barman_core::policy::streaming_start::{Origin, StartFacts, streaming_start};
use barman_core::wal::{LocalWalArchive, WalError};
use barman_testkit::crash_disk::{Aftermath, CrashDisk, assert_every_sync_matters, for_every_crash_point};

use super::wal_archive::Home;

const FIRST: u64 = 5;

fn size() -> SegmentSize {
    SegmentSize::from_bytes(1 << 20).unwrap()
}

fn archive(home: &Home, disk: &CrashDisk) -> LocalWalArchive {
    home.archive_on(Arc::new(disk.clone()), "/main".into())
}

/// A segment and a part of the next.
fn stream() -> Vec<u8> {
    let mut wal = synthetic::WalWriter::new(
        Timeline::FIRST,
        SegmentNo::new(FIRST),
        size(),
        SystemId::new(7),
        PgVersion::new(170_000),
    );
    while wal.lsn().get() < (FIRST + 1) * size().bytes() + 150_000 {
        wal.record_of(60_000);
    }
    let mut bytes = wal.finish();
    bytes.truncate((1 << 20) + 140_000);
    bytes
}

fn at(offset: usize) -> Lsn {
    Lsn::new(FIRST * size().bytes() + offset as u64)
}

/// Receives from the beginning of what is there, as a receiver does that was started anew; tells what is acknowledged.
fn receive(home: &Home, disk: &CrashDisk, wal: &[u8], acknowledged: &Cell<u64>) -> Result<(), WalError> {
    let archive = archive(home, disk);
    let start = begin(&archive);
    let mut sink = archive.receiver(Timeline::FIRST, start, size(), Box::new(|_| ()));
    let mut offset = (start.get() - at(0).get()) as usize;
    while offset < wal.len() {
        let piece = wal.get(offset..(offset + 400_000).min(wal.len())).unwrap();
        sink.write(at(offset), piece)?;
        acknowledged.set(acknowledged.get().max(sink.durable().get()));
        offset += piece.len();
        if offset.is_multiple_of(2) || offset == wal.len() {
            sink.flush()?;
            acknowledged.set(acknowledged.get().max(sink.durable().get()));
        }
    }
    Ok(())
}

/// Where a receiver would begin.
fn begin(archive: &LocalWalArchive) -> Lsn {
    let streamed = archive.streamed().unwrap();
    let facts = StartFacts {
        streamed: &streamed,
        archived: &[],
        timeline: Timeline::FIRST,
        history: None,
        slot: Some(at(0)),
        position: at(10 << 20),
        size: size(),
    };
    let start = streaming_start(&facts).unwrap();
    assert!(matches!(start.origin, Origin::Streaming | Origin::Slot));
    start.lsn(size()).unwrap()
}

/// What was acknowledged is there, byte for byte, and a receiver goes on without a hole.
fn nothing_acknowledged_is_lost(home: &Home, disk: &CrashDisk, wal: &[u8], acknowledged: u64) {
    let archive = archive(home, disk);
    let streaming = archive.paths().streaming_directory.clone();
    for number in FIRST..=acknowledged.div_ceil(size().bytes()) {
        let name = SegmentName::new(Timeline::FIRST, SegmentNo::new(number), size());
        let start = number * size().bytes();
        if start >= acknowledged {
            break;
        }
        let places = [WalFileName::Segment(name), WalFileName::Partial(name)];
        let there = places.iter().find_map(|name| disk.read(&streaming.join(name.to_string())).ok());
        let there =
            there.unwrap_or_else(|| panic!("segment {number} is gone, {acknowledged:x} was acknowledged"));
        let until = (acknowledged - start).min(size().bytes()) as usize;
        let from = (start - at(0).get()) as usize;
        assert!(there.get(..until) == wal.get(from..from + until), "segment {number} is not what was sent");
    }
    // What a receiver would not ask for any more is there as a whole.
    let start = begin(&archive).get();
    for number in FIRST..start / size().bytes() {
        let name = SegmentName::new(Timeline::FIRST, SegmentNo::new(number), size());
        let from = (number * size().bytes() - at(0).get()) as usize;
        let there = disk.read(&streaming.join(name.to_string()));
        assert!(
            there.unwrap() == wal.get(from..from + (1 << 20)).unwrap(),
            "segment {number} is passed over"
        );
    }
}

/// I6: whatever was acknowledged survives a power loss at any step, and each fsync of it is needed.
#[test]
fn i6_power_lost_while_wal_is_received() {
    let home = Home::new();
    let wal = stream();
    let before = CrashDisk::new();
    before.mkdir_all("/main".into(), 0o755).unwrap();
    before.settle();
    let acknowledged = Cell::new(0);
    let operation = |disk: &CrashDisk| {
        acknowledged.set(0);
        receive(&home, disk, &wal, &acknowledged)
    };
    let check = |after: &Aftermath| {
        nothing_acknowledged_is_lost(&home, &after.disk, &wal, acknowledged.get());
        if after.completed {
            assert_eq!(acknowledged.get(), at(wal.len()).get());
        }
    };
    for_every_crash_point(&before, operation, |after| {
        check(after);
        // The next receiver ends what this one began, over what survived.
        if after.moment.contains("Mixture") {
            return;
        }
        let acknowledged = Cell::new(0);
        receive(&home, &after.disk, &wal, &acknowledged).unwrap();
        nothing_acknowledged_is_lost(&home, &after.disk, &wal, at(wal.len()).get());
    });
    assert_every_sync_matters(&before, operation, check);
}

/// I7, I29: a full or broken disk is an error at once, and nothing is acknowledged that is not there.
#[test]
fn i7_a_full_or_broken_disk_is_told() {
    let home = Home::new();
    let wal = stream();
    let before = CrashDisk::new();
    before.mkdir_all("/main".into(), 0o755).unwrap();
    before.settle();
    for errno in [28, 5] {
        for step in 0.. {
            let disk = before.fork();
            disk.fail_once_after(step, errno);
            let acknowledged = Cell::new(0);
            match receive(&home, &disk, &wal, &acknowledged) {
                Ok(()) => {
                    assert_eq!(
                        disk.steps() - before.steps(),
                        step,
                        "an error was ignored: {}",
                        disk.last_step()
                    );
                    break;
                }
                Err(WalError::NoSpace { .. }) => assert_eq!(errno, 28),
                Err(WalError::Io(_)) => {}
                Err(other) => panic!("{other}"),
            }
            nothing_acknowledged_is_lost(&home, &disk, &wal, acknowledged.get());
            // When there is room again, all of it comes in.
            receive(&home, &disk, &wal, &acknowledged).unwrap();
            nothing_acknowledged_is_lost(&home, &disk, &wal, at(wal.len()).get());
        }
    }
}

/// I6: what is there is compared; zeros are what never reached the disk, other bytes are a reason to stop.
#[test]
fn i6_what_is_there_is_compared() {
    let home = Home::new();
    let wal = stream();
    let whole = CrashDisk::new();
    let acknowledged = Cell::new(0);
    receive(&home, &whole, &wal, &acknowledged).unwrap();
    let streaming = archive(&home, &whole).paths().streaming_directory.clone();
    let last = SegmentName::new(Timeline::FIRST, SegmentNo::new(FIRST + 1), size());
    let partial = streaming.join(WalFileName::Partial(last).to_string());
    assert_eq!(whole.stat(&partial).unwrap().size, size().bytes());
    let sent = whole.read(&partial).unwrap();
    let with = |bytes: &[u8]| {
        let disk = whole.fork();
        let mut file = disk.open_write(&partial).unwrap();
        file.set_len(0).unwrap();
        file.put(bytes).unwrap();
        drop(file);
        let result = receive(&home, &disk, &wal, &acknowledged);
        (result, disk.read(&partial).unwrap())
    };
    let mut torn = sent.clone();
    torn[8192..100_000].fill(0);
    for there in [&sent[..], &torn, &sent[..90_000], &[]] {
        let (result, bytes) = with(there);
        result.unwrap();
        assert!(bytes == sent);
    }
    let mut other = sent.clone();
    other[123_456] = other[123_456].wrapping_add(1).max(1);
    let (result, bytes) = with(&other);
    let said = result.unwrap_err().to_string();
    assert!(said.contains("differs at byte 123456"), "{said}");
    assert!(bytes == other, "it is left as it is");
    // What goes on behind the end of what is sent now is not touched either.
    let mut longer = sent.clone();
    longer[700_000..700_100].fill(7);
    let (result, bytes) = with(&longer);
    result.unwrap();
    assert!(bytes == longer);
    let mut too_long = sent.clone();
    too_long.push(0);
    assert!(with(&too_long).0.unwrap_err().to_string().contains("a segment of this server has"));
}

/// A segment that is there as a whole already must be the same.
#[test]
fn a_segment_of_an_earlier_life_is_compared() {
    let home = Home::new();
    let wal = stream();
    for same in [true, false] {
        let disk = CrashDisk::new();
        let archive = archive(&home, &disk);
        let streaming = archive.paths().streaming_directory.clone();
        disk.mkdir_all(&streaming, 0o755).unwrap();
        let name = SegmentName::new(Timeline::FIRST, SegmentNo::new(FIRST), size());
        let mut bytes = wal.get(..1 << 20).unwrap().to_vec();
        bytes[77] ^= u8::from(!same);
        disk.create_new(&streaming.join(name.to_string())).unwrap().put(&bytes).unwrap();
        let mut sink = archive.receiver(Timeline::FIRST, at(0), size(), Box::new(|_| ()));
        let result = sink.write(at(0), &wal);
        assert_eq!(result.is_ok(), same, "{result:?}");
        assert!(disk.read(&streaming.join(name.to_string())).unwrap() == bytes);
        // Bytes that do not follow are refused.
        assert!(sink.write(at(3), b"x").is_err());
    }
}

/// I5: a history is never overwritten, and two clusters that promoted to one timeline are told apart.
#[test]
fn i5_a_history_is_never_overwritten() {
    let home = Home::new();
    let disk = CrashDisk::new();
    let archive = archive(&home, &disk);
    let second = Timeline::new(2).unwrap();
    let text = b"1\t0/500000\tno recovery target specified\n";
    assert!(archive.receive_history(second, b"nonsense").is_err());
    for _ in 0..2 {
        assert_eq!(archive.receive_history(second, text).unwrap().entries.len(), 1);
    }
    let other = b"1\t0/600000\tno recovery target specified\n";
    let said = archive.receive_history(second, other).unwrap_err().to_string();
    assert!(said.contains("two clusters have promoted to the same timeline"), "{said}");
    assert_eq!(disk.read(&archive.paths().streaming_directory.join("00000002.history")).unwrap(), text);
}
