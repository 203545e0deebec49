//! What a machine has for a guest of a Windows host, what is missing, and what to do about it.
//!
//! ```text
//! this machine, a copied tree, a record ─ Tree → cpu, devices, machine, config → Report → verdict
//!                                                       JSON document ← Report → text of the document
//! ```
//!
//! The core reads a [`Tree`] and nothing else, so that what was recorded on a machine that is out
//! of reach gives the same report anywhere. It never fails: what is not there is not reported.

mod command;
mod config;
mod cpu;
mod devices;
mod machine;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod verdict;

use serde::Serialize;
use serde_json::Value;

pub use command::run;

use tree::Tree;
use verdict::Finding;

/// Number of the document's form; a member that is added does not change it.
pub const SCHEMA: u32 = 1;

/// The document for tools (`probe --json`). Members keep their names and meaning while
/// [`SCHEMA`] stays; new ones may come. `null`: not known. Sizes are bytes unless the name says
/// KiB; registers and addresses are hexadecimal texts.
///
/// | member | what it has |
/// |---|---|
/// | `cpu` | vendor and model by CPUID; ranges of processors as the kernel writes them |
/// | `hypervisor` | `null` without one; names of Hyper-V's bits (`features`, `recommendations`, `hardware`), `version`, `limits`, `isolation`, and all leaves as they are |
/// | `kernel`, `firmware`, `memory` | release, command line, clock sources; SMBIOS texts and ACPI tables; the firmware's map |
/// | `vmbus` | one per offer: class by name and GUID, instance, driver, what the driver made of it |
/// | `vsock` | `transport`: `hv_sock`, `virtio` or `none`; the own context id |
/// | `scsi` | hosts, the controllers as requests name them with their VMBus instances, disks |
/// | `pmem`, `network`, `ptp` | devices by name |
/// | `options` | `source`: `configuration` or `behaviour`; options of `kernel-config/lcow.requirements` that are missing, modules, or unknown |
/// | `verdict` | findings: `level` (`missing`, `warning`, `note`), `what`, `breaks`, `remedy`; the command ends with 1 when one is `missing` |
#[derive(Debug, Serialize)]
pub struct Report {
    pub schema: u32,
    pub cpu: cpu::Cpu,
    pub hypervisor: Option<cpu::Hypervisor>,
    pub kernel: machine::Kernel,
    pub firmware: machine::Firmware,
    pub memory: machine::Memory,
    pub vmbus: Vec<devices::VmbusDevice>,
    pub vsock: devices::Vsock,
    pub scsi: devices::Scsi,
    pub pmem: Vec<devices::Pmem>,
    pub network: Vec<devices::Adapter>,
    pub ptp: Vec<devices::PtpClock>,
    pub options: config::Options,
    pub verdict: Vec<Finding>,
}

impl Report {
    pub fn document(&self) -> Value {
        // Names are strings and numbers finite: it can always be written.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The report for people.
    pub fn text(&self) -> String {
        text::render(&self.document())
    }
}

/// Looks at a machine.
pub fn report(tree: &dyn Tree) -> Report {
    let (cpu, hypervisor) = cpu::read(tree);
    let vmbus = devices::vmbus(tree);
    let mut report = Report {
        schema: SCHEMA,
        cpu,
        hypervisor,
        kernel: machine::kernel(tree),
        firmware: machine::firmware(tree),
        memory: machine::memory(tree),
        vsock: devices::vsock(tree),
        scsi: devices::scsi(tree, &vmbus),
        pmem: devices::pmem(tree),
        network: devices::adapters(tree, &vmbus),
        ptp: devices::ptp(tree),
        vmbus,
        options: config::read(tree),
        verdict: Vec::new(),
    };
    report.verdict = verdict::judge(&report);
    report
}
