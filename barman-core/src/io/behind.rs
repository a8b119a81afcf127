//! [`WriteBehind`]: large files go to the disk while they are being written, instead of all at once at the final sync.

use super::DiskFile;

/// Bytes that are handed to the disk at a time.
const WINDOW: u64 = 8 << 20;

/// Follows the writes of one file and tells the system, a window at a time, that what was written will not be read soon.
///
/// The disk is then busy during the copy, not only after it; the final sync finds little left to do; and a backup larger
/// than the memory does not push the pages of the database out of the cache. Files shorter than a window, for which a
/// call of its own would cost more than it brings, are left to the system.
#[derive(Debug, Default)]
pub struct WriteBehind {
    written: u64,
    /// Up to where writing to the disk was begun.
    begun: u64,
}

impl WriteBehind {
    /// For a file that is written from its beginning to its end.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many more bytes were written at the end of the file.
    pub fn advanced(&mut self, file: &dyn DiskFile, count: u64) {
        self.written += count;
        while self.written - self.begun >= WINDOW {
            // The call begins to write what is dirty and drops what is clean by then: two windows back, it mostly is.
            file.release(self.begun, WINDOW);
            if let Some(earlier) = self.begun.checked_sub(2 * WINDOW) {
                file.release(earlier, WINDOW);
            }
            self.begun += WINDOW;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Seek, SeekFrom, Write};
    use std::sync::Mutex;

    use camino::Utf8Path;

    use super::*;
    use crate::io::{IoError, Stat};
    use crate::model::FileTime;

    struct Told(Mutex<Vec<(u64, u64)>>);

    impl Write for Told {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Told {
        fn seek(&mut self, _pos: SeekFrom) -> io::Result<u64> {
            Ok(0)
        }
    }

    impl DiskFile for Told {
        fn path(&self) -> &Utf8Path {
            Utf8Path::new("/told")
        }
        fn stat(&self) -> Result<Stat, IoError> {
            Err(IoError::new("stat", "/told", io::ErrorKind::Unsupported))
        }
        fn set_len(&mut self, _len: u64) -> Result<(), IoError> {
            Ok(())
        }
        fn set_mode(&mut self, _mode: u32) -> Result<(), IoError> {
            Ok(())
        }
        fn set_mtime(&mut self, _mtime: FileTime) -> Result<(), IoError> {
            Ok(())
        }
        fn release(&self, offset: u64, len: u64) {
            self.0.lock().unwrap().push((offset, len));
        }
        fn sync_data(&mut self) -> Result<(), IoError> {
            Ok(())
        }
        fn sync_all(&mut self) -> Result<(), IoError> {
            Ok(())
        }
    }

    fn told(writes: &[u64]) -> Vec<(u64, u64)> {
        let file = Told(Mutex::new(Vec::new()));
        let mut behind = WriteBehind::new();
        for count in writes {
            behind.advanced(&file, *count);
        }
        file.0.into_inner().unwrap()
    }

    #[test]
    fn a_short_file_is_left_alone() {
        assert_eq!(told(&[1, WINDOW - 2]), []);
    }

    #[test]
    fn only_what_is_written_is_released_and_every_window_once_early_and_once_late() {
        let windows = |n: u64| (n * WINDOW, WINDOW);
        assert_eq!(told(&[WINDOW - 1, 1]), [windows(0)]);
        let all = [windows(0), windows(1), windows(2), windows(0), windows(3), windows(1)];
        assert_eq!(told(&[4 * WINDOW + 5]), all);
        assert_eq!(told(&[WINDOW, WINDOW, WINDOW, WINDOW]), all);
    }
}
