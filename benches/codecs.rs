//! Codecs at their three named levels, on one WAL segment.

use std::hint::black_box;
use std::io::{Cursor, Read};

use barman_benches::{quick, wal_segment};
use barman_core::codec::{Algorithm, Level, Method, compressor, decompressor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const METHODS: [Method; 6] =
    [Method::Gzip, Method::Bzip2, Method::Xz, Method::Zstd, Method::Lz4, Method::Snappy];

fn encode(c: &mut Criterion) {
    let plain = wal_segment();
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    for method in METHODS {
        let levels: &[Level] = if method == Method::Snappy {
            &[Level::Medium]
        } else {
            &[Level::Low, Level::Medium, Level::High]
        };
        for level in levels {
            let Ok(compressor) = compressor(method, *level, None) else { continue };
            let mut encoder = compressor.encoder();
            let mut frame = Vec::new();
            group.bench_function(BenchmarkId::new(method.name(), level), |b| {
                b.iter(|| {
                    let done = encoder.encode(black_box(&plain), &mut frame);
                    done.map(|()| frame.len()).unwrap_or_default()
                });
            });
        }
    }
}

fn decode(c: &mut Criterion) {
    let plain = wal_segment();
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    for method in METHODS {
        let mut frame = Vec::new();
        let packed = compressor(method, Level::Medium, None)
            .and_then(|compressor| compressor.encoder().encode(&plain, &mut frame));
        let (Ok(()), Ok(decompressor)) = (packed, decompressor(method.algorithm(), None)) else { continue };
        assert!(method.algorithm() != Algorithm::None, "nothing to decode");
        group.bench_function(method.name(), |b| {
            b.iter(|| {
                let mut out = vec![0; 1 << 18];
                let Ok(mut reader) = decompressor.decoder(Box::new(Cursor::new(frame.as_slice()))) else {
                    return 0;
                };
                let mut length = 0;
                while let Ok(n @ 1..) = reader.read(&mut out) {
                    length += n;
                }
                length
            });
        });
    }
}

criterion_group! { name = benches; config = quick(); targets = encode, decode }
criterion_main!(benches);
