//! How the tool ends: its exit codes, and the clean-up when a signal ends it, which `Drop` does
//! otherwise.

use std::sync::{Mutex, PoisonError};

use uvm_host::HostError;

/// The tool or the VM failed.
pub const FAILED: u8 = 125;
/// The command was found and cannot be run.
pub const NOT_RUNNABLE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;

/// What a shell would end with when a command cannot be started. The guest has one HRESULT for all
/// reasons; the function of its error record tells them apart (protocol 3).
pub fn start_failure(error: &HostError) -> u8 {
    match error {
        HostError::Refused { function, .. } => match function.as_deref() {
            Some("execve: ENOENT") => NOT_FOUND,
            _ => NOT_RUNNABLE,
        },
        _ => FAILED,
    }
}

type Hook = Box<dyn FnOnce() + Send>;

static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());

/// Makes [`run`] call `hook` too. The hook must be harmless when its work is done already.
pub fn at_exit(hook: impl FnOnce() + Send + 'static) {
    HOOKS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Box::new(hook));
}

/// Calls all hooks, the last one first.
pub fn run() {
    let hooks = std::mem::take(&mut *HOOKS.lock().unwrap_or_else(PoisonError::into_inner));
    for hook in hooks.into_iter().rev() {
        hook();
    }
    uvm::private_dir::remove_all();
}
