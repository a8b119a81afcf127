//! Running as `barman_user`: as root the command becomes that user, as anybody else it refuses.

use std::os::unix::process::CommandExt;
use std::process::Command;

use camino::Utf8Path;
use rustix::process::{Gid, Uid};

/// Makes sure that the work is done by the configured user. Started as root, the program starts itself anew with the
/// user's id, groups and home (the process stays the same one, so that signals and exit status need no go-between).
/// `config` is the file that was found, for the new start to find the same one.
///
/// # Errors
/// The line to print when the work cannot be done as that user.
pub(crate) fn become_user(name: &str, config: &Utf8Path) -> Result<(), String> {
    let user = uzers::get_user_by_name(name);
    let Some(user) = user else { return Err(format!("ERROR: the configured user '{name}' does not exists")) };
    if user.uid() == uzers::get_effective_uid() {
        return Ok(());
    }
    if uzers::get_effective_uid() != 0 {
        return Err(format!("ERROR: please run barman as '{name}' user"));
    }
    let gid = user.primary_group_id();
    let mut groups: Vec<Gid> = uzers::get_user_groups(name, gid)
        .unwrap_or_default()
        .into_iter()
        .map(|group| Gid::from_raw(group.gid()))
        .collect();
    groups.push(Gid::from_raw(gid));
    // No other thread exists yet, so that what holds for this one holds for the program that replaces it.
    rustix::thread::set_thread_groups(&groups)
        .and_then(|()| rustix::thread::set_thread_gid(Gid::from_raw(gid)))
        .and_then(|()| rustix::thread::set_thread_uid(Uid::from_raw(user.uid())))
        .map_err(|e| format!("ERROR: cannot become user '{name}': {e}"))?;
    let program =
        std::env::current_exe().map_err(|e| format!("ERROR: cannot find the barman program: {e}"))?;
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env("HOME", uzers::os::unix::UserExt::home_dir(&user))
        .env("BARMAN_CONFIG_FILE", config)
        .exec();
    Err(format!("ERROR: cannot run as user '{name}': {error}"))
}
