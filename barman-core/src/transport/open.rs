//! [`open`]: which transport serves a configured `ssh_command`.

use std::sync::Arc;

use crate::ctx::Cancel;
use crate::io::Disk;

use super::{
    LocalTransport, Ssh2Transport, SshEnvironment, SshProgramTransport, SshTarget, Transport, TransportError,
};

/// Which way to another host is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefer {
    /// The `ssh` program: it honours everything, and costs a third to a half of the library's CPU time.
    #[default]
    Program,
    /// libssh2, where it can honour the command: no program is started.
    Library,
}

/// A transport that was chosen, and why.
pub struct Opened {
    /// The transport.
    pub transport: Arc<dyn Transport>,
    /// What was chosen and why, as one sentence for a log.
    pub choice: String,
}

/// Chooses a transport. Nothing is connected yet.
///
/// Without a command it is this host. Else the program that the command names, when it is there; else libssh2, when it
/// can honour the command. [`Prefer::Library`] turns the order around.
///
/// # Errors
/// [`TransportError::Unsupported`] when the command cannot be read, or when its program is not installed and libssh2
/// cannot honour it.
pub fn open(
    ssh_command: Option<&str>,
    prefer: Prefer,
    environment: &SshEnvironment,
    disk: Arc<dyn Disk>,
    cancel: &Cancel,
) -> Result<Opened, TransportError> {
    let Some(line) = ssh_command.filter(|line| !line.trim().is_empty()) else {
        let transport = Arc::new(LocalTransport::new(disk, cancel.clone()));
        return Ok(Opened { transport, choice: "Files are reached directly, on this host.".into() });
    };
    let program = SshProgramTransport::new(line, cancel.clone())?.sharing_in(environment.runtime.clone());
    let is_there = is_installed(program.program(), environment, disk.as_ref());
    let library =
        SshTarget::parse(line).map(|target| Ssh2Transport::new(target, environment.clone(), cancel.clone()));
    match (library, is_there) {
        (Ok(library), there) if prefer == Prefer::Library || !there => {
            let why = if there { "it is preferred" } else { "the ssh program is not installed" };
            let choice = format!("{line:?} is served by libssh2, since {why}.");
            Ok(Opened { transport: Arc::new(library), choice })
        }
        (Err(reason), false) => Err(TransportError::Unsupported {
            target: line.to_owned(),
            reason: format!("the program {:?} is not installed, and {reason}", program.program()),
        }),
        (library, _) => {
            let why = match library {
                Err(reason) if prefer == Prefer::Library => format!(", since {reason}"),
                _ => String::new(),
            };
            let choice = format!("{line:?} is served by the program {:?}{why}.", program.program());
            Ok(Opened { transport: Arc::new(program), choice })
        }
    }
}

/// Whether a program can be started: by its path, or found in one of the directories of the environment.
fn is_installed(program: &str, environment: &SshEnvironment, disk: &dyn Disk) -> bool {
    let runs =
        |path: &camino::Utf8Path| disk.stat(path).is_ok_and(|stat| stat.is_file() && stat.mode & 0o111 != 0);
    if program.contains('/') {
        return runs(program.into());
    }
    environment.path.iter().any(|dir| runs(&dir.join(program)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::RealDisk;

    fn choose(line: Option<&str>, prefer: Prefer, path: &[&str]) -> Result<String, String> {
        let path = path.iter().map(|dir| (*dir).into()).collect();
        let environment = SshEnvironment { path, ..SshEnvironment::default() };
        let opened = open(line, prefer, &environment, Arc::new(RealDisk), &Cancel::new());
        opened.map(|opened| opened.choice).map_err(|e| e.to_string())
    }

    #[test]
    fn choices() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().to_str().unwrap();
        std::os::unix::fs::symlink("/bin/sh", dir.path().join("ssh")).unwrap();
        let jump = "ssh -J x pg";
        for (line, prefer, path, expected) in [
            (None, Prefer::Program, "", Ok("this host")),
            (Some("  "), Prefer::Program, "", Ok("this host")),
            (Some("ssh pg"), Prefer::Program, bin, Ok("by the program \"ssh\".")),
            (
                Some("ssh pg"),
                Prefer::Program,
                "/nowhere",
                Ok("libssh2, since the ssh program is not installed"),
            ),
            (Some("ssh pg"), Prefer::Library, bin, Ok("libssh2, since it is preferred")),
            (Some(jump), Prefer::Library, bin, Ok("by the program \"ssh\", since the option \"-J\"")),
            (Some(jump), Prefer::Program, "/nowhere", Err("not installed, and the option \"-J\"")),
            (Some("ssh 'x"), Prefer::Program, bin, Err("quotation")),
        ] {
            match (choose(line, prefer, &[path]), expected) {
                (Ok(found), Ok(part)) | (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
                (found, _) => panic!("{line:?} {prefer:?}: {found:?}"),
            }
        }
    }
}
