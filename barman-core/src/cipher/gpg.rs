//! [`Gpg`]: encryption with the `gpg` program, as Barman calls it.

use std::io::{self, Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use super::child::{Exchange, Moved};
use super::{Cipher, CipherError, Encrypting};
use crate::ctx::Cancel;

/// Bytes moved at once; a pipe of Linux holds as many.
const PIECE: usize = 64 << 10;
/// No passphrase is longer.
const LONGEST_PASSPHRASE: usize = 64 << 10;

/// The `gpg` program of the search path with the keyring of the user. Both directions go through its pipes: nothing lies
/// on a disk in between. Its processes end when `cancel` is set.
///
/// The passphrase is what a shell command prints, asked for when it is needed first and then remembered. It goes to gpg as
/// the first line of its standard input.
pub struct Gpg {
    program: String,
    recipient: Option<String>,
    passphrase_command: Option<String>,
    cancel: Cancel,
    passphrase: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Gpg {
    /// Encrypts for the key `recipient`; decrypts with what `passphrase_command` prints.
    pub fn new(recipient: Option<String>, passphrase_command: Option<String>, cancel: Cancel) -> Self {
        let passphrase = Arc::default();
        Self { program: "gpg".to_owned(), recipient, passphrase_command, cancel, passphrase }
    }

    /// The same with another program.
    #[cfg(test)]
    pub(super) fn with_program(self, program: &str) -> Self {
        Self { program: program.to_owned(), ..self }
    }

    fn recipient(&self) -> Result<&str, CipherError> {
        self.recipient.as_deref().filter(|key| !key.is_empty()).ok_or(CipherError::NoRecipient)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // What it says is read here.
        command.env("LC_ALL", "C");
        command.args(["--yes", "--batch", "--utf8-strings", "--status-fd", "2"]);
        command.args(["--pinentry-mode", "loopback", "--compress-level", "0", "--output", "-"]);
        command
    }

    fn start(&self, command: &mut Command) -> Result<Exchange, CipherError> {
        let failed = |source| CipherError::Start { program: self.program.clone(), source };
        Exchange::start(command, self.cancel.clone()).map_err(failed)
    }

    /// The passphrase as a line.
    fn passphrase(&self) -> Result<Vec<u8>, CipherError> {
        let command = self.passphrase_command.as_deref().ok_or(CipherError::NoPassphraseCommand)?;
        // One asks, the others wait for its answer.
        let mut known = self.passphrase.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let found = self.ask(command)?;
        *known = Some(found.clone());
        Ok(found)
    }

    fn ask(&self, command: &str) -> Result<Vec<u8>, CipherError> {
        let unusable = |what: String| CipherError::PassphraseCommand { what };
        let mut shell = Command::new("/bin/sh");
        let shell = Exchange::start(shell.args(["-c", command]), self.cancel.clone());
        let mut shell = shell.map_err(|error| unusable(format!("cannot be started ({error})")))?;
        shell.close();
        let (mut line, mut piece) = (Vec::new(), [0; 1024]);
        loop {
            match shell.step(&[], &mut piece).map_err(CipherError::from_io)?.given {
                Some(0) => break,
                given => line.extend_from_slice(piece.get(..given.unwrap_or(0)).unwrap_or_default()),
            }
            if line.len() > LONGEST_PASSPHRASE {
                return Err(unusable("prints without end".to_owned()));
            }
        }
        let (status, _) = shell.end().map_err(CipherError::Io)?;
        if !status.success() {
            return Err(unusable(format!("failed ({status})")));
        }
        // gpg takes the first line.
        let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
        line.truncate(end);
        line.push(b'\n');
        Ok(line)
    }
}

impl Cipher for Gpg {
    fn name(&self) -> &'static str {
        "gpg"
    }

    fn can_encrypt(&self) -> Result<(), CipherError> {
        self.recipient().map(drop)
    }

    fn can_decrypt(&self) -> Result<(), CipherError> {
        self.passphrase_command.as_ref().map(drop).ok_or(CipherError::NoPassphraseCommand)
    }

    fn encrypt<'a>(
        &self,
        to: Box<dyn Write + Send + 'a>,
    ) -> Result<Box<dyn Encrypting + Send + 'a>, CipherError> {
        let recipient = self.recipient()?.to_owned();
        let mut command = self.command();
        let child = self.start(command.args(["--recipient", &recipient, "--encrypt"]))?;
        Ok(Box::new(Encryptor { recipient, child, to, piece: vec![0; PIECE], ended: false }))
    }

    fn decrypt<'a>(
        &self,
        hidden: Box<dyn Read + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CipherError> {
        let input = self.passphrase()?;
        let mut command = self.command();
        let child = self.start(command.args(["--passphrase-fd", "0", "--decrypt"]))?;
        let mut reader = Decryptor {
            child,
            hidden,
            input,
            at: 0,
            whole: false,
            ended: false,
            first: Vec::new(),
            given: 0,
        };
        let mut first = vec![0; PIECE];
        match reader.next(&mut first) {
            Ok(n) => first.truncate(n),
            Err(error) => {
                let error = CipherError::from_io(error);
                if let CipherError::Key { .. } = error {
                    // It may be another one by the next time.
                    *self.passphrase.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                return Err(error);
            }
        }
        reader.first = first;
        Ok(Box::new(reader))
    }
}

