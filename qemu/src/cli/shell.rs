//! `uvm shell`: a shell in a running VM on this terminal.

use std::process::ExitCode;

use clap::Args;

use super::client::{refused, Inside, Which};
use super::exec::relay_terminal;
use super::terminal;
use crate::control::wire::Exec;
use crate::control::ControlError;
use crate::exit::NOT_FOUND;

#[derive(Debug, Args)]
pub struct Shell {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    inside: Inside,
    /// The shell
    #[arg(default_value = "/bin/sh", value_name = "PROGRAM")]
    program: String,
}

impl Shell {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let of_vm = self.inside.container.is_none();
        let order = Exec {
            args: vec![self.program.clone()],
            environment: vec![("TERM".into(), terminal::kind())],
            directory: None,
            user: None,
            container: self.inside.container,
            stdin: true,
            terminal: None,
        };
        match relay_terminal(&self.which, order) {
            Err(ControlError::Refused {
                name,
                code: Some(NOT_FOUND),
                ..
            }) => {
                let what = &self.program;
                eprintln!(
                    "uvm: there is no {what} in {}",
                    match of_vm {
                        true => format!(
                        "VM {name}: the initrd that ships has no shell, out/initrd-debug.img has \
                         one (`uvm boot --initrd out/initrd-debug.img`)"
                    ),
                        false => format!("the container of VM {name}"),
                    }
                );
                Ok(NOT_FOUND.into())
            }
            Err(e) => refused(e),
            Ok(code) => Ok(super::exit_code(code)),
        }
    }
}
