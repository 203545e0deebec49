//! What the report means: what is missing, what that breaks, what to do. Rules, in the order of
//! a boot; each looks at the report alone.

use serde::Serialize;

use super::devices::{class_of, Transport};
use super::Report;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No guest, or no container, comes up.
    Missing,
    /// Something is lost.
    Warning,
    /// Good to know.
    Note,
}

#[derive(Debug, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    pub breaks: String,
    pub remedy: String,
}

type Rule = fn(&Report, &mut Vec<Finding>);

const RULES: &[Rule] = &[hypervisor, vmbus, vsock, storage, clock, firmware, options];

pub fn judge(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in RULES {
        rule(report, &mut findings);
    }
    findings
}

fn found(
    level: Level,
    what: impl Into<String>,
    breaks: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        level,
        what: what.into(),
        breaks: breaks.into(),
        remedy: remedy.into(),
    }
}

/// What VMBus is made of.
const VMBUS_NEEDS: &[&str] = &["synic", "hypercall-msrs", "post-messages", "signal-events"];

fn hypervisor(report: &Report, findings: &mut Vec<Finding>) {
    let Some(below) = &report.hypervisor else {
        findings.push(found(
            Level::Warning,
            "no hypervisor shows itself in CPUID",
            "nothing by itself; a Windows host always shows Hyper-V",
            "look whether this is the VM that was meant",
        ));
        return;
    };
    if !below.is_hyperv {
        findings.push(found(
            Level::Note,
            format!("the hypervisor is {}, not Hyper-V", below.name),
            "nothing here; on a Windows host it is always Hyper-V",
            "read what follows as a report about a test machine",
        ));
        return;
    }
    let lacking: Vec<&str> = VMBUS_NEEDS
        .iter()
        .copied()
        .filter(|need| !below.can(need))
        .collect();
    if !lacking.is_empty() {
        findings.push(found(
            Level::Missing,
            format!("Hyper-V does not give this VM: {}", lacking.join(", ")),
            "VMBus: no disks, no adapters, no bridge",
            "create the VM as a partition that may use VMBus (every VM of the host compute service may)",
        ));
    }
    if let Some(kind) = below.isolation.filter(|kind| *kind != "none") {
        findings.push(found(
            Level::Note,
            format!("the VM is isolated from its host ({kind})"),
            "requests that a confidential VM must refuse are refused once a policy is set",
            "pass -initial-policy-stance deny",
        ));
    }
}

fn is_hyperv(report: &Report) -> bool {
    report
        .hypervisor
        .as_ref()
        .is_some_and(|below| below.is_hyperv)
}

fn vmbus(report: &Report, findings: &mut Vec<Finding>) {
    if is_hyperv(report) && report.vmbus.is_empty() {
        findings.push(found(
            Level::Missing,
            "there are no VMBus devices",
            "disks, adapters, the bridge",
            "a kernel with CONFIG_HYPERV=y, or its module hv_vmbus loaded before",
        ));
    }
    for device in &report.vmbus {
        let option = class_of(&device.class_id).and_then(|class| class.option);
        if let (None, Some(option)) = (&device.driver, option) {
            findings.push(found(
                Level::Warning,
                format!("no driver has taken the {} {}", device.class, device.id),
                "what this device is for",
                format!("{option}=y, or its module loaded"),
            ));
        }
    }
}

fn vsock(report: &Report, findings: &mut Vec<Finding>) {
    if report.vsock.transport == Transport::None {
        let remedy = match is_hyperv(report) {
            true => "CONFIG_HYPERV_VSOCKETS=y, or the module hv_sock loaded",
            false => "a vsock device for the VM and CONFIG_VIRTIO_VSOCKETS=y",
        };
        findings.push(found(
            Level::Missing,
            "vsock leads nowhere: there is no transport to the host",
            "entropy, the log and the bridge: the host waits two minutes and gives up",
            remedy,
        ));
    }
}

fn storage(report: &Report, findings: &mut Vec<Finding>) {
    let synthetic = |host: &&super::devices::ScsiHost| host.vmbus.is_some();
    let counted = report.scsi.controllers.iter().all(|c| c.vmbus.is_none());
    if is_hyperv(report) && counted && report.scsi.hosts.iter().any(|host| synthetic(&host)) {
        findings.push(found(
            Level::Warning,
            "none of the SCSI controllers has an instance that hcsshim gives its own",
            "controllers are taken by number; with several the order may not be the host's",
            "compare the instances above with ScsiControllers of the VM's document",
        ));
    }
    if is_hyperv(report) && report.scsi.hosts.is_empty() && report.pmem.is_empty() {
        findings.push(found(
            Level::Warning,
            "there is neither a SCSI controller nor persistent memory",
            "layers: no container can get a root file system",
            "give the VM a SCSI controller, and the kernel CONFIG_HYPERV_STORAGE=y",
        ));
    }
}

fn clock(report: &Report, findings: &mut Vec<Finding>) {
    if !report.ptp.iter().any(|clock| clock.clock_name == "hyperv") {
        let level = match is_hyperv(report) {
            true => Level::Warning,
            false => Level::Note,
        };
        findings.push(found(
            level,
            "there is no PTP clock named hyperv",
            "the time drifts from the host's, most of all after the host has slept",
            "CONFIG_HYPERV_UTILS=y, CONFIG_PTP_1588_CLOCK=y and the VM's time synchronisation",
        ));
    }
    let source = report.kernel.clock_source.as_deref().unwrap_or_default();
    if is_hyperv(report) && !source.starts_with("hyperv_clocksource") && source != "tsc" {
        findings.push(found(
            Level::Warning,
            format!("the kernel counts time by {source:?}"),
            "each look at the time leaves the VM: everything is slower",
            "CONFIG_HYPERV_TIMER (comes with CONFIG_HYPERV), and no clocksource= on the kernel line",
        ));
    }
}

fn firmware(report: &Report, findings: &mut Vec<Finding>) {
    let line = report.kernel.command_line.as_deref().unwrap_or_default();
    if !line
        .split_whitespace()
        .any(|option| option.starts_with("panic="))
    {
        findings.push(found(
            Level::Note,
            "the kernel line has no panic=",
            "nothing here: the guest powers a machine off that would hang after a panic",
            "panic=-1 lets the host see the end at once",
        ));
    }
}

fn options(report: &Report, findings: &mut Vec<Finding>) {
    for missing in &report.options.required_missing {
        findings.push(found(
            Level::Missing,
            format!("the kernel lacks {}", missing.option),
            missing.what_for.clone(),
            format!("a kernel with {}=y", missing.option),
        ));
    }
    let wanted = report.options.wanted_missing.len();
    if wanted > 0 {
        findings.push(found(
            Level::Note,
            format!("the kernel lacks {wanted} options that are wanted, not needed"),
            "what options.wanted_missing names beside each",
            "add those whose loss hurts",
        ));
    }
    if !report.options.modules.is_empty() {
        findings.push(found(
            Level::Note,
            format!("{} options are modules", report.options.modules.len()),
            "whatever needs one before it is loaded",
            "load them from the image in the order of their dependencies",
        ));
    }
}
