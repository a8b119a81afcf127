//! Order, bounds, first errors and cancellation.

use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::codec::{Algorithm, Compressor, CustomFilters, Level, Method, compressor, decompressor};
use crate::ctx::{Cancel, Cancelled};

#[derive(Debug, PartialEq)]
enum Trouble {
    At(u32),
    Cancelled,
}

impl From<Cancelled> for Trouble {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

const LENGTH: u32 = 60;

/// Runs the loop over 0 … LENGTH where the given items fail in the source, in the work and at the delivery.
fn run(workers: usize, source: u32, work: u32, delivery: u32) -> (Vec<u32>, Result<(), Trouble>) {
    let mut got = Vec::new();
    let result = parallel_map_ordered(
        (0..LENGTH).map(|n| if n == source { Err(Trouble::At(n)) } else { Ok(n) }),
        Parallel { workers, queue: 3 },
        &Cancel::new(),
        || (),
        |(), n| {
            if n % 7 == 0 {
                std::thread::yield_now();
            }
            // Later items fail too, and sooner: they must not win.
            if n >= work { Err(Trouble::At(n)) } else { Ok(n) }
        },
        |n| {
            if n == delivery {
                return Err(Trouble::At(n));
            }
            got.push(n);
            Ok(())
        },
    );
    (got, result)
}

#[test]
fn it_ends_as_the_plain_loop_would_wherever_something_fails() {
    const NEVER: u32 = u32::MAX;
    for workers in [0, 1, 2, 5] {
        assert_eq!(run(workers, NEVER, NEVER, NEVER), ((0..LENGTH).collect(), Ok(())));
        for at in 0..LENGTH {
            let expected = ((0..at).collect::<Vec<_>>(), Err(Trouble::At(at)));
            assert_eq!(run(workers, at, NEVER, NEVER), expected);
            assert_eq!(run(workers, NEVER, at, NEVER), expected);
            assert_eq!(run(workers, NEVER, NEVER, at), expected);
            assert_eq!(run(workers, at, at + 1, at + 2), expected);
        }
    }
}

#[test]
fn no_more_items_are_held_than_allowed() {
    let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let result: Result<(), Trouble> = parallel_map_ordered(
        (0..500).map(|n| {
            most.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Ok(n)
        }),
        Parallel { workers: 3, queue: 2 },
        &Cancel::new(),
        || (),
        |(), n: u32| {
            // The first one dawdles: the others must not run away.
            if n == 0 {
                for _ in 0..2000 {
                    std::thread::yield_now();
                }
            }
            Ok(n)
        },
        |_| {
            held.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        },
    );
    result.unwrap();
    // One more is in the reader's hand, one in the deliverer's.
    assert!(most.load(Ordering::SeqCst) <= 7, "{most:?}");
}

#[test]
fn cancelling_stops_at_once_wherever_it_happens() {
    for at in 0..20 {
        for place in 0..3 {
            let cancel = Cancel::new();
            let delivered = AtomicUsize::new(0);
            let hit = |here: u32, n: u32| {
                if here == place && n == at {
                    cancel.cancel();
                }
            };
            let result = parallel_map_ordered(
                (0_u32..).inspect(|n| hit(0, *n)).map(Ok),
                Parallel::new(3),
                &cancel,
                || (),
                |(), n| {
                    hit(1, n);
                    Ok(n)
                },
                |n| {
                    hit(2, n);
                    delivered.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                },
            );
            assert_eq!(result, Err(Trouble::Cancelled));
            assert!(delivered.load(Ordering::SeqCst) <= at as usize + 8);
        }
    }
}

#[test]
fn a_panic_anywhere_is_passed_on_and_nobody_waits_for_ever() {
    for place in 0..4 {
        let boom = |here: u32, n: u32| assert!(here != place || n != 10, "boom");
        let attempt = std::panic::AssertUnwindSafe(|| {
            parallel_map_ordered::<u32, u32, Trouble, ()>(
                (0..100).inspect(|n| boom(0, *n)).map(Ok),
                Parallel::new(2),
                &Cancel::new(),
                || boom(1, 10),
                |(), n| {
                    boom(2, n);
                    Ok(n)
                },
                |n| {
                    boom(3, n);
                    Ok(())
                },
            )
        });
        assert!(std::panic::catch_unwind(attempt).is_err(), "place {place}");
    }
}

#[test]
fn each_worker_makes_its_state_once() {
    let made = AtomicUsize::new(0);
    let result: Result<(), Trouble> = parallel_map_ordered(
        (0..100).map(Ok),
        Parallel::new(4),
        &Cancel::new(),
        || made.fetch_add(1, Ordering::SeqCst),
        |_, n: u32| Ok(n),
        |_| Ok(()),
    );
    result.unwrap();
    assert!((1..=4).contains(&made.load(Ordering::SeqCst)));
}

/// Gives its bytes in odd pieces, with interruptions, and fails at the end if told to.
struct Source<'a> {
    bytes: &'a [u8],
    calls: usize,
    fails: bool,
}

impl<'a> Source<'a> {
    fn new(bytes: &'a [u8], fails: bool) -> Self {
        Self { bytes, calls: 0, fails }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.bytes.is_empty() && self.fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        let most = buf.len().min(1 + self.calls % 100);
        self.bytes.read(&mut buf[..most])
    }
}

