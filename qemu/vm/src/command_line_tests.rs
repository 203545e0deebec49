//! Command lines of QEMU and of the kernel, word for word.

use super::*;
use crate::profile::{BootForm, ColdDisk};

fn text(profile: &Profile, vsock: VsockWire) -> String {
    let wiring = Wiring {
        accel: Accel::Tcg,
        vsock,
        qmp: 7,
        console: 8,
        initrd: None,
    };
    let args = command_line(profile, &wiring);
    args.iter()
        .map(|a| a.to_string_lossy())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_plain_vm_is_this_command_line() {
    let profile = Profile::new("/k/vmlinux", Some("/k/initrd.img".into()));
    let expected = "\
-nodefaults
-no-user-config
-no-reboot
-display
none
-object
memory-backend-memfd,id=mem0,size=256M,share=on
-machine
q35,accel=tcg,memory-backend=mem0
-cpu
qemu64,+rdrand
-m
256M
-smp
1
-chardev
socket,id=qmp,fd=7
-mon
chardev=qmp,mode=control
-chardev
socket,id=console,fd=8
-serial
chardev:console
-device
virtio-scsi-pci,id=scsi0
-chardev
socket,id=vsock,path=/t/a,,b
-device
vhost-user-vsock-pci,chardev=vsock
-append
8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200 panic=-1 quiet \
nolapic_timer no_timer_check nr_cpus=1 brd.rd_nr=0 pmtmr=0 -- -e 1 /bin/vsockexec -e 109 /bin/gcs -v4 \
-log-format json -loglevel debug
-kernel
/k/vmlinux
-initrd
/k/initrd.img";
    assert_eq!(text(&profile, VsockWire::Device("/t/a,b".into())), expected);
}

#[test]
fn each_root_has_the_hosts_line_and_its_devices() {
    let disk = |name: &str| ColdDisk::boot(format!("/b/{name}").into());
    let tail = " 8250_core.nr_uarts=1";
    for (root, line, devices) in [
        (
            Root::Scsi(disk("rootfs.vhd")),
            "root=/dev/sda ro rootwait init=/init",
            &["driver=vpc,node-name=cold0,read-only=on,file.driver=file,file.filename=/b/rootfs.vhd",
              "node-name=cold1", "drive=cold1,bus=scsi0.0,channel=0,scsi-id=0,lun=1"][..],
        ),
        (
            Root::Pmem("/b/rootfs.vhd".into()),
            "root=/dev/pmem0 ro rootwait init=/init",
            &["id=pmem0,mem-path=/b/rootfs.vhd,size=0,share=on,readonly=on",
              "id=pmem1,mem-path=/b/more,size=0,share=on\n", "node-name=cold0"],
        ),
        (
            Root::Verity {
                disks: vec![disk("a.vhd"), disk("b.vhd")],
                create: "dmverity,,,ro,0 8 verity 1 /dev/sda /dev/sdb".into(),
            },
            "root=/dev/dm-0 dm-mod.create=\"dmverity,,,ro,0 8 verity 1 /dev/sda /dev/sdb\" init=/init",
            &["file.filename=/b/a.vhd", "node-name=cold1,read-only=on,file.driver=file,file.filename=/b/b.vhd",
              "node-name=cold2"],
        ),
    ] {
        let mut profile = Profile::new("/b/vmlinux", None);
        profile.root = Some(root);
        profile.disks = vec![disk("data")];
        profile.pmem = vec!["/b/more".into()];
        let text = text(&profile, VsockWire::None);
        assert!(text.contains(&format!("-append\n{line}{tail}")), "{line:?} is not in\n{text}");
        assert!(!text.contains("-initrd"), "{text}");
        for part in devices {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}

#[test]
fn firmware_starts_what_is_on_its_disk() {
    let mut profile = Profile::new("/b/vmlinux", None);
    profile.root = Some(Root::Uefi {
        firmware: "/f/OVMF.fd".into(),
        disk: ColdDisk::boot("/b/uvm.vhdx".into()),
    });
    let text = text(&profile, VsockWire::None);
    for part in [
        "driver=vhdx,node-name=cold0,read-only=on,file.driver=file,file.filename=/b/uvm.vhdx",
        "scsi-hd,id=cold0,drive=cold0,bus=scsi0.0,channel=0,scsi-id=0,lun=0,werror=report,rerror=report",
        "-bios\n/f/OVMF.fd",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(
        !text.contains("-kernel") && !text.contains("-append"),
        "{text}"
    );
}

#[test]
fn options_show() {
    let mut profile = Profile::new("/k/bzImage", None);
    profile.machine = Machine::Microvm;
    profile.tsc_khz = Some(2_000_000);
    profile.memory_mib = 64;
    profile.cpus = 2;
    profile.controllers = 4;
    profile.form = BootForm::Shell;
    profile.service_flags = vec!["-scrub-logs".into()];
    profile.kernel_options = vec!["gcs.cgroup=v1".into()];
    profile.serial_console = false;
    profile.nics = 2;
    profile.forwards = vec![Forward {
        host: 8080,
        guest: 80,
    }];
    profile.disks = vec![ColdDisk {
        path: "/d".into(),
        format: "raw".into(),
        read_only: true,
    }];
    let text = text(&profile, VsockWire::Kernel { cid: 9 });
    for part in [
        "microvm,pic=off,pit=off,accel=tcg,memory-backend=mem0",
        "virtio-mmio.force-legacy=false",
        "virtio-scsi-device,id=scsi3",
        "-netdev\nuser,id=net,hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80\n\
         -netdev\nhubport,id=hub,hubid=0,netdev=net\n\
         -netdev\nhubport,id=nic0,hubid=0\n\
         -device\nvirtio-net-device,netdev=nic0,mac=52:54:00:00:00:00\n",
        "virtio-net-device,netdev=nic1,mac=52:54:00:00:00:01",
        "vhost-vsock-device,guest-cid=9",
        "driver=raw,node-name=cold0,read-only=on,file.driver=file,file.filename=/d",
        "scsi-hd,id=cold0,drive=cold0,bus=scsi0.0,channel=0,scsi-id=0,lun=0,werror=report,rerror=report",
        "8250_core.nr_uarts=0 panic=-1 quiet tsc_early_khz=2000000 gcs.cgroup=v1 pci=off nr_cpus=2 \
         brd.rd_nr=0 pmtmr=0 -- -e 1 sh -c \"/bin/vsockexec -e 109 /bin/gcs -v4 -log-format \
         json -loglevel debug -scrub-logs & exec sh\"",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    for part in ["-initrd", "nolapic_timer"] {
        assert!(!text.contains(part), "{part:?} is in\n{text}");
    }
    profile.machine = Machine::Q35;
    let text = super::tests::text(&profile, VsockWire::None);
    assert!(
        text.contains("no_timer_check tsc_early_khz=2000000 gcs"),
        "{text}"
    );
}

#[test]
fn each_form_of_the_boot_line_is_word_for_word_a_hosts() {
    const GCS: &str = "/bin/gcs -v4 -log-format json -loglevel info";
    let lines = [
        format!("-e 1 -w /bin/vsockexec -e 109 {GCS}"),
        format!("-e 1 -w /bin/vsockexec -o 109 -e 109 {GCS}"),
        format!("-e 1 -w sh -c \"/bin/vsockexec -e 109 {GCS} & exec sh\""),
        format!("-e 1 -w /bin/vsockexec -r -e 109 {GCS}"),
        format!("-e 1 -w sh -c\"/bin/vsockexec -e 109 {GCS}& exec sh\""),
        format!("-e 1 -w sh -c\"/bin/vsockexec -r -e 109 {GCS}& exec sh\""),
    ];
    for (form, wanted) in BootForm::ALL.into_iter().zip(lines) {
        let mut profile = Profile::new("/k/vmlinux", None);
        profile.form = form;
        profile.writable_overlays = true;
        profile.guest_log_level = "info".into();
        let line = kernel_line(&profile);
        let (_, words) = line.split_once(" -- ").unwrap();
        assert_eq!(words, wanted, "{form:?}");
    }
}
