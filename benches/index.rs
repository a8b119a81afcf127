//! The index of an archive with 100,000 lines: parsing, the sums over it that lists of backups need, writing.

use std::hint::black_box;

use barman_benches::quick;
use barman_core::format::xlogdb::{self, XlogLine};
use barman_core::model::{SegmentName, SegmentNo, SegmentSize, Timeline, WalFileName};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const LINES: u64 = 100_000;

fn name(number: u64) -> WalFileName {
    WalFileName::Segment(SegmentName::new(Timeline::FIRST, SegmentNo::new(number), SegmentSize::DEFAULT))
}

fn text() -> String {
    let mut text = String::new();
    for number in 0..LINES {
        let line = XlogLine {
            name: name(number),
            size: 3_000_000 + number % 1000,
            mtime: 1_795_383_933.233 + number as f64,
            compression: Some("gzip".into()),
            encryption: None,
        };
        line.write_to(&mut text);
    }
    text
}

fn index(c: &mut Criterion) {
    let text = text();
    let mut group = c.benchmark_group("index of 100,000 lines");
    group.throughput(Throughput::Elements(LINES));
    group.bench_function("parse", |b| {
        b.iter(|| xlogdb::lines(black_box(text.as_bytes())).filter(|line| line.parsed.is_ok()).count());
    });
    group.bench_function("prefix sums and 200 ranges", |b| {
        b.iter(|| {
            let mut sum = 0;
            let sums: Vec<(WalFileName, u64)> = xlogdb::lines(black_box(text.as_bytes()))
                .filter_map(|line| line.parsed.ok())
                .map(|line| {
                    sum += line.size;
                    (line.name, sum)
                })
                .collect();
            let before = |number| {
                let at = sums.partition_point(|(known, _)| *known < name(number));
                at.checked_sub(1).and_then(|at| sums.get(at)).map_or(0, |(_, sum)| *sum)
            };
            (0..200).map(|backup| before((backup + 1) * 500) - before(backup * 500)).max()
        });
    });
    group.bench_function("write", |b| b.iter(|| black_box(self::text().len())));
}

criterion_group! { name = benches; config = quick(); targets = index }
criterion_main!(benches);
