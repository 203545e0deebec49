//! `uvm boot`: boots a VM, says how long that took, and shows its log until Ctrl-C.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::owner::{power_off, OwnerOptions, Tended};
use super::{output, signals, Progress, VmOptions};

/// How often the end of the VM is looked for.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct Boot {
    #[command(flatten)]
    vm: VmOptions,
    #[command(flatten)]
    owner: OwnerOptions,
    /// Power off once it is up
    #[arg(long)]
    exit: bool,
}

impl Boot {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let progress = Progress::new();
        let mut profile = self.vm.profile()?;
        self.owner.prepare(&mut profile)?;
        let vm = Arc::new(self.vm.boot_profile(profile, &progress)?);
        let _tended = Tended::new(&vm);
        let timings = vm.timings();
        for (name, at) in [
            ("entropy taken", timings.entropy),
            ("log channel opened", timings.log),
            ("bridge opened", Some(timings.bridge)),
            ("protocol negotiated", timings.negotiated),
        ] {
            match at {
                Some(at) => output::line(format_args!("{name:<24}{:>7.3} s", at.as_secs_f64()))?,
                None => output::line(format_args!("{name:<24}   not seen"))?,
            };
        }
        let mut server = None;
        if !self.exit {
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let on_stop = move |_| {
                stop.store(true, Ordering::SeqCst);
                Ok(())
            };
            server = self.owner.serve("boot", &vm, Vec::new(), on_stop)?;
            let name = server.as_ref().map_or("", |server| server.name().as_str());
            progress.line(&format!("The VM {name} runs; Ctrl-C powers it off."));
            let signal = signals::take();
            while let Err(RecvTimeoutError::Timeout) = signal.recv_timeout(LOOK) {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                if let Some(end) = vm.ended() {
                    bail!("the VM ended: {end}");
                }
            }
        }
        let took = power_off(&vm, server)?;
        output::line(format_args!(
            "{:<24}{:>7.3} s",
            "powered off in",
            took.as_secs_f64()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}
