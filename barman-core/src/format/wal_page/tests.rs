//! I4: what is accepted as a segment, and what is not.

use proptest::prelude::*;

use super::synthetic::{WalWriter, segment, switched_segment};
use super::*;
use crate::model::{SegmentName, SegmentNo, SegmentSize};

const SYSTEM: SystemId = SystemId::new(7_711_114_132_867_599_874);
const PG15: PgVersion = PgVersion::new(150_020);

fn mib() -> SegmentSize {
    SegmentSize::from_bytes(1 << 20).unwrap()
}

fn tli(id: u32) -> Timeline {
    Timeline::new(id).unwrap()
}

fn expect(timeline: u32, number: u64) -> Expectations {
    let mut e = Expectations::new(SegmentName::new(tli(timeline), SegmentNo::new(number), mib()), mib());
    e.system_id = Some(SYSTEM);
    e.check_records = true;
    e.ancestors = Ancestors::Listed((1..timeline).map(tli).collect());
    e
}

fn judge(e: Expectations, bytes: &[u8]) -> Result<SegmentFacts, Unsound> {
    let mut v = Validator::new(e);
    v.push(bytes);
    v.finish()
}

fn partial(mut e: Expectations) -> Expectations {
    e.completeness = Completeness::Partial;
    e
}

fn plain(number: u64) -> Vec<u8> {
    segment(tli(1), SegmentNo::new(number), mib(), SYSTEM, PG15)
}

fn writer(timeline: u32, number: u64) -> WalWriter {
    WalWriter::new(tli(timeline), SegmentNo::new(number), mib(), SYSTEM, PG15)
}

#[test]
fn the_magic_table_goes_both_ways() {
    for (magic, major) in MAGICS {
        assert_eq!(major_of_magic(magic), Some(PgVersion::new(major)));
        assert_eq!(magic_of_version(PgVersion::new(major)), Some(magic));
        assert_eq!(magic_of_version(PgVersion::new(major + 7)), Some(magic));
    }
    assert_eq!(major_of_magic(0xD071), None);
    assert_eq!(magic_of_version(PgVersion::new(90_300)), None);
}

#[test]
fn a_full_segment_is_sound_in_every_version_and_size() {
    for (magic, major) in MAGICS.iter().filter(|(_, major)| *major > 90_400) {
        let version = PgVersion::new(*major);
        let bytes = segment(tli(1), SegmentNo::new(7), mib(), SYSTEM, version);
        let mut e = expect(1, 7);
        e.version = Some(version);
        let facts = judge(e, &bytes).unwrap();
        assert_eq!((facts.magic, facts.major, facts.system_id), (*magic, Some(version), SYSTEM));
        assert_eq!((facts.first_timeline, facts.last_timeline), (tli(1), tli(1)));
        assert_eq!((facts.switch_at, facts.valid_until), (None, Lsn::new(8 << 20)));
        assert!(facts.records > 1000, "{}", facts.records);
    }
    for log2 in [21, 24] {
        let size = SegmentSize::from_bytes(1 << log2).unwrap();
        let bytes = segment(tli(3), SegmentNo::new(300), size, SYSTEM, PG15);
        assert_eq!(bytes.len() as u64, size.bytes());
        let mut e = Expectations::new(SegmentName::new(tli(3), SegmentNo::new(300), size), size);
        e.check_records = true;
        assert!(judge(e, &bytes).is_ok());
    }
}

#[test]
fn records_run_on_from_segment_to_segment() {
    let mut wal = writer(1, 5);
    while wal.lsn().get() < (7 << 20) + 5000 {
        wal.record_of(3001);
    }
    let bytes = wal.finish();
    for (number, part) in (5..8).zip(bytes.chunks(1 << 20)) {
        let result = judge(expect(1, number), part);
        match number {
            7 => assert!(matches!(result, Err(Unsound::ZeroRecord { .. })), "{result:?}"),
            _ => assert!(result.is_ok(), "{result:?}"),
        }
        let facts = judge(partial(expect(1, number)), part).unwrap();
        assert!(facts.valid_until.get() > (number << 20) + 4000);
    }
    // One record over several segments.
    let mut wal = writer(1, 5);
    wal.record_of(3 << 20);
    wal.switch();
    let bytes = wal.finish();
    assert_eq!(bytes.len(), 4 << 20);
    for (number, part) in (5..9).zip(bytes.chunks(1 << 20)) {
        let facts = judge(expect(1, number), part).unwrap();
        assert_eq!(facts.records, u64::from(number == 5) + u64::from(number == 8));
        assert_eq!(facts.switch_at.is_some(), number == 8);
    }
}

