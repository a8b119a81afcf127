//! A compressor of your own in the pipeline: run-length coding, which turns the zeros of a switched WAL segment into
//! almost nothing.
//!
//! `cargo run --example custom_compressor`

use std::io::{self, BufRead, Read};

use barman_core::codec::{Algorithm, CodecError, Compressor, FrameEncoder};
use barman_core::ctx::Cancel;
use barman_core::pipe;

/// Pairs of (count, byte).
struct RunLength;

impl Compressor for RunLength {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Custom
    }

    fn concatenable(&self) -> bool {
        true
    }

    fn encoder(&self) -> Box<dyn FrameEncoder> {
        Box::new(RunLength)
    }

    fn decoder<'a>(
        &self,
        packed: Box<dyn BufRead + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CodecError> {
        Ok(Box::new(Runs { packed, left: 0, byte: 0 }))
    }
}

impl FrameEncoder for RunLength {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        for run in plain.chunk_by(|a, b| a == b) {
            for part in run.chunks(255) {
                frame.extend([part.len() as u8, part[0]]);
            }
        }
        Ok(())
    }
}

/// Reads what [`RunLength`] wrote.
struct Runs<'a> {
    packed: Box<dyn BufRead + Send + 'a>,
    left: usize,
    byte: u8,
}

impl Read for Runs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut pair = [0; 2];
            if self.packed.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.packed.read_exact(&mut pair)?;
            (self.left, self.byte) = (usize::from(pair[0]), pair[1]);
        }
        let count = self.left.min(buffer.len());
        buffer[..count].fill(self.byte);
        self.left -= count;
        Ok(count)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut segment = b"a record, then nothing until the end of the segment".to_vec();
    segment.resize(16 << 20, 0);
    let cancel = Cancel::new();
    let mut packed = Vec::new();
    let options = pipe::StreamOptions { workers: 2, frame_size: 4 << 20 };
    pipe::compress_stream(&mut &segment[..], &mut packed, &RunLength, options, &cancel)?;
    let mut plain = Vec::new();
    RunLength.decoder(Box::new(&packed[..]))?.read_to_end(&mut plain)?;
    assert_eq!(plain, segment);
    println!("{} bytes became {}, and came back whole", segment.len(), packed.len());
    Ok(())
}
