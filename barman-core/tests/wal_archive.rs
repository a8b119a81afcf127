//! The WAL archive: what is taken in, what is kept aside, what is given out; with the power lost at every step, with a full
//! disk, and with two intakes at once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail where it stands")]
#![allow(clippy::disallowed_methods, reason = "a test prepares and damages its files")]

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use barman_core::codec::{Level, Method, compressor};
use barman_core::ctx::{Cancel, Clock, Ctx, Silent};
use barman_core::format::wal_page::synthetic;
use barman_core::io::{Disk, Locks, RealDisk};
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline, WalFileName};
use barman_core::wal::{
    Compression, Incoming, LocalWalArchive, Packing, Receiving, Request, Source, TakenHow, WalArchive,
    WalEntry, WalError, WalOptions, WalPaths, WalRange,
};
use barman_testkit::clock::StepClock;
use camino::{Utf8Path, Utf8PathBuf};
use time::macros::datetime;

pub(super) const SYSTEM: SystemId = SystemId::new(7_711_114_132_867_599_874);
pub(super) const LONG_AGO: i64 = 1_600_000_000;

pub(super) fn size() -> SegmentSize {
    SegmentSize::from_bytes(1 << 20).unwrap()
}

pub(super) fn segment_of(timeline: u32, number: u64, system: SystemId) -> Vec<u8> {
    let timeline = Timeline::new(timeline).unwrap();
    synthetic::segment(timeline, SegmentNo::new(number), size(), system, PgVersion::new(150_000))
}

pub(super) fn segment(number: u64) -> Vec<u8> {
    segment_of(1, number, SYSTEM)
}

pub(super) fn name(text: &str) -> WalFileName {
    text.parse().unwrap()
}

pub(super) fn wal(number: u64) -> WalFileName {
    name(&format!("{:08X}{:08X}{:08X}", 1, number / 4096, number % 4096))
}

/// Another sound segment of that name: ended early.
pub(super) fn other(number: u64) -> Vec<u8> {
    synthetic::switched_segment(
        Timeline::FIRST,
        SegmentNo::new(number),
        size(),
        SYSTEM,
        PgVersion::new(150_000),
        100_000,
    )
}

pub(super) struct Home {
    pub(super) dir: tempfile::TempDir,
    pub(super) clock: Arc<StepClock>,
    pub(super) cancel: Cancel,
    pub(super) options: WalOptions,
}

impl Home {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            // Locks are waited for, which takes real time.
            clock: Arc::new(
                StepClock::at(datetime!(2026-11-22 21:45:28 UTC))
                    .really_pausing(std::time::Duration::from_millis(20)),
            ),
            cancel: Cancel::new(),
            options: WalOptions {
                system_id: Some(SYSTEM),
                segment_size: Some(size()),
                ..WalOptions::default()
            },
        }
    }

    pub(super) fn packed(method: Method) -> Self {
        let mut home = Self::new();
        let compressor = Arc::from(compressor(method, Level::Low, None).unwrap());
        home.options.compression = Some(Compression { compressor, name: method.name().to_owned() });
        home
    }

    pub(super) fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).unwrap()
    }

    pub(super) fn ctx(&self) -> Ctx<'_> {
        Ctx { clock: &*self.clock, progress: &Silent, cancel: &self.cancel }
    }

    pub(super) fn archive(&self) -> LocalWalArchive {
        self.archive_on(Arc::new(RealDisk), &self.path().join("main"))
    }

    pub(super) fn archive_on(&self, disk: Arc<dyn Disk>, at: &Utf8Path) -> LocalWalArchive {
        let paths = WalPaths::under(at, "main".parse().unwrap());
        let locks = Locks::new(self.path(), "barman test");
        LocalWalArchive::new(paths, disk, self.clock.clone(), locks, self.options.clone())
    }

    /// Puts a file into incoming, as old as `mtime` says.
    pub(super) fn deliver(
        &self,
        archive: &LocalWalArchive,
        name: impl ToString,
        bytes: &[u8],
        mtime: i64,
    ) -> Utf8PathBuf {
        let path = archive.paths().incoming_directory.join(name.to_string());
        write(&RealDisk, &path, bytes, mtime);
        path
    }

    /// Takes in what lies in incoming, and says what became of each.
    pub(super) fn run(&self, archive: &LocalWalArchive) -> Vec<(WalFileName, TakenHow)> {
        run(archive, &self.ctx()).unwrap()
    }
}

