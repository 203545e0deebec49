//! The forms that a Windows host boots the shipped root file system in, by its own kernel lines
//! (protocol 10.3): each negotiates and runs a container, and a root that was changed does not.

mod common;

use std::path::{Path, PathBuf};

use image::disk::{self, Disks};
use image::verity::BLOCK;
use uvm::{BootOptions, Uvm};
use uvm_vm::profile::{ColdDisk, Profile, Root};

use common::image::Image;

/// After the root's part of the line: what the host says to a VM without console, with what QEMU needs in
/// the place of the user's options and without `pci=off`.
fn tail(options: &str) -> String {
    let space = if options.is_empty() { "" } else { " " };
    format!(
        "8250_core.nr_uarts=0 panic=-1 quiet nolapic_timer no_timer_check{space}{options} nr_cpus=1 \
         brd.rd_nr=0 pmtmr=0 -- -e 1 /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel debug"
    )
}

#[test]
fn odd_words_on_the_line_do_not_stop_the_boot() {
    let Some(profile) = common::shipped_profile() else {
        return;
    };
    for (name, wrapper, flags) in [
        ("control characters", "-\u{1b}", "-\u{1}\u{7f} -\u{2}=\u{3}"),
        // A kernel as others build it takes 32 words for PID 1.
        ("200 flags", "", &"-f ".repeat(200)),
        ("bytes above ASCII", "-é", "-naïve=1"),
        ("empty words", "", "-f \"\""),
    ] {
        let mut profile = profile.clone();
        profile.init_line = Some(format!(
            "-e 1 /bin/vsockexec {wrapper} -e 109 /bin/gcs -v4 -log-format json {flags} -loglevel info"
        ));
        let vm = common::boot_profile(profile);
        let warned = vm.wait_log(std::time::Duration::from_secs(60), |r| {
            r.to_string().contains("passed over")
        });
        assert!(warned.is_ok(), "{name}: no warning");
        vm.power_off().unwrap();
    }
    // The new shim's form with a quote missing.
    let mut unbalanced = profile;
    unbalanced.init_line = Some(
        "-e 1 sh -c\"/bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel info& exec sh"
            .into(),
    );
    common::boot_profile(unbalanced).power_off().unwrap();
}

/// The shipped initrd and the disks made of it.
struct Boot {
    profile: Profile,
    disks: Disks,
    dir: tempfile::TempDir,
}

