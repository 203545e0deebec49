//! The command `uvm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    qemu::cli::main()
}
