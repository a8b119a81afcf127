//! Recognition of compressed files by their first bytes.

use super::Algorithm;

/// So many first bytes are enough for [`detect`] without a custom magic.
pub const MAGIC_LEN: usize = 10;

/// Barman tries its codecs in the order of their names; `custom` stands between bzip2 and gzip.
const BEFORE_CUSTOM: [(Algorithm, &[u8]); 1] = [(Algorithm::Bzip2, b"BZh")];
const AFTER_CUSTOM: [(Algorithm, &[u8]); 5] = [
    (Algorithm::Gzip, b"\x1f\x8b\x08"),
    (Algorithm::Lz4, b"\x04\x22\x4d\x18"),
    (Algorithm::Snappy, b"\xff\x06\x00\x00sNaPpY"),
    (Algorithm::Xz, b"\xfd7zXZ\x00"),
    (Algorithm::Zstd, b"\x28\xb5\x2f\xfd"),
];

/// What a file is by its first bytes; None when they are nobody's, which means plain (or custom, where custom filters
/// are configured without a magic). An empty `custom_magic` matches nothing.
pub fn detect(first: &[u8], custom_magic: Option<&[u8]>) -> Option<Algorithm> {
    let custom = custom_magic.filter(|magic| !magic.is_empty()).map(|magic| (Algorithm::Custom, magic));
    let mut table = BEFORE_CUSTOM.into_iter().chain(custom).chain(AFTER_CUSTOM);
    table.find(|(_, magic)| first.starts_with(magic)).map(|(algorithm, _)| algorithm)
}
