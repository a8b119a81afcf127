//! The lane of this host.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use barman_core::ctx::Cancel;
use barman_core::io::RealDisk;
use barman_core::transport::{FetchSink, Fetched, FileFacts, LocalTransport, Transport, TransportError};
use barman_testkit::conformance::transport::{Talk, fetch, item, transport as conformance};
use barman_testkit::os::TestDir;
use camino::{Utf8Path, Utf8PathBuf};

fn local(cancel: &Cancel) -> LocalTransport {
    LocalTransport::new(Arc::new(RealDisk), cancel.clone())
}

#[test]
fn local_lane_conforms() {
    let dir = TestDir::new("btk-tl-").unwrap();
    conformance(&local(&Cancel::new()), dir.path());
}

/// Does something to a file when its first bytes arrive.
struct Meddler<F: FnMut()> {
    then: F,
    got: u64,
    facts: Option<FileFacts>,
    how: Option<Fetched>,
}

impl<F: FnMut()> FetchSink for Meddler<F> {
    fn begin(&mut self, _path: &Utf8Path, facts: FileFacts) -> io::Result<()> {
        self.facts = Some(facts);
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.got == 0 {
            (self.then)();
        }
        self.got += bytes.len() as u64;
        Ok(())
    }
    fn end(&mut self, _path: &Utf8Path, how: Fetched) -> io::Result<()> {
        self.how = Some(how);
        Ok(())
    }
}

fn meddle(path: &Utf8Path, then: impl FnMut()) -> (u64, FileFacts, Fetched) {
    let mut sink = Meddler { then, got: 0, facts: None, how: None };
    let mut lane = local(&Cancel::new()).lane().unwrap();
    let mut wanted = [item(path.file_name().unwrap())].into_iter();
    lane.fetch(path.parent().unwrap(), &mut wanted, &mut sink).unwrap();
    (sink.got, sink.facts.unwrap(), sink.how.unwrap())
}

fn big_file(dir: &TestDir) -> Utf8PathBuf {
    let path = dir.path().join("big");
    fs::write(&path, vec![1; 2_000_000]).unwrap();
    path
}

#[test]
fn a_file_that_shrinks_while_it_is_read_ends_as_shrunk() {
    let dir = TestDir::new("btk-tl-").unwrap();
    let path = big_file(&dir);
    let (got, facts, how) = meddle(&path, || {
        fs::File::options().write(true).open(&path).unwrap().set_len(1_000_000).unwrap();
    });
    assert_eq!((got, facts.size, how), (1_000_000, 2_000_000, Fetched::Shrunk { got: 1_000_000 }));
}

#[test]
fn a_file_that_grows_is_read_up_to_the_size_it_had() {
    let dir = TestDir::new("btk-tl-").unwrap();
    let path = big_file(&dir);
    let before = fs::metadata(&path).unwrap();
    let (got, facts, how) = meddle(&path, || {
        fs::File::options().append(true).open(&path).unwrap().write_all(&[2; 100_000]).unwrap();
    });
    assert_eq!((got, facts.size, how), (2_000_000, 2_000_000, Fetched::Whole));
    assert_eq!(facts.mtime.seconds, before.mtime(), "the time is taken before reading");
}

#[test]
fn a_file_removed_while_it_is_read_is_whole() {
    let dir = TestDir::new("btk-tl-").unwrap();
    let path = big_file(&dir);
    let (got, _, how) = meddle(&path, || fs::remove_file(&path).unwrap());
    assert_eq!((got, how), (2_000_000, Fetched::Whole));
}

#[test]
fn an_error_of_the_sink_stops_the_fetch() {
    struct Full;
    impl FetchSink for Full {
        fn begin(&mut self, _path: &Utf8Path, _facts: FileFacts) -> io::Result<()> {
            Ok(())
        }
        fn data(&mut self, _bytes: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn end(&mut self, path: &Utf8Path, _how: Fetched) -> io::Result<()> {
            panic!("{path} ended")
        }
    }
    let dir = TestDir::new("btk-tl-").unwrap();
    big_file(&dir);
    let mut lane = local(&Cancel::new()).lane().unwrap();
    let failed = lane.fetch(dir.path(), &mut [item("big")].into_iter(), &mut Full);
    match failed {
        Err(TransportError::Sink { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::StorageFull),
        other => panic!("{other:?}"),
    }
}

#[test]
fn cancelling_kills_a_running_command_and_all_that_it_started() {
    let cancel = Cancel::new();
    let mut lane = local(&cancel).lane().unwrap();
    let stop = cancel.clone();
    let begun = std::time::Instant::now();
    let stopper = std::thread::spawn(move || {
        std::thread::park_timeout(std::time::Duration::from_millis(300));
        stop.cancel();
    });
    let command = barman_core::transport::RemoteCommand::Shell("sleep 60 & sleep 60".into());
    let ended = lane.exec(&command, &mut Talk::new(""));
    assert!(matches!(ended, Err(TransportError::Cancelled(_))), "{ended:?}");
    assert!(begun.elapsed().as_secs() < 10);
    stopper.join().unwrap();
    assert!(matches!(fetch(lane.as_mut(), "/etc".into(), &["passwd"]), Err(TransportError::Cancelled(_))));
}

#[test]
fn a_read_begins_anywhere() {
    let mut lane = local(&Cancel::new()).lane().unwrap();
    let mut text = String::new();
    lane.read("/proc/version".into(), 0, Some(5)).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "Linux");
}
