//! The terminal of a person while a process of the guest has it. It is raw, and its size is passed
//! on. It gets its settings back however the tool ends, except by SIGKILL.

use std::io::{self, IsTerminal};

use rustix::termios::{tcgetattr, tcgetwinsize, tcsetattr, OptionalActions, Termios};

use super::signals;

/// The size of a terminal that does not report one.
const USUAL: (u16, u16) = (24, 80);

/// Standard input as a raw terminal, until it is dropped.
pub struct Raw(Termios);

impl Raw {
    pub fn new() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        // Before it changes: the signal may come right after it.
        let saved = before.clone();
        crate::exit::at_exit(move || restore(&saved));
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore(&self.0);
    }
}

fn restore(settings: &Termios) {
    // What was written to it still goes out.
    if let Err(e) = tcsetattr(io::stdin(), OptionalActions::Drain, settings) {
        // It hung up, most likely.
        log::debug!("giving the terminal its settings back: {e}");
    }
}

/// Fails when standard input is no terminal.
pub fn check() -> io::Result<()> {
    match io::stdin().is_terminal() {
        true => Ok(()),
        false => Err(io::Error::other("standard input is not a terminal")),
    }
}

/// Rows and columns.
pub fn size() -> (u16, u16) {
    match tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => USUAL,
    }
}

/// Calls `resize` with the size and every new one, from a thread of its own.
pub fn follow(resize: impl Fn(u16, u16) + Send + 'static) {
    let resized = signals::resizes();
    std::thread::spawn(move || loop {
        let (rows, columns) = size();
        resize(rows, columns);
        if resized.recv().is_err() {
            return;
        }
    });
}

/// `TERM` for a process that gets this terminal.
pub fn kind() -> String {
    std::env::var("TERM").unwrap_or_else(|_| "xterm".into())
}