#[test]
fn a_switch_ends_the_segment_and_what_follows_is_not_looked_at() {
    let mut bytes = switched_segment(tli(1), SegmentNo::new(9), mib(), SYSTEM, PG15, 30_000);
    let facts = judge(expect(1, 9), &bytes).unwrap();
    let at = facts.switch_at.unwrap().get();
    assert!((at - (9 << 20)).abs_diff(30_000) < 20_000);
    assert_eq!(facts.valid_until.get(), at + 24);
    let old = plain(2);
    let end = (at + 24 - (9 << 20)) as usize;
    bytes[end..].copy_from_slice(&old[end..]);
    assert_eq!(judge(expect(1, 9), &bytes).unwrap(), facts);
    let cut = judge(expect(1, 9), &bytes[..500_000]);
    assert_eq!(cut, Err(Unsound::TooShort { expected: 1 << 20, found: 500_000 }));
}

#[test]
fn a_switch_record_whose_header_reaches_into_the_next_segment_closes_that_one() {
    for left in [8, 16] {
        let mut wal = writer(1, 5);
        let room = wal.room_in_segment() - left;
        wal.record_of(room as usize);
        wal.switch();
        let bytes = wal.finish();
        assert_eq!(bytes.len(), 2 << 20);
        let (first, second) = bytes.split_at(1 << 20);
        assert_eq!(judge(expect(1, 5), first).unwrap().switch_at, None);
        for piece in [1, 7, 4096] {
            let mut v = Validator::new(expect(1, 6));
            second.chunks(piece).for_each(|c| {
                v.push(c);
            });
            let facts = v.finish().unwrap();
            assert_eq!(facts.switch_at, Some(Lsn::new((6 << 20) - left)), "{left} {piece}");
        }
        // The same tail followed by a record is an ordinary end of a record.
        let mut wal = writer(1, 5);
        wal.record_of(room as usize);
        wal.record_of(32);
        wal.record_of(900_000);
        wal.switch();
        assert!(judge(expect(1, 6), &wal.finish()[1 << 20..]).is_ok());
    }
}

#[test]
fn the_first_segment_after_a_promotion_begins_on_the_old_timeline() {
    let mut wal = writer(1, 5);
    for _ in 0..20 {
        wal.record_of(5000);
    }
    wal.set_timeline(tli(3));
    while wal.room_in_segment() > 6000 && wal.lsn().get() < 6 << 20 {
        wal.record_of(5000);
    }
    wal.switch();
    let bytes = wal.finish();
    let facts = judge(expect(3, 5), &bytes).unwrap();
    assert_eq!((facts.first_timeline, facts.last_timeline), (tli(1), tli(3)));
    let mut e = expect(3, 5);
    e.ancestors = Ancestors::Listed(vec![tli(2)]);
    assert!(matches!(judge(e, &bytes), Err(Unsound::ForeignTimeline { offset: 0, found: 1, .. })));
    // Timeline 3 does not belong into a file of timeline 2, known history or not.
    for ancestors in [Ancestors::AnyOlder, Ancestors::Listed(vec![tli(1)])] {
        let mut e = expect(2, 5);
        e.ancestors = ancestors;
        let found = judge(e, &bytes);
        assert!(matches!(found, Err(Unsound::ForeignTimeline { found: 3, .. })), "{found:?}");
    }
    let mut back = writer(3, 5);
    back.record_of(9000);
    back.set_timeline(tli(2));
    back.record_of(9000);
    let found = judge(expect(3, 5), &back.finish());
    assert_eq!(found, Err(Unsound::TimelineDecreases { offset: 16384, expected: tli(3), found: 2 }));
}

#[test]
fn a_record_lost_in_a_crash_is_replaced() {
    let mut wal = writer(1, 5);
    wal.record_of(1000);
    wal.crashed_record(60_000);
    wal.record_of(500);
    wal.switch();
    let facts = judge(expect(1, 5), &wal.finish()).unwrap();
    assert_eq!(facts.records, 3);
}

