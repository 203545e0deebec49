//! Containers of scenarios: the shared layer under an overlay whose upper directory is on the
//! tmpfs of `/run`, so that none needs a disk of its own.

use std::time::{Duration, Instant};

use serde_json::{json, Value};

use uvm::container::{bundle, root, Container as Driven, Rootfs};
use uvm_host::{HostError, Launch, Output, Process};
use uvm_images::ImageConfig;

use super::check::{fail, Checked};
use super::guest::{Guest, LIMIT, PLACE, TOOLS};

/// A killed container is gone earlier, unless the scenario holds its streams.
const POLITE: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(50);
const PATH: &str = "PATH=/bin:/usr/bin:/sbin:/usr/sbin";

/// A container about to be made: a standalone one, unless its spec is edited.
#[derive(Clone)]
#[must_use]
pub struct Plan<'g> {
    guest: &'g Guest,
    id: String,
    bundle: String,
    /// The spec that Create will carry.
    pub spec: Value,
}

impl<'g> Plan<'g> {
    fn new(guest: &'g Guest, id: String, script: &str) -> Self {
        let process = uvm_images::Process {
            args: Some(["/bin/sh", "-c", script].map(str::to_owned).into()),
            ..uvm_images::Process::default()
        };
        let spec = uvm_images::standalone(&ImageConfig::default(), &process, &root(&id));
        let bundle = bundle(&id);
        Self {
            guest,
            id,
            bundle,
            spec,
        }
    }

    /// Puts its bundle elsewhere, and its root file system into that.
    pub fn at(mut self, bundle: &str) -> Self {
        bundle.clone_into(&mut self.bundle);
        self.edit(|spec| spec["root"]["path"] = json!(format!("{bundle}/rootfs")))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Changes the spec.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.spec);
        self
    }

    /// Adds an annotation.
    pub fn annotate(self, name: &str, value: &str) -> Self {
        self.edit(|spec| spec["annotations"][name] = json!(value))
    }

    /// Adds a mount.
    pub fn with_mount(self, destination: &str, source: &str, options: &[&str]) -> Self {
        let mount = json!({
            "destination": destination, "type": "none", "source": source, "options": options});
        self.edit(|spec| {
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.push(mount);
            }
        })
    }

    /// The arguments of its first process, its program first.
    pub fn args(self, args: &[&str]) -> Self {
        self.edit(|spec| spec["process"]["args"] = json!(args))
    }

    /// The document that Create will carry, for requests by hand.
    pub fn document(&self) -> Value {
        json!({
            "SchemaVersion": {"Major": 2, "Minor": 1},
            "OciBundlePath": self.bundle,
            "OciSpecification": self.spec,
            "ScratchDirPath": scratch(&self.id)})
    }

    /// Mounts its root file system. Create is left to the caller, or to [`Mounted::create`].
    pub fn mount(self) -> Checked<Mounted<'g>> {
        self.guest.tools()?;
        let rootfs = Rootfs::of_directories(&[TOOLS], &scratch(&self.id));
        let (host, bundle) = (self.guest.host(), self.bundle.clone());
        let driven = Driven::mount_at(host, &self.id, bundle, rootfs)?;
        Ok(Mounted { plan: self, driven })
    }

    /// Mounts and creates it; its program has not been started.
    pub fn create(self) -> Checked<Container<'g>> {
        Ok(self.try_create()??)
    }

    /// `create` where Create itself may be refused, which then leaves nothing.
    pub fn try_create(self) -> Checked<Result<Container<'g>, HostError>> {
        Ok(self.mount()?.create())
    }

    /// Creates it, runs its program to the end, and removes it.
    pub fn run(self) -> Checked<Output> {
        let container = self.create()?;
        let out = container.init().run()?;
        container.remove()?;
        Ok(out)
    }
}

impl Guest {
    /// A container that runs `script` in a shell, about to be made.
    pub fn container(&self, script: &str) -> Plan<'_> {
        Plan::new(self, self.fresh("lab"), script)
    }
}

/// A root file system without a container yet.
pub struct Mounted<'g> {
    plan: Plan<'g>,
    driven: Driven,
}

impl<'g> Mounted<'g> {
    pub fn plan(&self) -> &Plan<'g> {
        &self.plan
    }

    pub fn create(self) -> Result<Container<'g>, HostError> {
        match self.driven.create(&self.plan.spec) {
            Ok(()) => Ok(self.created()),
            Err(refusal) => {
                self.discard();
                Err(refusal)
            }
        }
    }

    /// The container, after a Create that the scenario sent itself.
    pub fn created(self) -> Container<'g> {
        Container {
            guest: self.plan.guest,
            driven: self.driven,
            removed: false,
        }
    }

    /// Removes the mounts that are still there.
    pub fn discard(self) {
        discard(self.plan.guest, &self.driven);
    }
}

