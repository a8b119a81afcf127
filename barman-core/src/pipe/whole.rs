//! One stream that is one gzip member, one bzip2 stream or one xz stream: for readers that know no concatenated ones, such as
//! Python's `tarfile` where it reads a stream.

use std::io::{self, Write};

use flate2::{Compress, Compression, Crc, FlushCompress};

use super::{Parallel, PipeError, parallel_map_ordered};
use crate::codec::{Algorithm, Level};
use crate::ctx::Cancel;

/// RFC 1952: deflate, no name, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// RFC 1951: an empty block that is the last one.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// Packs all pieces into `writer`, which is not flushed or synced. gzip is packed by several workers, a piece each; the others
/// know no way to do that within one stream. For [`Algorithm::None`] and those without such streams bytes pass as they are.
///
/// # Errors
/// Those of the pieces come as [`PipeError::Read`].
pub fn compress_whole(
    pieces: impl Iterator<Item = io::Result<Vec<u8>>> + Send,
    writer: &mut dyn Write,
    (algorithm, level): (Algorithm, Level),
    workers: usize,
    cancel: &Cancel,
) -> Result<(), PipeError> {
    let number = level.number(algorithm).unsigned_abs();
    match algorithm {
        Algorithm::Gzip => gzip(pieces, writer, number, workers, cancel),
        Algorithm::Bzip2 => {
            let mut packer = bzip2::write::BzEncoder::new(writer, bzip2::Compression::new(number));
            pass(pieces, &mut packer, cancel)?;
            packer.finish().map(drop).map_err(PipeError::Write)
        }
        Algorithm::Xz => {
            let mut packer = liblzma::write::XzEncoder::new(writer, number);
            pass(pieces, &mut packer, cancel)?;
            packer.finish().map(drop).map_err(PipeError::Write)
        }
        _ => pass(pieces, writer, cancel),
    }
}

fn pass(
    pieces: impl Iterator<Item = io::Result<Vec<u8>>>,
    writer: &mut dyn Write,
    cancel: &Cancel,
) -> Result<(), PipeError> {
    for piece in pieces {
        cancel.check()?;
        writer.write_all(&piece.map_err(PipeError::Read)?).map_err(PipeError::Write)?;
    }
    Ok(())
}

/// Each piece becomes blocks that end on a byte and refer to nothing before them, so that they can be made side by side.
fn gzip(
    pieces: impl Iterator<Item = io::Result<Vec<u8>>> + Send,
    writer: &mut dyn Write,
    level: u32,
    workers: usize,
    cancel: &Cancel,
) -> Result<(), PipeError> {
    writer.write_all(&GZIP_HEADER).map_err(PipeError::Write)?;
    let mut sum = Crc::new();
    parallel_map_ordered(
        pieces.map(|piece| piece.map_err(PipeError::Read)),
        Parallel::new(workers),
        cancel,
        || Compress::new(Compression::new(level), false),
        |deflate, piece: Vec<u8>| {
            let packed = blocks(deflate, &piece)?;
            Ok((piece, packed))
        },
        |(piece, packed)| {
            sum.update(&piece);
            writer.write_all(&packed).map_err(PipeError::Write)
        },
    )?;
    let end = [&LAST_BLOCK[..], &sum.sum().to_le_bytes(), &sum.amount().to_le_bytes()].concat();
    writer.write_all(&end).map_err(PipeError::Write)
}

fn blocks(deflate: &mut Compress, piece: &[u8]) -> Result<Vec<u8>, PipeError> {
    deflate.reset();
    // What cannot be packed grows by five bytes for each stored block.
    let mut packed = Vec::with_capacity(piece.len() + piece.len() / 1000 + 1024);
    loop {
        let taken = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let rest = piece.get(taken..).unwrap_or_default();
        let done = deflate.compress_vec(rest, &mut packed, FlushCompress::Sync);
        done.map_err(|error| PipeError::Write(io::Error::other(error)))?;
        // Room that is left means that all was put out.
        if deflate.total_in() >= piece.len() as u64 && packed.len() < packed.capacity() {
            return Ok(packed);
        }
        packed.reserve(1 << 16);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use proptest::prelude::*;

    fn pack(pieces: &[Vec<u8>], algorithm: Algorithm, level: i32) -> Vec<u8> {
        let mut out = Vec::new();
        let pieces = pieces.iter().cloned().map(Ok);
        let how = (algorithm, Level::Number(level));
        compress_whole(pieces, &mut out, how, 3, &Cancel::new()).unwrap();
        out
    }

    fn unpack(mut reader: impl Read) -> Vec<u8> {
        let mut plain = Vec::new();
        reader.read_to_end(&mut plain).unwrap();
        plain
    }

    proptest! {
        #[test]
        fn decoders_that_know_one_stream_only_read_all(pieces: Vec<Vec<u8>>, level in 1i32..10) {
            let plain = pieces.concat();
            let packed = pack(&pieces, Algorithm::Gzip, level);
            prop_assert_eq!(unpack(flate2::read::GzDecoder::new(&packed[..])), plain.clone());
            let packed = pack(&pieces, Algorithm::Bzip2, level);
            prop_assert_eq!(unpack(bzip2::read::BzDecoder::new(&packed[..])), plain.clone());
            let packed = pack(&pieces, Algorithm::Xz, level);
            prop_assert_eq!(unpack(liblzma::read::XzDecoder::new(&packed[..])), plain.clone());
            prop_assert_eq!(pack(&pieces, Algorithm::None, 0), plain);
        }
    }

    #[test]
    fn large_pieces_that_do_and_do_not_pack() {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..3 << 20).map(|_| noise()).collect();
        let pieces = vec![noise.clone(), Vec::new(), vec![7; 3 << 20], noise];
        let packed = pack(&pieces, Algorithm::Gzip, 6);
        assert!(packed.len() < (6 << 20) + (1 << 16), "{}", packed.len());
        assert!(unpack(flate2::read::GzDecoder::new(&packed[..])) == pieces.concat());
    }

    #[test]
    fn a_source_that_fails_is_no_end() {
        for algorithm in [Algorithm::Gzip, Algorithm::Bzip2, Algorithm::Xz, Algorithm::None] {
            let pieces = [Ok(vec![1; 100]), Err(io::ErrorKind::UnexpectedEof.into())].into_iter();
            let how = (algorithm, Level::Medium);
            let done = compress_whole(pieces, &mut Vec::new(), how, 2, &Cancel::new());
            assert!(matches!(done, Err(PipeError::Read(_))), "{algorithm}");
        }
    }
}
