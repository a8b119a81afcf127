//! What is written is read back, in pieces of any size; what is damaged or cut off is told.

use proptest::prelude::*;

use super::*;
use crate::model::FileTime;

/// Every member with its body, and how the stream ended.
type Read = Result<(Vec<(Member, Vec<u8>)>, End), TarError>;

fn read(bytes: &[u8], piece: usize) -> Read {
    let mut parser = Parser::new();
    let mut members: Vec<(Member, Vec<u8>)> = Vec::new();
    let mut ends = 0;
    for mut input in bytes.chunks(piece.max(1)) {
        while let Some(event) = parser.next(&mut input)? {
            match event {
                Event::Member(member) => members.push((member, Vec::new())),
                Event::Data(data) => members.last_mut().unwrap().1.extend(data),
                Event::MemberEnd => ends += 1,
                Event::End => assert_eq!(ends, members.len()),
            }
        }
    }
    Ok((members, parser.finish()?))
}

fn archive(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (member, body) in members {
        out.extend(encode_header(member).unwrap());
        out.extend(body);
        out.resize(out.len() + padding(body.len() as u64), 0);
    }
    out.extend(END_OF_ARCHIVE);
    out
}

fn file(path: &str, body: &[u8]) -> (Member, Vec<u8>) {
    let mut member = Member::new(path, Kind::File);
    member.size = body.len() as u64;
    (member, body.to_vec())
}

fn any_member() -> impl Strategy<Value = (Member, Vec<u8>)> {
    let name = proptest::collection::vec(
        prop_oneof![8 => proptest::char::range('a', 'z').prop_map(|c| c as u8), 1 => Just(b'/'), 1 => 1u8..=255],
        1..400,
    )
    .prop_map(|mut name: Vec<u8>| {
        name.push(b'x');
        name
    });
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        name.clone().prop_map(Kind::Symlink),
        name.clone().prop_map(Kind::HardLink)
    ];
    let mtime = (any::<i32>(), prop_oneof![Just(0u32), 0u32..1_000_000_000])
        .prop_map(|(s, nanos)| FileTime { seconds: i64::from(s) * 9, nanos });
    let id = prop_oneof![0u64..70_000, 0u64..1 << 40];
    (name, kind, proptest::collection::vec(any::<u8>(), 0..1500), 0u32..0o10000, id.clone(), id, mtime)
        .prop_map(|(path, kind, body, mode, uid, gid, mtime)| {
            let body = if kind == Kind::File { body } else { Vec::new() };
            (Member { path, kind, size: body.len() as u64, mode, uid, gid, mtime }, body)
        })
}

