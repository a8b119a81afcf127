//! Receiving WAL over physical replication: `START_REPLICATION`, its messages, and what is reported back.
//!
//! Source: the documentation's chapter "Streaming Replication Protocol", and `walsender.c` for what the server does with
//! the replies.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::error::{PgError, ServerError};
use super::query::ResultSet;
use super::session::Session;
use super::wire::{Connection, Incoming};
use crate::ctx::{Cancel, Clock};
use crate::model::{Lsn, Timeline};

/// Messages on their way to the sink; the server makes none longer than 128 KiB (`MAX_SEND_SIZE`).
const QUEUE: usize = 64;
/// So much is written before it is made durable although more is waiting.
const UNSYNCED: u64 = 16 << 20;
/// How often the timers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long what was written may wait for its fsync when nobody waits for it.
const LAZY_FLUSH: Duration = Duration::from_secs(1);
/// How long an orderly end may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// Seconds from the Unix epoch to PostgreSQL's.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// Takes WAL as it comes in. It is called on a thread of its own, so that it may wait for a disk while the connection is
/// kept alive.
pub trait WalSink: Send {
    /// Why it could not store something.
    type Error: std::error::Error + Send;

    /// Stores bytes that begin at `at`. Calls come in order, without gaps.
    fn write(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Makes everything durable that was written.
    fn flush(&mut self) -> Result<(), Self::Error>;

    /// Everything before this position, from where the stream began, is durable. Never asks the disk.
    fn durable(&self) -> Lsn;
}

/// What to stream, and how.
#[derive(Clone, Copy)]
pub struct StreamRequest<'a> {
    /// The slot that keeps the WAL on the server.
    pub slot: Option<&'a str>,
    /// Where to begin: the beginning of a segment, so that every file is whole. What is before it is durable.
    pub start: Lsn,
    /// On which timeline.
    pub timeline: Timeline,
    /// While it is true, commits of the server wait for this client: what came in is made durable at once. Else within a
    /// second. It may change at any time.
    pub prompt: &'a AtomicBool,
    /// How often to report, and a third of the silence after which the server is given up.
    pub report_every: Duration,
    /// The time that reports bear; the server shows it and decides nothing by it.
    pub clock: &'a dyn Clock,
}

/// Why a stream ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The timeline ends here; the server goes on with this one, which began at that position.
    NextTimeline {
        /// The next timeline.
        timeline: Timeline,
        /// Where it left the one that was streamed.
        switch: Lsn,
    },
    /// The server was shut down in order, after all of its WAL was sent.
    Shutdown,
    /// The [`Cancel`] of the session was set.
    Stopped,
}