/// Each disease, its cure being the untouched segment.
#[test]
fn diseases() {
    type Harm = fn(&mut Vec<u8>);
    let table: [(&str, Harm, Unsound); 14] = [
        ("empty", Vec::clear, Unsound::TooShort { expected: 1 << 20, found: 0 }),
        ("cut", |b| b.truncate(700_001), Unsound::TooShort { expected: 1 << 20, found: 700_001 }),
        ("long", |b| b.push(0), Unsound::TooLong { expected: 1 << 20, found: (1 << 20) + 1 }),
        ("zeros", |b| b.fill(0), Unsound::ZeroPage { offset: 0 }),
        ("a zeroed page", |b| b[81920..90112].fill(0), Unsound::ZeroPage { offset: 81920 }),
        (
            "text",
            |b| *b = b"this is not the segment you look for".repeat(30_000),
            Unsound::UnknownMagic { found: 0x6874 },
        ),
        ("short text", |b| *b = b"hello".to_vec(), Unsound::UnknownMagic { found: 0x6568 }),
        ("byte order", |b| b[..2].reverse(), Unsound::OtherByteOrder { found: 0x10D1 }),
        (
            "another version in the middle",
            |b| b[8192..8194].copy_from_slice(&0xD113u16.to_le_bytes()),
            Unsound::BadMagic { offset: 8192, expected: 0xD110, found: 0xD113 },
        ),
        ("flags", |b| b[2] = 0x12, Unsound::BadFlags { offset: 0, found: 0x12 }),
        (
            "system",
            |b| b[24..32].copy_from_slice(&5u64.to_le_bytes()),
            Unsound::WrongSystem { offset: 0, expected: SYSTEM, found: SystemId::new(5) },
        ),
        (
            "address",
            |b| b[8192 + 9] ^= 1,
            Unsound::WrongAddress { offset: 8192, expected: Lsn::new(0x702000), found: Lsn::new(0x702100) },
        ),
        (
            "segment size",
            |b| b[35] = 1,
            Unsound::WrongSegmentSize { offset: 0, expected: 1 << 20, found: (1 << 20) + (1 << 24) },
        ),
        ("page size", |b| b[37] = 0x21, Unsound::WrongBlockSize { offset: 0, expected: 8192, found: 0x2100 }),
    ];
    for (name, harm, wanted) in table {
        let mut bytes = plain(7);
        assert!(judge(expect(1, 7), &bytes).is_ok());
        harm(&mut bytes);
        let found = judge(expect(1, 7), &bytes).unwrap_err();
        assert_eq!(found, wanted, "{name}");
        assert!(!found.to_string().is_empty());
    }
}

#[test]
fn each_record_points_back_to_the_one_before() {
    let length = |b: &[u8], at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap()) as usize;
    let mut bytes = plain(7);
    // The first may point anywhere before the segment, but not into it.
    bytes[48..56].copy_from_slice(&(7u64 << 20).to_le_bytes());
    let expected = Lsn::new(7 << 20);
    let wanted = Unsound::WrongPrevious { offset: 40, expected, found: expected };
    assert_eq!(judge(expect(1, 7), &bytes), Err(wanted));
    let mut bytes = plain(7);
    let second = 40 + length(&bytes, 40).next_multiple_of(8);
    bytes[second + 8] ^= 8;
    let expected = Lsn::new((7 << 20) + 40);
    let wanted = Unsound::WrongPrevious { offset: second as u64, expected, found: Lsn::new((7 << 20) + 32) };
    assert_eq!(judge(expect(1, 7), &bytes), Err(wanted));
}

#[test]
fn what_the_caller_expects_matters() {
    let bytes = plain(7);
    assert!(matches!(judge(expect(1, 8), &bytes), Err(Unsound::WrongAddress { offset: 0, .. })));
    assert!(matches!(judge(expect(2, 7), &bytes).map(|f| f.last_timeline.get()), Ok(1)));
    let mut e = expect(1, 7);
    e.version = Some(PgVersion::new(160_001));
    let found = judge(e, &bytes);
    assert_eq!(found, Err(Unsound::BadMagic { offset: 0, expected: 0xD113, found: 0xD110 }));
    let mut e = expect(1, 7);
    e.name.segment = 0xFFFF_FFFF;
    assert!(matches!(judge(e, &bytes), Err(Unsound::ImpossibleName { .. })));
    let mut strange = bytes.clone();
    strange.chunks_mut(8192).for_each(|page| page[..2].copy_from_slice(&0xD0FFu16.to_le_bytes()));
    assert_eq!(judge(expect(1, 7), &strange), Err(Unsound::UnknownMagic { found: 0xD0FF }));
    let mut e = expect(1, 7);
    e.accept_unknown_magic = true;
    assert_eq!(judge(e, &strange).unwrap().major, None);
}

