//! The WAL archive with a cipher that is not gpg: what is encrypted, what stays clear, what can and what cannot be
//! compared. With the power lost in the middle of it: see `wal_faults`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail where it stands")]
#![allow(clippy::disallowed_methods, reason = "a test prepares and damages its files")]

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use barman_core::cipher::{Cipher, CipherError, Encrypting};
use barman_core::codec::Method;
use barman_core::model::Timeline;
use barman_core::wal::{Packing, Request, TakenHow, WalArchive, WalError, WalOptions};
use camino::Utf8Path;

use crate::wal_archive::{Home, LONG_AGO, errors, name, plain, segment, wal};

/// Begins as an OpenPGP message does.
const START: [u8; 4] = [0x85, 0x01, 0x0c, 0x03];

/// Turns the bits over and adds a checksum. Knows its key when it is told so.
pub(super) struct Mask {
    knows: AtomicBool,
}

struct Masking<'a> {
    to: Box<dyn Write + Send + 'a>,
    crc: u32,
}

impl Write for Masking<'_> {
    fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.crc = crc32c::crc32c_append(self.crc, plain);
        let masked: Vec<u8> = plain.iter().map(|byte| byte ^ 0xFF).collect();
        self.to.write_all(&masked)?;
        Ok(plain.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Encrypting for Masking<'_> {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let crc = self.crc.to_le_bytes();
        self.to.write_all(&crc)
    }
}

impl Cipher for Mask {
    fn name(&self) -> &'static str {
        "gpg"
    }

    fn can_encrypt(&self) -> Result<(), CipherError> {
        Ok(())
    }

    fn can_decrypt(&self) -> Result<(), CipherError> {
        if self.knows.load(Ordering::SeqCst) { Ok(()) } else { Err(CipherError::NoPassphraseCommand) }
    }

    fn encrypt<'a>(
        &self,
        mut to: Box<dyn Write + Send + 'a>,
    ) -> Result<Box<dyn Encrypting + Send + 'a>, CipherError> {
        to.write_all(&START).map_err(CipherError::Io)?;
        Ok(Box::new(Masking { to, crc: 0 }))
    }

    fn decrypt<'a>(
        &self,
        mut hidden: Box<dyn Read + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CipherError> {
        self.can_decrypt()?;
        let mut bytes = Vec::new();
        hidden.read_to_end(&mut bytes).map_err(CipherError::Io)?;
        let damaged = || CipherError::Damaged { reason: "a checksum".to_owned() };
        let (masked, crc) =
            bytes.get(START.len()..).and_then(<[u8]>::split_last_chunk::<4>).ok_or_else(damaged)?;
        let plain: Vec<u8> = masked.iter().map(|byte| byte ^ 0xFF).collect();
        if crc32c::crc32c(&plain) != u32::from_le_bytes(*crc) {
            return Err(damaged());
        }
        Ok(Box::new(Cursor::new(plain)))
    }
}

/// A home whose archive is encrypted, and what opens it.
pub(super) fn home(method: Option<Method>) -> (Home, Arc<Mask>) {
    let mut home = method.map_or_else(Home::new, Home::packed);
    let mask = Arc::new(Mask { knows: AtomicBool::new(true) });
    let cipher = Some(Arc::clone(&mask) as Arc<dyn Cipher>);
    home.options = WalOptions { encryption: cipher.clone(), decryption: cipher, ..home.options };
    (home, mask)
}

