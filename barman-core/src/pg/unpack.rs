//! The thread between the wire and the sink of a base backup that the server packs: it hands on the packed bytes as they came,
//! and the plain ones beside, so that what is stored packed is verified all the same.

use std::io::{self, BufReader, Read};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender};

use super::base_backup::Part;
use super::error::PgError;
use crate::codec::{Algorithm, decompressor};

/// Plain bytes handed on at once.
const PIECE: usize = 256 << 10;

/// Works until the wire has nothing more. When the sink is gone it ends early: the reason is there.
pub(super) fn unpack(
    algorithm: Algorithm,
    mut packed: Receiver<Part>,
    plain: &Sender<Part>,
) -> Result<(), PgError> {
    let broken = |error: &dyn std::fmt::Display| {
        PgError::protocol(format!("what the server packed with {algorithm} cannot be unpacked: {error}"))
    };
    let codec = decompressor(algorithm, None).map_err(|error| broken(&error))?;
    let mut next = packed.blocking_recv();
    while let Some(part) = next.take() {
        let begins = matches!(part, Part::Archive(_));
        if plain.blocking_send(part).is_err() {
            return Ok(());
        }
        if !begins {
            next = packed.blocking_recv();
            continue;
        }
        let mut pieces = Pieces { packed: &mut packed, plain, now: Bytes::new(), follows: None };
        {
            let reader = BufReader::with_capacity(PIECE, &mut pieces);
            let mut decoder = codec.decoder(Box::new(reader)).map_err(|error| broken(&error))?;
            loop {
                let mut piece = vec![0; PIECE];
                let count = decoder.read(&mut piece).map_err(|error| broken(&error))?;
                if count == 0 {
                    break;
                }
                piece.truncate(count);
                if plain.blocking_send(Part::Data(piece.into())).is_err() {
                    return Ok(());
                }
            }
        }
        next = match pieces.follows.take() {
            Some(part) => Some(part),
            None => packed.blocking_recv(),
        };
    }
    Ok(())
}

/// The packed bytes of one archive.
struct Pieces<'a> {
    packed: &'a mut Receiver<Part>,
    plain: &'a Sender<Part>,
    now: Bytes,
    /// What came after the archive.
    follows: Option<Part>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.now.is_empty() && self.follows.is_none() {
            match self.packed.blocking_recv() {
                Some(Part::Data(bytes)) => {
                    let sent = self.plain.blocking_send(Part::Packed(bytes.clone()));
                    sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
                    self.now = bytes;
                }
                Some(other) => self.follows = Some(other),
                None => {}
            }
        }
        let count = out.len().min(self.now.len());
        if let Some(target) = out.get_mut(..count) {
            target.copy_from_slice(&self.now.split_to(count));
        }
        Ok(count)
    }
}
