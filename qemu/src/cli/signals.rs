//! SIGINT, SIGTERM and SIGHUP. While a process of the guest has the tool's standard streams, the
//! first of them goes to that process. Otherwise, and the second time, they end the tool, which
//! leaves nothing running: its VMs are powered off if they still answer, QEMU dies with its keeper
//! thread, and the files of its VMs are removed here.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};

/// Takes the next signal instead of the tool's end. Returns whether it could.
type Taker = Box<dyn FnOnce(Signal) -> bool + Send>;

static TAKER: Mutex<Option<Taker>> = Mutex::new(None);
/// A signal is ending the tool, and decides its exit code.
static ENDING: AtomicBool = AtomicBool::new(false);
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
            if taker.is_some_and(|taker| taker(signal)) {
                continue;
            }
            ENDING.store(true, Ordering::SeqCst);
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
    set_taker(Box::new(move |signal| send.send(signal).is_ok()));
    receive
}

/// The next signal goes to a process of the guest, by its Linux number, instead of ending the tool.
pub fn forward<E: Display>(to: impl FnOnce(i32) -> Result<(), E> + Send + 'static) {
    let send = move |signal| {
        // The process may have just ended.
        if let Err(e) = to(signal) {
            log::debug!("passing signal {signal} on: {e}");
        }
    };
    // A guest that does not answer must not hold up the second signal.
    let taker = move |signal| {
        let passing = std::thread::Builder::new().name("signal".into());
        passing.spawn(move || send(signal as i32)).is_ok()
    };
    set_taker(Box::new(taker));
}

/// Does not return while a signal ends the tool: what fails because of that is not its outcome.
pub fn settle() {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn set_taker(taker: Taker) {
    *TAKER.lock().unwrap_or_else(PoisonError::into_inner) = Some(taker);
}

/// Gets a message at every change of the terminal's size.
pub fn resizes() -> Receiver<()> {
    let (send, receive) = mpsc::channel();
    *RESIZED.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
    receive
}
