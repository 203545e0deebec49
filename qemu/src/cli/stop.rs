//! `uvm stop`: ends a running VM and returns when QEMU is gone.

use std::process::ExitCode;

use clap::Args;

use super::client::Which;
use crate::control::wire::{self, Request};

#[derive(Debug, Args)]
pub struct Stop {
    #[command(flatten)]
    which: Which,
    /// Kill QEMU: nothing is unmounted, nothing synced
    #[arg(long)]
    force: bool,
    /// Seconds that what runs in it has from SIGTERM to SIGKILL
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=300))]
    grace: u64,
}

impl Stop {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let stop = wire::Stop {
            force: self.force,
            grace: self.grace,
        };
        self.which.connect()?.order(&Request::Stop(stop))?;
        Ok(ExitCode::SUCCESS)
    }
}