/// A created container. Dropping it ends and deletes it.
pub struct Container<'g> {
    guest: &'g Guest,
    driven: Driven,
    removed: bool,
}

impl Container<'_> {
    pub fn id(&self) -> &str {
        self.driven.id()
    }

    pub fn bundle(&self) -> String {
        self.driven.bundle().to_owned()
    }

    /// Its root file system, as the VM sees it.
    pub fn root(&self) -> String {
        self.driven.root()
    }

    pub fn scratch(&self) -> String {
        self.driven.scratch().to_owned()
    }

    /// Its first process.
    pub fn init(&self) -> Launch {
        self.driven.init().limit(LIMIT)
    }

    pub fn start(&self) -> Checked<Process> {
        Ok(self.init().start()?)
    }

    /// One more process: `script` in a shell.
    pub fn exec(&self, script: &str) -> Launch {
        self.exec_with(script, |_| {})
    }

    /// `exec` with changes to its `OciProcess`.
    pub fn exec_with(&self, script: &str, change: impl FnOnce(&mut Value)) -> Launch {
        let mut process = json!({
            "args": ["/bin/sh", "-c", script], "cwd": "/", "env": [PATH],
            "user": {"uid": 0, "gid": 0}});
        change(&mut process);
        self.driven.exec(&process).limit(LIMIT)
    }

    /// Runs a script in the running container. It must end with 0. Returns its output.
    pub fn sh(&self, script: &str) -> Checked<String> {
        let out = self.exec(script).run()?;
        match out.code {
            0 => Ok(out.text().trim_end_matches('\n').to_owned()),
            code => Err(fail(
                format!("`{script}` in a container to succeed"),
                format!("exit code {code}: {}{}", out.text(), out.error_text()),
            )),
        }
    }

    /// The spec it runs by, as the guest wrote it to the bundle.
    pub fn config(&self) -> Checked<Value> {
        let path = format!("{}/config.json", self.bundle());
        Ok(serde_json::from_str(
            &self.guest.sh(&format!("cat {path}"))?,
        )?)
    }

    /// Waits for its exit notification; gives the members.
    pub fn exited(&self) -> Checked<serde_json::Map<String, Value>> {
        Ok(self.guest.wait_notification(self.id(), LIMIT)?.members)
    }

    /// Kills it and waits for the notification.
    pub fn kill(&self) -> Checked {
        self.guest.shutdown(self.id(), true)?;
        self.exited().map(drop)
    }

    /// Kills it, takes what its first process says to the end, and removes it.
    pub fn end(self, process: Process) -> Checked {
        self.guest.shutdown(self.id(), true)?;
        process.collect(Vec::new(), LIMIT)?;
        self.exited()?;
        self.remove()
    }

    /// Kills it if it runs, unmounts its root and deletes it, as a host does.
    pub fn remove(mut self) -> Checked {
        self.removed = true;
        Ok(self.clear()?)
    }

    /// Scenarios judge whether its exit is notified (P-210), and one that holds its streams delays
    /// that. Here it only counts that the guest deletes the container.
    fn clear(&self) -> Result<(), HostError> {
        // Exited or not: success (P-208).
        self.guest.shutdown(self.id(), true)?;
        drop(self.guest.wait_notification(self.id(), POLITE));
        let begun = Instant::now();
        loop {
            match self.driven.release().map(drop) {
                // Its processes are not gone yet.
                Err(HostError::Refused { .. }) if begun.elapsed() < LIMIT => {
                    std::thread::sleep(AGAIN);
                }
                outcome => return outcome,
            }
        }
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.removed || self.guest.ended().is_some() {
            return;
        }
        // Failures do not count: the scenario may have failed, or deleted it.
        drop(self.clear());
        discard(self.guest, &self.driven);
    }
}

fn scratch(id: &str) -> String {
    format!("{PLACE}/{id}")
}

fn discard(guest: &Guest, driven: &Driven) {
    let (bundle, root) = (driven.bundle(), driven.root());
    drop(guest.remove_layers(&root));
    drop(guest.sh(&format!(
        "grep -q ' {root} ' /proc/mounts || {{ umount {bundle}; rm -rf {bundle} {}; }} 2>/dev/null",
        driven.scratch()
    )));
}
