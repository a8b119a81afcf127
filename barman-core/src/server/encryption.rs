//! `encryption` and its companions: what encrypts backups and WAL, and whether it works.

use std::io::Write;
use std::sync::Arc;

use super::{Host, Server};
use crate::cipher::{Cipher, CipherError, Gpg};
use crate::config::{BackupFormat, BackupMethod, NO_KEY, ServerConfig};
use crate::ctx::Ctx;
use crate::format::text::with_reasons;
use crate::model::Check;

/// What the check encrypts.
const TEST: &[u8] = b"a test of the encryption\n";

/// What encrypts and decrypts for a server.
pub(super) fn cipher(config: &ServerConfig, host: &Host) -> Arc<dyn Cipher> {
    let options = &config.options;
    let (key, command) = (options.encryption_key_id.clone(), options.encryption_passphrase_command.clone());
    Arc::new(Gpg::new(key, command, host.cancel.clone()))
}

impl Server {
    /// What encrypts new backups, where that is configured.
    pub(super) fn encryption(&self) -> Option<Arc<dyn Cipher>> {
        self.config.options.encryption.map(|_| cipher(&self.config, &self.host))
    }

    /// Barman's line of a check, where encryption is configured.
    pub(super) fn encryption_check(&self, ctx: &Ctx<'_>) -> Option<Check> {
        let name = "encryption";
        let cipher = self.encryption()?;
        if let Some(trouble) = self.encryption_trouble() {
            return Some(Check::failed(name, trouble));
        }
        let encrypt = || -> Result<(), CipherError> {
            let mut to = Vec::new();
            let mut encrypted = cipher.encrypt(Box::new(&mut to))?;
            encrypted.write_all(TEST).and_then(|()| encrypted.finish()).map_err(CipherError::from_io)
        };
        Some(match encrypt() {
            Ok(()) => Check::ok(name, "encryption test succeeded"),
            Err(error) => {
                ctx.warn(format!(
                    "The encryption test of server {} failed: {}",
                    self.name(),
                    with_reasons(&error)
                ));
                Check::failed(name, "encryption test failed. Check the log file for more details")
            }
        })
    }

    /// Options that do not go together with encryption, in Barman's words.
    fn encryption_trouble(&self) -> Option<&'static str> {
        let options = &self.config.options;
        if options.encryption_key_id.is_none() {
            return Some(NO_KEY);
        }
        if options.backup_method != BackupMethod::Postgres {
            return Some("Encryption is set as gpg, but backup_method != postgres");
        }
        if options.backup_compression.is_none() {
            return Some("Encryption is set as gpg, but backup_compression is unset");
        }
        (options.backup_compression_format != Some(BackupFormat::Tar))
            .then_some("Encryption is set as gpg, but backup_compression_format != tar")
    }
}
