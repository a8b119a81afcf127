//! Encryption of what is stored: a stream in, a stream out, behind one small trait. The passphrase is never in an argument
//! vector, a log or an error.

mod child;
mod detect;
mod error;
mod gpg;

use std::io::{self, Read, Write};

pub use detect::{START_LEN, is_encrypted};
pub use error::CipherError;
pub use gpg::Gpg;

/// One way of encryption with its keys.
pub trait Cipher: Send + Sync {
    /// Its name, as the index of WAL and `backup.info` record it.
    fn name(&self) -> &'static str;

    /// Whether what encryption needs is configured; nothing is started.
    ///
    /// # Errors
    /// What is missing.
    fn can_encrypt(&self) -> Result<(), CipherError>;

    /// Whether what decryption needs is configured; nothing is started.
    ///
    /// # Errors
    /// What is missing.
    fn can_decrypt(&self) -> Result<(), CipherError>;

    /// What is written to the result goes into `to`, encrypted.
    ///
    /// # Errors
    /// When it cannot begin.
    fn encrypt<'a>(
        &self,
        to: Box<dyn Write + Send + 'a>,
    ) -> Result<Box<dyn Encrypting + Send + 'a>, CipherError>;

    /// The plain bytes of an encrypted stream. They have begun to come when this returns, so that a wrong key is an error
    /// here. Damage further on is an error of the reader (`InvalidData`), at its end at the latest: what was read before
    /// is not to be believed until then. Errors of the reader carry a [`CipherError`].
    ///
    /// # Errors
    /// When it cannot be decrypted.
    fn decrypt<'a>(
        &self,
        hidden: Box<dyn Read + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CipherError>;
}

/// A stream on its way through a cipher. Dropped without [`Encrypting::finish`] its result is of no use.
pub trait Encrypting: Write {
    /// Writes all that is left.
    ///
    /// # Errors
    /// Of the cipher or of what it writes to.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

#[cfg(test)]
mod tests;
