//! SIGINT, SIGTERM and SIGHUP end the tool, which leaves nothing running: QEMU dies with its keeper
//! thread, the files of its VMs are removed here.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};

/// The command that handles Ctrl-C itself receives the signals here.
static TAKER: Mutex<Option<Sender<Signal>>> = Mutex::new(None);
/// Gets a message when the size of the terminal changes.
static RESIZED: Mutex<Option<Sender<()>>> = Mutex::new(None);

/// Blocks the signals in this thread and all it starts, and waits for them in one of its own.
/// To be called before any other thread is started.
pub fn install() -> nix::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGWINCH,
    ] {
        signals.add(signal);
    }
    signals.thread_block()?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if signal == Signal::SIGWINCH {
                let mut resized = RESIZED.lock().unwrap_or_else(PoisonError::into_inner);
                if resized
                    .as_ref()
                    .is_some_and(|resized| resized.send(()).is_err())
                {
                    // The receiver is gone.
                    *resized = None;
                }
                continue;
            }
            let taker = TAKER.lock().unwrap_or_else(PoisonError::into_inner).take();
            // This happens only once. A second signal ends a tool that hangs while it ends.
            if taker.is_some_and(|taker| taker.send(signal).is_ok()) {
                continue;
            }
            uvm_host::trace::finish();
            crate::exit::run();
            std::process::exit(128 + signal as i32);
        }
    });
    Ok(())
}

/// The next signal goes here instead of ending the tool.
pub fn take() -> Receiver<Signal> {
    let (send, receive) = mpsc::channel();
    *TAKER.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
    receive
}

/// Gets a message at every change of the terminal's size.
pub fn resizes() -> Receiver<()> {
    let (send, receive) = mpsc::channel();
    *RESIZED.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
    receive
}
