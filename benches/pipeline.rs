//! The pipeline that packs one stream in frames side by side, by number of workers.

use std::hint::black_box;
use std::io::{Cursor, sink};
use std::time::Duration;

use barman_benches::{quick, rows};
use barman_core::codec::{Level, Method, compressor};
use barman_core::ctx::Cancel;
use barman_core::pipe::{StreamOptions, compress_stream, pump};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn pipeline(c: &mut Criterion) {
    let bytes = rows(32 << 20);
    let cancel = Cancel::new();
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Bytes(bytes.len() as u64)).measurement_time(Duration::from_secs(3));
    group.bench_function("pump", |b| {
        b.iter(|| pump(&mut Cursor::new(black_box(&bytes)), &mut sink(), &cancel).unwrap_or_default());
    });
    for method in [Method::Lz4, Method::Zstd] {
        let Ok(compressor) = compressor(method, Level::Low, None) else { continue };
        for workers in [1, 2, 4] {
            group.bench_function(BenchmarkId::new(method.name(), workers), |b| {
                b.iter(|| {
                    let options = StreamOptions { workers, frame_size: 4 << 20 };
                    let mut from = Cursor::new(black_box(&bytes));
                    compress_stream(&mut from, &mut sink(), &*compressor, options, &cancel)
                        .map(|report| report.packed_len)
                        .unwrap_or_default()
                });
            });
        }
    }
}

criterion_group! { name = benches; config = quick(); targets = pipeline }
criterion_main!(benches);
