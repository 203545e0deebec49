//! A booted VM as scenarios use it: a shell inside, raw frames, containers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use uvm::Uvm;
use uvm_host::wire::{Frame, Rpc};
use uvm_host::{Answer, Launch, MappedVirtualDisk};
use uvm_vm::VmEnd;

use super::check::{fail, Checked};
use super::witness::Witness;

/// Longer than anything takes, also under emulation on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Where the tools are mounted.
pub const TOOLS: &str = "/run/mounts/scsi/m63";
/// Where scenarios may make files of their own, on the tmpfs of `/run`.
pub const PLACE: &str = "/run/lab";

/// A VM with all of [`Uvm`] and `Host` (by `Deref`), and more.
pub struct Guest {
    vm: Arc<Uvm>,
    tools_lun: u8,
    has_tools: Cell<bool>,
    serial: Cell<u32>,
    witness: Rc<RefCell<Witness>>,
}

impl std::ops::Deref for Guest {
    type Target = Uvm;

    fn deref(&self) -> &Uvm {
        &self.vm
    }
}

impl Guest {
    pub(super) fn new(vm: Arc<Uvm>, tools_lun: u8, witness: Rc<RefCell<Witness>>) -> Self {
        Self {
            vm,
            tools_lun,
            has_tools: Cell::new(false),
            serial: Cell::new(0),
            witness,
        }
    }

    /// A name that was not used in this VM.
    pub fn fresh(&self, name: &str) -> String {
        format!("{name}-{}", self.serial())
    }

    pub(super) fn serial(&self) -> u32 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }

    /// Mounts the tools' disk at [`TOOLS`] unless that was done.
    pub fn tools(&self) -> Checked {
        if !self.has_tools.replace(true) {
            self.vm
                .add_disk(&MappedVirtualDisk::new(0, self.tools_lun, TOOLS, true))?;
        }
        Ok(())
    }

    /// A shell script in the VM itself, with busybox's tools in its PATH.
    pub fn shell(&self, script: &str) -> Checked<Launch> {
        self.tools()?;
        let busybox = format!("{TOOLS}/bin/busybox");
        let launch = self.vm.external(&[busybox.as_str(), "sh", "-c", script]);
        let path = ["bin", "usr/bin", "sbin", "usr/sbin"].map(|dir| format!("{TOOLS}/{dir}"));
        Ok(launch.env("PATH", &path.join(":")).limit(LIMIT))
    }

    /// Runs a script in the VM; it must end with 0. Gives what it said, without the last line
    /// feed.
    pub fn sh(&self, script: &str) -> Checked<String> {
        let out = self.shell(script)?.run()?;
        if out.code != 0 {
            let said = format!("exit code {}: {}{}", out.code, out.text(), out.error_text());
            return Err(fail(format!("`{script}` in the VM to succeed"), said));
        }
        Ok(out.text().trim_end_matches('\n').to_owned())
    }

    /// One program of the tools' busybox, by its name and arguments.
    pub fn busybox(&self, args: &[&str]) -> Checked<Launch> {
        self.tools()?;
        let busybox = format!("{TOOLS}/bin/busybox");
        let args: Vec<&str> = std::iter::once(busybox.as_str())
            .chain(args.iter().copied())
            .collect();
        Ok(self.vm.external(&args).limit(LIMIT))
    }

    /// Sends a request with exactly this payload and takes the answer, whatever it says.
    pub fn ask(&self, message: u32, payload: impl Into<Vec<u8>>) -> Checked<Answer> {
        Ok(self.vm.send_frame(message, payload.into())?.answer(LIMIT)?)
    }

    /// `ask` with a document; nothing is added to it, no `ActivityId` either.
    pub fn ask_json(&self, rpc: Rpc, document: &Value) -> Checked<Answer> {
        self.ask(rpc as u32, document.to_string())
    }

    /// Writes a request's frame in pieces of `cut` bytes and takes the answer.
    pub fn ask_cut(&self, message: u32, payload: &str, cut: usize) -> Checked<Answer> {
        let mut pending = self.vm.expect(message, None);
        let frame = Frame {
            message,
            id: pending.id(),
            payload: payload.into(),
        };
        for piece in frame.to_bytes().chunks(cut) {
            self.vm.send_bytes(piece)?;
        }
        Ok(pending.answer(LIMIT)?)
    }

    /// Makes the VM power off and waits for its end.
    pub fn power_off(self) -> Checked<VmEnd> {
        self.vm.shutdown_uvm()?;
        Ok(self.vm.vm().wait(LIMIT)?)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.witness.borrow_mut().note(&self.vm);
    }
}