impl Boot {
    fn new() -> Option<Self> {
        if uvm_vm::choice::program("mke2fs").is_none() {
            eprintln!("SKIPPED: mke2fs is not there, which makes the root file system");
            return None;
        }
        let mut profile = common::shipped_profile()?;
        profile.serial_console = false;
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let initrd = std::fs::read(profile.initrd().unwrap()).unwrap();
        let disks = disk::of_initrd(&initrd, &work).unwrap();
        std::fs::write(dir.path().join(disk::DISK), &disks.root).unwrap();
        std::fs::write(dir.path().join(disk::HASH_DISK), &disks.hashes).unwrap();
        Some(Self {
            profile,
            disks,
            dir,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn combined(&self, disk: &Path) -> Root {
        Root::Verity {
            disks: vec![ColdDisk::boot(disk.to_owned())],
            create: self.disks.facts.combined.create.clone(),
        }
    }

    fn separate(&self) -> Root {
        let form = &self.disks.facts.separate;
        Root::Verity {
            disks: form
                .disks
                .iter()
                .map(|name| ColdDisk::boot(self.file(name)))
                .collect(),
            create: form.create.clone(),
        }
    }
}

#[test]
fn every_form_of_the_root_runs_a_container() {
    let (Some(boot), Some(image)) = (Boot::new(), Image::open()) else {
        return;
    };
    let root = boot.file(disk::DISK);
    let initrd = boot.profile.root.clone().unwrap();
    let facts = &boot.disks.facts;
    let verity = |create: &str| format!("root=/dev/dm-0 dm-mod.create=\"{create}\" init=/init ");
    let scsi = "root=/dev/sda ro rootwait init=/init ".to_owned();
    let options = format!("root=/dev/dm-0 dm-mod.create=\"{}\"", facts.combined.create);
    for (name, root, line, options) in [
        ("initrd", initrd, String::new(), ""),
        (
            "scsi",
            Root::Scsi(ColdDisk::boot(root.clone())),
            scsi.clone(),
            "",
        ),
        (
            "pmem",
            Root::Pmem(root.clone()),
            "root=/dev/pmem0 ro rootwait init=/init ".to_owned(),
            "",
        ),
        (
            "verity",
            boot.combined(&root),
            verity(&facts.combined.create),
            "",
        ),
        (
            "verity-split",
            boot.separate(),
            verity(&facts.separate.create),
            "",
        ),
        // A host that knows SCSI disks only: of two roots the kernel takes the last.
        (
            "verity-by-options",
            Root::Scsi(ColdDisk::boot(root.clone())),
            scsi.clone(),
            &options,
        ),
    ] {
        let mut profile = boot.profile.clone();
        profile.root = Some(root);
        profile
            .kernel_options
            .extend((!options.is_empty()).then(|| options.to_owned()));
        let vm = common::boot_profile(profile);
        let out = image.run(&vm, name, &["cat", "/proc/cmdline"], |launch| launch);
        assert_eq!(
            (out.code, without_frequency(&out.text())),
            (0, format!("{line}{}\n", tail(options))),
            "{name}"
        );
        vm.power_off().unwrap();
    }
}

/// The line without the frequency of this machine's TSC, which an emulated processor is told.
fn without_frequency(line: &str) -> String {
    let words = line.split(' ');
    let words: Vec<&str> = words
        .filter(|word| !word.starts_with("tsc_early_khz="))
        .collect();
    words.join(" ")
}

#[test]
fn a_measured_boot_finds_its_line_in_the_image() {
    let (Some(boot), Some(image)) = (Boot::new(), Image::open()) else {
        return;
    };
    let mut profile = boot.profile.clone();
    profile.root = Some(boot.combined(&boot.file(disk::DISK)));
    // The last one counts. There are no words for PID 1.
    profile.kernel_options.push("init=/startup.sh".into());
    profile.init_line = Some(String::new());
    let vm = common::boot_profile(profile);
    let timings = vm.timings();
    assert!(
        timings.entropy.is_some() && timings.log.is_some(),
        "{timings:?}"
    );
    let out = image.run(&vm, "measured", &["cat", "/sys/block/dm-0/dm/name"], |l| l);
    assert_eq!((out.code, out.text().as_str()), (0, "dmverity\n"));
}

#[test]
fn a_changed_root_is_refused() {
    let Some(boot) = Boot::new() else { return };
    let root = &boot.disks.root;
    let program = root
        .windows(4)
        .position(|bytes| bytes == b"\x7fELF")
        .unwrap();
    assert_eq!(program % BLOCK, 0, "a program that begins within a block");
    let tree = boot.disks.facts.combined.hash_start as usize * BLOCK;
    let create = &boot.disks.facts.combined.create;
    let options = format!("root=/dev/dm-0 dm-mod.create=\"{create}\"");
    // What is changed, where, what the kernel then cannot do, and the user options that ask for
    // dm-verity of a host that does not.
    for (what, at, why, options) in [
        ("/init", program + 24, "init", None),
        ("/init", program + 24, "init", Some(options)),
        ("the hash tree", tree, "root fs", None),
    ] {
        let disk = boot.file("changed.vhd");
        let mut bytes = root.clone();
        bytes[at] ^= 1;
        std::fs::write(&disk, bytes).unwrap();
        let mut profile = boot.profile.clone();
        profile.serial_console = true;
        profile.root = Some(match options {
            None => boot.combined(&disk),
            Some(_) => Root::Scsi(ColdDisk::boot(disk)),
        });
        profile.kernel_options.extend(options);
        let options = BootOptions {
            negotiate: false,
            ..BootOptions::default()
        };
        let Err(refusal) = Uvm::boot_with(profile, options) else {
            panic!("a root with another {what} boots");
        };
        let text = refusal.to_string();
        let told = text.contains("device-mapper: verity") && text.contains("is corrupted");
        assert!(told, "{what}: the console does not say why:\n{text}");
        assert!(
            text.contains("Kernel panic") && text.contains(why),
            "{what}:\n{text}"
        );
    }
}
