//! `uvm exec`: a process of the VM itself, with our standard streams and its exit code.

use std::process::ExitCode;

use clap::Args;

use super::{exit_code, Progress, VmOptions, FAILED, NOT_FOUND, NOT_RUNNABLE};

#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    vm: VmOptions,
    /// Working directory in the VM
    #[arg(long, default_value = "/")]
    cwd: String,
    /// Variables for the process, NAME=VALUE
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The process has no standard input
    #[arg(long)]
    no_stdin: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "WORDS")]
    words: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("there is no `=` in it")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Exec {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let progress = Progress::new();
        let vm = self.vm.boot(&progress)?;
        let trace = self.vm.recorder();
        let stage = trace.stage("running the process");
        let mut launch = vm.external(&self.words).cwd(&self.cwd);
        if !self.no_stdin {
            launch = launch.open_stdin();
        }
        for (name, value) in &self.env {
            launch = launch.env(name, value);
        }
        let process = match launch.start() {
            Ok(process) => process,
            Err(e) => {
                progress.line(&format!("uvm: {e}"));
                return Ok(start_failure(&e).into());
            }
        };
        let code = process.relay()?;
        drop(stage);
        if let Err(e) = vm.power_off() {
            log::warn!("{e}");
        }
        Ok(exit_code(code))
    }
}

/// What a shell would end with when a command cannot be started. The guest has one code for all
/// reasons, so its words have to tell.
pub fn start_failure(error: &crate::host::HostError) -> u8 {
    match error {
        crate::host::HostError::Refused { message, .. } => {
            let text = message.to_ascii_lowercase();
            if text.contains("not found") || text.contains("no such file") {
                NOT_FOUND
            } else {
                NOT_RUNNABLE
            }
        }
        _ => FAILED,
    }
}