proptest! {
    #[test]
    fn round_trip(members in proptest::collection::vec(any_member(), 0..5), piece in 1usize..2000) {
        let bytes = archive(&members);
        prop_assert_eq!(read(&bytes, piece), Ok((members, End::Marked)));
    }

    #[test]
    fn a_cut_is_always_told(members in proptest::collection::vec(any_member(), 1..4), at in 0.0f64..1.0) {
        let bytes = archive(&members);
        let cut = (bytes.len() as f64 * at) as usize;
        match read(&bytes[..cut], 700) {
            Ok((read, End::Unmarked)) => prop_assert!(read == members[..read.len()]),
            Ok((_, End::Marked)) => prop_assert!(false, "complete at {cut} of {}", bytes.len()),
            Err(error) => prop_assert!(matches!(error, TarError::Truncated { .. }), "{error}"),
        }
    }

    #[test]
    fn never_panics(noise in proptest::collection::vec(any::<u8>(), 0..3000), at in 0usize..3000, piece in 1usize..600) {
        let _ = read(&noise, piece);
        let mut bytes = archive(&[file(&"long/".repeat(60), b""), file("a", &[7; 900])]
            .map(|(mut m, b)| { if m.path.ends_with(b"/") { m.path.push(b'f') } (m, b) }));
        for (i, b) in noise.iter().take(8).enumerate() {
            let to = (at + i * 37) % bytes.len();
            bytes[to] = *b;
            // Mend the checksum of the first header, so that the damage gets further.
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes[..512].iter().map(|b| u32::from(*b)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let _ = read(&bytes, piece);
        }
    }
}

#[test]
fn pax_only_where_ustar_is_not_enough() {
    let mut member = Member::new("base/5/16384", Kind::File);
    member.mtime.seconds = 1_795_383_954;
    assert_eq!(encode_header(&member).unwrap().len(), BLOCK);
    member.path = [b"d/".repeat(70), b"f".to_vec()].concat();
    assert_eq!(encode_header(&member).unwrap().len(), BLOCK);
    member.path = b"f".repeat(101);
    assert_eq!(encode_header(&member).unwrap().len(), 3 * BLOCK);
    member.path = b"f".to_vec();
    member.size = (1 << 33) - 1;
    assert_eq!(encode_header(&member).unwrap().len(), BLOCK);
    member.size = 1 << 33;
    let header = encode_header(&member).unwrap();
    assert_eq!(header.len(), 3 * BLOCK);
    let mut input = &header[..];
    let Ok(Some(Event::Member(back))) = Parser::new().next(&mut input) else { panic!() };
    assert_eq!(back, member);
}

/// A header block as GNU tar makes it.
fn gnu(name: &[u8], kind: u8, size: &[u8; 12], time: &[u8; 12]) -> Vec<u8> {
    let mut b = vec![0; BLOCK];
    b[..name.len()].copy_from_slice(name);
    b[100..108].copy_from_slice(b"0000644\0");
    b[108..116].copy_from_slice(b"0001750\0");
    b[116..124].copy_from_slice(b"0001750\0");
    b[124..136].copy_from_slice(size);
    b[136..148].copy_from_slice(time);
    b[148..156].fill(b' ');
    b[156] = kind;
    b[257..265].copy_from_slice(b"ustar  \0");
    // GNU puts other things where ustar has the prefix.
    b[345..350].copy_from_slice(b"14000");
    let sum: u32 = b.iter().map(|b| u32::from(*b)).sum();
    b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    b
}

#[test]
fn gnu_long_names_and_binary_numbers() {
    let long = b"n".repeat(300);
    let mut bytes = gnu(b"././@LongLink", b'L', b"00000000455\0", b"00000000000\0");
    bytes.extend(&long);
    bytes.resize(bytes.len() + padding(300), 0);
    // The field counts the final NUL as well.
    bytes.truncate(1024);
    let mut huge = [0u8; 12];
    huge[0] = 0x80;
    huge[7] = 3;
    let mut before = [0xFFu8; 12];
    before[11] = 0xFE;
    bytes.extend(gnu(&long[..100], b'0', &huge, &before));
    let mut input = &bytes[..];
    let Ok(Some(Event::Member(member))) = Parser::new().next(&mut input) else { panic!() };
    assert_eq!((member.path, member.size), (long, 3 << 32));
    assert_eq!((member.mtime.seconds, member.uid, member.mode), (-2, 1000, 0o644));
}

#[test]
fn what_cannot_be_read_is_refused_clearly() {
    let zero = b"00000000000\0";
    let first = |bytes: &[u8]| Parser::new().next(&mut &bytes[..]).map(|_| ());
    assert_eq!(first(&gnu(b"hole", b'S', zero, zero)), Err(TarError::Sparse { path: "hole".into() }));
    let mut sparse = Vec::new();
    let mut header = gnu(b"x", b'x', b"00000000026\0", zero);
    header.extend(b"22 GNU.sparse.major=1\n");
    header.resize(1024, 0);
    sparse.extend(header);
    sparse.extend(gnu(b"hole", b'0', zero, zero));
    assert_eq!(first(&sparse), Err(TarError::Sparse { path: "hole".into() }));
    let odd = TarError::UnsupportedKind { path: "v".into(), kind: 'V' };
    assert_eq!(first(&gnu(b"v", b'V', zero, zero)), Err(odd));
    let mut damaged = gnu(b"f", b'0', zero, zero);
    damaged[0] = b'g';
    assert!(matches!(first(&damaged), Err(TarError::BadChecksum { offset: 0, .. })));
    let long = gnu(b"x", b'x', b"77777777777\0", zero);
    assert!(matches!(first(&long), Err(TarError::LongHeader { .. })));
    let mut lone = vec![0; 512];
    lone.extend(gnu(b"f", b'0', zero, zero));
    assert_eq!(read(&lone, 512), Err(TarError::LoneZeroBlock { offset: 0 }));
    for (path, kind) in
        [("", Kind::File), ("a\0b", Kind::File), ("l", Kind::Symlink(vec![])), ("d/", Kind::File)]
    {
        assert!(matches!(encode_header(&Member::new(path, kind)), Err(TarError::BadPath { .. })));
    }
    assert!(encode_header(&Member::new("dev", Kind::Special)).is_err());
}

#[test]
fn global_headers_hold_for_all_that_follow() {
    let zero = b"00000000000\0";
    let mut bytes = gnu(b"g", b'g', b"00000000020\0", zero);
    bytes.extend(b"16 mtime=12.50\n ".iter().take(15));
    let record = b"15 mtime=12.50\n";
    bytes.truncate(512);
    bytes.extend(record);
    bytes.extend([0]);
    bytes.resize(1024, 0);
    bytes.extend(gnu(b"a", b'0', zero, zero));
    bytes.extend(gnu(b"b", b'0', zero, zero));
    bytes.extend(END_OF_ARCHIVE);
    let (members, _) = read(&bytes, 100).unwrap();
    let half = FileTime { seconds: 12, nanos: 500_000_000 };
    assert!(members.len() == 2 && members.iter().all(|(m, _)| m.mtime == half));
}
