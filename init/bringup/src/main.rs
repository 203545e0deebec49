//! The second program of an image for bringing a machine up: a report about the machine, the
//! console that PID 1 writes to, and shells. PID 1 starts what `/etc/init.conf` names and knows
//! nothing about serial ports and terminals. So a part that hangs here does not hang the boot.
//!
//! ```text
//! /etc/init.conf   console=  PID 1 ⇄ socket ⇄ `console` → COM1
//!                  probe=    `probe` → the same socket
//!                  shells=   `vsocksh`: vsock ⇄ terminal ⇄ /bin/sh, one each connection
//!                  last=     `shell`: /bin/sh on COM1, when the boot has failed
//! ```

mod console;
mod probe;
mod shells;
mod sys;

use std::io;
use std::process::ExitCode;

const USAGE: &str = "\
use: bringup probe [OPTIONS]        what this machine has and lacks (--help)
     bringup console PORT BAUD      copies stdin to a serial port, for PID 1
     bringup shell PORT BAUD        a shell on a serial port
     bringup vsocksh PORT           a shell for each connection to a vsock port";

/// A wrong command line.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let file_name = |arg: &String| arg.rsplit('/').next().unwrap_or_default().to_owned();
    // By its own name, or by its first argument.
    let (name, args) = match args.first().map(file_name).as_deref() {
        Some("probe") => ("probe".to_owned(), args.get(1..)),
        _ => (args.get(1).cloned().unwrap_or_default(), args.get(2..)),
    };
    let args = args.unwrap_or_default();
    let done = match (name.as_str(), args) {
        ("probe", args) => {
            let code = probe::run(args, &mut io::stdout(), &mut io::stderr());
            return u8::try_from(code).unwrap_or(u8::MAX).into();
        }
        ("console", [port, baud]) => console::copy(port.as_ref(), baud.parse().unwrap_or(115_200)),
        ("shell", [port, baud]) => {
            shells::on_console(port.as_ref(), baud.parse().unwrap_or(115_200))
        }
        ("vsocksh", [port]) => shells::listen(port),
        _ => {
            eprintln!("{USAGE}");
            return BAD_USAGE.into();
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bringup {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
