//! What the user sees: messages and results, on the console or as one JSON object.

mod console;

pub(crate) use console::ascii_json;

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use barman_core::ctx::Clock;
use serde_json::{Map, Value};

use crate::args::{Arguments, Color, Format};
use crate::error::SEE_LOG;
use crate::logfile::{Log, LogLevel};

/// Draws messages and results. Shared by threads.
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    debug: bool,
    colors: bool,
    clock: Arc<dyn Clock>,
    log: Log,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    document: Map<String, Value>,
    failed: bool,
    /// Stdout has something else.
    no_document: bool,
    /// An exit status of its own, stronger than `failed`.
    status: Option<u8>,
    /// Removes a progress bar before something is printed.
    bar: Option<indicatif::ProgressBar>,
}

impl Output {
    pub(crate) fn new(arguments: &Arguments, log: Log, clock: Arc<dyn Clock>) -> Self {
        let colors = match arguments.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => std::io::stdout().is_terminal() && std::io::stderr().is_terminal(),
        };
        Self {
            format: arguments.format,
            quiet: arguments.quiet,
            debug: arguments.debug,
            colors,
            clock,
            log,
            state: Mutex::default(),
        }
    }

    /// Whether the result is one JSON object.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether long work may show a moving bar.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.is_json() && !self.quiet && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
    }

    /// A sentence about what goes on.
    pub(crate) fn info(&self, text: &str) {
        self.log.write(LogLevel::Info, text, self.clock.as_ref());
        if self.is_json() {
            self.collect("_INFO", text);
        } else {
            self.print(text);
        }
    }

    /// Something the user should know or do.
    pub(crate) fn warning(&self, text: &str) {
        self.log.write(LogLevel::Warning, text, self.clock.as_ref());
        self.complain("_WARNING", "WARNING", console::YELLOW, text);
    }

    /// What went wrong. The command will exit with 1.
    pub(crate) fn error(&self, text: &str) {
        self.log.write(LogLevel::Error, text, self.clock.as_ref());
        self.complain("_ERROR", "ERROR", console::RED, text);
        self.lock().failed = true;
    }

    /// What Barman itself does not expect. The command will exit with 1.
    pub(crate) fn exception(&self, text: &str) {
        self.log.write(LogLevel::Error, text, self.clock.as_ref());
        self.complain("_EXCEPTION", "EXCEPTION", console::RED, &format!("{text}\n{SEE_LOG}"));
        self.lock().failed = true;
    }

    /// Something for those who look for a fault.
    pub(crate) fn debug(&self, text: &str) {
        self.log.write(LogLevel::Debug, text, self.clock.as_ref());
        if self.debug {
            self.complain("_DEBUG", "DEBUG", "", text);
        }
    }

    /// A line for the log only.
    pub(crate) fn log_only(&self, level: LogLevel, text: &str) {
        self.log.write(level, text, self.clock.as_ref());
    }

    /// A line of a result, on the console only. It does not go to the log.
    pub(crate) fn print(&self, text: &str) {
        if !self.is_json() && !self.quiet {
            self.above_bar(|| {
                let mut stdout = std::io::stdout().lock();
                // A reader that went away is no failure.
                let _ = writeln!(stdout, "{text}");
            });
        }
    }

    /// Text of a result that no option silences; with JSON it follows an empty object, as in Barman.
    pub(crate) fn print_always(&self, text: &str) {
        let start = if self.is_json() { "{}" } else { "" };
        self.lock().no_document = true;
        let _ = writeln!(std::io::stdout().lock(), "{start}{text}");
    }

    /// A line of a result that is a message of `_INFO` in the JSON object. It does not go to the log.
    pub(crate) fn result(&self, text: &str) {
        if self.is_json() {
            self.collect("_INFO", text);
        } else {
            self.print(text);
        }
    }

    /// `OK` and `FAILED` in their colours.
    pub(crate) fn verdict(&self, passed: bool) -> String {
        let (color, word) = if passed { (console::GREEN, "OK") } else { (console::RED, "FAILED") };
        console::paint(self.colors, color, word)
    }

    /// A member of the JSON object; nothing on the console.
    pub(crate) fn put(&self, key: &str, value: Value) {
        if self.is_json() {
            self.lock().document.insert(key.to_owned(), value);
        }
    }

    /// Makes the exit status 1 without a word.
    pub(crate) fn fail(&self) {
        self.lock().failed = true;
    }

    /// Sets an exit status of its own.
    pub(crate) fn exit_with(&self, status: u8) {
        self.lock().status = Some(status);
    }

    /// Prints no JSON object in the end: stdout has bytes that are the result.
    pub(crate) fn no_document(&self) {
        self.lock().no_document = true;
    }

    /// Prints the JSON object, if that is the format, and gives the exit status.
    pub(crate) fn finish(&self) -> u8 {
        let state = self.lock();
        if self.is_json() && !self.quiet && !state.no_document {
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(console::ascii_json(&Value::Object(state.document.clone())).as_bytes());
            let _ = stdout.flush();
        }
        state.status.unwrap_or(u8::from(state.failed))
    }

    /// The bar that messages are printed above, `None` when there is none any more.
    pub(crate) fn set_bar(&self, bar: Option<indicatif::ProgressBar>) {
        self.lock().bar = bar;
    }

    fn complain(&self, member: &str, prefix: &str, color: &str, text: &str) {
        if self.is_json() {
            self.collect(member, text);
        } else {
            self.stderr(&format!("{} {text}", console::paint(self.colors, color, &format!("{prefix}:"))));
        }
    }

    fn stderr(&self, text: &str) {
        self.above_bar(|| {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }

    fn above_bar(&self, print: impl FnOnce()) {
        let bar = self.lock().bar.clone();
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn collect(&self, member: &str, text: &str) {
        let mut state = self.lock();
        let list = state.document.entry(member.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(Value::String(text.to_owned()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
