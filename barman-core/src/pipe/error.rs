//! [`PipeError`].

use std::io;

use crate::codec::CodecError;
use crate::ctx::Cancelled;

/// Why a stream did not get through. Whoever started it knows the names of both ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipeError {
    /// The source failed.
    #[error("could not read the source of the stream")]
    Read(#[source] io::Error),
    /// The destination failed.
    #[error("could not write to the destination of the stream")]
    Write(#[source] io::Error),
    /// An encoder failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The caller's flag was set.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
