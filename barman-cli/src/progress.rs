//! Events of the library on the user's screen.

use std::sync::{Arc, Mutex, PoisonError};

use barman_core::ctx::{Event, Level, ProgressSink, Unit};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// Prints messages; on a terminal, long stages show a bar. Nothing moves in a pipe.
pub(crate) struct Screen {
    output: Arc<Output>,
    bar: Mutex<Option<ProgressBar>>,
}

impl Screen {
    pub(crate) fn new(output: Arc<Output>) -> Self {
        Self { output, bar: Mutex::new(None) }
    }

    fn stage(&self, stage: &str, total: Option<u64>, unit: Unit) {
        if !self.output.shows_progress() {
            return;
        }
        let count = match unit {
            Unit::Bytes => "{bytes}/{total_bytes} {bytes_per_sec} {eta}",
            _ => "{pos}/{len} {eta}",
        };
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(&format!("{{msg}} [{{bar:30}}] {count}")) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(stage.to_owned());
        self.replace(Some(bar));
    }

    fn replace(&self, bar: Option<ProgressBar>) {
        let mut current = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = current.take() {
            old.finish_and_clear();
        }
        self.output.set_bar(bar.clone());
        *current = bar;
    }
}

impl ProgressSink for Screen {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Message { level: Level::Debug, text } => self.output.debug(text),
            Event::Message { level: Level::Info, text } => self.output.info(text),
            Event::Message { level: Level::Warning, text } => self.output.warning(text),
            Event::Message { level: Level::Error, text } => self.output.error(text),
            Event::StageStarted { stage, total, unit } => self.stage(stage, *total, *unit),
            Event::Advanced { by } => {
                if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                    bar.inc(*by);
                }
            }
            Event::StageFinished => self.replace(None),
            _ => {}
        }
    }
}
