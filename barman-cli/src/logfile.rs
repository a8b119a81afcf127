//! The log: a file in Barman's line format that survives rotation, else stderr.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use barman_core::ctx::Clock;
use barman_core::format::timestamp;
use camino::{Utf8Path, Utf8PathBuf};

/// Levels with Python's names and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogLevel {
    Debug = 10,
    Info = 20,
    Warning = 30,
    Error = 40,
}

impl LogLevel {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }

    /// The number of a configured level, a name or a number; `None` for an unknown one.
    pub(crate) fn number(text: &str) -> Option<u8> {
        match text.to_ascii_uppercase().as_str() {
            "NOTSET" => Some(0),
            "DEBUG" => Some(10),
            "INFO" => Some(20),
            "WARNING" | "WARN" => Some(30),
            "ERROR" => Some(40),
            "CRITICAL" | "FATAL" => Some(50),
            number => number.parse().ok(),
        }
    }
}

/// Where log lines go.
pub(crate) struct Log {
    path: Option<Utf8PathBuf>,
    file: Mutex<Option<File>>,
    lowest: u8,
}

impl Log {
    /// A log in a file (stderr without one) for lines of this level and above. A file that cannot be opened gives the
    /// reason beside a log on stderr.
    #[allow(clippy::disallowed_methods, reason = "the log is no durable data")]
    pub(crate) fn open(path: Option<&Utf8Path>, lowest: u8) -> (Self, Option<String>) {
        let Some(path) = path else { return (Self { path: None, file: Mutex::new(None), lowest }, None) };
        let opened = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(path));
        match opened {
            Ok(file) => (Self { path: Some(path.to_owned()), file: Mutex::new(Some(file)), lowest }, None),
            Err(error) => {
                let why = format!(
                    "Couldn't open the configured log file. {path}: {error}. Logging to stderr instead."
                );
                (Self { path: None, file: Mutex::new(None), lowest }, Some(why))
            }
        }
    }

    /// Writes a line; a log that cannot be written never stops the work.
    pub(crate) fn write(&self, level: LogLevel, text: &str, clock: &dyn Clock) {
        if (level as u8) < self.lowest {
            return;
        }
        let line = render(level, text, clock);
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &self.path {
            Some(path) => {
                reopen_when_rotated(&mut file, path);
                if let Some(file) = file.as_mut() {
                    let _ = file.write_all(line.as_bytes());
                }
            }
            None => {
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
    }
}

fn render(level: LogLevel, text: &str, clock: &dyn Clock) -> String {
    let now = clock.now();
    let iso = timestamp::python_str(now.replace_nanosecond(0).unwrap_or(now));
    let seconds = iso.get(..19).unwrap_or(&iso);
    format!(
        "{seconds},{:03} [{}] barman.cli {}: {text}\n",
        now.millisecond(),
        std::process::id(),
        level.name()
    )
}

fn reopen_when_rotated(file: &mut Option<File>, path: &Utf8Path) {
    let inode = |m: std::fs::Metadata| (m.dev(), m.ino());
    let open = file.as_ref().and_then(|f| f.metadata().ok()).map(inode);
    let named = std::fs::metadata(path).ok().map(inode);
    if open != named
        && let Ok(fresh) = OpenOptions::new().create(true).append(true).open(path)
    {
        *file = Some(fresh);
    }
}
