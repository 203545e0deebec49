//! What the commands that have a VM share: its name and its control socket.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::control::{ControlError, Directory, Known, Name, Server, Urge};
use uvm::Uvm;
use uvm_host::HostError;
use uvm_vm::profile::{Machine, Profile};

#[derive(Debug, Args)]
#[command(next_help_heading = "Control")]
pub struct OwnerOptions {
    /// Name of the VM for `uvm ps`, `attach`, `exec --vm` and others [default: one is made up]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// Files that `uvm attach pmem` can plug in, 1 GiB each at most
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(..=8))]
    pmem_slots: u8,
}

impl OwnerOptions {
    /// To be called before the boot, so that a name in use is found early.
    pub fn prepare(&self, profile: &mut Profile) -> Result<(), ControlError> {
        if let Some(name) = &self.name {
            Directory::of_user().check_free(name)?;
        }
        if profile.machine == Machine::Q35 {
            profile.pmem_slots = self.pmem_slots;
        }
        Ok(())
    }

    /// Lets other processes reach the VM. Without a socket the VM runs too, unless its name was
    /// chosen.
    pub fn serve(
        &self,
        command: &'static str,
        vm: &Arc<Uvm>,
        containers: Vec<Known>,
        on_stop: impl Fn(Urge) -> Result<(), HostError> + Send + Sync + 'static,
    ) -> Result<Option<Server>, ControlError> {
        let name = self.name.clone().unwrap_or_else(Name::generate);
        let directory = Directory::of_user();
        match Server::start(
            &directory,
            name,
            command,
            Arc::clone(vm),
            containers,
            on_stop,
        ) {
            Ok(server) => Ok(Some(server)),
            Err(e) if self.name.is_none() => {
                log::warn!("the VM cannot be reached by other commands: {e}");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// The time that the guest has to write its file systems out when a command ends early.
const LAST_LIMIT: Duration = Duration::from_secs(5);

/// Powers a VM off, if it still runs, when the command returns early and when a signal ends the
/// tool: what was written to its disks is then on this machine.
pub struct Tended(Arc<Uvm>);

impl Tended {
    pub fn new(vm: &Arc<Uvm>) -> Self {
        let weak = Arc::downgrade(vm);
        crate::exit::at_exit(move || {
            if let Some(vm) = weak.upgrade() {
                write_out(&vm);
            }
        });
        Self(Arc::clone(vm))
    }
}

impl Drop for Tended {
    fn drop(&mut self) {
        write_out(&self.0);
    }
}

fn write_out(vm: &Uvm) {
    if vm.vm().wait(Duration::ZERO).is_ok() {
        // It has ended.
        return;
    }
    if let Err(e) = vm.power_off_within(LAST_LIMIT) {
        log::warn!("the VM's file systems may not be written out: {e}");
    }
}

/// Powers the VM off. The server ends last, so that a client that waits for the end gets its
/// answer.
pub fn power_off(vm: &Uvm, server: Option<Server>) -> anyhow::Result<Duration> {
    let mut server = server;
    if let Some(server) = &mut server {
        server.close();
    }
    let took = vm.power_off()?;
    drop(server);
    Ok(took)
}