/// Why a stream failed. In each case what the sink reports as durable is durable.
#[derive(Debug, thiserror::Error)]
pub enum StreamError<E: std::error::Error> {
    /// The connection, or the server.
    #[error(transparent)]
    Pg(#[from] PgError),
    /// The sink.
    #[error(transparent)]
    Sink(E),
}

/// An order to the thread of the sink.
enum Order {
    Data(Lsn, Bytes),
    Flush,
}

/// What the two threads tell each other.
struct Shared {
    written: AtomicU64,
    durable: AtomicU64,
    wake: Notify,
}

/// Why the streaming part ended.
enum Ended {
    /// The server ended the copy: the timeline ends.
    Copy,
    /// There was nothing to stream: the answer came at once.
    AtOnce(Vec<ResultSet>),
    Shutdown,
    Stopped,
    /// The sink failed; its error is in its thread.
    Sink,
}

impl Session {
    /// Streams WAL into a sink until the timeline ends, the server is shut down, or the session's [`Cancel`] is set; on
    /// a replication connection, which can be used for another stream afterwards only after
    /// [`StreamEnd::NextTimeline`]. The position of the flush that is reported never goes beyond what the sink says is
    /// durable (I6); nothing is ever reported as applied.
    ///
    /// # Errors
    /// A lost connection, the server's error (such as WAL that it has no longer, SQLSTATE 58P01), or the sink's.
    pub fn stream_wal<S: WalSink>(
        &mut self,
        request: &StreamRequest<'_>,
        sink: &mut S,
    ) -> Result<StreamEnd, StreamError<S::Error>> {
        let shared = Shared {
            written: AtomicU64::new(request.start.get()),
            durable: AtomicU64::new(request.start.get()),
            wake: Notify::new(),
        };
        let (orders, waiting) = mpsc::channel(QUEUE);
        let (connection, runtime, cancel) = self.parts();
        let (streamed, stored) = std::thread::scope(|scope| {
            let storing = scope.spawn(|| store(sink, waiting, &shared, request.prompt));
            let streamed = runtime.block_on(stream(connection, request, orders, &shared, cancel));
            // The orders are all given: what is on its way is still stored, and made durable.
            (streamed, storing.join())
        });
        match stored {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                connection.mark_broken();
                return Err(StreamError::Sink(error));
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
        if streamed.as_ref().is_err_and(PgError::is_lost) {
            // Given up in the middle: nothing more can be said there.
            connection.mark_broken();
        }
        let answers = match streamed? {
            Ended::Shutdown => {
                connection.mark_broken();
                return Ok(StreamEnd::Shutdown);
            }
            Ended::Stopped => {
                let farewell = async {
                    tokio::time::timeout(FAREWELL, end_copy(connection, &shared, request.clock)).await
                };
                let _ = runtime.block_on(farewell);
                connection.mark_broken();
                return Ok(StreamEnd::Stopped);
            }
            Ended::Sink => {
                connection.mark_broken();
                return Err(PgError::protocol("the stream ended without a reason").into());
            }
            Ended::AtOnce(answers) => answers,
            Ended::Copy => runtime.block_on(async {
                let ended =
                    tokio::time::timeout(FAREWELL * 6, end_copy(connection, &shared, request.clock)).await;
                let seconds = (FAREWELL * 6).as_secs();
                let what = "waiting for the end of a timeline".to_owned();
                ended.unwrap_or(Err(PgError::Timeout { what, seconds }))
            })?,
        };
        match next_timeline(&answers)? {
            Some(end) => Ok(end),
            None => {
                connection.mark_broken();
                Ok(StreamEnd::Shutdown)
            }
        }
    }

    /// The history file of a timeline, as the server has it: its content, byte for byte.
    ///
    /// # Errors
    /// When the server has none, as for the first timeline.
    pub fn timeline_history(&mut self, timeline: Timeline) -> Result<Vec<u8>, PgError> {
        let sql = format!("TIMELINE_HISTORY {timeline}");
        let mut answers = self.run(async |connection| connection.query_bytes(&sql).await)?;
        let row = answers.pop().and_then(|mut answer| answer.pop());
        match row.as_deref() {
            Some([Some(_), Some(content)]) => Ok(content.clone()),
            _ => Err(PgError::answer("no file name and content of a timeline's history")),
        }
    }
}

/// The thread of the sink.
fn store<S: WalSink>(
    sink: &mut S,
    mut waiting: mpsc::Receiver<Order>,
    shared: &Shared,
    prompt: &AtomicBool,
) -> Result<(), S::Error> {
    use mpsc::error::TryRecvError;

    let tell = |sink: &S| {
        shared.durable.fetch_max(sink.durable().get(), Ordering::AcqRel);
        shared.wake.notify_one();
    };
    // Whoever waits must learn of the end, also of a bad one.
    let end = WakeAtEnd(shared);
    let mut unsynced = 0u64;
    loop {
        let order = match waiting.try_recv() {
            Ok(order) => Some(order),
            Err(TryRecvError::Disconnected) => None,
            // All that came is written: one fsync is for all of it.
            Err(TryRecvError::Empty) if unsynced > 0 && prompt.load(Ordering::Relaxed) => Some(Order::Flush),
            Err(TryRecvError::Empty) => waiting.blocking_recv(),
        };
        match order {
            None => break,
            Some(Order::Data(at, bytes)) => {
                sink.write(at, &bytes)?;
                unsynced += bytes.len() as u64;
                shared.written.store(at.get() + bytes.len() as u64, Ordering::Release);
                if unsynced >= UNSYNCED {
                    sink.flush()?;
                    unsynced = 0;
                }
            }
            Some(Order::Flush) if unsynced > 0 => {
                sink.flush()?;
                unsynced = 0;
            }
            Some(Order::Flush) => {}
        }
        tell(sink);
    }
    if unsynced > 0 {
        sink.flush()?;
    }
    tell(sink);
    drop(end);
    Ok(())
}

struct WakeAtEnd<'a>(&'a Shared);

impl Drop for WakeAtEnd<'_> {
    fn drop(&mut self) {
        self.0.wake.notify_one();
    }
}

