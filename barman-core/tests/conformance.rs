//! Our own implementations of the library's traits, held to the suites that anybody's are held to. Those of transports
//! stand beside their other tests.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![allow(clippy::disallowed_methods, reason = "a test is the outside world")]

use std::sync::Arc;

use barman_core::catalog::{CatalogPaths, LocalCatalog};
use barman_core::codec::{Algorithm, CustomFilters, Level, Method, compressor, decompressor};
use barman_core::ctx::{Cancel, Clock, Ctx, Silent, SystemClock};
use barman_core::io::{Locks, RealDisk};
use barman_core::model::SegmentSize;
use barman_core::wal::{Compression, LocalWalArchive, WalOptions, WalPaths};
use barman_testkit::clock::StepClock;
use barman_testkit::conformance;
use camino::Utf8Path;
use time::UtcOffset;
use time::macros::datetime;

#[test]
fn clocks() {
    conformance::clock(&SystemClock::utc());
    conformance::clock(&SystemClock::new(UtcOffset::from_hms(5, 30, 0).unwrap()));
    conformance::clock(&StepClock::at(datetime!(2026-11-22 21:45:28 +02:00)));
}

#[test]
fn compressors() {
    for algorithm in [
        Algorithm::None,
        Algorithm::Gzip,
        Algorithm::Bzip2,
        Algorithm::Xz,
        Algorithm::Zstd,
        Algorithm::Lz4,
        Algorithm::Snappy,
    ] {
        println!("{algorithm:?}");
        conformance::compressor(&*decompressor(algorithm, None).unwrap());
    }
    let filters = CustomFilters { compress: "gzip -1".into(), decompress: "gzip -d".into() };
    conformance::compressor(&*compressor(Method::Custom, Level::Medium, Some(&filters)).unwrap());
}

#[test]
fn the_local_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(StepClock::at(datetime!(2026-11-22 21:45:28 +02:00)));
    let cancel = Cancel::new();
    let open = || {
        let paths = CatalogPaths::under(&path.join("main"), "main".parse().unwrap());
        let locks = Locks::new(path, "barman test");
        Box::new(LocalCatalog::new(paths, Arc::new(RealDisk), Arc::clone(&clock), locks)) as _
    };
    conformance::catalog(&open, &Ctx { clock: &*clock, progress: &Silent, cancel: &cancel });
}

#[test]
fn the_local_wal_archive() {
    for method in [None, Some(Method::Gzip), Some(Method::Zstd)] {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(StepClock::at(datetime!(2026-11-22 21:45:28 +02:00)));
        let cancel = Cancel::new();
        let paths = WalPaths::under(&path.join("main"), "main".parse().unwrap());
        std::fs::create_dir_all(&paths.incoming_directory).unwrap();
        let open = || {
            let compression = method.map(|method: Method| Compression {
                compressor: Arc::from(compressor(method, Level::Low, None).unwrap()),
                name: method.name().to_owned(),
            });
            let options = WalOptions {
                compression,
                system_id: Some(conformance::SYSTEM),
                segment_size: Some(SegmentSize::from_bytes(1 << 20).unwrap()),
                workers: 2,
                ..WalOptions::default()
            };
            let locks = Locks::new(path, "barman test");
            let archive =
                LocalWalArchive::new(paths.clone(), Arc::new(RealDisk), Arc::clone(&clock), locks, options);
            Box::new(archive) as _
        };
        let ctx = Ctx { clock: &*clock, progress: &Silent, cancel: &cancel };
        conformance::wal_archive(&open, &paths.incoming_directory, &ctx);
    }
}
