//! [`ControlMaster`]: one connection of OpenSSH that the commands of an operation share, instead of a login for each.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use camino::{Utf8Path, Utf8PathBuf};

use super::RemoteCommand;
use super::command::marked_line;
use super::process::{Process, Running, Step, Trouble};

/// The address of a Unix socket has 108 bytes (unix(7)), and ssh binds it under a name with 17 more.
const LONGEST_SOCKET: usize = 90;

/// Words of ssh about the sharing itself, not about the host.
const ABOUT_SHARING: [&str; 4] = ["ControlPath", "ControlSocket", "ControlMaster", "mux"];

/// A connection held open by a child, whose socket lies in a private directory.
///
/// The child is `ssh -o ControlMaster=yes` with a remote `cat` that reads from us. When this process ends, in whatever way,
/// the pipe to it closes, `cat` ends, and so does the connection: nothing is left behind but an empty directory.
pub(super) struct ControlMaster {
    /// Held for its drop, which ends the child and waits for it.
    _process: Process,
    _dir: tempfile::TempDir,
    socket: Utf8PathBuf,
    /// Whether a command rides on the connection now.
    busy: AtomicBool,
}

impl ControlMaster {
    /// Whether the program can share a connection, and the user has not said himself how.
    pub(super) fn fits(words: &[String]) -> bool {
        let program = words.first().and_then(|word| Utf8Path::new(word).file_name());
        let own = words.iter().skip(1).any(|word| {
            let option = word.trim_start_matches("-o").trim_start().to_ascii_lowercase();
            let bundled = word.strip_prefix('-').filter(|w| !w.starts_with(['-', 'o']));
            option.starts_with("control") || bundled.is_some_and(|w| w.starts_with(['M', 'S']))
        });
        program == Some("ssh") && !own
    }

    /// A place for the socket; `None` where there is no private and short one.
    pub(super) fn place(runtime: &Utf8Path) -> Option<(tempfile::TempDir, Utf8PathBuf)> {
        let dir = tempfile::Builder::new().prefix("barman-").tempdir_in(runtime).ok()?;
        let socket = Utf8Path::from_path(dir.path())?.join("ssh");
        // ssh expands % and ${} in it, and takes it apart at blanks and quotes.
        let odd = |c: char| c.is_whitespace() || matches!(c, '%' | '"' | '\'' | '\\' | '$');
        let usable = socket.as_str().len() <= LONGEST_SOCKET && !socket.as_str().contains(odd);
        usable.then_some((dir, socket))
    }

    /// The command that opens the connection; what it prints begins with the marker once the login has succeeded.
    pub(super) fn command(words: &[String], socket: &Utf8Path) -> Command {
        let mut command = Command::new(words.first().map(String::as_str).unwrap_or_default());
        command
            .args(words.get(1..).unwrap_or_default())
            .args(["-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-o"])
            .arg(format!("ControlPath={socket}"))
            .arg(marked_line(&RemoteCommand::program(["cat"])));
        command
    }

    /// From a child whose marker has come.
    pub(super) fn new(process: Process, dir: tempfile::TempDir, socket: Utf8PathBuf) -> Self {
        Self { _process: process, _dir: dir, socket, busy: AtomicBool::new(false) }
    }

    /// Whether ssh failed for the sharing and not for the host, so that it is worth trying without.
    pub(super) fn is_about_sharing(words: &[u8]) -> bool {
        let words = String::from_utf8_lossy(words);
        ABOUT_SHARING.iter().any(|word| words.contains(word))
    }

    /// A seat on the connection, for one command at a time: those that run beside it (the workers of a parallel copy) make
    /// connections of their own, so that each has a process that encrypts.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Seat> {
        let taken = self.busy.swap(true, Ordering::AcqRel);
        (!taken).then(|| Seat { master: Arc::clone(self) })
    }
}

/// The right of one command to ride on the connection; dropping it gives it back.
pub(super) struct Seat {
    master: Arc<ControlMaster>,
}

impl Seat {
    /// The options with which ssh rides. It makes a connection of its own where the shared one is gone or refuses.
    pub(super) fn options(&self) -> [String; 4] {
        let path = format!("ControlPath={}", self.master.socket);
        ["-o".to_owned(), "ControlMaster=no".to_owned(), "-o".to_owned(), path]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.master.busy.store(false, Ordering::Release);
    }
}

/// A command that rides.
pub(super) struct Riding {
    pub(super) process: Process,
    pub(super) _seat: Seat,
}

impl Running for Riding {
    fn step(&mut self, buffer: &mut [u8], giving: bool) -> Result<Step, Trouble> {
        self.process.step(buffer, giving)
    }

    fn give(&mut self, bytes: &[u8]) -> Result<usize, Trouble> {
        self.process.give(bytes)
    }

    fn close_stdin(&mut self) {
        self.process.close_stdin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::command::split;

    #[test]
    fn what_the_user_says_of_sharing_stands() {
        for (line, fits) in [
            ("ssh a@b", true),
            ("/usr/bin/ssh -p 22 -o BatchMode=yes a@b", true),
            ("sshpass -p x ssh a@b", false),
            ("my-ssh a@b", false),
            ("ssh -S none a@b", false),
            ("ssh -M a@b", false),
            ("ssh -S/tmp/x a@b", false),
            ("ssh -o ControlPath=/tmp/x a@b", false),
            ("ssh -ocontrolmaster=auto a@b", false),
            ("ssh -o 'ControlPersist 5' a@b", false),
        ] {
            assert_eq!(ControlMaster::fits(&split(line).unwrap()), fits, "{line}");
        }
    }

    #[test]
    fn a_socket_that_ssh_could_not_bind_is_not_tried() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        assert!(ControlMaster::place(root).is_some());
        let long = root.join("x".repeat(90));
        std::fs::create_dir(&long).unwrap();
        assert!(ControlMaster::place(&long).is_none());
        assert!(ControlMaster::place(&root.join("missing")).is_none());
        let blank = root.join("a b");
        std::fs::create_dir(&blank).unwrap();
        assert!(ControlMaster::place(&blank).is_none());
    }
}