/// Takes so many bytes and is full then.
struct Full(Vec<u8>, usize);

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = self.1 - self.0.len();
        if room == 0 {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.0.extend_from_slice(&buf[..room.min(buf.len())]);
        Ok(room.min(buf.len()))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sample(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_be_bytes()).take(len).collect()
}

fn codecs() -> Vec<Box<dyn Compressor>> {
    let filters = CustomFilters { compress: "gzip -1c".into(), decompress: "gzip -dc".into() };
    let mut all: Vec<_> =
        Method::ALL.into_iter().map(|m| compressor(m, Level::Low, Some(&filters)).unwrap()).collect();
    all.push(decompressor(Algorithm::None, None).unwrap());
    all
}

const OPTIONS: StreamOptions = StreamOptions { workers: 3, frame_size: 1000 };

#[test]
fn a_stream_comes_back_and_frames_can_be_read_alone() {
    let cancel = Cancel::new();
    for len in [0, 1, 999, 1000, 1001, 10_000, 12_345] {
        let plain = sample(len);
        for codec in codecs() {
            let (mut packed, mut frames) = (Vec::new(), Vec::new());
            let mut source = Source::new(&plain, false);
            let report =
                compress_stream_with(&mut source, &mut packed, &*codec, OPTIONS, &cancel, &mut |frame| {
                    frames.push(frame)
                })
                .unwrap();
            let mut back = Vec::new();
            codec.decoder(Box::new(&packed[..])).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == plain, "{} {len}", codec.algorithm());
            assert_eq!((report.plain_len, report.packed_len), (len as u64, packed.len() as u64));
            if codec.concatenable() && codec.algorithm() != Algorithm::None {
                assert_eq!(frames.len(), len.div_ceil(1000).max(1));
                assert_eq!(report.frames, frames.len() as u64);
                for frame in frames {
                    let at = frame.packed_offset as usize..(frame.packed_offset + frame.packed_len) as usize;
                    let mut alone = Vec::new();
                    codec.decoder(Box::new(&packed[at])).unwrap().read_to_end(&mut alone).unwrap();
                    let at = frame.plain_offset as usize..(frame.plain_offset + frame.plain_len) as usize;
                    assert!(alone == plain[at]);
                }
            }
        }
    }
}

#[test]
fn a_source_that_fails_anywhere_is_the_error() {
    let cancel = Cancel::new();
    let plain = sample(5000);
    for codec in codecs() {
        for at in (0..plain.len()).step_by(if codec.concatenable() { 97 } else { 1500 }) {
            let mut source = Source::new(&plain[..at], true);
            let result = compress_stream(&mut source, &mut io::sink(), &*codec, OPTIONS, &cancel);
            let Err(PipeError::Read(e)) = result else { panic!("{} {at}: {result:?}", codec.algorithm()) };
            assert_eq!(e.raw_os_error(), Some(5));
        }
    }
}

#[test]
fn a_destination_that_fails_anywhere_is_the_error_and_holds_what_came_before() {
    let cancel = Cancel::new();
    let plain = sample(5000);
    for codec in codecs() {
        let mut whole = Vec::new();
        compress_stream(&mut &plain[..], &mut whole, &*codec, OPTIONS, &cancel).unwrap();
        for room in (0..whole.len()).step_by(if codec.concatenable() { 97 } else { 900 }) {
            let mut full = Full(Vec::new(), room);
            let result = compress_stream(&mut &plain[..], &mut full, &*codec, OPTIONS, &cancel);
            let Err(PipeError::Write(e)) = result else { panic!("{} {room}: {result:?}", codec.algorithm()) };
            assert_eq!(e.raw_os_error(), Some(28));
            assert!(full.0 == whole[..room], "{}", codec.algorithm());
        }
    }
}

#[test]
fn a_cancelled_stream_ends() {
    let cancel = Cancel::new();
    let seen = Mutex::new(0);
    let mut endless = io::repeat(7).take(u64::MAX);
    struct Flag<'a>(&'a Mutex<u32>, &'a Cancel);
    impl Write for Flag<'_> {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let mut seen = self.0.lock().unwrap();
            *seen += 1;
            if *seen == 5 {
                self.1.cancel();
            }
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for codec in codecs() {
        let cancel = Cancel::new();
        *seen.lock().unwrap() = 0;
        let mut flag = Flag(&seen, &cancel);
        let result = compress_stream(&mut endless, &mut flag, &*codec, OPTIONS, &cancel);
        assert!(matches!(result, Err(PipeError::Cancelled(_))), "{} {result:?}", codec.algorithm());
    }
    cancel.cancel();
    let result = pump(&mut endless, &mut io::sink(), &cancel);
    assert!(matches!(result, Err(PipeError::Cancelled(_))));
}

#[test]
fn pooled_buffers_go_round() {
    let pool = BufferPool::new(4, 2);
    let cancel = Cancel::new();
    let mut one = pool.take(&cancel).unwrap();
    assert_eq!(one.fill_from(&mut &b"abcdef"[..]).unwrap(), 4);
    assert!(one.is_full());
    let two = pool.take(&cancel).unwrap();
    let bytes = one.into_bytes();
    let slice = bytes.slice(1..3);
    drop(bytes);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.take(&cancel).unwrap());
        assert_eq!(&slice[..], b"bc");
        drop(slice);
        assert!(waiter.join().unwrap().is_empty(), "an old buffer comes back empty");
    });
    let three = pool.take(&cancel).unwrap();
    cancel.cancel();
    assert!(pool.take(&cancel).is_err());
    drop((pool, two, three));
}
