//! Progress for a waiting person, on stderr. It moves only when that is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::visible;

/// A spinner, or nothing. Clones are the same one.
#[derive(Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        // The template is a constant. If it were wrong, the default would do.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub fn doing(&self, what: &str) {
        self.0.set_message(visible(what).into_owned());
        self.0.enable_steady_tick(Duration::from_millis(100));
    }

    /// Removes the spinner.
    pub fn done(&self) {
        self.0.disable_steady_tick();
        self.0.finish_and_clear();
    }

    /// A line for stderr that does not mix with the spinner.
    pub fn line(&self, text: &str) {
        self.0.suspend(|| eprintln!("{}", visible(text)));
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

struct Logger(Progress);

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0
            .line(&format!("uvm: [{}] {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

/// Shows log records of the libraries from `level` on.
pub fn log_to_stderr(progress: &Progress, level: log::LevelFilter) {
    // A second call keeps the first logger and changes the level.
    drop(log::set_boxed_logger(Box::new(Logger(progress.clone()))));
    log::set_max_level(level);
}
