//! The kernel line: protocol 10.3 for a VM without VPCI, and what QEMU needs besides. On q35 it is
//! without `pci=off`, because the devices are on PCI.

use crate::profile::{BootForm, Machine, Profile, Root};

/// The whole line, up to and including what PID 1 gets.
pub fn kernel_line(profile: &Profile) -> String {
    let mut line: Vec<String> = profile.root.iter().filter_map(root).collect();
    if profile.serial_console {
        line.push("8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200".into());
    } else {
        line.push("8250_core.nr_uarts=0".into());
    }
    line.push("panic=-1".into());
    if !profile.verbose_boot {
        line.push("quiet".into());
    }
    if profile.machine == Machine::Q35 {
        // The first skips a calibration that takes 0.2 s under TCG, the second a check that
        // counts real time: on a loaded machine it finds the timer dead, and then may panic.
        line.push("nolapic_timer no_timer_check".into());
    }
    if let Some(khz) = profile.tsc_khz {
        line.push(format!("tsc_early_khz={khz}"));
    }
    line.extend(profile.kernel_options.iter().cloned());
    if profile.machine == Machine::Microvm {
        line.push("pci=off".into());
    }
    line.push(format!("nr_cpus={} brd.rd_nr=0 pmtmr=0 --", profile.cpus));
    let own = || init_line(profile);
    line.push(profile.init_line.clone().unwrap_or_else(own));
    line.join(" ")
}

/// How a host's line for this root begins.
fn root(root: &Root) -> Option<String> {
    match root {
        Root::Initrd(_) | Root::Uefi { .. } => None,
        Root::Scsi(_) => Some("root=/dev/sda ro rootwait init=/init".into()),
        Root::Pmem(_) => Some("root=/dev/pmem0 ro rootwait init=/init".into()),
        Root::Verity { create, .. } => Some(format!(
            "root=/dev/dm-0 dm-mod.create=\"{create}\" init=/init"
        )),
    }
}

/// What is on the line after `--`.
fn init_line(profile: &Profile) -> String {
    let wrapper = match profile.form {
        BootForm::Vsockexec | BootForm::Shell | BootForm::Console => "-e 109",
        BootForm::BothOutputs => "-o 109 -e 109",
        BootForm::Reconnect | BootForm::ReconnectConsole => "-r -e 109",
    };
    let mut service = format!(
        "/bin/vsockexec {wrapper} /bin/gcs -v4 -log-format json -loglevel {}",
        profile.guest_log_level
    );
    for flag in &profile.service_flags {
        service.push(' ');
        service.push_str(flag);
    }
    let start = match profile.form {
        BootForm::Vsockexec | BootForm::BothOutputs | BootForm::Reconnect => service,
        BootForm::Shell => format!("sh -c \"{service} & exec sh\""),
        // As the new shim writes it, without blanks.
        BootForm::Console | BootForm::ReconnectConsole => format!("sh -c\"{service}& exec sh\""),
    };
    let overlays = if profile.writable_overlays { "-w " } else { "" };
    format!("-e 1 {overlays}{start}")
}