/// Asks for the stream and passes on what comes.
async fn stream(
    connection: &mut Connection,
    request: &StreamRequest<'_>,
    orders: mpsc::Sender<Order>,
    shared: &Shared,
    cancel: &Cancel,
) -> Result<Ended, PgError> {
    let slot = match request.slot {
        Some(name) => format!("SLOT {} ", super::replication::slot_name(name)?),
        None => String::new(),
    };
    let command = format!("START_REPLICATION {slot}PHYSICAL {} TIMELINE {}", request.start, request.timeline);
    connection.outbox.clear();
    frontend::query(&command, &mut connection.outbox).map_err(|e| PgError::settings(e.to_string()))?;
    connection.flush().await?;
    let silence = request.report_every * 3;
    let first = tokio::select! {
        first = connection.receive() => first?,
        error = cancelled_or_late(cancel, silence) => return Err(error),
    };
    match first {
        Incoming::CopyBoth => {}
        other => {
            let answers = connection.answers_from(Some(other)).await?;
            return Ok(Ended::AtOnce(answers));
        }
    }
    let mut expected = request.start;
    let mut reported = request.start;
    let mut report_due = Instant::now();
    let mut heard = Instant::now();
    let mut asked = false;
    let mut flushed_by = None;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        let durable = Lsn::new(shared.durable.load(Ordering::Acquire));
        if orders.capacity() == 0 {
            // It is us who do not listen, while our disk is busy.
            heard = now;
        }
        let silent = now - heard;
        if silent >= silence {
            let what = "waiting for a sign of life of the server".to_owned();
            return Err(PgError::Timeout { what, seconds: silence.as_secs() });
        }
        let ask = silent >= request.report_every && !asked;
        if durable > reported || now >= report_due || ask {
            report(connection, shared, request.clock, ask)?;
            // The server may be busy with sending and read nothing: that is its matter, within bounds.
            let sent = tokio::time::timeout(silence, connection.flush()).await;
            let what = "reporting to the server".to_owned();
            sent.unwrap_or(Err(PgError::Timeout { what, seconds: silence.as_secs() }))?;
            reported = durable;
            report_due = Instant::now() + request.report_every;
            asked |= ask;
        }
        let unsynced = shared.written.load(Ordering::Acquire) > durable.get();
        match flushed_by {
            None if unsynced => flushed_by = Some(now + LAZY_FLUSH),
            Some(due) if now >= due => {
                // Where there is no room for the order, there is enough to write that a flush comes by itself.
                let _ = orders.try_send(Order::Flush);
                flushed_by = None;
            }
            _ => {}
        }
        let received = tokio::select! {
            biased;
            received = connection.receive(), if orders.capacity() > 0 => Some(received),
            () = shared.wake.notified() => None,
            _ = tick.tick() => None,
        };
        if orders.is_closed() {
            return Ok(Ended::Sink);
        }
        if cancel.is_cancelled() {
            return Ok(Ended::Stopped);
        }
        let Some(received) = received else { continue };
        let message = match received? {
            Incoming::Message(message) => message,
            _ => return Err(connection.unexpected("a stream of WAL")),
        };
        heard = Instant::now();
        asked = false;
        match message {
            Message::CopyData(body) => match content(body.into_bytes()) {
                Some(Content::Wal { start, data }) => {
                    if start != expected {
                        connection.mark_broken();
                        return Err(PgError::protocol(format!(
                            "WAL from {start} came where WAL from {expected} was due"
                        )));
                    }
                    expected = Lsn::new(start.get() + data.len() as u64);
                    if orders.try_send(Order::Data(start, data)).is_err() {
                        return Ok(Ended::Sink);
                    }
                }
                Some(Content::KeepAlive { reply }) => {
                    if reply {
                        // A server that shuts down waits for the flush of all that it sent.
                        let _ = orders.try_send(Order::Flush);
                        report_due = Instant::now();
                    }
                }
                None => return Err(connection.unexpected("a stream of WAL")),
            },
            Message::CopyDone => return Ok(Ended::Copy),
            Message::CommandComplete(_) => return Ok(Ended::Shutdown),
            Message::ErrorResponse(body) => {
                let error = ServerError::read(body.fields());
                connection.mark_broken();
                return Err(PgError::Server(Box::new(error)));
            }
            _ => return Err(connection.unexpected("a stream of WAL")),
        }
    }
}

