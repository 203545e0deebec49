//! `uvm doctor`: what is there, what would be chosen, and why.

use std::process::{Command, ExitCode};

use clap::Args;

use uvm_vm::choice;
use uvm_vm::QEMU;

use super::output::line;
use super::VmOptions;

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    vm: VmOptions,
}

/// Tools for images: name, Debian package, what for.
const LAYER_TOOLS: [(&str, &str, &str); 3] = [
    ("mkfs.ext4", "e2fsprogs", "scratch disks"),
    ("debugfs", "e2fsprogs", "--attach-dir"),
    ("busybox", "busybox-static", "the default image"),
];

impl Doctor {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut missing = 0;
        let mut need = |what: &str, found: Result<String, String>| match found {
            Ok(found) => line(format_args!("ok       {what}: {found}")),
            Err(why) => {
                missing += 1;
                line(format_args!("MISSING  {what}: {why}"))
            }
        };
        need("qemu", qemu_version())?;
        let kernel = self.vm.kernel_path();
        need("kernel", existing(&kernel))?;
        need("initrd", existing(&self.vm.initrd_path()))?;

        let vsock = choice::vsock(self.vm.vsock);
        line(format_args!(
            "chosen   vsock: {:?} ({})",
            vsock.chosen, vsock.why
        ))?;
        if let Ok(kernel) = kernel {
            let accel = choice::accel(self.vm.accel, &kernel);
            let name = accel.chosen.name();
            line(format_args!("chosen   accelerator: {name} ({})", accel.why))?;
        }
        for (name, package, purpose) in LAYER_TOOLS {
            line(match choice::program(name) {
                Some(path) => format!("ok       {name}: {}", path.display()),
                None => format!("absent   {name}: for {purpose} (apt-get install {package})"),
            })?;
        }
        Ok(if missing == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn qemu_version() -> Result<String, String> {
    let path = choice::program(QEMU)
        .ok_or_else(|| format!("{QEMU} is not in PATH (apt-get install qemu-system-x86)"))?;
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or("it does not say its version");
    Ok(format!("{} ({first})", path.display()))
}

fn existing(path: &anyhow::Result<std::path::PathBuf>) -> Result<String, String> {
    let path = path.as_ref().map_err(ToString::to_string)?;
    match path.metadata() {
        Ok(m) if m.is_file() => Ok(format!("{} ({} KiB)", path.display(), m.len() >> 10)),
        Ok(_) => Err(format!("{} is not a file", path.display())),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}