pub(super) fn write(disk: &dyn Disk, path: &Utf8Path, bytes: &[u8], mtime: i64) {
    disk.mkdir_all(path.parent().unwrap(), 0o755).unwrap();
    let mut file = disk.create_new(path).unwrap();
    file.put(bytes).unwrap();
    file.set_mode(0o600).unwrap();
    file.set_mtime(barman_core::model::FileTime { seconds: mtime, nanos: 500_000_000 }).unwrap();
    file.sync_all().unwrap();
}

pub(super) fn run(
    archive: &LocalWalArchive,
    ctx: &Ctx<'_>,
) -> Result<Vec<(WalFileName, TakenHow)>, WalError> {
    let batch = archive.batch(Source::Incoming, Receiving::Nobody, None, ctx)?;
    let mut intake = archive.intake(*ctx)?;
    for file in batch.files {
        intake.put(file)?;
    }
    Ok(intake.commit()?.complete()?.into_iter().map(|taken| (taken.name, taken.how)).collect())
}

pub(super) fn plain(archive: &LocalWalArchive, name: &WalFileName) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive.open(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn names(archive: &LocalWalArchive) -> Vec<(String, bool)> {
    let mut names = Vec::new();
    let each = &mut |entry: WalEntry| {
        names.push((entry.name.to_string(), entry.indexed));
        ControlFlow::Continue(())
    };
    archive.scan(&WalRange::default(), each).unwrap();
    names
}

fn index(archive: &LocalWalArchive) -> String {
    std::fs::read_to_string(archive.paths().index()).unwrap()
}

pub(super) fn errors(archive: &LocalWalArchive) -> Vec<String> {
    if archive.paths().errors_directory.exists() {
        RealDisk.names(&archive.paths().errors_directory).unwrap()
    } else {
        Vec::new()
    }
}

#[test]
fn segments_are_packed_indexed_and_given_back_with_every_codec() {
    for method in [None, Some(Method::Gzip), Some(Method::PyGzip), Some(Method::Zstd), Some(Method::Snappy)] {
        let mut home = method.map_or_else(Home::new, Home::packed);
        for workers in [1, 3] {
            home.options.workers = workers;
            let archive = home.archive_on(Arc::new(RealDisk), &home.path().join(workers.to_string()));
            for number in 1..=5 {
                home.deliver(&archive, wal(number), &segment(number), LONG_AGO);
            }
            let taken = home.run(&archive);
            assert_eq!(taken.iter().map(|t| t.0).collect::<Vec<_>>(), (1..=5).map(wal).collect::<Vec<_>>());
            for number in 1..=5 {
                let TakenHow::Archived(entry) = &taken[number as usize - 1].1 else { panic!("{taken:?}") };
                assert_eq!(plain(&archive, &wal(number)), segment(number));
                let found = archive.find(&wal(number)).unwrap().unwrap();
                assert_eq!(&found, entry);
                assert_eq!(found.compression.as_deref(), method.map(Method::name));
                assert_eq!((found.mtime.seconds, found.indexed), (LONG_AGO, true));
                let stat = RealDisk.stat(&archive.paths().file(&wal(number))).unwrap();
                assert_eq!((stat.size, stat.mode, stat.mtime.nanos), (entry.size, 0o600, 500_000_000));
            }
            assert_eq!(RealDisk.names(&archive.paths().incoming_directory).unwrap(), [""; 0]);
            let first = index(&archive).lines().next().unwrap().to_owned();
            let word = method.map_or("None", Method::name);
            assert!(first.ends_with(&format!("\t1600000000.5\t{word}\tNone")), "{first}");
            assert_eq!(archive.latest(Timeline::FIRST).unwrap().map(WalFileName::Segment), Some(wal(5)));
        }
    }
}

#[test]
fn a_packed_source_is_checked_and_stored_as_it_is() {
    let home = Home::packed(Method::Zstd);
    let archive = home.archive();
    let pack = |bytes: &[u8]| {
        let mut packed = Vec::new();
        let gzip = compressor(Method::Gzip, Level::Low, None).unwrap();
        gzip.encoder().encode(bytes, &mut packed).unwrap();
        packed
    };
    home.deliver(&archive, wal(1), &pack(&segment(1)), LONG_AGO);
    home.deliver(&archive, wal(2), &pack(b"not a segment"), LONG_AGO);
    let whole = pack(&segment(3));
    home.deliver(&archive, wal(3), &whole[..whole.len() / 2], LONG_AGO);
    let taken = home.run(&archive);
    let TakenHow::Archived(entry) = &taken[0].1 else { panic!("{taken:?}") };
    assert_eq!(entry.compression.as_deref(), Some("gzip"));
    assert_eq!(std::fs::read(archive.paths().file(&wal(1))).unwrap(), pack(&segment(1)));
    assert!(matches!(taken[1].1, TakenHow::Refused { .. }) && matches!(taken[2].1, TakenHow::Refused { .. }));
    // The same content plain is the same content.
    home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    assert_eq!(home.run(&archive)[0].1, TakenHow::Known);
}

/// I4: nothing under a WAL name is believed.
#[test]
fn what_is_not_the_segment_of_its_name_is_kept_aside_with_the_reason() {
    let foreign = segment_of(1, 7, SystemId::new(42));
    let mut torn = segment(7);
    torn[300_000..308_192].fill(0);
    let cases: [(&str, Vec<u8>); 8] = [
        ("zeros", vec![0; 1 << 20]),
        ("text", b"this is no WAL at all ".repeat(50_000)),
        ("another position", segment(8)),
        ("another cluster", foreign),
        ("a hole", torn),
        ("cut off", segment(7)[..500_000].to_vec()),
        ("too long", [segment(7), vec![0; 8192]].concat()),
        ("empty", Vec::new()),
    ];
    for (what, bytes) in cases {
        let home = Home::packed(Method::Gzip);
        let archive = home.archive();
        home.deliver(&archive, wal(7), &bytes, LONG_AGO);
        home.deliver(&archive, wal(8), &segment(8), LONG_AGO);
        let taken = home.run(&archive);
        let TakenHow::Refused { aside, reason } = &taken[0].1 else { panic!("{what}: {taken:?}") };
        assert!(matches!(taken[1].1, TakenHow::Archived(_)), "one bad file stopped the rest (I7)");
        assert_eq!(std::fs::read(aside).unwrap(), bytes, "{what}");
        assert_eq!(errors(&archive), [format!("{}.20261122T214528Z.unknown", wal(7))], "{what}");
        let told = std::fs::read_to_string(archive.paths().refusals()).unwrap();
        assert!(told.contains(reason.as_str()) && !reason.is_empty(), "{what}: {told}");
        assert_eq!(archive.find(&wal(7)).unwrap(), None);
        let left = RealDisk.names(&archive.paths().dir_of(&wal(7))).unwrap();
        assert_eq!(left, [wal(8).to_string()], "{what}: a temporary file stays");
    }
}

#[test]
fn a_short_file_that_changed_a_moment_ago_stays() {
    let home = Home::new();
    let archive = home.archive();
    let now = home.clock.now().unix_timestamp();
    let path = home.deliver(&archive, wal(7), &segment(7)[..500_000], now - 30);
    assert_eq!(home.run(&archive)[0].1, TakenHow::Growing);
    assert!(path.exists() && errors(&archive).is_empty());
    home.clock.advance(std::time::Duration::from_secs(31));
    assert!(matches!(home.run(&archive)[0].1, TakenHow::Refused { .. }));
}

#[test]
fn same_content_is_known_and_differing_content_kept_aside() {
    let home = Home::packed(Method::Gzip);
    let archive = home.archive();
    home.deliver(&archive, wal(7), &segment(7), LONG_AGO);
    home.run(&archive);
    let before = index(&archive);
    home.deliver(&archive, wal(7), &segment(7), LONG_AGO + 1);
    assert_eq!(home.run(&archive)[0].1, TakenHow::Known);
    assert_eq!((index(&archive), errors(&archive).len()), (before, 0));
    for _ in 0..2 {
        home.deliver(&archive, wal(7), &other(7), LONG_AGO);
        let taken = home.run(&archive);
        assert!(matches!(&taken[0].1, TakenHow::Conflict { .. }), "{taken:?}");
    }
    assert_eq!(plain(&archive, &wal(7)), segment(7));
    let aside = errors(&archive);
    assert_eq!(aside.len(), 2);
    assert!(aside.iter().all(|file| file.ends_with(".duplicate")), "{aside:?}");
    home.deliver(&archive, wal(7), b"junk", LONG_AGO);
    assert!(matches!(home.run(&archive)[0].1, TakenHow::Refused { .. }));
}

/// I3: a truncated file in the archive gives way to a sound one; Barman keeps the broken one for ever.
#[test]
fn a_published_file_that_is_not_sound_is_replaced() {
    for broken in [segment(7)[..500_000].to_vec(), vec![0; 1 << 20], b"foreign".to_vec()] {
        let home = Home::packed(Method::Zstd);
        let archive = home.archive();
        for number in 6..=8 {
            home.deliver(&archive, wal(number), &segment(number), LONG_AGO);
        }
        home.run(&archive);
        std::fs::write(archive.paths().file(&wal(7)), &broken).unwrap();
        home.deliver(&archive, wal(7), &segment(7), LONG_AGO);
        let taken = home.run(&archive);
        assert!(matches!(&taken[0].1, TakenHow::Replaced(_)), "{taken:?}");
        assert_eq!(plain(&archive, &wal(7)), segment(7));
        let aside = archive.paths().errors_directory.join(&errors(&archive)[0]);
        assert_eq!(std::fs::read(aside).unwrap(), broken);
        let lines: Vec<String> = index(&archive).lines().map(|l| l[..24].to_owned()).collect();
        assert_eq!(lines, [wal(6), wal(8), wal(7)].map(|n| n.to_string()));
    }
}

/// I2, I5: lines that are missing are added, history is never overwritten, the whole segment retires the partial one.
#[test]
fn histories_partials_and_missing_lines() {
    let home = Home::new();
    let archive = home.archive();
    let history = name("00000002.history");
    let label = name("000000010000000000000007.00000028.backup");
    let partial = name("000000010000000000000009.partial");
    home.deliver(&archive, history, b"1\t0/900000\tno recovery target specified\n", LONG_AGO);
    home.deliver(
        &archive,
        label,
        b"START WAL LOCATION: 0/700028 (file 000000010000000000000007)\n",
        LONG_AGO,
    );
    let mut unfinished = segment(9);
    unfinished[600_000..].fill(0);
    home.deliver(&archive, partial, &unfinished, LONG_AGO);
    assert!(home.run(&archive).iter().all(|(_, how)| matches!(how, TakenHow::Archived(_))));
    assert_eq!(
        names(&archive),
        [(label, true), (partial, true), (history, true)].map(|(n, i)| (n.to_string(), i))
    );
    assert!(archive.paths().wals_directory.join("00000002.history").exists());

    home.deliver(&archive, history, b"1\t0/800000\tanother promotion\n", LONG_AGO);
    assert!(matches!(home.run(&archive)[0].1, TakenHow::Conflict { .. }));

    home.deliver(&archive, wal(9), &segment(9), LONG_AGO);
    home.run(&archive);
    assert_eq!(
        names(&archive).iter().map(|n| n.0.clone()).collect::<Vec<_>>(),
        [label.to_string(), wal(9).to_string(), history.to_string()]
    );
    assert!(!index(&archive).contains("partial"));

    // A line is lost; the file is found all the same, and its source brings the line back.
    let text = index(&archive)
        .lines()
        .filter(|l| !l.starts_with(&wal(9).to_string()))
        .map(|l| format!("{l}\n"))
        .collect::<String>();
    std::fs::write(archive.paths().index(), &text).unwrap();
    assert!(!archive.find(&wal(9)).unwrap().unwrap().indexed);
    home.deliver(&archive, wal(9), &segment(9), LONG_AGO);
    assert_eq!(home.run(&archive)[0].1, TakenHow::Known);
    assert!(archive.find(&wal(9)).unwrap().unwrap().indexed);
    // A line without a file is no file.
    std::fs::remove_file(archive.paths().file(&wal(9))).unwrap();
    assert_eq!(archive.find(&wal(9)).unwrap(), None);
    assert!(matches!(archive.open(&wal(9)), Err(WalError::NotFound { .. })));
}

#[test]
fn a_lost_index_is_made_anew_and_an_old_one_taken_over() {
    let home = Home::packed(Method::PyGzip);
    let archive = home.archive();
    for number in 1..=3 {
        home.deliver(&archive, wal(number), &segment(number), LONG_AGO);
    }
    home.run(&archive);
    let before = index(&archive);
    std::fs::remove_file(archive.paths().index()).unwrap();
    home.deliver(&archive, wal(4), &segment(4), LONG_AGO);
    home.run(&archive);
    let lines: Vec<String> = index(&archive).lines().map(ToOwned::to_owned).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].contains("\tgzip\t") && lines[3].contains("\tpygzip\t"), "{lines:?}");
    assert_eq!(archive.rebuild_index(&home.ctx()).unwrap().segments, 4);

    std::fs::remove_file(archive.paths().index()).unwrap();
    std::fs::write(archive.paths().wals_directory.join("xlog.db"), &before).unwrap();
    assert!(archive.find(&wal(3)).unwrap().unwrap().indexed);
    home.deliver(&archive, wal(5), &segment(5), LONG_AGO);
    home.run(&archive);
    assert!(index(&archive).starts_with(&before));
    assert!(!archive.paths().wals_directory.join("xlog.db").exists());
}

