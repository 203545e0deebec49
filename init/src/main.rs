//! The guest's only program. This file finds out which of its roles it has: PID 1, the stdio
//! wrapper, or the service beside a shell.

#![cfg_attr(not(test), no_main)]

mod applets;
mod args;
mod boot;
mod bringup;
mod cgroup;
mod child;
mod entropy;
mod guest;
mod hook;
mod modules;
mod mounts;
mod poweroff;
mod relay;
mod service;
mod settle;
mod sys;
mod sysctl;
mod tools;
mod vsock;

use std::ffi::OsString;
use std::panic::{catch_unwind, AssertUnwindSafe};

use applets::Applet;
use poweroff::End;

/// musl's own allocator maps and unmaps pages at nearly every request. This one costs 79 kB, and
/// saves a request a fifth of its instructions. Its lock may be held when another thread forks, as
/// the tests do; the guest has one thread.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Exit status of a program that panicked.
const PANICKED: i32 = 101;

/// Called by the C entry with the process's arguments. No panic leaves it.
#[cfg_attr(test, allow(dead_code, reason = "the test harness has its own entry"))]
fn start(args: Vec<OsString>) -> i32 {
    gcs::stage::begin();
    let (applet, names) = applets::choose(&args, std::process::id());
    let name = args.first().cloned();
    let args = args.get(names..).unwrap_or_default();
    match applet {
        Applet::Init if name.is_some_and(|name| name == args::STARTUP) => pid_1(&args::startup()),
        Applet::Init => pid_1(args),
        Applet::Wrapper => {
            log_to_kernel();
            guarded(|| applets::wrapper(args))
        }
        Applet::Mkfs => guarded(|| applets::mkfs(args)),
        Applet::Test => guarded(|| applets::test(args)),
        Applet::Ls => guarded(|| applets::ls(args)),
        Applet::Hook => {
            log_to_kernel();
            guarded(|| applets::hook(args))
        }
        Applet::Service => {
            gcs::log::init();
            guarded(|| applets::serve(args))
        }
    }
}

/// Sends the log to the kernel log, where PID 1 reads it.
fn log_to_kernel() {
    gcs::log::init();
    gcs::log::inherit();
    if guest::find().is_some() {
        gcs::log::open_kmsg().ok();
    }
}

fn guarded(applet: impl FnOnce() -> i32) -> i32 {
    poweroff::install_panic_hook();
    catch_unwind(AssertUnwindSafe(applet)).unwrap_or(PANICKED)
}

fn pid_1(args: &[OsString]) -> i32 {
    gcs::log::init();
    if guest::find().is_none() {
        // Nothing has been changed yet, and nothing will be.
        applets::refuse_init();
        return 1;
    }
    poweroff::install_panic_hook();
    let run = AssertUnwindSafe(|| {
        if let Err(error) = sys::quiet_signals() {
            log::error!("blocking signals: {error}");
        }
        // This comes after the signals, because children inherit their dispositions.
        bringup::begin();
        boot::run(args)
    });
    let end = catch_unwind(run).unwrap_or_else(|_| {
        poweroff::print_last_words();
        End::Status(PANICKED)
    });
    bringup::hold(end);
    poweroff::end(end)
}