async fn cancelled_or_late(cancel: &Cancel, limit: Duration) -> PgError {
    let began = Instant::now();
    loop {
        tokio::time::sleep(TICK).await;
        if cancel.is_cancelled() {
            return PgError::Cancelled;
        }
        if began.elapsed() >= limit {
            let what = "waiting for the beginning of the stream".to_owned();
            return PgError::Timeout { what, seconds: limit.as_secs() };
        }
    }
}

enum Content {
    /// `XLogData`.
    Wal { start: Lsn, data: Bytes },
    /// `Primary keepalive message`.
    KeepAlive { reply: bool },
}

fn content(mut bytes: Bytes) -> Option<Content> {
    let number = |at: usize| Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    match bytes.first()? {
        b'w' => {
            let start = Lsn::new(number(1)?);
            // After the start: the end of the server's WAL and its time, eight bytes each.
            (bytes.len() >= 25).then(|| Content::Wal { start, data: bytes.split_off(25) })
        }
        b'k' => Some(Content::KeepAlive { reply: *bytes.get(17)? != 0 }),
        _ => None,
    }
}

/// Puts a `Standby status update` into the outbox.
fn report(connection: &mut Connection, shared: &Shared, clock: &dyn Clock, ask: bool) -> Result<(), PgError> {
    let durable = shared.durable.load(Ordering::Acquire);
    let written = shared.written.load(Ordering::Acquire).max(durable);
    let mut body = [0u8; 34];
    let fields =
        [written.to_be_bytes(), durable.to_be_bytes(), [0; 8], microseconds(clock.now()).to_be_bytes()];
    if let Some((tag, rest)) = body.split_first_mut() {
        *tag = b'r';
        for (slot, field) in rest.chunks_mut(8).zip(fields) {
            slot.copy_from_slice(&field);
        }
    }
    if let Some(last) = body.last_mut() {
        *last = u8::from(ask);
    }
    connection.outbox.clear();
    let data = frontend::CopyData::new(&body[..]).map_err(|e| PgError::settings(e.to_string()))?;
    data.write(&mut connection.outbox);
    Ok(())
}

/// Microseconds since PostgreSQL's epoch.
fn microseconds(now: time::OffsetDateTime) -> i64 {
    (now.unix_timestamp() - POSTGRES_EPOCH) * 1_000_000 + i64::from(now.microsecond())
}

/// Reports a last time and ends the copy from our side; gives what the server says after it.
async fn end_copy(
    connection: &mut Connection,
    shared: &Shared,
    clock: &dyn Clock,
) -> Result<Vec<ResultSet>, PgError> {
    report(connection, shared, clock, false)?;
    frontend::copy_done(&mut connection.outbox);
    connection.flush().await?;
    loop {
        match connection.receive().await? {
            // What was on its way when we had enough.
            Incoming::Message(Message::CopyData(_) | Message::CopyDone) => {}
            other => return connection.answers_from(Some(other)).await,
        }
    }
}

/// The server says by a row which timeline follows, or by none that it goes.
fn next_timeline(answers: &[ResultSet]) -> Result<Option<StreamEnd>, PgError> {
    let Some(answer) = answers.iter().find(|answer| !answer.rows.is_empty()) else { return Ok(None) };
    let row = answer.single()?;
    Ok(Some(StreamEnd::NextTimeline {
        timeline: row.parse("next_tli")?,
        switch: row.parse("next_tli_startpos")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents() {
        let mut wal = vec![b'w'];
        wal.extend(0x1_0000_0000u64.to_be_bytes());
        wal.extend([0; 16]);
        wal.extend(b"abc");
        match content(Bytes::from(wal.clone())) {
            Some(Content::Wal { start, data }) => {
                assert_eq!((start.to_string().as_str(), &data[..]), ("1/0", &b"abc"[..]));
            }
            _ => panic!("no WAL"),
        }
        assert!(content(Bytes::from(wal[..24].to_vec())).is_none());
        let mut alive = vec![b'k'];
        alive.extend([0; 16]);
        assert!(content(Bytes::from(alive.clone())).is_none());
        alive.push(1);
        assert!(matches!(content(Bytes::from(alive)), Some(Content::KeepAlive { reply: true })));
        assert!(content(Bytes::new()).is_none());
        assert!(content(Bytes::from_static(b"x")).is_none());
    }
}
