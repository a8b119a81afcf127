//! `UPLOAD_MANIFEST`: tells the server what the backup before holds, right before an incremental base backup (17 and later).
//!
//! Source: the documentation's chapter "Streaming Replication Protocol"; `UploadManifest` in `walsender.c`. The server reads
//! the manifest while it comes; what is sent after its refusal it passes over.

use std::io::{self, Read};

use bytes::BufMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::error::PgError;
use super::session::Session;
use super::stream::StreamError;
use super::wire::Incoming;

/// Bytes of a message.
const PIECE: usize = 64 << 10;

impl Session {
    /// Sends a manifest; on a replication connection. [`Session::start_base_backup`] with an incremental request comes next.
    ///
    /// # Errors
    /// The server's error, a lost connection, or the reader's error; after the latter the session cannot be used any more.
    pub fn upload_manifest(&mut self, manifest: &mut dyn Read) -> Result<(), StreamError<io::Error>> {
        let mut unreadable = None;
        let sent = self.run(async |connection| {
            connection.outbox.clear();
            frontend::query("UPLOAD_MANIFEST", &mut connection.outbox)
                .map_err(|e| PgError::settings(e.to_string()))?;
            connection.flush().await?;
            match connection.receive().await? {
                Incoming::Message(Message::CopyInResponse(_)) => {}
                other => {
                    connection.answers_from(Some(other)).await?;
                    return Err(connection.unexpected("the upload of a manifest"));
                }
            }
            let mut piece = vec![0; PIECE];
            loop {
                let count = match manifest.read(&mut piece) {
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        unreadable = Some(error);
                        connection.mark_broken();
                        return Err(PgError::Cancelled);
                    }
                };
                let bytes = piece.get(..count).unwrap_or_default();
                if bytes.is_empty() {
                    break;
                }
                connection.outbox.put_u8(b'd');
                connection.outbox.put_u32(4 + u32::try_from(count).unwrap_or_default());
                connection.outbox.put_slice(bytes);
                connection.flush().await?;
            }
            frontend::copy_done(&mut connection.outbox);
            connection.flush().await?;
            connection.answers_from(None).await.map(drop)
        });
        match unreadable {
            Some(error) => Err(StreamError::Sink(error)),
            None => Ok(sent?),
        }
    }
}
