//! The processes that work for a server: found by their locks, ended by a signal.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{Server, ServerError};
use crate::ctx::Ctx;
use crate::io::LockName;

/// How long an interrupted process may take to end, as in Barman.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// A process that works for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// What it does: the name of its command.
    pub task: &'static str,
    /// Its process id, where its lock file says it.
    pub pid: Option<u32>,
    /// Who it is, since when and what for, as far as its lock file tells.
    pub description: String,
}

impl Server {
    /// The processes that work for this server now, in the order of their lock files' names.
    pub fn processes(&self) -> Result<Vec<Process>, ServerError> {
        let held = self.locks.held(self.name())?;
        let process = |(name, holder): (LockName, crate::io::Holder)| {
            Some(Process { task: task(&name)?, pid: holder.pid, description: holder.to_string() })
        };
        Ok(held.into_iter().filter_map(process).collect())
    }

    /// Interrupts the process of a task and waits until it ended; gives its process id.
    ///
    /// # Errors
    /// [`ServerError::NotTerminated`] when there is none, or it does not end.
    pub fn terminate(&self, task: &str, ctx: &Ctx<'_>) -> Result<u32, ServerError> {
        let fail = |reason: &str| ServerError::NotTerminated {
            task: task.to_owned(),
            server: self.name().clone(),
            reason: reason.to_owned(),
        };
        let none = || fail("no such process");
        let found = self.processes()?.into_iter().find(|p| p.task == task).ok_or_else(none)?;
        let number = found.pid.ok_or_else(none)?;
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(none)?;
        match kill_process(pid, Signal::INT) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Err(none()),
            Err(error) => return Err(fail(&format!("process {number} cannot be interrupted ({error})"))),
        }
        let began = ctx.clock.monotonic();
        // A pid that stays although its lock is free belongs to somebody else by now.
        while test_kill_process(pid).is_ok() && self.processes()?.iter().any(|p| p.pid == Some(number)) {
            if ctx.clock.monotonic().saturating_sub(began) >= PATIENCE {
                return Err(fail(&format!("process {number} still runs after 10 seconds")));
            }
            ctx.clock.pause(POLL, ctx.cancel)?;
        }
        Ok(number)
    }
}

/// The name that Barman has for the work under a lock; `None` for locks that are held for moments only.
fn task(name: &LockName) -> Option<&'static str> {
    Some(match name {
        LockName::Backup(_) => "backup",
        LockName::Cron(_) => "cron",
        LockName::WalArchive(_) => "archive-wal",
        LockName::WalReceive(_) => "receive-wal",
        LockName::WalSync(_) => "sync-wal",
        LockName::BackupSync(..) => "sync-backup",
        LockName::BackupId(..) | LockName::XlogDb(_) | LockName::Catalog(_) | LockName::ConfigUpdate => {
            return None;
        }
    })
}
