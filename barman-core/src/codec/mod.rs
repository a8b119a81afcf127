//! Compression: each algorithm behind two small traits, levels as Barman names them, recognition by magic. Frames are
//! self-contained: encoded frames put one after the other are a valid file for the algorithm's stock tool and for
//! Barman, which is what lets workers compress parts of one stream in parallel.

mod bzip2;
mod custom;
mod detect;
mod error;
mod gzip;
mod level;
mod lz4;
mod method;
mod none;
mod snappy;
mod xz;
mod zstd;

use std::io::{BufRead, Read};

pub use custom::{CustomFilters, FilterReader};
pub use detect::{MAGIC_LEN, detect};
pub use error::CodecError;
pub use level::Level;
pub use method::{Algorithm, Method};

/// One algorithm at one level.
pub trait Compressor: Send + Sync {
    /// Which one.
    fn algorithm(&self) -> Algorithm;

    /// Whether encoded frames may be put one after the other. Custom filters are not known to allow it: they get the
    /// whole file as one frame.
    fn concatenable(&self) -> bool;

    /// An encoder for one worker; it keeps its memory between frames.
    fn encoder(&self) -> Box<dyn FrameEncoder>;

    /// For compressors that are not concatenable: packs a whole stream without holding it in memory. None (the default)
    /// where there is only [`Compressor::encoder`].
    fn encode_stream<'a>(
        &self,
        _plain: Box<dyn BufRead + Send + 'a>,
    ) -> Option<Result<Box<dyn Read + Send + 'a>, CodecError>> {
        None
    }

    /// Reads the plain bytes of all frames up to the end of `packed`. An end in the middle of a frame is an error
    /// (UnexpectedEof), and so are bytes that are no frame. Two formats cannot tell: `none`, and snappy cut exactly
    /// between two of its chunks; their length has to be checked by whoever knows it. Errors of the reader carry a
    /// [`CodecError`].
    fn decoder<'a>(
        &self,
        packed: Box<dyn BufRead + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CodecError>;

    /// A decoder of single frames whose lengths are known, for one worker; it keeps its memory between frames. None (the
    /// default) where frames cannot be decoded apart.
    fn frame_decoder(&self) -> Option<Box<dyn FrameDecoder>> {
        None
    }
}

/// Encodes frames, one at a time.
pub trait FrameEncoder: Send {
    /// Makes `plain` (which may be empty) one frame, which replaces what `frame` held.
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError>;
}

/// Decodes frames, one at a time.
pub trait FrameDecoder: Send {
    /// Makes one whole frame plain again; `plain` loses what it held. A frame that gives more or fewer bytes than
    /// `plain_len` is an error.
    ///
    /// A checksum of the content is looked at where the library does so by itself; LZ4's is not: whoever reads must know a
    /// checksum of his own.
    fn decode(&mut self, frame: &[u8], plain_len: usize, plain: &mut Vec<u8>) -> Result<(), CodecError>;
}

/// The compressor of a configured method. `custom` needs filters, the others ignore them.
pub fn compressor(
    method: Method,
    level: Level,
    filters: Option<&CustomFilters>,
) -> Result<Box<dyn Compressor>, CodecError> {
    by_algorithm(method.algorithm(), level, filters)
}

/// The compressor of an algorithm at a level. `custom` cannot be had without filters.
pub fn packing(algorithm: Algorithm, level: Level) -> Result<Box<dyn Compressor>, CodecError> {
    by_algorithm(algorithm, level, None)
}

/// What reads an algorithm back. `custom` needs filters, the others ignore them.
pub fn decompressor(
    algorithm: Algorithm,
    filters: Option<&CustomFilters>,
) -> Result<Box<dyn Compressor>, CodecError> {
    by_algorithm(algorithm, Level::Medium, filters)
}

fn by_algorithm(
    algorithm: Algorithm,
    level: Level,
    filters: Option<&CustomFilters>,
) -> Result<Box<dyn Compressor>, CodecError> {
    let number = level.number(algorithm);
    Ok(match algorithm {
        Algorithm::None => Box::new(none::NoCompression),
        Algorithm::Gzip => Box::new(gzip::Gzip::new(number)),
        Algorithm::Bzip2 => Box::new(bzip2::Bzip2::new(number)),
        Algorithm::Xz => Box::new(xz::Xz::new(number)),
        Algorithm::Zstd => Box::new(zstd::Zstd::new(number)),
        Algorithm::Lz4 => Box::new(lz4::Lz4::new(number)),
        Algorithm::Snappy => Box::new(snappy::Snappy),
        Algorithm::Custom => Box::new(custom::Custom::new(filters.ok_or(CodecError::NoFilters)?.clone())),
    })
}

#[cfg(test)]
mod tests;
