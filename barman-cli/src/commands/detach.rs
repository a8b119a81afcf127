//! Processes of our own that go on after this one has ended.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use camino::Utf8PathBuf;

use crate::app::App;
use crate::error::Failure;

/// How to start them.
pub(crate) struct Detached {
    program: PathBuf,
    config: Utf8PathBuf,
    keep_descriptors: bool,
}

impl Detached {
    /// This very program with this very configuration.
    pub(crate) fn new(app: &App, keep_descriptors: bool) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|e| Failure::Error(format!("The barman program cannot be found: {e}")))?;
        Ok(Self { program, config: app.config.path.clone(), keep_descriptors })
    }

    /// Starts `barman -c CONFIG -q ARGUMENTS` and does not wait. It has a process group of its own, so that an interrupt
    /// meant for this one does not reach it.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.config).arg("-q").args(arguments).process_group(0).stdin(Stdio::null());
        if !self.keep_descriptors {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let started = command.spawn();
        started.map(drop).map_err(|e| Failure::Error(format!("Cannot start {}: {e}", arguments.join(" "))))
    }
}