fn stored(path: &Utf8Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

const HISTORY: &str = "1\t0/300000\tno recovery target specified\n";

#[test]
fn what_is_archived_is_encrypted_and_given_back() {
    for method in [None, Some(Method::Gzip), Some(Method::Zstd)] {
        let (home, _) = home(method);
        let archive = home.archive();
        home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
        home.deliver(&archive, "00000002.history", HISTORY.as_bytes(), LONG_AGO);
        let taken = home.run(&archive);
        let compression = method.map(|m| m.name().to_owned());
        for (name, how) in &taken {
            let TakenHow::Archived(entry) = how else { panic!("{how:?}") };
            assert_eq!((&entry.compression, entry.encryption.as_deref()), (&compression, Some("gpg")));
            let bytes = stored(&archive.paths().file(name));
            assert!(bytes.starts_with(&START) && bytes.len() as u64 == entry.size);
        }
        assert!(plain(&archive, &wal(1)) == segment(1));
        assert_eq!(plain(&archive, &name("00000002.history")), HISTORY.as_bytes());
        // As it was packed, never as it was encrypted.
        let mut out = Vec::new();
        let request = Request { name: wal(1), partial: false, packing: Packing::AsStored };
        archive.serve(&request, &mut out).unwrap();
        assert!(!out.starts_with(&START) && (method.is_some() != (out == segment(1))));
        let index = std::fs::read_to_string(archive.paths().index()).unwrap();
        let ending = format!("\t{}\tgpg\n", compression.as_deref().unwrap_or("None"));
        assert_eq!(index.matches(&ending).count(), 2, "{index}");
        // Again, and known.
        let source = home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
        assert_eq!(home.run(&archive), [(wal(1), TakenHow::Known)]);
        assert!(!source.exists());
        archive.rebuild_index(&home.ctx()).unwrap();
        let index = std::fs::read_to_string(archive.paths().index()).unwrap();
        assert_eq!(index.matches("\tNone\tgpg\n").count(), 2, "{index}");
    }
}

#[test]
fn i3_without_the_key_nothing_is_lost_and_nothing_gives_way() {
    let (home, mask) = home(Some(Method::Gzip));
    let archive = home.archive();
    home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    home.run(&archive);
    let before = stored(&archive.paths().file(&wal(1)));
    mask.knows.store(false, Ordering::SeqCst);
    let Err(error) = archive.open(&wal(1)) else { panic!("it was read without the key") };
    assert!(matches!(error, WalError::Undecodable { .. }));
    assert!(error.to_string().contains("encryption_passphrase_command is not set"), "{error}");
    home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    home.deliver(&archive, "00000002.history", HISTORY.as_bytes(), LONG_AGO);
    let taken = home.run(&archive);
    let [(_, TakenHow::Conflict { aside }), (_, TakenHow::Archived(history))] = taken.as_slice() else {
        panic!("{taken:?}")
    };
    assert!(stored(aside) == segment(1));
    assert!(stored(&archive.paths().file(&wal(1))) == before);
    // Nobody could read it, and retention must.
    assert_eq!(history.encryption, None);
    assert_eq!(plain(&archive, &name("00000002.history")), HISTORY.as_bytes());
    // One that was encrypted while somebody could: a receiver takes it for the one that the server sends.
    mask.knows.store(true, Ordering::SeqCst);
    home.deliver(&archive, "00000003.history", HISTORY.as_bytes(), LONG_AGO);
    home.run(&archive);
    mask.knows.store(false, Ordering::SeqCst);
    archive.receive_history(Timeline::new(3).unwrap(), HISTORY.as_bytes()).unwrap();
    assert!(!archive.paths().streaming_directory.join("00000003.history").exists());
}

#[test]
fn a_damaged_one_gives_way_to_a_sound_one() {
    let (home, _) = home(None);
    let archive = home.archive();
    home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    home.run(&archive);
    let path = archive.paths().file(&wal(1));
    let mut bytes = stored(&path);
    bytes[5000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(archive.open(&wal(1)), Err(WalError::Corrupt { .. })));
    home.deliver(&archive, wal(1), &segment(1), LONG_AGO);
    let taken = home.run(&archive);
    let [(_, TakenHow::Replaced(entry))] = taken.as_slice() else { panic!("{taken:?}") };
    assert_eq!(entry.encryption.as_deref(), Some("gpg"));
    assert!(plain(&archive, &wal(1)) == segment(1));
    assert_eq!(errors(&archive).len(), 1);
}
