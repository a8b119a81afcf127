//! Every codec against itself, against damage and against the stock tools.

use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn all() -> Vec<Box<dyn Compressor>> {
    let filters = CustomFilters { compress: "gzip -1 -c".into(), decompress: "gzip -dc".into() };
    let mut all: Vec<_> =
        Method::ALL.into_iter().map(|m| compressor(m, Level::Low, Some(&filters)).unwrap()).collect();
    all.push(decompressor(Algorithm::None, None).unwrap());
    all
}

fn framed(codec: &dyn Compressor, parts: &[&[u8]]) -> Vec<u8> {
    let mut encoder = codec.encoder();
    let mut frame = b"old".to_vec();
    let mut file = Vec::new();
    for part in parts {
        encoder.encode(part, &mut frame).unwrap();
        file.extend_from_slice(&frame);
    }
    file
}

/// The frames of parts, each decoded by itself.
#[test]
fn frames_are_decoded_apart_and_their_length_is_checked() {
    let parts = [sample(4 << 20), sample(100_000), vec![7; 4 << 20], Vec::new(), sample(1)];
    let mut apart = Vec::new();
    for codec in all() {
        let Some(mut decoder) = codec.frame_decoder() else { continue };
        apart.push(codec.algorithm().to_string());
        let (mut encoder, mut frame, mut plain) = (codec.encoder(), Vec::new(), b"old".to_vec());
        for part in &parts {
            encoder.encode(part, &mut frame).unwrap();
            decoder.decode(&frame, part.len(), &mut plain).unwrap();
            assert!(plain == *part, "{} of {} bytes", codec.algorithm(), part.len());
            assert!(decoder.decode(&frame, part.len() + 1, &mut plain).is_err(), "{}", codec.algorithm());
            if !part.is_empty() {
                assert!(decoder.decode(&frame, part.len() - 1, &mut plain).is_err(), "{}", codec.algorithm());
            }
            for cut in [0, 3, frame.len() / 2, frame.len() - 1] {
                assert!(decoder.decode(&frame[..cut], part.len(), &mut plain).is_err(), "{cut}");
            }
            let twice = [&frame[..], &frame[..]].concat();
            assert!(decoder.decode(&twice, part.len(), &mut plain).is_err() || part.is_empty());
        }
    }
    apart.sort();
    apart.dedup();
    assert_eq!(apart, ["gzip", "lz4", "zstd"]);
}

proptest! {
    #[test]
    fn arbitrary_frames_do_not_panic(bytes: Vec<u8>, len in 0usize..5000) {
        for codec in all() {
            let Some(mut decoder) = codec.frame_decoder() else { continue };
            let mut plain = Vec::new();
            let _ = decoder.decode(&bytes, len, &mut plain);
            // What looks like a frame as far as the blocks.
            let _ = decoder.decode(&[&[4, 0x22, 0x4d, 0x18, 0x64, 0x70, 0][..], &bytes].concat(), len, &mut plain);
        }
    }
}

fn unpack(codec: &dyn Compressor, packed: &[u8]) -> std::io::Result<Vec<u8>> {
    // A small buffer, so that frames end in the middle of it.
    let source: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(7, packed));
    let mut plain = Vec::new();
    codec.decoder(source).map_err(std::io::Error::other)?.read_to_end(&mut plain)?;
    Ok(plain)
}

/// Text that compresses, and noise that does not.
fn sample(len: usize) -> Vec<u8> {
    let mut x = 1_u32;
    (0..len)
        .map(|at| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if at % 5000 < 2500 { b"wal record "[at % 11] } else { x.to_be_bytes()[0] }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_goes_in_comes_out(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..4)) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        for codec in all() {
            let parts = if codec.concatenable() { &parts[..] } else { &parts[..1] };
            let file = framed(&*codec, parts);
            prop_assert_eq!(unpack(&*codec, &file).unwrap(), parts.concat(), "{}", codec.algorithm());
        }
    }

    #[test]
    fn decoders_never_panic(noise in prop::collection::vec(any::<u8>(), 0..300), cut in 0_usize..20) {
        for codec in all().into_iter().filter(|c| c.concatenable()) {
            let mut file = framed(&*codec, &[b"some bytes"]);
            file.truncate(cut);
            file.extend_from_slice(&noise);
            let _ = unpack(&*codec, &file);
        }
    }
}

