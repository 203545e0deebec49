//! The guest with a kernel that somebody else built and its modules: `make stock`.

mod common;

use uvm::Uvm;
use uvm_vm::profile::Profile;

use common::image::Image;

#[test]
fn a_packaged_kernel_loads_its_modules_and_runs_a_container() {
    let kernel = common::built("UVM_STOCK_KERNEL", "bzImage-stock");
    let (Some(kernel), Some(initrd)) = (
        kernel,
        common::built("UVM_STOCK_INITRD", "initrd-stock.img"),
    ) else {
        return;
    };
    let Some(image) = Image::open() else {
        return;
    };
    let mut profile = Profile::new(kernel, Some(initrd));
    // The modules are in memory twice: as files and loaded.
    profile.memory_mib = 512;
    let vm: Uvm = common::boot_profile(profile);
    let script = "cat; uname -r; cut -d ' ' -f 1 /proc/modules; exit 3";
    let out = image.run(&vm, "c", &["/bin/sh", "-c", script], |l| {
        l.input("through\n")
    });
    assert_eq!(out.code, 3, "{}", out.error_text());
    let text = out.text();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("through"), "{text}");
    assert!(
        !lines.next().unwrap().ends_with("-lcow"),
        "this is our kernel: {text}"
    );
    // One of each kind; a kernel that has it built in has no line of it.
    let loaded: Vec<&str> = lines.collect();
    let list = include_str!("../../image/profiles/stock.modules");
    for name in [
        "ext4",
        "xfs",
        "erofs",
        "squashfs",
        "overlay",
        "9p",
        "9pnet_fd",
        "sd_mod",
        "virtio_scsi",
        "dm_verity",
        "dm_crypt",
        "dm_integrity",
        "nd_pmem",
        "bridge",
        "nf_tables",
        "nft_compat",
        "xt_MASQUERADE",
        "ip_set_hash_net",
    ] {
        assert!(list.contains(&format!(" {name} ")), "{name} is not listed");
        assert!(loaded.contains(&name), "{name} is not loaded: {loaded:?}");
    }
    // A log without a word about the modules would say nothing about those that are missing either.
    let said = vm
        .log_records()
        .iter()
        .any(|record| record.message.contains("kernel modules are loaded"));
    assert!(said, "the guest's log says nothing of its modules");
    vm.power_off().unwrap();
}
