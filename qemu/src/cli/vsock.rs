//! `uvm vsock`: the vhost-user-vsock device alone, for a QEMU that somebody else starts.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use uvm_vsock::{DeviceConfig, Faults};

use super::progress::{log_to_stderr, Progress};

#[derive(Debug, Args)]
pub struct Vsock {
    /// Socket for QEMU's chardev
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Sockets for the host's side: guest to host PATH_PORT, host to guest PATH and `CONNECT PORT`
    #[arg(long, value_name = "PATH")]
    uds: PathBuf,
    /// The guest's context id
    #[arg(long, default_value_t = 3)]
    cid: u64,
    /// Say what the device does
    #[arg(long, short)]
    verbose: bool,
}

impl Vsock {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let level = if self.verbose {
            log::LevelFilter::Debug
        } else {
            log::LevelFilter::Warn
        };
        log_to_stderr(&Progress::new(), level);
        let Self {
            socket, uds, cid, ..
        } = self;
        // A signal ends the tool at once, and sockets that it left would disturb the next one.
        uvm::private_dir::remove_at_exit([socket.clone(), uds.clone()]);
        uvm_vsock::serve(DeviceConfig {
            socket,
            uds,
            cid,
            faults: Faults::default(),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
