//! [`BufferPool`]: a fixed number of buffers that go round. [`Chunk`]: bytes with their place in a file.

use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::ctx::{Cancel, Cancelled};

/// A piece of a file on its way through the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which file, by a number that the two ends of the pipeline agreed on.
    pub file: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// The bytes. They may be a slice of a pooled buffer, which goes back when the last slice is dropped.
    pub data: Bytes,
    /// Whether the file ends with it.
    pub last: bool,
}

/// Buffers of one size. At most a fixed number of them exists, so a reader that is faster than everything behind it waits
/// here. They are made when first needed.
#[derive(Debug)]
pub struct BufferPool {
    size: usize,
    most: usize,
    made: AtomicUsize,
    free: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
}

impl BufferPool {
    /// At most `most` buffers (one at least) of `size` bytes.
    pub fn new(size: usize, most: usize) -> Self {
        let most = most.max(1);
        let (home, free) = bounded(most);
        Self { size, most, made: AtomicUsize::new(0), free, home }
    }

    /// A buffer of no bytes with room for `size`; waits until one is free.
    pub fn take(&self, cancel: &Cancel) -> Result<PooledBuf, Cancelled> {
        if let Ok(data) = self.free.try_recv() {
            return Ok(self.pooled(data));
        }
        let more = |made: usize| (made < self.most).then_some(made + 1);
        if self.made.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok() {
            return Ok(self.pooled(Vec::with_capacity(self.size)));
        }
        loop {
            cancel.check()?;
            match self.free.recv_timeout(Duration::from_millis(100)) {
                Ok(data) => return Ok(self.pooled(data)),
                // The pool itself holds a sender, so it is never disconnected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn pooled(&self, mut data: Vec<u8>) -> PooledBuf {
        data.clear();
        PooledBuf { data, size: self.size, home: self.home.clone() }
    }
}

/// A buffer that goes back to its pool when it is dropped, also when the pool itself is gone.
#[derive(Debug)]
pub struct PooledBuf {
    data: Vec<u8>,
    size: usize,
    home: Sender<Vec<u8>>,
}

impl PooledBuf {
    /// Reads until the buffer is full or the source ends, and says how many bytes there are. Less than the size of the
    /// pool's buffers means that the source ended.
    pub fn fill_from(&mut self, source: &mut dyn Read) -> io::Result<usize> {
        let room = (self.size - self.data.len()) as u64;
        // `read_to_end` goes on after interruptions and short reads.
        source.take(room).read_to_end(&mut self.data)?;
        Ok(self.data.len())
    }

    /// Whether it holds as many bytes as it is meant to.
    pub fn is_full(&self) -> bool {
        self.data.len() >= self.size
    }

    /// Shares the bytes; the buffer goes back to the pool when the last slice is dropped.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Deref for PooledBuf {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.data
    }
}

impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        // There is always room: no more buffers exist than the channel holds.
        let _ = self.home.try_send(std::mem::take(&mut self.data));
    }
}
