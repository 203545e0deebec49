//! Containers of tests from the default image, each on disks of its own.

use serde_json::Value;
use uvm::container::{Container, Rootfs};
use uvm::Uvm;
use uvm_host::Launch;

use super::LONG;

/// The default image as disks, and a place for scratch disks.
pub struct Image {
    pub image: uvm_images::Image,
    cache: uvm_images::Cache,
    dir: tempfile::TempDir,
}

impl Image {
    pub fn open() -> Option<Self> {
        for tool in ["mkfs.ext4", "busybox"] {
            if uvm_vm::choice::program(tool).is_none() {
                eprintln!("SKIPPED: {tool} is not there, which the disks of a container need");
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let cache = uvm_images::Cache::open(Some(&super::layer_cache())).unwrap();
        let image = uvm_images::default_image(&cache).unwrap();
        Some(Self { image, cache, dir })
    }

    pub fn mount(&self, vm: &Uvm, id: &str) -> Container {
        let scratch = self.dir.path().join(id);
        self.cache.scratch(1 << 30, &scratch).unwrap();
        let rootfs = Rootfs::plug(vm, id, &scratch, &self.image.layer_files()).unwrap();
        Container::mount(vm.host(), id, rootfs).unwrap()
    }

    pub fn spec(&self, id: &str, args: &[&str]) -> Value {
        let process = uvm_images::Process {
            args: Some(args.iter().map(|a| (*a).to_owned()).collect()),
            entrypoint: Some(Vec::new()),
            ..uvm_images::Process::default()
        };
        uvm_images::standalone(&self.image.config, &process, &uvm::container::root(id))
    }

    /// A container that was created and not yet started.
    pub fn create(&self, vm: &Uvm, id: &str, args: &[&str]) -> Container {
        let container = self.mount(vm, id);
        container.create(&self.spec(id, args)).unwrap();
        container.start().unwrap();
        container
    }

    /// Runs one container from its disks to its removal.
    pub fn run(
        &self,
        vm: &Uvm,
        id: &str,
        args: &[&str],
        launch: impl FnOnce(Launch) -> Launch,
    ) -> uvm_host::Output {
        let container = self.create(vm, id, args);
        let out = launch(container.init().limit(LONG)).run().unwrap();
        for address in container.remove().unwrap() {
            vm.unplug_disk(address).unwrap();
        }
        out
    }
}
