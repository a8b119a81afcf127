//! [`CipherError`]: what goes wrong with encryption. It never holds a passphrase, nor the command that prints it.

use std::io;

use crate::ctx::Cancelled;

/// What goes wrong with encryption.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CipherError {
    /// There is no key to encrypt for.
    #[error("encryption_key_id is not set: set it to the key to encrypt for")]
    NoRecipient,
    /// There is no way to a passphrase.
    #[error(
        "it is encrypted, and encryption_passphrase_command is not set: set it to a command that prints the passphrase of the key"
    )]
    NoPassphraseCommand,
    /// The program cannot be started.
    #[error("it is encrypted or to be encrypted with {program}, which cannot be started: install GnuPG")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The command that prints the passphrase failed; its output is not shown.
    #[error(
        "the passphrase could not be had: encryption_passphrase_command {what}. Run it by hand as this user"
    )]
    PassphraseCommand {
        /// How it ended.
        what: String,
    },
    /// The program did not encrypt.
    #[error("gpg cannot encrypt for the key '{recipient}': {reason}")]
    Encrypt {
        /// The key asked for.
        recipient: String,
        /// In the program's own words.
        reason: String,
    },
    /// The message could not be opened. That says nothing against the message.
    #[error(
        "gpg cannot decrypt it: {reason}. The secret key must be in the keyring of this user, and \
         encryption_passphrase_command must print its passphrase"
    )]
    Key {
        /// In the program's own words.
        reason: String,
    },
    /// The message was opened, and its content is not what was encrypted.
    #[error("it is damaged: its bytes are not those that were encrypted (gpg: {reason})")]
    Damaged {
        /// In the program's own words.
        reason: String,
    },
    /// The stream could not be read or written.
    #[error("the encrypted stream could not be read or written")]
    Io(#[source] io::Error),
    /// The operation was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl CipherError {
    /// As an error of a reader or a writer.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            error @ Self::Damaged { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
            error => io::Error::other(error),
        }
    }

    /// What a reader or a writer gave.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => match error.downcast::<Cancelled>() {
                Ok(cancelled) => Self::Cancelled(cancelled),
                Err(error) => Self::Io(error),
            },
        }
    }
}
