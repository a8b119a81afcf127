//! The commit index where a record lies on the edge of two segments.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail where it stands")]

use barman_core::format::wal_page::synthetic::WalWriter;
use barman_core::format::wal_record::{LandmarkKind, PgTime};
use barman_core::model::{Lsn, PgVersion, SegmentNo, Timeline};

use super::wal_archive::{Home, LONG_AGO, SYSTEM, size, wal};

/// `xl_xact_commit` with its main data header, as the server writes it without anything further.
fn commit(time: i64) -> Vec<u8> {
    let mut body = vec![255, 8];
    body.extend(time.to_le_bytes());
    body
}

/// Wherever the edge cuts the record of a commit, it is found once, with its position and its time.
#[test]
fn a_commit_on_the_edge_of_segments_is_found() {
    // The header has 24 bytes, and the body ten; records begin at multiples of eight.
    for before in [8, 16, 24, 32] {
        let mut wal_writer =
            WalWriter::new(Timeline::FIRST, SegmentNo::new(5), size(), SYSTEM, PgVersion::new(170_000));
        wal_writer.record(1, 0, &commit(1_000));
        let room = wal_writer.room_in_segment() - before;
        wal_writer.record_of(usize::try_from(room).unwrap());
        let at = wal_writer.lsn();
        assert_eq!(at.offset(size()), size().bytes() - before);
        wal_writer.record(1, 0, &commit(2_000));
        wal_writer.record(1, 0x20, &commit(3_000));
        wal_writer.switch();
        let bytes = wal_writer.finish();
        let home = Home::new();
        let archive = home.archive();
        for (number, part) in (5..).zip(bytes.chunks(1 << 20)) {
            home.deliver(&archive, wal(number), part, LONG_AGO);
        }
        home.run(&archive);
        let (first, second) = (wal(5).as_segment().unwrap(), wal(6).as_segment().unwrap());
        let index = archive.paths().sidecar_directory.join("commit-index");
        // By the index that was written on the way, and by the segments alone.
        for read in [false, true] {
            if read {
                std::fs::remove_file(&index).unwrap();
            }
            let mut commits = archive.commits(size());
            assert_eq!(commits.is_known(first), !read);
            let crossing = commits.crossing(first, Some(second)).unwrap().unwrap();
            assert_eq!((crossing.lsn, crossing.time), (at, PgTime(2_000)), "{before}");
            let times = commits.times(second).unwrap().unwrap();
            assert_eq!((times.first(), times.last()), (Some(PgTime(3_000)), Some(PgTime(3_000))));
            let mut found = commits.landmarks(first, Some(second)).unwrap();
            found.extend(commits.landmarks(second, None).unwrap());
            let seen: Vec<(Lsn, i64)> = found.iter().map(|l| (l.lsn, l.time.0)).collect();
            assert_eq!(
                seen.iter().map(|(_, time)| *time).collect::<Vec<_>>(),
                [1_000, 2_000, 3_000],
                "{before}"
            );
            assert_eq!(seen[1].0, at);
            assert_eq!(found[2].kind, LandmarkKind::Abort);
            // Without the segment that follows it is not known whether it ever ended.
            assert_eq!(commits.landmarks(first, None).unwrap().len(), 1);
        }
    }
}

/// A file that somebody else put in the place of another one is read anew.
#[test]
fn a_segment_that_was_exchanged_is_read_anew() {
    let segment = |time: i64| {
        let mut wal =
            WalWriter::new(Timeline::FIRST, SegmentNo::new(5), size(), SYSTEM, PgVersion::new(170_000));
        wal.record(1, 0, &commit(time));
        wal.switch();
        wal.finish()
    };
    let home = Home::new();
    let archive = home.archive();
    home.deliver(&archive, wal(5), &segment(1_000), LONG_AGO);
    home.run(&archive);
    let name = wal(5).as_segment().unwrap();
    let last = |archive: &barman_core::wal::LocalWalArchive| {
        archive.commits(size()).times(name).unwrap().unwrap().last()
    };
    assert_eq!(last(&archive), Some(PgTime(1_000)));
    let path = archive.paths().file(&wal(5));
    std::fs::remove_file(&path).unwrap();
    super::wal_archive::write(&barman_core::io::RealDisk, &path, &segment(7_000), LONG_AGO + 60);
    assert_eq!(last(&archive), Some(PgTime(7_000)));
    // What was learnt is remembered, and holds.
    assert_eq!(last(&archive), Some(PgTime(7_000)));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(archive.commits(size()).times(name).unwrap(), None);
}
