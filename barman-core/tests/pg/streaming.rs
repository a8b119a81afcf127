//! Streams of WAL from a server that follows a script: what is reported back, and what is not believed.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use barman_core::ctx::{Cancel, SystemClock};
use barman_core::format::conninfo::ConnInfo;
use barman_core::model::{Lsn, Timeline};
use barman_core::pg::{Environment, PgError, Session, StreamEnd, StreamError, StreamRequest, WalSink};
use barman_testkit::fake_pg::{CopyEnd, FakePg, Reply, keepalive, wal_data};

const START: u64 = 0x300_0000;

#[derive(Debug, thiserror::Error)]
#[error("the disk is on fire")]
struct OnFire;

/// A sink whose disk is always a thousand bytes behind, also after an fsync; it fails after so many bytes.
struct Lagging {
    position: u64,
    fails_at: u64,
    flushes: u32,
}

impl WalSink for Lagging {
    type Error = OnFire;

    fn write(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), OnFire> {
        assert_eq!(at.get(), self.position);
        self.position += bytes.len() as u64;
        if self.position > self.fails_at { Err(OnFire) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), OnFire> {
        self.flushes += 1;
        Ok(())
    }

    fn durable(&self) -> Lsn {
        Lsn::new(if self.flushes == 0 { START } else { self.position.saturating_sub(1000).max(START) })
    }
}

fn sink() -> Lagging {
    Lagging { position: START, fails_at: u64::MAX, flushes: 0 }
}

fn stream(
    server: &FakePg,
    sink: &mut Lagging,
    prompt: bool,
    cancel: &Cancel,
) -> Result<StreamEnd, StreamError<OnFire>> {
    let info = ConnInfo::parse(&server.conninfo()).unwrap();
    let mut session = Session::connect_replication(&info, &Environment::default(), cancel).unwrap();
    let clock = SystemClock::utc();
    let request = StreamRequest {
        slot: Some("barman"),
        start: Lsn::new(START),
        timeline: Timeline::FIRST,
        prompt: &AtomicBool::new(prompt),
        report_every: Duration::from_millis(200),
        clock: &clock,
    };
    session.stream_wal(&request, sink)
}

fn answering(reply: Reply) -> FakePg {
    let command = "START_REPLICATION SLOT \"barman\" PHYSICAL 0/3000000 TIMELINE 1";
    FakePg::builder().on(command, reply).allow_abrupt_end().start().unwrap()
}

/// Written, flushed, applied, and whether an answer is asked for, of each report.
fn reports(server: &FakePg) -> Vec<(u64, u64, u64, bool)> {
    let number = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    server
        .feedback()
        .iter()
        .filter(|bytes| bytes.first() == Some(&b'r'))
        .map(|bytes| (number(bytes, 1), number(bytes, 9), number(bytes, 17), bytes[33] != 0))
        .collect()
}

/// Four pieces, the last of which ends at the position given.
fn pieces() -> (Vec<Vec<u8>>, u64) {
    let mut at = START;
    let mut chunks = Vec::new();
    for length in [500, 70_000, 1, 9000] {
        chunks.push(wal_data(at, at + length, &vec![7; length as usize]));
        at += length;
        chunks.push(keepalive(at, true));
    }
    (chunks, at)
}

/// I6: the flush reported is what the sink calls durable, and nothing is ever reported as applied.
#[test]
fn i6_the_flush_reported_is_what_is_durable() {
    for prompt in [true, false] {
        let (chunks, end) = pieces();
        let next = Reply::rows(&["next_tli", "next_tli_startpos"], &[&[Some("2"), Some("0/3010000")]]);
        let server = answering(Reply::copy_both(chunks, CopyEnd::Server).then(next));
        let mut own = sink();
        let ended = stream(&server, &mut own, prompt, &Cancel::new()).unwrap();
        let expected = StreamEnd::NextTimeline {
            timeline: Timeline::new(2).unwrap(),
            switch: "0/3010000".parse().unwrap(),
        };
        assert_eq!(ended, expected);
        assert_eq!(own.position, end);
        let reports = reports(&server);
        assert!(!reports.is_empty());
        for (written, flushed, applied, _) in &reports {
            assert!(*flushed <= end - 1000 && flushed <= written && *written <= end, "{reports:?}");
            assert_eq!(*applied, 0);
        }
        assert!(reports.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{reports:?}");
        assert_eq!(reports.last().unwrap().1, end - 1000);
    }
}

/// What comes in meanwhile shares an fsync.
#[test]
fn many_pieces_share_an_fsync() {
    let chunks: Vec<Vec<u8>> =
        (0..2000).map(|n| wal_data(START + n * 100, START + n * 100 + 100, &[1; 100])).collect();
    let server = answering(Reply::copy_both(chunks, CopyEnd::Server).then(Reply::command("START_STREAMING")));
    let mut own = sink();
    assert_eq!(stream(&server, &mut own, false, &Cancel::new()).unwrap(), StreamEnd::Shutdown);
    assert_eq!(own.position, START + 200_000);
    assert!(own.flushes <= 3, "{} fsyncs", own.flushes);
}

#[test]
fn what_does_not_fit_is_not_believed() {
    for (chunks, said) in [
        (
            vec![wal_data(START + 8, START + 9, b"x")],
            "WAL from 0/3000008 came where WAL from 0/3000000 was due",
        ),
        (
            vec![wal_data(START, START + 3, b"abc"), wal_data(START, START + 3, b"abc")],
            "WAL from 0/3000000 came where WAL from 0/3000003 was due",
        ),
        (vec![b"w123".to_vec()], "a message that is not allowed there came during a stream of WAL"),
        (vec![b"k".to_vec()], "a message that is not allowed there came during a stream of WAL"),
        (vec![Vec::new()], "a message that is not allowed there came during a stream of WAL"),
        (vec![b"x".to_vec()], "a message that is not allowed there came during a stream of WAL"),
    ] {
        let server = answering(Reply::copy_both(chunks.clone(), CopyEnd::Client));
        let error = stream(&server, &mut sink(), true, &Cancel::new()).unwrap_err();
        assert!(error.to_string().contains(said), "{chunks:?}: {error}");
    }
    let server = answering(Reply::error("58P01", "requested WAL segment has already been removed"));
    match stream(&server, &mut sink(), true, &Cancel::new()).unwrap_err() {
        StreamError::Pg(error) => assert_eq!(error.sqlstate(), Some("58P01")),
        other => panic!("{other}"),
    }
    // A wire that is cut in the middle of a message: what came before it is kept.
    let (chunks, _) = pieces();
    let server = answering(Reply::copy_both(chunks, CopyEnd::Client).cut_after(40_000));
    let mut own = sink();
    let error = stream(&server, &mut own, true, &Cancel::new()).unwrap_err();
    assert!(matches!(error, StreamError::Pg(PgError::Lost { .. })), "{error}");
    assert_eq!(own.position, START + 500);
    assert!(own.flushes > 0);
}

/// A server that says nothing is asked, and then given up.
#[test]
fn a_silent_server_is_given_up() {
    let server = answering(Reply::copy_both([], CopyEnd::Client));
    let began = Instant::now();
    let error = stream(&server, &mut sink(), true, &Cancel::new()).unwrap_err();
    assert!(matches!(error, StreamError::Pg(PgError::Timeout { .. })), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(550));
    assert!(reports(&server).iter().any(|(.., asks)| *asks), "it was never asked");
}

/// I7: a sink that fails ends the stream at once, also while nothing comes.
#[test]
fn i7_a_failing_sink_ends_the_stream() {
    let (chunks, _) = pieces();
    let server = answering(Reply::copy_both(chunks, CopyEnd::Client));
    let mut own = Lagging { fails_at: START + 600, ..sink() };
    let error = stream(&server, &mut own, true, &Cancel::new()).unwrap_err();
    assert!(matches!(error, StreamError::Sink(OnFire)), "{error}");
    assert!(reports(&server).iter().all(|(_, flushed, ..)| *flushed <= START + 500));
}

/// I30: stopped by its caller, it makes durable what came, and says so to the server.
#[test]
fn a_stopped_stream_reports_a_last_time() {
    let (chunks, end) = pieces();
    let server = answering(Reply::copy_both(chunks, CopyEnd::Client));
    let cancel = Cancel::new();
    let stopper = cancel.clone();
    let timer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        stopper.cancel();
    });
    let mut own = sink();
    let ended = stream(&server, &mut own, false, &cancel).unwrap();
    timer.join().unwrap();
    assert_eq!((ended, own.position), (StreamEnd::Stopped, end));
    assert_eq!(reports(&server).last().unwrap().1, end - 1000);
}
