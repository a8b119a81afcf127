//! [`Out`]: where the packed bytes of a file go: into its copy in the archive, through a cipher where one is configured.

use camino::Utf8PathBuf;

use super::{Incoming, Shared, WalError};
use crate::cipher::{Cipher, CipherError, Encrypting};
use crate::io::{DiskFile, IoContext, IoError};
use crate::model::WalFileName;

/// What encrypts a new file.
///
/// Timeline histories stay clear where nothing is configured that reads them back: they hold no data, and without them
/// nobody knows which WAL may go and which must stay.
pub(super) fn cipher<'s>(shared: &'s Shared, file: &Incoming) -> Option<&'s dyn Cipher> {
    let cipher = shared.options.encryption.as_deref()?;
    let readable = || shared.options.decryption.as_ref().is_some_and(|cipher| cipher.can_decrypt().is_ok());
    if matches!(file.name, WalFileName::History(_)) && !readable() { None } else { Some(cipher) }
}

/// A copy that is being written.
pub(super) enum Out<'t> {
    Clear(&'t mut dyn DiskFile),
    Encrypted { to: Box<dyn Encrypting + Send + 't>, path: Utf8PathBuf },
}

impl<'t> Out<'t> {
    pub(super) fn begin(to: &'t mut dyn DiskFile, cipher: Option<&dyn Cipher>) -> Result<Self, WalError> {
        let path = to.path().to_owned();
        match cipher {
            None => Ok(Self::Clear(to)),
            Some(cipher) => match cipher.encrypt(Box::new(to)) {
                Ok(to) => Ok(Self::Encrypted { to, path }),
                Err(CipherError::Cancelled(cancelled)) => Err(cancelled.into()),
                Err(error) => Err(IoError::new("encrypt", path, std::io::Error::other(error)).into()),
            },
        }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        match self {
            Self::Clear(to) => Ok(to.put(bytes)?),
            Self::Encrypted { to, path } => to.write_all(bytes).context("write", path).map_err(Into::into),
        }
    }

    /// Writes what is left, where the copy is wanted.
    pub(super) fn finish(self, wanted: bool) -> Result<(), WalError> {
        match self {
            Self::Encrypted { to, path } if wanted => to.finish().context("write", &path).map_err(Into::into),
            _ => Ok(()),
        }
    }
}