#[test]
fn names_that_are_no_wal_go_to_errors_and_unfinished_deliveries_stay() {
    let home = Home::new();
    let archive = home.archive();
    for odd in ["foo", "000000010000000000000007.gz", "00000001000000000000000a"] {
        home.deliver(&archive, odd, b"x", LONG_AGO);
    }
    std::fs::create_dir(archive.paths().incoming_directory.join("dir")).unwrap();
    for unfinished in [".000000010000000000000007.Xa1b2c", "000000010000000000000007.tmp"] {
        home.deliver(&archive, unfinished, b"x", LONG_AGO);
    }
    home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    home.deliver(&archive, wal(2), &segment(2), LONG_AGO);
    let batch = archive.batch(Source::Incoming, Receiving::Nobody, Some(3), &home.ctx()).unwrap();
    assert_eq!((batch.entries, batch.files.len(), batch.unknown.len()), (6, 2, 1));
    let batch = archive.batch(Source::Incoming, Receiving::Nobody, None, &home.ctx()).unwrap();
    assert_eq!((batch.files.len(), batch.unknown.len()), (2, 3));
    assert_eq!(RealDisk.names(&archive.paths().incoming_directory).unwrap().len(), 4);
    assert!(errors(&archive).contains(&"dir.20261122T214528Z.unknown".to_owned()), "{:?}", errors(&archive));

    let streaming = &archive.paths().streaming_directory;
    let put = |file: &str| write(&RealDisk, &streaming.join(file), b"x", LONG_AGO);
    ["000000010000000000000005", "000000010000000000000006"].into_iter().for_each(put);
    let files = |limit| {
        let batch = archive.batch(Source::Streaming, Receiving::Nobody, limit, &home.ctx()).unwrap();
        batch.files.iter().map(|f| f.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(files(None), ["000000010000000000000005"]);
    ["000000010000000000000007.partial", "000000010000000000000006.partial"].into_iter().for_each(put);
    assert_eq!(
        files(None),
        ["000000010000000000000005", "000000010000000000000006", "000000010000000000000006.partial"]
    );
    assert_eq!(files(Some(1)), ["000000010000000000000005"]);
}

/// Deleting the old entries of one full directory keeps the rest (Barman removed the whole directory).
#[test]
fn removal_takes_only_what_it_was_told() {
    let home = Home::new();
    let archive = home.archive();
    let dir = archive.paths().wals_directory.join("0000000100000000");
    std::fs::create_dir_all(&dir).unwrap();
    let mut all: Vec<WalFileName> = (0..=0xFF).map(|n| name(&format!("0000000100000000{n:08X}"))).collect();
    all.extend((1..4).map(|n| name(&format!("0000000100000000{n:08X}.00000028.backup"))));
    all.push(name("00000002.history"));
    for file in &all {
        write(&RealDisk, &archive.paths().file(file), b"12345", LONG_AGO);
    }
    archive.rebuild_index(&home.ctx()).unwrap();
    std::fs::write(archive.paths().index(), format!("{}nonsense\n", index(&archive))).unwrap();
    let keep = [name("0000000100000000000000FE"), name("0000000100000000000000FF")];
    let old: Vec<WalFileName> =
        all.iter().copied().filter(|n| n.hash_dir().is_some() && !keep.contains(n)).collect();
    let reclaimed = archive.remove(&old).unwrap();
    assert_eq!((reclaimed.files, reclaimed.bytes), (257, 257 * 5));
    assert_eq!(RealDisk.names(&dir).unwrap(), keep.map(|n| n.to_string()));
    let lines: Vec<String> =
        index(&archive).lines().map(|l| l.split('\t').next().unwrap().to_owned()).collect();
    assert_eq!(
        lines,
        [keep[0].to_string(), keep[1].to_string(), "00000002.history".into(), "nonsense".into()]
    );
    assert_eq!(archive.remove(&old).unwrap().files, 0);
    archive.remove(&keep).unwrap();
    assert!(!dir.exists() && archive.paths().wals_directory.exists());
}

#[test]
fn wal_is_looked_for_in_order_and_judged_before_it_is_served() {
    let home = Home::packed(Method::Gzip);
    let archive = home.archive();
    let serve = |name: WalFileName, partial: bool, packing: Packing| {
        let mut out = Vec::new();
        archive.serve(&Request { name, partial, packing }, &mut out).map(|_| out)
    };
    assert!(matches!(serve(wal(7), true, Packing::Plain), Err(WalError::NotFound { .. })));
    // Half of it lies in incoming: as good as nothing.
    let path = home.deliver(&archive, wal(7), &segment(7)[..500_000], LONG_AGO);
    assert!(matches!(serve(wal(7), false, Packing::Plain), Err(WalError::NotFound { .. })));
    std::fs::write(path, segment(7)).unwrap();
    assert_eq!(serve(wal(7), false, Packing::Plain).unwrap(), segment(7));
    home.run(&archive);
    assert_eq!(serve(wal(7), false, Packing::Plain).unwrap(), segment(7));
    let stored = std::fs::read(archive.paths().file(&wal(7))).unwrap();
    assert_eq!(serve(wal(7), false, Packing::AsStored).unwrap(), stored);
    assert_eq!(serve(wal(7), false, Packing::Gzip).unwrap(), stored);
    assert!(serve(wal(7), false, Packing::Bzip2).unwrap().starts_with(b"BZh"));

    let streaming = archive.paths().streaming_directory.join("000000010000000000000008.partial");
    let mut unfinished = segment(8);
    unfinished[600_000..].fill(0);
    write(&RealDisk, &streaming, &unfinished, LONG_AGO);
    assert!(matches!(serve(wal(8), false, Packing::Plain), Err(WalError::NotFound { .. })));
    assert_eq!(serve(wal(8), true, Packing::Plain).unwrap(), unfinished);
    home.deliver(&archive, wal(9), &segment(9), LONG_AGO);
    assert_eq!(archive.peek(&wal(7), 5, size()).unwrap(), [wal(7)]);
    home.deliver(&archive, wal(8), &segment(8), LONG_AGO);
    assert_eq!(archive.peek(&wal(7), 2, size()).unwrap(), [wal(7), wal(8)]);
    assert_eq!(archive.peek(&wal(7), 5, size()).unwrap(), [wal(7), wal(8), wal(9)]);

    // Bits rot: the receiver must not take it for the end of the WAL.
    for damaged in [stored[..stored.len() / 2].to_vec(), vec![0; 1 << 20], Vec::new()] {
        std::fs::write(archive.paths().file(&wal(7)), damaged).unwrap();
        let error = serve(wal(7), true, Packing::Plain).unwrap_err();
        assert!(matches!(&error, WalError::Corrupt { .. }), "{error}");
    }
    // Nor is an unfinished copy of it an answer: what comes after its end would be forgotten.
    let stale = archive.paths().streaming_directory.join("000000010000000000000007.partial");
    let mut unfinished = segment(7);
    unfinished[600_000..].fill(0);
    write(&RealDisk, &stale, &unfinished, LONG_AGO);
    let error = serve(wal(7), true, Packing::Plain).unwrap_err();
    assert!(matches!(&error, WalError::Corrupt { .. }), "{error}");
}

/// After a `pg_upgrade` the WAL of before it is still served, as long as backups of that cluster are kept; nothing of
/// it is taken in any more.
#[test]
fn i4_wal_of_an_earlier_cluster_is_served_and_not_taken_in() {
    const EARLIER: SystemId = SystemId::new(5);
    let mut home = Home::new();
    home.options.earlier =
        Some(Arc::new(|id| (id == EARLIER).then(|| SegmentSize::from_bytes(2 << 20).unwrap())));
    let large = SegmentSize::from_bytes(2 << 20).unwrap();
    let of = |system| {
        synthetic::segment(Timeline::FIRST, SegmentNo::new(3), large, system, PgVersion::new(140_000))
    };
    let archive = home.archive();
    let path = archive.paths().file(&wal(3));
    let serve = || {
        let mut out = Vec::new();
        archive
            .serve(&Request { name: wal(3), partial: false, packing: Packing::Plain }, &mut out)
            .map(|_| out)
    };
    write(&RealDisk, &path, &of(EARLIER), LONG_AGO);
    assert_eq!(serve().unwrap(), of(EARLIER));
    // It is sound, so it is not replaced either.
    home.deliver(&archive, wal(3), &segment(3), LONG_AGO);
    assert!(matches!(home.run(&archive)[..], [(_, TakenHow::Conflict { .. })]));
    for (bytes, why) in
        [(of(SystemId::new(6)), "belongs to system 6"), (of(EARLIER)[..1 << 20].to_vec(), "cut off")]
    {
        std::fs::write(&path, bytes).unwrap();
        assert!(serve().unwrap_err().to_string().contains(why));
    }
    home.deliver(&archive, wal(4), &segment_of(1, 4, EARLIER), LONG_AGO);
    let outcome = home.run(&archive);
    assert!(
        matches!(&outcome[..], [(_, TakenHow::Refused { reason, .. })] if reason.contains("system 5")),
        "{outcome:?}"
    );
}

#[test]
fn two_intakes_at_once_store_each_file_once() {
    for _ in 0..5 {
        let mut home = Home::packed(Method::Gzip);
        home.options.workers = 2;
        let archive = home.archive();
        let mut files = Vec::new();
        for (place, directory) in
            [&archive.paths().incoming_directory, &archive.paths().streaming_directory].iter().enumerate()
        {
            for number in 1..=6 {
                let path = directory.join(wal(number).to_string());
                write(&RealDisk, &path, &segment(number), LONG_AGO);
                files.push((place, Incoming { name: wal(number), path, remove_source: true }));
            }
        }
        let (archive, home, files) = (&archive, &home, &files);
        let how: Vec<TakenHow> = std::thread::scope(|scope| {
            let each = |place: usize| {
                scope.spawn(move || {
                    let other = home.archive();
                    let mut intake = other.intake(home.ctx()).unwrap();
                    for (_, file) in files.iter().filter(|(p, _)| *p == place) {
                        intake.put(file.clone()).unwrap();
                    }
                    intake
                        .commit()
                        .unwrap()
                        .complete()
                        .unwrap()
                        .into_iter()
                        .map(|f| f.how)
                        .collect::<Vec<_>>()
                })
            };
            let threads = [each(0), each(1)];
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        let archived = how.iter().filter(|h| matches!(h, TakenHow::Archived(_))).count();
        let known = how.iter().filter(|h| **h == TakenHow::Known).count();
        assert_eq!((archived, known), (6, 6), "{how:?}");
        assert_eq!(names(archive), (1..=6).map(|n| (wal(n).to_string(), true)).collect::<Vec<_>>());
        let mut lines: Vec<String> = index(archive).lines().map(|l| l[..24].to_owned()).collect();
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 6);
        assert_eq!(RealDisk.names(&archive.paths().dir_of(&wal(1))).unwrap().len(), 6);
    }
}

/// What a killed process left is swept away; what a living one writes is not.
#[test]
fn left_overs_of_a_crash_go_with_the_next_intake() {
    let home = Home::new();
    let archive = home.archive();
    let dir = archive.paths().dir_of(&wal(1));
    let (mine, gone) =
        (format!(".{}.{}-9.tmp", wal(1), std::process::id()), format!(".{}.999999999-0.tmp", wal(1)));
    for left in [&mine, &gone] {
        write(&RealDisk, &dir.join(left), b"half", LONG_AGO);
    }
    home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    home.run(&archive);
    assert_eq!(RealDisk.names(&dir).unwrap(), [mine, wal(1).to_string()]);
}

#[test]
fn a_cancelled_intake_leaves_sources_and_nothing_half_done() {
    let home = Home::new();
    let archive = home.archive();
    let path = home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    let batch = archive.batch(Source::Incoming, Receiving::Nobody, None, &home.ctx()).unwrap();
    let mut intake = archive.intake(home.ctx()).unwrap();
    home.cancel.cancel();
    assert!(matches!(intake.put(batch.files[0].clone()), Err(WalError::Cancelled(_))));
    drop(intake);
    assert!(path.exists());
    assert_eq!(names(&archive), []);
}

#[test]
fn a_lock_is_not_needed_for_reading() {
    let home = Home::new();
    let archive = home.archive();
    home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    home.run(&archive);
    let mut torn = std::fs::OpenOptions::new().append(true).open(archive.paths().index()).unwrap();
    torn.write_all(b"000000010000000000000002\t1048576\t16000").unwrap();
    assert_eq!(names(&archive), [(wal(1).to_string(), true)]);
}
