//! What every [`WalArchive`] must do.

use std::fs;
use std::io::Read;
use std::ops::ControlFlow;

use barman_core::ctx::Ctx;
use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline, WalFileName};
use barman_core::wal::{Incoming, TakenHow, WalArchive, WalError, WalRange};
use camino::{Utf8Path, Utf8PathBuf};

/// The cluster whose WAL the suite delivers: an archive that knows its cluster must know this one.
pub const SYSTEM: SystemId = SystemId::new(7_711_114_132_867_599_874);

/// Files come in, are known again, found, read, listed in order and removed; what is not sound is refused, and what differs
/// never takes the place of what is there. The segments have 1 MiB and are of [`SYSTEM`].
///
/// `open` gives the archive as another process would see it. It must be empty at first. Files are delivered in
/// `directory`, which the archive may move them out of.
pub fn wal_archive(open: &dyn Fn() -> Box<dyn WalArchive>, directory: &Utf8Path, ctx: &Ctx<'_>) {
    assert!(names(&*open(), &WalRange::default()).is_empty(), "it must be empty at first");
    let (a, b, c) = (name(1, 0xFE), name(1, 0xFF), name(1, 0x100));
    let history = WalFileName::History(Timeline::new(2).unwrap());
    let next = name(2, 0x100);
    let text = b"1\t0/10000000\tno recovery target specified\n".to_vec();

    // Sources go when the files are safe, and only when that was asked for.
    let batch = [(b, segment(1, 0xFF)), (a, segment(1, 0xFE)), (history, text.clone())];
    let sources: Vec<_> = batch.iter().map(|(name, bytes)| deliver(directory, name, bytes)).collect();
    let mut intake = open_intake(open, ctx, &sources, true);
    assert_eq!(intake.len(), 3);
    assert!(intake.drain(..).all(|how| matches!(how, TakenHow::Archived(_))));
    assert!(sources.iter().all(|(_, path)| !path.exists()), "a source stays");
    let kept = [deliver(directory, &c, &segment(1, 0x100))];
    assert!(matches!(open_intake(open, ctx, &kept, false)[..], [TakenHow::Archived(_)]));
    assert!(kept[0].1.exists(), "a source went that was to stay");
    let last = [deliver(directory, &next, &segment(2, 0x100))];
    assert!(matches!(open_intake(open, ctx, &last, true)[..], [TakenHow::Archived(_)]));

    assert_eq!(names(&*open(), &WalRange::default()), [a, b, c, history, next], "archive order");
    let part = WalRange { from: Some(b), to: Some(c) };
    assert_eq!(names(&*open(), &part), [b, c]);
    let mut seen = 0;
    open()
        .scan(&WalRange::default(), &mut |_| {
            seen += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(seen, 1, "a scan goes on after it was stopped");
    for (name, bytes) in batch.iter().chain(&[(c, segment(1, 0x100))]) {
        assert!(plain(&*open(), name).unwrap() == *bytes, "{name}");
        let entry = open().find(name).unwrap().unwrap();
        assert_eq!((entry.name, entry.indexed), (*name, true));
        let mut stored = Vec::new();
        open().open_stored(name).unwrap().read_to_end(&mut stored).unwrap();
        assert_eq!(entry.size, stored.len() as u64, "{name}");
    }
    let absent = name(1, 0x200);
    assert_eq!(open().find(&absent).unwrap(), None);
    assert!(matches!(plain(&*open(), &absent), Err(WalError::NotFound { name }) if name == absent));

    // The same again is known, another sound content is kept aside, a broken one refused.
    let same = [deliver(directory, &a, &segment(1, 0xFE))];
    assert_eq!(open_intake(open, ctx, &same, true), [TakenHow::Known]);
    let other = synthetic::switched_segment(
        Timeline::FIRST,
        SegmentNo::new(0xFE),
        size(),
        SYSTEM,
        PgVersion::new(170_000),
        100_000,
    );
    let other = [deliver(directory, &a, &other)];
    assert!(matches!(open_intake(open, ctx, &other, true)[..], [TakenHow::Conflict { .. }]));
    assert!(plain(&*open(), &a).unwrap() == segment(1, 0xFE), "the first stays");
    let mut torn = segment(1, 0x201);
    torn[500_000..].fill(0);
    let broken = [
        deliver(directory, &name(1, 0x201), &torn),
        deliver(directory, &name(1, 0x202), &segment(1, 0x203)),
        deliver(directory, &name(1, 0x204), b"no WAL at all"),
    ];
    let refused = open_intake(open, ctx, &broken, true);
    assert!(refused.iter().all(|how| matches!(how, TakenHow::Refused { .. })), "{refused:?}");
    assert_eq!(names(&*open(), &WalRange::default()), [a, b, c, history, next]);

    let freed = open().remove(&[b, absent]).unwrap();
    assert_eq!(freed.files, 1);
    assert_eq!(names(&*open(), &WalRange::default()), [a, c, history, next], "only what was named goes");
    assert!(open().find(&b).unwrap().is_none());
    assert!(plain(&*open(), &a).unwrap() == segment(1, 0xFE));
}

fn size() -> SegmentSize {
    SegmentSize::from_bytes(1 << 20).unwrap()
}

fn name(timeline: u32, number: u64) -> WalFileName {
    format!("{timeline:08X}{:08X}{:08X}", number >> 12, number & 0xFFF).parse().unwrap()
}

fn segment(timeline: u32, number: u64) -> Vec<u8> {
    let timeline = Timeline::new(timeline).unwrap();
    synthetic::segment(timeline, SegmentNo::new(number), size(), SYSTEM, PgVersion::new(170_000))
}

/// A file as it was delivered long ago, so that nobody waits for the rest of it.
fn deliver(directory: &Utf8Path, name: &WalFileName, bytes: &[u8]) -> (WalFileName, Utf8PathBuf) {
    let path = directory.join(name.to_string());
    fs::write(&path, bytes).unwrap();
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    (*name, path)
}

fn open_intake(
    open: &dyn Fn() -> Box<dyn WalArchive>,
    ctx: &Ctx<'_>,
    files: &[(WalFileName, Utf8PathBuf)],
    remove_source: bool,
) -> Vec<TakenHow> {
    let archive = open();
    let mut intake = archive.intake(*ctx).unwrap();
    for (name, path) in files {
        intake.put(Incoming { name: *name, path: path.clone(), remove_source }).unwrap();
    }
    let report = intake.commit().unwrap();
    let order: Vec<WalFileName> = report.files.iter().map(|taken| taken.name).collect();
    assert_eq!(order, files.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "in the order handed over");
    report.files.into_iter().map(|taken| taken.how).collect()
}

fn names(archive: &dyn WalArchive, range: &WalRange) -> Vec<WalFileName> {
    let mut names = Vec::new();
    let each = &mut |entry: barman_core::wal::WalEntry| {
        names.push(entry.name);
        ControlFlow::Continue(())
    };
    archive.scan(range, each).unwrap();
    names
}

fn plain(archive: &dyn WalArchive, name: &WalFileName) -> Result<Vec<u8>, WalError> {
    let mut bytes = Vec::new();
    archive.open(name)?.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}
