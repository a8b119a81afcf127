//! Scripts of the user before and after operations: run through the shell, told of everything by their environment.
//!
//! They never run under a lock of the index or of the catalog. A plain script can only be watched; a retry script is run
//! again until it succeeds or says that it gives up.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use camino::Utf8PathBuf;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::ctx::{Cancel, Cancelled, Clock, Ctx};

/// The version of Barman whose hooks these are.
const VERSION: &str = "3.19.1";
/// A retry script's word that it gives up and that the operation goes on.
const GIVES_UP: i32 = 62;
/// A retry script's word that the operation must not go on.
const STOPS: i32 = 63;
/// The pause before another attempt, and the one after every so many of them.
const PAUSE: Duration = Duration::from_secs(3);
const LONG_PAUSE: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 5;
/// More of what a script prints is not kept.
const LONGEST: u64 = 64 << 10;
/// What is asked to end has this long.
const GRACE: Duration = Duration::from_secs(2);
/// How often a running script is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Before or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the operation.
    Pre,
    /// After it, whether or not it succeeded.
    Post,
}

/// A script that is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script<'a> {
    /// The operation: `archive`, `backup` …
    pub operation: &'static str,
    /// When it runs.
    pub phase: Phase,
    /// Whether it is run again until it succeeds.
    pub retry: bool,
    /// The line for the shell.
    pub command: &'a str,
}

/// What every script is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookHost {
    /// The server.
    pub server: String,
    /// The main configuration file.
    pub configuration: Utf8PathBuf,
    /// Directories in which programs are looked for; empty for those of this process.
    pub path: Vec<Utf8PathBuf>,
}