/// What gpg says went wrong, without what it says for programs.
fn reason(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| !line.starts_with("[GNUPG:]") && !line.trim().is_empty());
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix("gpg: ").unwrap_or(line)).collect();
    let is_reason = |line: &&&str| {
        [" failed", "failed:", "skipped", "WARNING", "invalid"].iter().any(|word| line.contains(word))
    };
    let said: Vec<&str> = lines.iter().filter(is_reason).copied().collect();
    match (said.as_slice(), lines.last()) {
        ([], Some(last)) => (*last).to_owned(),
        ([], None) => "it does not say why".to_owned(),
        (said, _) => said.join("; "),
    }
}

struct Encryptor<'a> {
    recipient: String,
    child: Exchange,
    to: Box<dyn Write + Send + 'a>,
    piece: Vec<u8>,
    ended: bool,
}

impl Encryptor<'_> {
    fn step(&mut self, plain: &[u8]) -> io::Result<Moved> {
        let moved = self.child.step(plain, &mut self.piece)?;
        let given = moved.given.unwrap_or(0);
        self.to.write_all(self.piece.get(..given).unwrap_or_default())?;
        self.ended |= moved.given == Some(0);
        Ok(moved)
    }

    /// Takes what is left of the output, and the verdict.
    fn conclude(&mut self) -> io::Result<()> {
        self.child.close();
        while !self.ended {
            self.step(&[])?;
        }
        let (status, stderr) = self.child.end()?;
        if status.success() && !self.child.refused() {
            return Ok(());
        }
        let (recipient, reason) = (self.recipient.clone(), reason(&stderr));
        Err(CipherError::Encrypt { recipient, reason }.into_io())
    }
}

impl Write for Encryptor<'_> {
    fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        while !plain.is_empty() {
            let moved = self.step(plain)?;
            if moved.taken > 0 {
                return Ok(moved.taken);
            }
            if self.child.refused() || self.ended {
                // It never ends well before all was written.
                self.conclude()?;
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            }
        }
        Ok(0)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Encrypting for Encryptor<'_> {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.conclude()?;
        self.to.flush()
    }
}

struct Decryptor<'a> {
    child: Exchange,
    hidden: Box<dyn Read + Send + 'a>,
    /// Read and not yet taken, from `at`.
    input: Vec<u8>,
    at: usize,
    /// All was read.
    whole: bool,
    ended: bool,
    /// Decrypted already, from `given`.
    first: Vec<u8>,
    given: usize,
}

impl Decryptor<'_> {
    fn refill(&mut self) -> io::Result<()> {
        if self.at < self.input.len() || self.whole {
            return Ok(());
        }
        // The passphrase was in here first.
        self.input.fill(0);
        self.input.resize(PIECE, 0);
        self.at = 0;
        let n = crate::io::fill(&mut self.hidden, &mut self.input)?;
        self.input.truncate(n);
        if n == 0 {
            self.whole = true;
            self.child.close();
        }
        Ok(())
    }

    fn next(&mut self, plain: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            self.refill()?;
            let input =
                if self.child.refused() { &[][..] } else { self.input.get(self.at..).unwrap_or_default() };
            let moved = self.child.step(input, plain)?;
            self.at += moved.taken;
            match moved.given {
                None => {}
                Some(0) => {
                    self.ended = true;
                    self.conclude()?;
                }
                Some(n) => return Ok(n),
            }
        }
        Ok(0)
    }

    fn conclude(&mut self) -> io::Result<()> {
        let (status, stderr) = self.child.end()?;
        if status.success() && !self.child.refused() {
            return Ok(());
        }
        let reason = reason(&stderr);
        // It tells of the algorithm as soon as it has the key of the message.
        let opened = stderr.contains("[GNUPG:] DECRYPTION_INFO") || stderr.contains("[GNUPG:] BADMDC");
        let error = if opened { CipherError::Damaged { reason } } else { CipherError::Key { reason } };
        Err(error.into_io())
    }
}

impl Read for Decryptor<'_> {
    fn read(&mut self, plain: &mut [u8]) -> io::Result<usize> {
        if self.given < self.first.len() {
            let left = self.first.get(self.given..).unwrap_or_default();
            let n = left.len().min(plain.len());
            if let (Some(to), Some(from)) = (plain.get_mut(..n), left.get(..n)) {
                to.copy_from_slice(from);
            }
            self.given += n;
            return Ok(n);
        }
        if plain.is_empty() { Ok(0) } else { self.next(plain) }
    }
}
