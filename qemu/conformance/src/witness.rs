//! What is kept of the VMs of a scenario, for the report of its failure.

use uvm::Uvm;
use uvm_host::End;

/// Log records and console lines kept with a fail.
const KEPT: usize = 40;
const KEPT_CONSOLE: usize = 10;

/// The logs and consoles of the running scenario's VMs.
#[derive(Default)]
pub(super) struct Witness {
    pub ends: Vec<End>,
    pub log: Vec<String>,
}

impl Witness {
    pub fn note(&mut self, vm: &Uvm) {
        self.ends.extend(vm.ended());
        let records = vm.log_records();
        let from = records.len().saturating_sub(KEPT);
        self.log
            .extend(records[from..].iter().map(ToString::to_string));
        let console = vm.vm().console().tail(KEPT_CONSOLE);
        self.log
            .extend(console.lines().map(|line| format!("console: {line}")));
    }
}
