//! The command line of `uvm`: one file per command, and what they share.
//!
//! Exit codes: that of the process where one is run; 125 when the tool or the VM failed; 126 when
//! the command cannot be run and 127 when it is not there, as shells have it; 128 + n when
//! signal n ended the tool; 2 for a wrong command line.

mod attach;
mod bench;
mod boot;
mod client;
mod conformance;
mod doctor;
mod exec;
mod inspect;
mod options;
mod output;
mod owner;
mod progress;
mod run;
mod shell;
mod signals;
mod stop;
mod terminal;
mod vsock;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use options::VmOptions;
pub use progress::Progress;

use crate::exit::FAILED;

#[derive(Debug, Parser)]
#[command(
    name = "uvm",
    version,
    about = "Boots Linux utility VMs under QEMU and plays their Windows host."
)]
#[command(
    after_help = "Exit codes: the process's own; 125: the tool or the VM failed; 126: the \
command cannot be run; 127: there is no such command; 128+n: ended by signal n."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boots a VM and runs a container from an image in it
    Run(run::Run),
    /// Boots a VM, says how long it took, and keeps it until Ctrl-C
    Boot(boot::Boot),
    /// Runs a process in a VM: a fresh one, or with --vm or --container one that runs
    Exec(exec::Exec),
    /// Opens a shell in a running VM
    Shell(shell::Shell),
    /// Gives a running VM a disk, a directory or persistent memory
    Attach(attach::Attach),
    /// Takes away what was attached
    Detach(attach::Detach),
    /// Lists the running VMs, or what one of them has
    Ps(inspect::Ps),
    /// Shows what the containers of a running VM use
    Stats(inspect::Stats),
    /// Shows the last records of a running VM's log
    Logs(inspect::Logs),
    /// Shows what a running VM is doing
    Stacks(inspect::Stacks),
    /// Ends a running VM
    Stop(stop::Stop),
    /// Runs the vhost-user-vsock device alone, for any QEMU
    Vsock(vsock::Vsock),
    /// Runs the checklist of the protocol against any LCOW kernel and initrd
    Conformance(conformance::Conformance),
    /// Measures the guest beside the floors of this machine
    Bench(bench::Bench),
    /// Says what this machine has and what would be used
    Doctor(doctor::Doctor),
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(e) = signals::install() {
        eprintln!("uvm: signals cannot be handled: {e}");
        return FAILED.into();
    }
    let outcome = match cli.command {
        Command::Bench(bench) => bench.run(),
        Command::Conformance(conformance) => conformance.run(),
        Command::Run(run) => run.run(),
        Command::Boot(boot) => boot.run(),
        Command::Exec(exec) => exec.run(),
        Command::Shell(shell) => shell.run(),
        Command::Attach(attach) => attach.run(),
        Command::Detach(detach) => detach.run(),
        Command::Ps(ps) => ps.run(),
        Command::Stats(stats) => stats.run(),
        Command::Logs(logs) => logs.run(),
        Command::Stacks(stacks) => stacks.run(),
        Command::Stop(stop) => stop.run(),
        Command::Vsock(vsock) => vsock.run(),
        Command::Doctor(doctor) => doctor.run(),
    };
    signals::settle();
    uvm_host::trace::finish();
    outcome.unwrap_or_else(|e| {
        eprintln!("uvm: {}", output::visible(&format!("{e:#}")));
        FAILED.into()
    })
}

/// The exit code of a process of the guest as the tool's own, which cannot be above 255.
pub fn exit_code(code: u32) -> ExitCode {
    u8::try_from(code).unwrap_or(u8::MAX).into()
}
