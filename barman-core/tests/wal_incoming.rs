//! What lies in incoming and streaming: what is left alone, what gives way.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail where it stands")]
#![allow(clippy::disallowed_methods, reason = "a test prepares and damages its files")]

use barman_core::io::RealDisk;
use barman_core::model::Timeline;
use barman_core::wal::{Receiving, Source, TakenHow};

use super::wal_archive::{Home, LONG_AGO, errors, name, plain, write};

/// A `.partial` may be the one that somebody is writing: the archiver leaves it then, and a receiver leaves its own. What a
/// killed process left behind goes.
#[test]
fn i5_the_segment_that_is_being_received_is_left_alone() {
    let home = Home::new();
    let archive = home.archive();
    let streaming = archive.paths().streaming_directory.clone();
    let first = "000000010000000000000007.partial";
    let second = "000000010000000000000008.partial";
    let abandoned = "000000020000000000000005.partial";
    let empty = "000000030000000000000005.partial";
    let left = ".000000010000000000000009.4194304-0.tmp";
    for name in [first, second, abandoned, left] {
        write(&RealDisk, &streaming.join(name), b"x", LONG_AGO);
    }
    write(&RealDisk, &streaming.join(empty), b"", LONG_AGO);
    let wanted = |receiving| {
        home.clock.advance(std::time::Duration::from_secs(10 * 365 * 86_400));
        let batch = archive.batch(Source::Streaming, receiving, None, &home.ctx()).unwrap();
        batch.files.iter().map(|f| f.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(wanted(Receiving::Elsewhere), [""; 0]);
    assert!(!streaming.join(left).exists() && streaming.join(empty).exists());
    // Who was asked for its timeline a moment ago may be on a later one.
    assert_eq!(wanted(Receiving::Here(Timeline::FIRST)), [first]);
    assert!(streaming.join(empty).exists());
    assert_eq!(wanted(Receiving::Here(Timeline::new(3).unwrap())), [first, second, abandoned]);
    std::fs::remove_file(streaming.join(empty)).unwrap();
    assert_eq!(wanted(Receiving::Nobody), [first, second]);
    write(&RealDisk, &streaming.join("000000030000000000000006.partial"), b"x", LONG_AGO);
    write(&RealDisk, &streaming.join(empty), b"", LONG_AGO);
    assert_eq!(wanted(Receiving::Nobody), [first, second, abandoned]);
    assert!(!streaming.join(empty).exists());
}

/// A history that somebody cut off tells less than nothing: the whole one takes its place, and the other is kept aside.
#[test]
fn i3_an_unsound_history_gives_way() {
    let home = Home::new();
    let archive = home.archive();
    let history = name("00000003.history");
    let whole = b"1\t0/500000\tno recovery target specified\n\n2\t0/700000\tno recovery target specified\n";
    for broken in [&whole[..20], b"1\tnonsense\n"] {
        write(&RealDisk, &archive.paths().file(&history), broken, LONG_AGO);
        home.deliver(&archive, history, whole, LONG_AGO);
        let how = home.run(&archive);
        assert!(matches!(how[..], [(_, TakenHow::Replaced(_))]), "{how:?}");
        assert_eq!(plain(&archive, &history), whole);
        std::fs::remove_file(archive.paths().file(&history)).unwrap();
    }
    assert_eq!(errors(&archive).iter().filter(|n| n.ends_with(".unknown")).count(), 2);
    // One that is sound stays, whatever comes.
    write(&RealDisk, &archive.paths().file(&history), whole, LONG_AGO);
    home.deliver(&archive, history, b"2\t0/900000\tno recovery target specified\n", LONG_AGO);
    let how = home.run(&archive);
    assert!(matches!(how[..], [(_, TakenHow::Conflict { .. })]), "{how:?}");
    assert_eq!(plain(&archive, &history), whole);
}
