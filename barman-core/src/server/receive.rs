//! `receive-wal`: receiving WAL over the replication protocol, for as long as it is wanted.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::archive::trouble;
use super::{Server, ServerError};
use crate::config::{CreateSlot, Operation};
use crate::ctx::{Cancel, Ctx};
use crate::format::history::TimelineHistory;
use crate::format::text::with_reasons;
use crate::io::{LockError, LockName};
use crate::model::{Lsn, SegmentSize, Timeline};
use crate::pg::{PgError, Session, StreamEnd, StreamError, StreamRequest, SystemIdentity};
use crate::policy::streaming_start::{Origin, StartFacts, StreamingStart, streaming_start};
use crate::wal::{Receiving, Taken, TakenHow, WalError};

/// How often the server is told how far we are; it gives a silent client up after `wal_sender_timeout` (60 s), and a
/// silent server is given up after three times this.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Pauses before another try to connect.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often the server is asked whether its commits wait for us.
const ASK_SYNCHRONOUS: Duration = Duration::from_secs(15);
/// How soon a busy or failed archiver tries again.
const ARCHIVE_AGAIN: Duration = Duration::from_secs(1);
/// SQLSTATE of WAL that is no longer there (`ERRCODE_UNDEFINED_FILE`).
const NO_SUCH_WAL: &str = "58P01";
/// SQLSTATE of a slot that somebody uses.
const IN_USE: &str = "55006";

/// How one connection's work ended.
enum Ended {
    Stopped,
    Shutdown,
}

/// What the threads of a receiver share.
struct Around<'a> {
    /// Whether commits wait for us.
    prompt: &'a AtomicBool,
    /// The timeline that is being received; 0 before the first.
    timeline: &'a AtomicU32,
    /// Wakes the archiver.
    wake: &'a mpsc::Sender<()>,
    /// A stream ran: from now on trouble is waited out.
    streamed: bool,
}

/// Ends the helpers of a receiver.
struct EndsHelpers<'a>(&'a Cancel);

impl Drop for EndsHelpers<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Server {
    /// Receives WAL until the context is cancelled. Lost connections, restarts of the server and full disks are waited
    /// out; timelines are followed. A segment is archived as soon as it is whole.
    ///
    /// # Errors
    /// What keeps it from beginning, and what waiting does not mend: another cluster, WAL that the server has no longer
    /// ([`ServerError::WalGone`]), WAL that differs from what was received before.
    pub fn receive_wal(&self, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        self.enabled()?;
        if !self.config.options.streaming_archiver {
            return Err(ServerError::Usage(
                "Unable to start receive-wal process: streaming_archiver option set to 'off' in barman configuration \
                 file"
                    .to_owned(),
            ));
        }
        self.usable(Operation::Receive, ctx)?;
        let name = LockName::WalReceive(self.name().clone());
        let _lock = match self.locks.try_lock(&name, "receiving WAL", ctx) {
            Err(source @ LockError::Busy { .. }) => {
                return Err(ServerError::ReceiverRunning { server: self.name().clone(), source });
            }
            other => other?,
        };
        self.make_directories()?;
        ctx.info(format!("Starting receive-wal for server {}", self.name()));
        let (prompt, timeline) = (AtomicBool::new(false), AtomicU32::new(0));
        // Ends the helpers, also where the receiver ends by itself.
        let done = Cancel::new();
        let (wake, waiting) = mpsc::channel();
        std::thread::scope(|scope| {
            let (prompt, done, timeline) = (&prompt, &done, &timeline);
            scope.spawn(move || self.archive_behind(&waiting, timeline, done, ctx));
            scope.spawn(move || self.watch_synchronous(prompt, done, ctx));
            // In whatever way this ends, the helpers end too.
            let end = EndsHelpers(done);
            let mut around = Around { prompt, timeline, wake: &wake, streamed: false };
            let result = self.receive_until_stopped(&mut around, ctx);
            drop(end);
            drop(wake);
            result
        })
    }

