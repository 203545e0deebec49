//! What the commands that ask a running VM share.

use std::process::ExitCode;

use clap::Args;
use log::LevelFilter;

use super::output::visible;
use super::{progress, Progress};
use crate::control::{Client, ControlError};

/// Which of the running VMs.
#[derive(Debug, Args)]
pub struct Which {
    /// Name of the VM, as `uvm ps` shows it [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub vm: Option<String>,
}

impl Which {
    pub fn connect(&self) -> Result<Client, ControlError> {
        progress::log_to_stderr(&Progress::new(), LevelFilter::Warn);
        Client::connect(self.vm.as_deref())
    }
}

/// `--container[=ID]`: an id or its beginning; without one the only container there is.
#[derive(Debug, Args)]
pub struct Inside {
    /// In a container of the VM, by the beginning of its id [without ID: the only one]
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true,
        default_missing_value = "")]
    pub container: Option<String>,
}

/// Ends with the exit code that the refusal names, if it names one.
pub fn refused(error: ControlError) -> anyhow::Result<ExitCode> {
    match error {
        ControlError::Refused {
            name,
            message,
            code: Some(code),
        } => {
            eprintln!("uvm: VM {name}: {}", visible(&message));
            Ok(code.into())
        }
        other => Err(other.into()),
    }
}
