//! What every [`Compressor`] must do.

use std::io::{self, BufReader, Cursor, Read};

use barman_core::codec::{Algorithm, Compressor, detect};

/// Gives one byte at a time: a stream arrives as the network likes.
struct Drip<R>(R);

impl<R: Read> Read for Drip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = buffer.len().min(1);
        self.0.read(&mut buffer[..end])
    }
}

/// What was packed comes out again, whole and in pieces; frames stand one after the other where that is promised; what was
/// cut off is an error and never a short success.
///
/// Plain bytes of up to 1 MiB are packed some dozen times.
pub fn compressor(subject: &dyn Compressor) {
    let algorithm = subject.algorithm();
    let noise: Vec<u8> = (0..1_000_003u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let samples: [&[u8]; 6] = [b"", b"x", b"barman", &[0; 70_000], &noise[..8192], &noise];
    // One encoder for all of them, as a worker has it.
    let mut encoder = subject.encoder();
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for plain in samples {
        let mut frame = b"from an earlier call".to_vec();
        encoder.encode(plain, &mut frame).unwrap();
        assert!(unpack(subject, &frame).unwrap() == plain, "{} bytes do not come back", plain.len());
        let dripped =
            subject.decoder(Box::new(BufReader::with_capacity(1, Drip(Cursor::new(frame.clone())))));
        let mut found = Vec::new();
        dripped.unwrap().read_to_end(&mut found).unwrap();
        assert!(found == plain, "{} bytes do not come back one by one", plain.len());
        frames.push(frame);
    }
    let mut again = Vec::new();
    subject.encoder().encode(samples[4], &mut again).unwrap();
    assert!(unpack(subject, &again).unwrap() == samples[4], "a second encoder");
    if subject.concatenable() {
        assert!(unpack(subject, &frames.concat()).unwrap() == samples.concat(), "frames one after the other");
    }
    if let Some(stream) = subject.encode_stream(Box::new(Cursor::new(noise.clone()))) {
        let mut packed = Vec::new();
        stream.unwrap().read_to_end(&mut packed).unwrap();
        assert!(unpack(subject, &packed).unwrap() == noise, "a stream does not come back");
    }
    if matches!(algorithm, Algorithm::None | Algorithm::Custom) {
        return;
    }
    let packed = &frames[5];
    assert_eq!(detect(packed, None), Some(algorithm), "it is not known by its first bytes");
    for cut in [1, 3, packed.len() / 3, packed.len() / 2 + 1, packed.len() - 1] {
        assert!(
            unpack(subject, &packed[..cut]).is_err(),
            "the first {cut} of {} bytes are believed",
            packed.len()
        );
    }
    let followed = [packed, &b"no frame at all"[..]].concat();
    assert!(unpack(subject, &followed).is_err(), "what follows the last frame is not looked at");
    assert!(unpack(subject, b"this was never packed").is_err());
}

fn unpack(subject: &dyn Compressor, packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let decoder = subject.decoder(Box::new(Cursor::new(packed.to_vec())));
    decoder.map_err(io::Error::other)?.read_to_end(&mut plain)?;
    Ok(plain)
}
