//! Both forms, both ways; a broken seal; damage.

use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<(Vec<ManifestFile>, ManifestSummary), ManifestError> {
    let mut files = Vec::new();
    let summary = read_manifest(bytes, &mut |file| files.push(file))?;
    Ok((files, summary))
}

/// Gives its bytes a few at a time.
struct Slow<'a>(&'a [u8], usize);

impl std::io::Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.1.min(self.0.len()).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fn write(form: Form, files: &[ManifestFile], ranges: &[WalRange]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ManifestWriter::new(form, &mut out);
    files.iter().for_each(|file| writer.file(file, &mut out));
    writer.finish(ranges, &mut out);
    out
}

fn version_file() -> ManifestFile {
    ManifestFile {
        path: b"PG_VERSION".to_vec(),
        size: 3,
        last_modified: "2026-11-22 21:41:06 GMT".into(),
        checksum: Some((ChecksumAlgorithm::Crc32c, crc32c_checksum(crc32c::crc32c(b"15\n")))),
    }
}

fn ranges() -> Vec<WalRange> {
    vec![WalRange {
        timeline: Timeline::new(26).unwrap(),
        start: "0/2000028".parse().unwrap(),
        end: "0/2000100".parse().unwrap(),
    }]
}

#[test]
fn the_forms_letter_by_letter() {
    let text = |form| String::from_utf8(write(form, &[version_file()], &ranges())).unwrap();
    let pg = text(Form::PostgreSql2(SystemId::new(42)));
    let (head, seal) = pg.split_once("\"Manifest-Checksum\": \"").unwrap();
    assert_eq!(
        head,
        "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 42,\n\"Files\": [\n\
        { \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"2026-11-22 21:41:06 GMT\", \
        \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"8a744722\" }\n],\n\"WAL-Ranges\": [\n\
        { \"Timeline\": 26, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n"
    );
    assert_eq!(seal.len(), 64 + 3);
    let mut file = version_file();
    file.path = "base/ü".into();
    let barman = String::from_utf8(write(Form::Barman, &[version_file(), file], &[])).unwrap();
    let (head, _) = barman.split_once("\"Manifest-Checksum\"").unwrap();
    assert_eq!(
        head,
        "{\"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
        {\"Checksum\": \"8a744722\", \"Checksum-Algorithm\": \"CRC32C\", \"Last-Modified\": \"2026-11-22 21:41:06 GMT\", \
        \"Path\": \"PG_VERSION\", \"Size\": 3},\n\
        {\"Checksum\": \"8a744722\", \"Checksum-Algorithm\": \"CRC32C\", \"Last-Modified\": \"2026-11-22 21:41:06 GMT\", \
        \"Path\": \"base/\\u00fc\", \"Size\": 3}],\n"
    );
}

#[test]
fn the_seal_covers_all_but_the_last_line() {
    let good = write(Form::PostgreSql1, &[version_file()], &ranges());
    assert!(read(&good).is_ok());
    let text = String::from_utf8(good).unwrap();
    let changed = text.replace("\"Size\": 3", "\"Size\": 4");
    assert!(matches!(read(changed.as_bytes()), Err(ManifestError::BadChecksum { .. })));
    let open =
        text.split_once("\"Manifest-Checksum\"").unwrap().0.replace("],\n\"WAL", "],\"WAL") + "\"a\": 1}\n";
    assert!(matches!(read(open.as_bytes()), Err(ManifestError::Missing { part: "Manifest-Checksum" })));
    assert!(matches!(read(&text.as_bytes()[..200]), Err(ManifestError::Unreadable(_))));
    for (from, to) in [("8a744722", "6444"), ("CRC32C", "MD5"), ("0/2000028", "200"), ("\"Path\"", "\"Pth\"")]
    {
        let bad = text.replace(from, to);
        let found = read(bad.as_bytes()).unwrap_err();
        assert!(matches!(found, ManifestError::BadValue { .. } | ManifestError::Missing { .. }), "{found:?}");
    }
    let newer = text.replace("Version\": 1", "Version\": 3");
    assert!(matches!(read(newer.as_bytes()), Err(ManifestError::UnknownVersion { found: 3 })));
}

fn any_file() -> impl Strategy<Value = ManifestFile> {
    let sum = prop_oneof![
        Just(None),
        any::<[u8; 4]>().prop_map(|s| Some((ChecksumAlgorithm::Crc32c, s.to_vec()))),
        any::<[u8; 32]>().prop_map(|s| Some((ChecksumAlgorithm::Sha256, s.to_vec()))),
    ];
    let path = prop_oneof![
        any::<String>().prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 1..30),
        Just(b"base/5/16384".to_vec())
    ];
    (path, 0u64..1 << 60, sum).prop_map(|(path, size, checksum)| ManifestFile {
        path,
        size,
        last_modified: "2026-11-22 21:41:06 GMT".into(),
        checksum,
    })
}

proptest! {
    #[test]
    fn round_trip(files in proptest::collection::vec(any_file(), 0..12), which in 0usize..3, piece in 1usize..200) {
        let form = [Form::PostgreSql1, Form::PostgreSql2(SystemId::new(7)), Form::Barman][which];
        let ranges = if form == Form::Barman { vec![] } else { ranges() };
        let bytes = write(form, &files, &ranges);
        let mut back = Vec::new();
        let summary = read_manifest(Slow(&bytes, piece), &mut |file| back.push(file)).unwrap();
        prop_assert_eq!(&back, &files);
        prop_assert_eq!(summary.files, files.len() as u64);
        prop_assert_eq!(summary.wal_ranges, ranges);
        prop_assert_eq!(summary.system_id.is_some(), which == 1);
    }

    #[test]
    fn never_panics(noise in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..500) {
        let _ = read(&noise);
        let mut bytes = write(Form::PostgreSql1, &[version_file()], &ranges());
        let at = at % bytes.len();
        bytes[at] = noise.first().copied().unwrap_or(0);
        let _ = read(&bytes);
        let _ = read(&bytes[..at]);
    }
}
