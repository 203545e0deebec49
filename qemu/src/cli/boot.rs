//! `uvm boot`: a VM, how long it took, and its log until somebody has seen enough.

use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::{signals, Progress, VmOptions};

#[derive(Debug, Args)]
pub struct Boot {
    #[command(flatten)]
    vm: VmOptions,
    /// Power off once it is up
    #[arg(long)]
    exit: bool,
}

impl Boot {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let progress = Progress::new();
        let vm = self.vm.boot(&progress)?;
        let timings = vm.timings();
        let show = |name: &str, at: Option<Duration>| match at {
            Some(at) => println!("{name:<24}{:>7.3} s", at.as_secs_f64()),
            None => println!("{name:<24}   not seen"),
        };
        show("entropy taken", timings.entropy);
        show("log channel opened", timings.log);
        show("bridge opened", Some(timings.bridge));
        show("protocol negotiated", timings.negotiated);
        if !self.exit {
            progress.line("The VM runs; Ctrl-C powers it off.");
            let signal = signals::take();
            loop {
                match signal.recv_timeout(Duration::from_millis(200)) {
                    Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                if let Some(end) = vm.ended() {
                    bail!("the VM ended: {end}");
                }
            }
        }
        let took = vm.power_off()?;
        println!("{:<24}{:>7.3} s", "powered off in", took.as_secs_f64());
        Ok(ExitCode::SUCCESS)
    }
}
