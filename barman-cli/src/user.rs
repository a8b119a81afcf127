//! Running as `barman_user`: as root the command becomes that user, as anybody else it refuses.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};

/// Who runs the command from here on.
pub(crate) enum Identity {
    /// This process already belongs to the user.
    Right,
    /// The work was done by a child that belongs to the user; its exit status.
    Child(ExitCode),
}

/// Makes sure that the work is done by the configured user.
///
/// # Errors
/// The line to print when that cannot be.
pub(crate) fn become_user(name: &str) -> Result<Identity, String> {
    let user = uzers::get_user_by_name(name);
    let Some(user) = user else { return Err(format!("ERROR: the configured user '{name}' does not exists")) };
    if user.uid() == uzers::get_effective_uid() {
        return Ok(Identity::Right);
    }
    if uzers::get_effective_uid() != 0 {
        return Err(format!("ERROR: please run barman as '{name}' user"));
    }
    let home = uzers::os::unix::UserExt::home_dir(&user).to_owned();
    let program =
        std::env::current_exe().map_err(|e| format!("ERROR: cannot find the barman program: {e}"))?;
    let mut command = Command::new(program);
    // Setting the uid as root also drops the supplementary groups.
    command.args(std::env::args_os().skip(1)).uid(user.uid()).gid(user.primary_group_id()).env("HOME", home);
    // The configuration was found with the caller's home and environment; the child must find the same.
    let mut child = command.spawn().map_err(|e| format!("ERROR: cannot run as user '{name}': {e}"))?;
    // An interrupt of the terminal reaches both; the child answers it and this process waits for it.
    let interrupts = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in interrupts {
        let _ = signal_hook::flag::register(signal, std::sync::Arc::clone(&flag));
    }
    let status = child.wait().map_err(|e| format!("ERROR: lost the process of user '{name}': {e}"))?;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    Ok(Identity::Child(ExitCode::from(u8::try_from(code).unwrap_or(1))))
}
