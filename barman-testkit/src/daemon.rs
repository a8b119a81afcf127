//! A running server (postmaster, sshd): a child of the test process, and a guard that ends it when the test process dies.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, IoContext, Result};
use crate::os::{Account, tail};

/// A server process that runs, or ran until it was noticed to have ended.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    guard: Option<Child>,
    log: Utf8PathBuf,
}

impl Daemon {
    /// Starts the prepared command, with stdout and stderr appended to `log`. `dir` is removed by the guard when the test process dies.
    pub(crate) fn spawn(
        account: &Account,
        mut command: Command,
        log: &Utf8Path,
        dir: &Utf8Path,
    ) -> Result<Daemon> {
        let file = OpenOptions::new().create(true).append(true).open(log).context("open", log)?;
        let again = file.try_clone().context("open", log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdout(file)
            .stderr(again)
            // ^C in a terminal goes to the test, which then stops the server in its own way.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { program, source })?;
        let guard = guard(account, child.id(), dir);
        Ok(Daemon { child, guard, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // ESRCH: it ended in this moment, which the caller notices by waiting.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it ended.
    pub(crate) fn wait(&mut self, at_most: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.ended() {
                self.dismiss_guard();
                return Ok(status);
            }
            if begun.elapsed() > at_most {
                return Err(Error::Timeout {
                    what: format!("the end of the server process {}", self.child.id()),
                    after: at_most,
                    log: log_tail(&self.log, 30),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Kills the server and all its descendants with SIGKILL, as a power cut would, and waits until none is left.
    pub(crate) fn kill9(&mut self) -> Result<()> {
        // Stopped first, so that it cannot start new children while they are counted.
        self.signal(Signal::STOP);
        let family = descendants(self.child.id());
        self.signal(Signal::KILL);
        for pid in &family {
            if let Some(pid) = Pid::from_raw(*pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        self.wait(Duration::from_secs(30))?;
        let begun = Instant::now();
        while family.iter().any(|pid| is_alive(*pid)) {
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(Error::Timeout {
                    what: "the end of the server's killed children".into(),
                    after: Duration::from_secs(30),
                    log: log_tail(&self.log, 30),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn dismiss_guard(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            if let Some(mut stdin) = guard.stdin.take() {
                let _ = stdin.write_all(b"done\n");
            }
            let _ = guard.wait();
        }
    }
}

/// A shell that reads a line. When it gets one, all is well; when the pipe closes without one, the test process died
/// (killed, aborted, timed out), and the orphaned server is ended and its temporary directory removed.
fn guard(account: &Account, pid: u32, dir: &Utf8Path) -> Option<Child> {
    let keep = std::env::var_os("BARMAN_TESTKIT_KEEP").is_some();
    let script = "read -r line && exit 0; kill -QUIT \"$1\" 2>/dev/null; \
                  n=0; while kill -0 \"$1\" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done; \
                  [ -n \"$3\" ] || rm -rf \"$2\"";
    account
        .command("/bin/sh")
        .args(["-c", script, "guard", &pid.to_string(), dir.as_str(), if keep { "keep" } else { "" }])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()
}

/// The parent and the state letter of a process, from /proc.
fn parent_and_state(pid: u32) -> Option<(u32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may contain anything, also parentheses: what counts follows the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

fn is_alive(pid: u32) -> bool {
    parent_and_state(pid).is_some_and(|(_, state)| !matches!(state, 'Z' | 'X'))
}

fn descendants(root: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pairs: Vec<(u32, u32)> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_and_state(pid)?.0)))
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(pairs.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family.split_off(1)
}

/// The last lines of a log file, or a remark that it cannot be read.
pub(crate) fn log_tail(log: &Utf8Path, lines: usize) -> String {
    match fs::read(log) {
        Ok(bytes) => tail(&String::from_utf8_lossy(&bytes), lines),
        Err(error) => format!("({log} cannot be read: {error})"),
    }
}