#[test]
fn large_frames_and_every_level() {
    let plain = sample(300_000);
    for method in Method::ALL.into_iter().filter(|m| *m != Method::Custom) {
        for level in [-30, -1, 0, 1, 3, 6, 9, 16, 100].map(Level::Number) {
            if method == Method::Xz && level == Level::Number(100) {
                continue; // 700 MiB of memory
            }
            let codec = compressor(method, level, None).unwrap();
            let file = framed(&*codec, &[&plain, &[], &plain[..77]]);
            assert!(file.len() < plain.len(), "{method} {level}");
            assert_eq!(detect(&file, None), Some(method.algorithm()));
            assert_eq!(
                unpack(&*codec, &file).unwrap(),
                [&plain[..], &plain[..77]].concat(),
                "{method} {level}"
            );
        }
    }
}

/// A truncated file is an error at each length, never a short success.
#[test]
fn every_truncation_is_an_error() {
    let plain = sample(3000);
    for codec in all().into_iter().filter(|c| c.algorithm() != Algorithm::None) {
        let whole = framed(&*codec, &[&plain]);
        let step = if codec.concatenable() { 1 } else { whole.len() / 5 };
        for cut in (0..whole.len()).step_by(step) {
            // Snappy has no end mark: a cut after the stream identifier leaves a valid file of nothing.
            if codec.algorithm() == Algorithm::Snappy && cut == 10 {
                continue;
            }
            let result = unpack(&*codec, &whole[..cut]);
            assert!(result.is_err(), "{} cut at {cut} of {}", codec.algorithm(), whole.len());
        }
        if codec.concatenable() && codec.algorithm() != Algorithm::Snappy {
            let two = framed(&*codec, &[&plain, &plain[..100]]);
            for cut in whole.len() + 1..two.len() {
                assert!(
                    unpack(&*codec, &two[..cut]).is_err(),
                    "{} second frame cut at {cut}",
                    codec.algorithm()
                );
            }
        }
    }
}

#[test]
fn trailing_garbage_is_an_error() {
    for codec in all().into_iter().filter(|c| c.concatenable() && c.algorithm() != Algorithm::None) {
        for garbage in [&b"x"[..], b"garbage", &[0; 1], &[0; 3], &[0; 512], &[0xff; 40]] {
            let mut file = framed(&*codec, &[b"plain"]);
            file.extend_from_slice(garbage);
            let result = unpack(&*codec, &file);
            // Zeros in multiples of four are padding of the xz format.
            if codec.algorithm() == Algorithm::Xz && garbage == [0; 512] {
                assert_eq!(result.unwrap(), b"plain");
                continue;
            }
            assert!(result.is_err(), "{} followed by {garbage:?}", codec.algorithm());
        }
    }
}

/// One flipped bit in the middle is found by the checksum of each format.
#[test]
fn damage_is_an_error_that_names_the_algorithm() {
    let plain = sample(5000);
    for codec in all().into_iter().filter(|c| c.concatenable() && c.algorithm() != Algorithm::None) {
        let mut file = framed(&*codec, &[&plain]);
        let middle = file.len() / 2;
        file[middle] ^= 0x10;
        let error = unpack(&*codec, &file).unwrap_err();
        let inner = error.get_ref().unwrap().downcast_ref::<CodecError>().unwrap();
        assert!(matches!(inner, CodecError::Decode { .. }), "{inner:?}");
        assert!(inner.to_string().contains(&codec.algorithm().to_string()), "{inner}");
    }
}

/// Errors of the source are told from damage, at every position; interruptions are not errors.
#[test]
fn errors_of_the_source_pass_through() {
    struct Failing<'a>(&'a [u8], bool);
    impl Read for Failing<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.1 = !self.1;
            match self.0 {
                _ if self.1 => Err(std::io::ErrorKind::Interrupted.into()),
                [] => Err(std::io::Error::from_raw_os_error(5)),
                _ => self.0.read(buf),
            }
        }
    }
    let plain = sample(2000);
    for codec in all().into_iter().filter(|c| c.concatenable() && c.algorithm() != Algorithm::None) {
        let file = framed(&*codec, &[&plain, &plain]);
        for cut in (0..=file.len()).step_by(13) {
            let source = Box::new(BufReader::with_capacity(64, Failing(&file[..cut], false)));
            let error = match codec.decoder(source) {
                Ok(mut reader) => reader.read_to_end(&mut Vec::new()).unwrap_err(),
                Err(e) => std::io::Error::other(e),
            };
            let inner = error.get_ref().unwrap().downcast_ref::<CodecError>().unwrap();
            let CodecError::Read { source, .. } = inner else {
                panic!("{} at {cut}: {inner:?}", codec.algorithm())
            };
            assert_eq!(source.raw_os_error(), Some(5));
        }
    }
}

fn run(tool: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{tool:?}");
    Some(output.stdout)
}