/// Why an operation must not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// A retry script before the operation said so.
    #[error("{name} has stopped the operation (exit status {STOPS})")]
    Stopped {
        /// The option.
        name: String,
    },
    /// The operation was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Script<'_> {
    /// The option that configures it: `pre_archive_retry_script`.
    pub fn name(&self) -> String {
        let phase = match self.phase {
            Phase::Pre => "pre",
            Phase::Post => "post",
        };
        format!("{phase}_{}", self.hook())
    }

    /// What `BARMAN_HOOK` calls it: `archive_retry_script`.
    fn hook(&self) -> String {
        format!("{}_{}script", self.operation, if self.retry { "retry_" } else { "" })
    }

    /// Runs it; a retry script until it succeeds or gives up. A failure is told and is none of the operation's.
    ///
    /// # Errors
    /// [`HookError::Stopped`] by a retry script before the operation, and cancellation.
    pub fn run(
        &self,
        host: &HookHost,
        facts: &[(&'static str, String)],
        ctx: &Ctx<'_>,
    ) -> Result<(), HookError> {
        let name = self.name();
        let mut failures = 0;
        loop {
            let (status, said) = self.once(host, facts, ctx)?;
            match status {
                Some(0) => {
                    ctx.debug(format!("{name} returned 0"));
                    return Ok(());
                }
                Some(STOPS) if self.retry && self.phase == Phase::Pre => {
                    ctx.warn(format!("{name} returned {STOPS}: {said}"));
                    return Err(HookError::Stopped { name });
                }
                _ => {}
            }
            let shown = status.map_or_else(|| "no exit status".to_owned(), |status| status.to_string());
            ctx.warn(format!("{name} returned {shown}{}{said}", if said.is_empty() { "" } else { ": " }));
            if !self.retry || matches!(status, Some(GIVES_UP | STOPS)) {
                return Ok(());
            }
            failures += 1;
            let pause = if failures % (ATTEMPTS + 1) == 0 { LONG_PAUSE } else { PAUSE };
            ctx.clock.pause(pause, ctx.cancel)?;
        }
    }

    /// Runs it once; gives its exit status, and what it printed.
    fn once(
        &self,
        host: &HookHost,
        facts: &[(&'static str, String)],
        ctx: &Ctx<'_>,
    ) -> Result<(Option<i32>, String), Cancelled> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", self.command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that it can be ended with all that it started.
        command.process_group(0);
        if !host.path.is_empty() {
            let path: Vec<&str> = host.path.iter().map(|dir| dir.as_str()).collect();
            command.env("PATH", path.join(":"));
        }
        command.env("BARMAN_VERSION", VERSION).env("BARMAN_SERVER", &host.server);
        command.env("BARMAN_CONFIGURATION", host.configuration.as_str());
        command.env("BARMAN_HOOK", self.hook());
        command.env("BARMAN_PHASE", if self.phase == Phase::Pre { "pre" } else { "post" });
        command.env("BARMAN_RETRY", if self.retry { "1" } else { "0" });
        command.envs(facts.iter().map(|(key, value)| (*key, value)));
        match command.spawn() {
            Err(error) => Ok((None, error.to_string())),
            Ok(child) => watch(child, ctx),
        }
    }
}

/// Waits for a script, and for all that holds its output; cancellation ends it.
fn watch(mut child: Child, ctx: &Ctx<'_>) -> Result<(Option<i32>, String), Cancelled> {
    let readers = [child.stdout.take().map(keep), child.stderr.take().map(keep)];
    let mut status = None;
    loop {
        if status.is_none() {
            status = match child.try_wait() {
                Ok(Some(ended)) => Some(ended.code()),
                Ok(None) => None,
                Err(_) => Some(None),
            };
        }
        let silent = readers.iter().flatten().all(JoinHandle::is_finished);
        if let Some(status) = status.filter(|_| silent) {
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().replace('\n', " | ");
            let parts = readers.into_iter().flatten().filter_map(|reader| reader.join().ok()).map(text);
            let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
            return Ok((status, parts.join(" | ")));
        }
        if let Err(cancelled) = ctx.clock.pause(LOOK, ctx.cancel) {
            end(child, ctx.clock);
            return Err(cancelled);
        }
    }
}

/// Ends a script with all that it started: asked first, then without asking.
fn end(mut child: Child, clock: &dyn Clock) {
    let group = Pid::from_child(&child);
    let began = clock.monotonic();
    // ESRCH: it has just ended.
    let _ = kill_process_group(group, Signal::TERM);
    while matches!(child.try_wait(), Ok(None)) && clock.monotonic().saturating_sub(began) < GRACE {
        if clock.pause(LOOK, &Cancel::new()).is_err() {
            break;
        }
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

/// Reads all of it, so that nobody waits, and keeps the beginning. What a script left running may hold it open for ever: whoever
/// is interrupted does not wait for that.
fn keep(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        // What a script prints decides nothing.
        let _ = from.by_ref().take(LONGEST).read_to_end(&mut kept);
        let _ = std::io::copy(&mut from, &mut std::io::sink());
        kept
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ctx::{Event, ProgressSink, SystemClock};

    /// Pauses are not waited for, but counted.
    #[derive(Default)]
    struct Impatient(Mutex<Vec<Duration>>);

    impl Clock for Impatient {
        fn now(&self) -> time::OffsetDateTime {
            time::OffsetDateTime::UNIX_EPOCH
        }

        fn offset_at(&self, _: time::OffsetDateTime) -> time::UtcOffset {
            time::UtcOffset::UTC
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn pause(&self, length: Duration, cancel: &Cancel) -> Result<(), Cancelled> {
            if length > LOOK {
                self.0.lock().unwrap().push(length);
            } else {
                SystemClock::default().pause(length, cancel)?;
            }
            cancel.check()
        }
    }

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl ProgressSink for Told {
        fn event(&self, event: &Event<'_>) {
            if let Event::Message { text, .. } = event {
                self.0.lock().unwrap().push((*text).to_owned());
            }
        }
    }

    fn run(phase: Phase, retry: bool, command: &str) -> (Result<(), HookError>, Vec<String>, Vec<Duration>) {
        let (clock, told, cancel) = (Impatient::default(), Told::default(), Cancel::new());
        let ctx = Ctx { clock: &clock, progress: &told, cancel: &cancel };
        let host =
            HookHost { server: "main".into(), configuration: "/etc/barman.conf".into(), path: Vec::new() };
        let script = Script { operation: "archive", phase, retry, command };
        let result = script.run(&host, &[("BARMAN_FILE", "/x y".to_owned())], &ctx);
        let (told, pauses) = (told.0.into_inner().unwrap(), clock.0.into_inner().unwrap());
        (result, told, pauses)
    }

    #[test]
    fn a_plain_script_is_told_everything_and_decides_nothing() {
        let line = r#"echo "$BARMAN_VERSION $BARMAN_SERVER $BARMAN_HOOK $BARMAN_PHASE $BARMAN_RETRY $BARMAN_FILE" \
                      "$BARMAN_CONFIGURATION"; echo oh >&2; exit 63"#;
        let (result, told, pauses) = run(Phase::Pre, false, line);
        assert!(result.is_ok());
        let expected =
            "pre_archive_script returned 63: 3.19.1 main archive_script pre 0 /x y /etc/barman.conf | oh";
        assert_eq!((told, pauses), (vec![expected.to_owned()], vec![]));
        let (result, told, _) = run(Phase::Post, false, "exit 0");
        assert!(result.is_ok());
        assert_eq!(told, ["post_archive_script returned 0"]);
    }

    #[test]
    fn a_retry_script_is_run_until_it_succeeds_or_gives_up() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let line = format!(
            "echo x >> {count}; test $(wc -l < {count}) -gt 7 && test \"$BARMAN_RETRY\" = 1",
            count = count.display()
        );
        let (result, _, pauses) = run(Phase::Pre, true, &line);
        assert!(result.is_ok());
        let seconds: Vec<u64> = pauses.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [3, 3, 3, 3, 3, 60, 3]);
        let (result, told, pauses) = run(Phase::Pre, true, "exit 62");
        assert!(result.is_ok() && pauses.is_empty(), "{told:?}");
        let (result, _, _) = run(Phase::Pre, true, "exit 63");
        assert!(matches!(result, Err(HookError::Stopped { name }) if name == "pre_archive_retry_script"));
        let (result, told, pauses) = run(Phase::Post, true, "exit 63");
        assert!(result.is_ok() && pauses.is_empty() && told.len() == 1, "{told:?}");
    }

    #[test]
    fn cancellation_ends_a_script() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("began");
        let host = HookHost { server: "main".into(), configuration: "/c".into(), path: Vec::new() };
        // One that ends when it is asked, one that does not want to, one that left behind who holds its output.
        for line in [
            "touch MARK; exec sleep 600",
            "trap '' TERM; touch MARK; while :; do sleep 0.1; done",
            "setsid sleep 60 & touch MARK",
        ] {
            let _ = std::fs::remove_file(&mark);
            let command = line.replace("MARK", &mark.display().to_string());
            let script = Script { operation: "archive", phase: Phase::Pre, retry: false, command: &command };
            let (clock, told, cancel) = (SystemClock::default(), Told::default(), Cancel::new());
            let ctx = Ctx { clock: &clock, progress: &told, cancel: &cancel };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !mark.exists() {
                        std::thread::yield_now();
                    }
                    cancel.cancel();
                });
                assert!(matches!(script.run(&host, &[], &ctx), Err(HookError::Cancelled(_))), "{line}");
            });
        }
    }
}