    fn receive_until_stopped(&self, around: &mut Around<'_>, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let (mut pause, mut told) = (FIRST_PAUSE, String::new());
        loop {
            let began = ctx.clock.monotonic();
            let outcome = self.receive_once(around, ctx);
            if ctx.cancel.is_cancelled() {
                // What came is durable; the rest is the server's to keep.
                return Ok(());
            }
            let text = match outcome {
                Ok(Ended::Stopped) => return Ok(()),
                Ok(Ended::Shutdown) => "the server was shut down".to_owned(),
                Err(error) if around.streamed && is_waited_out(&error) => with_reasons(&error),
                Err(error) => return Err(error),
            };
            if ctx.clock.monotonic().saturating_sub(began) > LONGEST_PAUSE {
                (pause, told) = (FIRST_PAUSE, String::new());
            }
            // The same trouble again and again is told once.
            if text != told {
                ctx.warn(format!("{}: {text}; trying again until it works", self.name()));
                told = text;
            }
            if ctx.clock.pause(pause, ctx.cancel).is_err() {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Receives over one connection.
    fn receive_once(&self, around: &mut Around<'_>, ctx: &Ctx<'_>) -> Result<Ended, ServerError> {
        let not_ready = |error: ServerError| match error {
            ServerError::Pg(error) if !around.streamed => {
                ServerError::NotStreaming { server: self.name().clone(), reason: error.to_string() }
            }
            other => other,
        };
        let mut session = self.wal_session().map_err(not_ready)?;
        let size = session.segment_size()?;
        let mut stream = self.wal_streaming().map_err(not_ready)?;
        let kept = self.slot_for_streaming(&mut session, &mut stream, ctx)?;
        let identity = stream.identify_system()?;
        if session.system_id()? != identity.system_id {
            return Err(ServerError::NotStreaming {
                server: self.name().clone(),
                reason: "is the streaming DSN targeting the same server of the PostgreSQL connection string?"
                    .to_owned(),
            });
        }
        self.settle_identity(identity.system_id, session.version())?;
        around.prompt.store(self.is_synchronous(&mut session).unwrap_or(false), Ordering::Relaxed);
        session.close();
        let history = self.fetch_histories(&mut stream, identity.timeline)?;
        self.wal.settle_streamed()?;
        let start = self.starting_point(&identity, history.as_ref(), kept, size)?;
        self.follow(stream, start, &identity, history.as_ref(), kept, size, around, ctx)
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one connection, used once")]
    fn follow(
        &self,
        mut stream: Session,
        mut start: StreamingStart,
        identity: &SystemIdentity,
        history: Option<&TimelineHistory>,
        kept: Option<Lsn>,
        size: SegmentSize,
        around: &mut Around<'_>,
        ctx: &Ctx<'_>,
    ) -> Result<Ended, ServerError> {
        let slot = self.config.options.slot_name.as_ref().map(|slot| slot.0.as_str());
        let name = self.name();
        loop {
            let Some(lsn) = start.lsn(size) else {
                return Err(ServerError::Usage(format!("{name}: the end of the log is reached")));
            };
            if start.timeline == identity.timeline && lsn > identity.position {
                return Err(ServerError::AheadOfServer { ours: lsn, server: identity.position });
            }
            ctx.info(format!("{name}: starting log streaming at {lsn} (timeline {})", start.timeline));
            let wake = around.wake.clone();
            let finished = move |segment: crate::model::SegmentName| {
                let end = segment.next(size).and_then(|next| next.start(size));
                let end = end.map_or_else(|| segment.to_string(), |end| end.to_string());
                ctx.info(format!("{name}: finished segment at {end} (timeline {})", segment.timeline));
                // Nobody listens when everything ends.
                let _ = wake.send(());
            };
            // From now on the unfinished segments of other timelines are nobody's.
            around.timeline.store(start.timeline.get(), Ordering::Release);
            let _ = around.wake.send(());
            let mut sink = self.wal.receiver(start.timeline, lsn, size, Box::new(finished));
            let request = StreamRequest {
                slot,
                start: lsn,
                timeline: start.timeline,
                prompt: around.prompt,
                report_every: REPORT_EVERY,
                clock: ctx.clock,
            };
            let end = stream.stream_wal(&request, &mut sink);
            let received = sink.position() > lsn;
            around.streamed |= received || end.is_ok();
            match end {
                Ok(StreamEnd::Stopped) => return Ok(Ended::Stopped),
                Ok(StreamEnd::Shutdown) => return Ok(Ended::Shutdown),
                Ok(StreamEnd::NextTimeline { timeline, switch }) => {
                    ctx.info(format!("{name}: switched to timeline {timeline} at {switch}"));
                    self.fetch_histories(&mut stream, timeline)?;
                    start = StreamingStart { timeline, segment: switch.segment(size), ..start };
                }
                Err(StreamError::Sink(error)) => return Err(error.into()),
                Err(StreamError::Pg(error)) if error.sqlstate() == Some(NO_SUCH_WAL) && !received => {
                    // What was never begun need not be gone on with: the archive has a hole, but no more of them than it
                    // would have without a receiver.
                    if start.origin == Origin::Archive {
                        let segment = kept.unwrap_or(identity.position).segment(size);
                        let begins = Lsn::segment_start(segment, size).unwrap_or(identity.position);
                        let timeline =
                            history.map_or(identity.timeline, |history| history.timeline_of(begins));
                        ctx.warn(format!(
                            "{name}: the server has no longer the WAL from {lsn} on, where the archive ends. WAL is received \
                             from segment {} on; points in time between them cannot be restored: take a new backup",
                            crate::model::SegmentName::new(timeline, segment, size)
                        ));
                        start = StreamingStart { timeline, segment, origin: Origin::Slot };
                        // The server ended the other one with its error.
                        stream = self.wal_streaming()?;
                        continue;
                    }
                    let server = name.clone();
                    return Err(ServerError::WalGone {
                        server,
                        lsn,
                        timeline: start.timeline,
                        source: error,
                    });
                }
                Err(StreamError::Pg(error)) => return Err(error.into()),
            }
        }
    }

    /// Where to begin, by what is here and what the server has.
    pub(super) fn starting_point(
        &self,
        identity: &SystemIdentity,
        history: Option<&TimelineHistory>,
        kept: Option<Lsn>,
        size: SegmentSize,
    ) -> Result<StreamingStart, ServerError> {
        let streamed = self.wal.streamed()?;
        let mut timelines: Vec<Timeline> =
            history.map(|h| h.entries.iter().map(|entry| entry.parent).collect()).unwrap_or_default();
        timelines.push(identity.timeline);
        let mut archived = Vec::new();
        for timeline in timelines {
            if let Some(number) = self.wal.latest(timeline)?.and_then(|latest| latest.number(size)) {
                archived.push((timeline, number));
            }
        }
        let facts = StartFacts {
            streamed: &streamed,
            archived: &archived,
            timeline: identity.timeline,
            history,
            slot: kept,
            position: identity.position,
            size,
        };
        streaming_start(&facts)
            .map_err(|e| ServerError::NotStreaming { server: self.name().clone(), reason: e.to_string() })
    }

    /// Stores the histories of a timeline and of its ancestors, as far as the server has them, and gives its own.
    pub(super) fn fetch_histories(
        &self,
        stream: &mut Session,
        timeline: Timeline,
    ) -> Result<Option<TimelineHistory>, ServerError> {
        if timeline == Timeline::FIRST {
            return Ok(None);
        }
        let own = self.wal.receive_history(timeline, &stream.timeline_history(timeline)?)?;
        for entry in own.entries.iter().filter(|entry| entry.parent != Timeline::FIRST) {
            match stream.timeline_history(entry.parent) {
                Ok(content) => drop(self.wal.receive_history(entry.parent, &content)?),
                // A server that was made from a backup has not those of before.
                Err(error) if error.sqlstate().is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(own))
    }

    /// Sees to the slot and gives where it keeps WAL from.
    fn slot_for_streaming(
        &self,
        session: &mut Session,
        stream: &mut Session,
        ctx: &Ctx<'_>,
    ) -> Result<Option<Lsn>, ServerError> {
        let Some(slot) = &self.config.options.slot_name else { return Ok(None) };
        match session.physical_slot(&slot.0)? {
            Some(found) => Ok(found.restart_lsn),
            None if self.config.options.create_slot == CreateSlot::Auto => {
                ctx.info(format!(
                    "Creating physical replication slot '{}' on server '{}'",
                    slot.0,
                    self.name()
                ));
                stream.create_physical_slot(&slot.0)?;
                ctx.info(format!("Replication slot '{}' created", slot.0));
                Ok(None)
            }
            None => Err(ServerError::NoSlot { server: self.name().clone(), slot: slot.0.clone() }),
        }
    }

    /// Whether the server's commits wait for our receiver.
    fn is_synchronous(&self, session: &mut Session) -> Result<bool, PgError> {
        let names = session.show("synchronous_standby_names")?.unwrap_or_default();
        let own = self.config.options.streaming_archiver_name.as_deref().unwrap_or_default();
        Ok(is_named(&names, own))
    }

    /// Asks now and then whether commits wait for us: the setting changes by a reload.
    fn watch_synchronous(&self, prompt: &AtomicBool, done: &Cancel, ctx: &Ctx<'_>) {
        while ctx.clock.pause(ASK_SYNCHRONOUS, done).is_ok() && !ctx.cancel.is_cancelled() {
            let asked = self.wal_session_until(done).and_then(|mut session| {
                let answer = self.is_synchronous(&mut session)?;
                session.close();
                Ok(answer)
            });
            // While the server is away it waits for nobody.
            if let Ok(answer) = asked {
                prompt.store(answer, Ordering::Relaxed);
            }
        }
    }

    /// Archives what is whole, as soon as it is.
    fn archive_behind(
        &self,
        waiting: &mpsc::Receiver<()>,
        timeline: &AtomicU32,
        done: &Cancel,
        ctx: &Ctx<'_>,
    ) {
        let mut told = HashSet::new();
        let mut due = true;
        let ctx = &Ctx { cancel: done, ..*ctx };
        loop {
            let limit = if due { Duration::ZERO } else { Duration::from_secs(3600) };
            match waiting.recv_timeout(limit) {
                Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            // Several that were finished meanwhile are one run.
            while waiting.try_recv().is_ok() {}
            let mut tell = |text: String| {
                if told.insert(text.clone()) {
                    ctx.warn(text);
                }
            };
            let live = Timeline::new(timeline.load(Ordering::Acquire));
            due = match self.archive_beside(live.map_or(Receiving::Elsewhere, Receiving::Here), ctx) {
                Ok(outcome) => {
                    self.report_archived(&outcome, ctx);
                    let troubles: Vec<String> = outcome.files().filter_map(trouble).collect();
                    let healthy = troubles.is_empty();
                    troubles.into_iter().for_each(&mut tell);
                    if healthy {
                        // What comes again after a good time is told again.
                        told.clear();
                    }
                    let waits =
                        |taken: &Taken| matches!(taken.how, TakenHow::Failed { .. } | TakenHow::Growing);
                    let limited = self.config.options.streaming_archiver_batch_size > 0;
                    outcome.busy.is_some() || outcome.files().any(waits) || limited && !outcome.is_empty()
                }
                Err(_) if done.is_cancelled() => return,
                Err(error) => {
                    tell(with_reasons(&error));
                    true
                }
            };
            if due && ctx.clock.pause(ARCHIVE_AGAIN, done).is_err() {
                return;
            }
        }
    }
}

/// Whether the trouble goes away by waiting.
fn is_waited_out(error: &ServerError) -> bool {
    match error {
        ServerError::Pg(error) => {
            error.is_transient()
                || error.is_lost()
                || error.sqlstate() == Some(IN_USE)
                || error.sqlstate().is_some_and(|state| state.starts_with("57"))
                || matches!(error, PgError::Auth { .. } | PgError::Refused { .. })
        }
        ServerError::Wal(WalError::NoSpace { .. } | WalError::Io(_)) | ServerError::Io(_) => true,
        ServerError::AheadOfServer { .. } | ServerError::NotStreaming { .. } => true,
        _ => false,
    }
}

/// Whether `synchronous_standby_names` has this name. Source: the grammar in `syncrep_gram.y`; names are compared
/// without regard to case, and `*` is any.
pub(super) fn is_named(setting: &str, name: &str) -> bool {
    let inner = match (setting.find('('), setting.rfind(')')) {
        (Some(open), Some(close)) if open < close => setting.get(open + 1..close).unwrap_or_default(),
        _ => setting,
    };
    inner
        .split(',')
        .map(|entry| entry.trim().trim_matches('"').replace("\"\"", "\""))
        .any(|entry| entry == "*" || (!entry.is_empty() && entry.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn synchronous_names() {
        for (setting, expected) in [
            ("", false),
            ("*", true),
            ("barman_receive_wal", true),
            ("a, Barman_Receive_WAL", true),
            ("2 (a, barman_receive_wal)", true),
            ("FIRST 2 (a, \"barman_receive_wal\")", true),
            ("ANY 1 (*)", true),
            ("ANY 1 (a, b)", false),
            ("barman_receive_wal2", false),
        ] {
            assert_eq!(is_named(setting, "barman_receive_wal"), expected, "{setting}");
        }
    }
}