/// Stock tools read what we write (concatenated frames too), and we read what they write.
#[test]
fn stock_tools_agree() {
    let plain = sample(200_000);
    for (method, tool) in [
        (Method::Gzip, "gzip"),
        (Method::Bzip2, "bzip2"),
        (Method::Xz, "xz"),
        (Method::Zstd, "zstd"),
        (Method::Lz4, "lz4"),
    ] {
        let codec = compressor(method, Level::Medium, None).unwrap();
        let file = framed(&*codec, &[&plain[..70_000], &[], &plain[70_000..]]);
        let Some(theirs) = run(&[tool, "-d", "-c"], &file) else {
            eprintln!("SKIPPED: {tool} is not installed");
            continue;
        };
        assert!(theirs == plain, "{tool} reads our frames");
        let mut packed = run(&[tool, "-c"], &plain[..70_000]).unwrap();
        packed.extend(run(&[tool, "-c"], &plain[70_000..]).unwrap());
        assert!(unpack(&*codec, &packed).unwrap() == plain, "we read two files of {tool}");
    }
}

#[test]
fn recognition_in_the_order_of_names() {
    let custom = Some(&b"\x28\xb5"[..]);
    assert_eq!(detect(b"\x28\xb5\x2f\xfd", custom), Some(Algorithm::Custom), "custom comes before zstd");
    assert_eq!(detect(b"BZh9", Some(b"BZ")), Some(Algorithm::Bzip2), "and after bzip2");
    assert_eq!(detect(b"\x28\xb5\x2f\xfd", Some(b"")), Some(Algorithm::Zstd));
    for plain in [&b""[..], b"\x1f\x8b", b"\xd0\xd1\x05\x00\x01\x00", b"\xff\x06\x00\x00sNaPp"] {
        assert_eq!(detect(plain, None), None);
    }
}

#[test]
fn levels_as_barman_maps_and_clamps_them() {
    use Algorithm::*;
    for (algorithm, low, medium, high, least, most) in [
        (Gzip, 1, 6, 9, 1, 9),
        (Bzip2, 1, 5, 9, 1, 9),
        (Xz, 1, 3, 5, 1, 9),
        (Zstd, 1, 4, 9, -22, 22),
        (Lz4, 0, 6, 10, 0, 16),
    ] {
        let numbers = [Level::Low, Level::Medium, Level::High, Level::Number(-99), Level::Number(99)];
        assert_eq!(numbers.map(|l| l.number(algorithm)), [low, medium, high, least, most], "{algorithm}");
    }
    for text in ["low", "medium", "high", "-5", "9"] {
        assert_eq!(text.parse::<Level>().unwrap().to_string(), text);
    }
    assert!("fast".parse::<Level>().is_err());
}

#[test]
fn names_are_kept() {
    for method in Method::ALL {
        assert_eq!(method.name().parse::<Method>().unwrap(), method);
    }
    assert_eq!("pigz".parse::<Method>().unwrap().algorithm(), Algorithm::Gzip);
    assert!("none".parse::<Method>().is_err());
}

fn custom(compress: &str, decompress: &str) -> Box<dyn Compressor> {
    let filters = CustomFilters { compress: compress.into(), decompress: decompress.into() };
    compressor(Method::Custom, Level::Medium, Some(&filters)).unwrap()
}

#[test]
fn a_filter_that_fails_is_an_error_with_its_words() {
    let codec = custom("cat; echo no room >&2; exit 3", "cat; kill $$");
    let error = codec.encoder().encode(b"plain", &mut Vec::new()).unwrap_err();
    assert!(matches!(error, CodecError::Filter { .. }) && error.to_string().ends_with("no room"), "{error}");
    assert!(unpack(&*codec, b"plain").is_err());
    assert!(matches!(compressor(Method::Custom, Level::Low, None), Err(CodecError::NoFilters)));
}

#[test]
fn filters_take_and_give_much_more_than_a_pipe_holds() {
    let plain = sample(1_000_000);
    let noisy = "tee /dev/stderr";
    assert!(framed(&*custom(noisy, "cat"), &[&plain]) == plain);
    let codec = custom("gzip -1 -c", "gzip -dc");
    assert!(unpack(&*codec, &framed(&*codec, &[&plain])).unwrap() == plain);
    // A command that does not want all of its input.
    assert_eq!(framed(&*custom("head -c 5", "cat"), &[&plain]), &plain[..5]);
}

#[test]
fn a_filter_dropped_early_is_gone() {
    let mut reader = FilterReader::start("cat; sleep 1000", Box::new(Cursor::new(sample(100_000)))).unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
    let pid = reader.child.id();
    drop(reader);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