#[test]
fn bodies_are_checked_only_when_asked() {
    let mut bytes = plain(7);
    bytes[40 + 26] ^= 1;
    assert!(matches!(judge(expect(1, 7), &bytes), Err(Unsound::BadRecordCrc { offset: 40, .. })));
    let mut e = expect(1, 7);
    e.check_records = false;
    assert!(judge(e, &bytes).is_ok());
}

#[test]
fn a_partial_ends_where_the_valid_part_does() {
    let mut wal = writer(1, 7);
    for _ in 0..10 {
        wal.record_of(1234);
    }
    let end = wal.lsn();
    let bytes = wal.finish();
    assert!(matches!(judge(expect(1, 7), &bytes), Err(Unsound::ZeroRecord { .. })));
    let facts = judge(partial(expect(1, 7)), &bytes).unwrap();
    assert_eq!((facts.valid_until, facts.records), (end, 10));
    assert!(matches!(facts.ended_by, Some(Unsound::ZeroRecord { .. })));
    // Old recycled bytes behind it.
    let mut recycled = plain(2);
    let used = (end.get() - (7 << 20)) as usize;
    recycled[..used].copy_from_slice(&bytes[..used]);
    let facts = judge(partial(expect(1, 7)), &recycled).unwrap();
    assert_eq!(facts.valid_until, end);
    // Cut in the middle of a record.
    let facts = judge(partial(expect(1, 7)), &bytes[..used - 100]).unwrap();
    assert_eq!((facts.valid_until, facts.ended_by), (Lsn::new(end.get() - 1240), None));
    // Nothing in it, or nothing good.
    assert_eq!(judge(partial(expect(1, 7)), &[0; 1 << 20]), Err(Unsound::ZeroPage { offset: 0 }));
    assert!(judge(partial(expect(1, 8)), &bytes).is_err());
    assert!(judge(partial(expect(1, 7)), &[]).is_err());
    let full = judge(partial(expect(1, 7)), &plain(7)).unwrap();
    assert_eq!(full.valid_until, Lsn::new(8 << 20));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_give_the_same_verdict(
        seed in 1u64..200, cuts in proptest::collection::vec(1usize..20_000, 1..40),
        harm in proptest::option::of((0usize..1 << 20, any::<u8>())), is_partial: bool,
    ) {
        let mut bytes = plain(seed);
        if let Some((at, value)) = harm {
            bytes[at] = value;
        }
        let e = if is_partial { partial(expect(1, seed)) } else { expect(1, seed) };
        let whole = judge(e.clone(), &bytes);
        let mut v = Validator::new(e);
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            v.push(now);
            rest = later;
            if rest.is_empty() { break }
        }
        prop_assert_eq!(v.finish(), whole);
    }

    #[test]
    fn one_byte_at_a_time(seed in 1u64..200, cut in 1usize..30_000) {
        let bytes = plain(seed);
        let e = partial(expect(1, seed));
        let whole = judge(e.clone(), &bytes[..cut]);
        let mut v = Validator::new(e);
        bytes[..cut].chunks(1).for_each(|c| { v.push(c); });
        prop_assert_eq!(v.finish(), whole);
    }

    /// With record CRCs on, no changed byte of a full segment goes unseen, but for those no check covers: reserved
    /// bytes of page headers and the padding between records.
    #[test]
    fn damage_is_seen(seed in 1u64..50, at in 0usize..1 << 20, bit in 0u32..8) {
        let mut bytes = plain(seed);
        bytes[at] ^= 1 << bit;
        let verdict = judge(expect(1, seed), &bytes);
        let in_header = at % 8192;
        let reserved = matches!(in_header, 20..24) || (in_header == 2 && matches!(bit, 2 | 3));
        if let Ok(facts) = verdict {
            let padding = bytes[at] == 1 << bit;
            prop_assert!(reserved || padding, "{at} {bit} {facts:?}");
        }
    }

    #[test]
    fn never_panics(mut noise in proptest::collection::vec(any::<u8>(), 0..40_000), frame: bool, crc: bool, p: bool) {
        if frame && noise.len() >= 40 {
            let good = plain(3);
            for (page, from) in noise.chunks_mut(8192).zip(good.chunks(8192)) {
                let n = page.len().min(if from[2] & 2 != 0 { 40 } else { 24 });
                page[..n].copy_from_slice(&from[..n]);
            }
        }
        let mut e = if p { partial(expect(1, 3)) } else { expect(1, 3) };
        e.check_records = crc;
        let _ = judge(e, &noise);
    }
}
