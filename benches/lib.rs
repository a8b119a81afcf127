//! Material that the benches of barman-core share: see the files beside this one. Whole commands are measured by
//! `cargo xtask bench`.

use std::time::Duration;

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};
use criterion::Criterion;

/// Criterion with defaults that end in seconds; its own options override them.
pub fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args()
}

/// Bytes without a pattern, the same in every run.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Bytes that compress about as table rows do: words from a small vocabulary with numbers between them.
pub fn rows(length: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["order", "customer", "pending", "shipped", "2026-11-", "invoice", "street", "true"];
    let picks = noise(length);
    let mut bytes = Vec::with_capacity(length + 32);
    for pick in picks.chunks(2) {
        if bytes.len() >= length {
            break;
        }
        let (word, number) = (pick.first().copied().unwrap_or(0), pick.last().copied().unwrap_or(0));
        bytes.extend_from_slice(WORDS.get(usize::from(word % 8)).copied().unwrap_or_default().as_bytes());
        bytes.extend_from_slice(&[b' ', number, word, 0]);
    }
    bytes.truncate(length);
    bytes
}

/// A sound WAL segment of 16 MiB.
pub fn wal_segment() -> Vec<u8> {
    let number = SegmentNo::new(7);
    synthetic::segment(
        Timeline::FIRST,
        number,
        SegmentSize::DEFAULT,
        SystemId::new(1),
        PgVersion::new(150_000),
    )
}
