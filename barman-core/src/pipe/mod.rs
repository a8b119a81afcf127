//! The one pipeline: what is read in one thread is worked on by several and written in order by the caller's. Queues
//! are bounded, memory does not depend on how much there is, every thread is joined before anything returns, and the
//! error that comes back is the one a plain loop would have met first.

mod buffer;
mod error;
mod ordered;
mod stream;
mod whole;

pub use buffer::{BufferPool, Chunk, PooledBuf};
pub use error::PipeError;
pub use ordered::{Parallel, parallel_map_ordered};
pub use stream::{Frame, StreamOptions, StreamReport, compress_stream, compress_stream_with, pump};
pub use whole::compress_whole;

#[cfg(test)]
mod tests;
