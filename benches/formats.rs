//! Checks that ride along with every byte: page checksums, the validation of WAL, digests.

use std::hint::black_box;

use barman_benches::{noise, quick, wal_segment};
use barman_core::format::page::check_page;
use barman_core::format::wal_page::{Expectations, Validator};
use barman_core::io::digest::{DigestSet, Wanted};
use barman_core::model::{SegmentName, SegmentNo, SegmentSize, Timeline};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// As much as a lane reads at once.
const CHUNK: usize = 256 << 10;

fn pages(c: &mut Criterion) {
    let mut bytes = noise(CHUNK);
    for page in bytes.chunks_mut(8192) {
        // Lower, upper, special and size of an ordinary page.
        page[12..20].copy_from_slice(&[40, 0, 0, 16, 0, 32, 4, 32]);
    }
    let mut group = c.benchmark_group("page");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    for (name, checksums) in [("checksum", true), ("header only", false)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let pages = black_box(&bytes).chunks_exact(8192).zip(0..);
                pages.filter(|(page, block)| check_page(page, *block, checksums).verdict.is_good()).count()
            });
        });
    }
}

fn digests(c: &mut Criterion) {
    let bytes = noise(1 << 20);
    let mut group = c.benchmark_group("digest");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (name, wanted) in [
        ("crc32c", Wanted::default()),
        ("crc32c + sha256", Wanted { sha256: true, md5: false }),
        ("crc32c + md5", Wanted { sha256: false, md5: true }),
    ] {
        group.bench_function(name, |b| b.iter(|| DigestSet::of(black_box(&bytes), wanted)));
    }
}

fn wal(c: &mut Criterion) {
    let bytes = wal_segment();
    let name = SegmentName::new(Timeline::FIRST, SegmentNo::new(7), SegmentSize::DEFAULT);
    let mut group = c.benchmark_group("wal segment");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (how, check_records) in [("headers", false), ("records", true)] {
        group.bench_function(how, |b| {
            b.iter(|| {
                let expected =
                    Expectations { check_records, ..Expectations::new(name, SegmentSize::DEFAULT) };
                let mut validator = Validator::new(expected);
                validator.push(black_box(&bytes));
                validator.finish().is_ok()
            });
        });
    }
}

criterion_group! { name = benches; config = quick(); targets = pages, digests, wal }
criterion_main!(benches);
