//! The kit for bringing a guest up where nobody can look inside: the console, the probe, the
//! shells. Seen from outside: the serial line, the bridge, and vsock without the bridge.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::LONG;
use serde_json::Value;
use uvm::private_dir::PrivateDir;
use uvm::{BootOptions, Uvm};
use uvm_vm::choice::{self, AccelWish};
use uvm_vm::profile::{Accel, Profile};
use uvm_vm::{Vm, VsockWire};
use uvm_vsock::{Device, DeviceConfig, DeviceHandle, Faults};

/// Of the image's `/etc/init.conf`.
const SHELL_PORT: u32 = 2323;

fn bringup() -> Option<Profile> {
    let initrd = common::built("UVM_BRINGUP_INITRD", "initrd-bringup.img")?;
    Some(Profile::new(common::kernel()?, Some(initrd)))
}

/// A VM of the bring-up image with its console in a file.
fn boot(mut profile: Profile) -> (Uvm, tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let console = dir.path().join("console");
    profile.console_log = Some(console.clone());
    (common::boot_profile(profile), dir, console)
}

/// Waits until the console has said all of it, in that order; all that it has said by then.
fn await_console(console: &Path, words: &[&str]) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        let text = String::from_utf8_lossy(&std::fs::read(console).unwrap()).into_owned();
        let mut rest = text.as_str();
        let missing = words.iter().find(|word| match rest.split_once(**word) {
            Some((_, behind)) => {
                rest = behind;
                false
            }
            None => true,
        });
        let Some(missing) = missing else {
            return text;
        };
        assert!(
            Instant::now() < deadline,
            "the console does not say {missing:?} (in its place) but:\n{text}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A shell over vsock.
struct Shell(UnixStream);

impl Shell {
    fn connect(uds: &Path) -> Self {
        let mut stream = UnixStream::connect(uds).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
            .write_all(format!("CONNECT {SHELL_PORT}\n").as_bytes())
            .unwrap();
        let mut shell = Self(stream);
        shell.until("OK");
        shell.until("# ");
        shell
    }

    fn until(&mut self, word: &str) -> String {
        let (mut said, mut buffer) = (String::new(), [0; 512]);
        while !said.contains(word) {
            let got = self.0.read(&mut buffer).unwrap_or(0);
            assert!(got > 0, "no {word:?} in {said:?}");
            said.push_str(&String::from_utf8_lossy(&buffer[..got]));
        }
        said
    }

    fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// A VM on whose ports nobody listens.
struct Alone {
    vm: Vm,
    _device: DeviceHandle,
    dir: PrivateDir,
    console: PathBuf,
}

fn alone(profile: &Profile) -> Alone {
    let dir = PrivateDir::new().unwrap();
    let socket = dir.join("vhost.sock");
    let device = Device::start(DeviceConfig {
        socket: socket.clone(),
        uds: dir.join("vsock"),
        cid: 77,
        faults: Faults::default(),
    })
    .unwrap();
    let console = dir.join("console.log");
    let wire = VsockWire::Device(socket);
    let vm = Vm::start(profile, Accel::Tcg, wire, &console, |_| {}).unwrap();
    Alone {
        vm,
        _device: device,
        dir,
        console,
    }
}

#[test]
fn every_step_is_on_com1_in_its_order_and_the_probe_answers_over_the_bridge() {
    let Some(profile) = bringup() else { return };
    let (vm, _dir, console) = boot(profile);
    let text = await_console(
        &console,
        &[
            "] devices: mounting /dev and /proc ... ok, ",
            "] kernel log: opening /dev/kmsg ... ok, ",
            "] boot line: ",
            "] calls: ",
            "] mounts: ",
            "] open files: ",
            "] settings: ",
            "] shells: starting the listener for shells ... ok, ",
            "] probe: ",
            "\nvsock\r\n  transport  virtio\r\n",
            "\nverdict\r\n",
            "] entropy: taking random bytes from the host ... ok, ",
            "] log: connecting the log to the host ... ok, ",
            "] bridge: dialling the bridge, port 0x40000000 of the host ... ok, ",
            "] negotiation: waiting for the host's NegotiateProtocol ... ok, ",
            "] cgroups: ",
            "] loopback: ",
            "] service groups: ",
        ],
    );
    assert!(!text.contains("FAILED"), "{text}");

    let out = vm.external(&["probe", "--json"]).run().unwrap();
    let report: Value = serde_json::from_str(&out.text()).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["vsock"]["transport"], "virtio");
    assert!(report["vsock"]["cid"].as_u64().unwrap() > 2, "{report}");
    assert_eq!(report["hypervisor"]["name"], "QEMU TCG");
    assert_eq!(report["scsi"]["controllers"][0]["host"], "host0");
    assert_eq!(report["options"]["source"], "configuration");
    let empty = Value::Array(Vec::new());
    assert_eq!(report["options"]["required_missing"], empty);
    assert_eq!(report["firmware"]["vendor"], "QEMU");
    assert_eq!(report["memory"]["map"][0]["kind"], "System RAM");
    assert_eq!(out.code, 0, "nothing that is needed is missing");

    // What was recorded there gives the same report, except for what changes by the second.
    let script = "probe --record >/tmp/r; probe --from /tmp/r --json >/tmp/a; probe --json >/tmp/b; \
                  for f in a b; do grep -vE 'available_kib|clock_source' /tmp/$f >/tmp/$f$f; done; cmp /tmp/aa /tmp/bb; \
                  probe --nonsense 2>&1; echo $?";
    let out = vm.external(&["sh", "-c", script]).run().unwrap().text();
    assert!(
        out.starts_with("probe: there is no option \"--nonsense\""),
        "{out}"
    );
    assert!(out.ends_with("\n2\n"), "{out}");
    vm.power_off().unwrap();
}

#[test]
fn a_boot_that_fails_says_why_and_gives_shells_until_the_one_on_the_console_ends() {
    let Some(profile) = bringup() else { return };
    let guest = alone(&profile);
    await_console(
        &guest.console,
        &[
            "] entropy: taking random bytes from the host ... FAILED: no entropy from the host: ",
            "] log: connecting the log to the host ... ",
            "FAILED: port 109 of the host: ",
            "] bridge: dialling the bridge, port 0x40000000 of the host ... FAILED: ",
            "is something listening there?",
            "the boot has failed, and the machine would end now: Status(1)",
            "the last log records:",
            "the service cannot go on: ",
            "uvm:/# ",
        ],
    );
    // The kernel echoes what is typed, so the answer must not stand in the question.
    guest
        .vm
        .type_console("echo seen-$((40+2)); tty; cat /proc/1/comm\n")
        .unwrap();
    await_console(&guest.console, &["seen-42", "/dev/ttyS0", "init"]);

    let uds = guest.dir.join("vsock");
    let mut one = Shell::connect(&uds);
    let mut other = Shell::connect(&uds);
    one.say("echo one-$((1+1)); tty");
    other.say("echo other-$((1+2)); tty; stty size");
    assert!(one.until("# ").contains("one-2"));
    let said = other.until("24 80");
    assert!(
        said.contains("other-3") && said.contains("/dev/pts/"),
        "{said}"
    );
    // A terminal of its own: an interrupt reaches the program in the front, and only that.
    other.say("sh -c 'echo run''ning; exec sleep 1000'");
    other.until("running");
    other.0.write_all(b"\x03").unwrap();
    other.until("# ");
    other.say("exit");
    let mut rest = String::new();
    other.0.read_to_string(&mut rest).unwrap();

    guest.vm.type_console("exit\n").unwrap();
    let end = guest.vm.wait(LONG).unwrap();
    assert!(
        end.to_string().contains("PID 1 exits with 1") || end.to_string().contains("panic"),
        "{end}"
    );
}

#[test]
fn a_machine_without_vsock_says_so_and_what_to_do() {
    let Some(profile) = bringup() else { return };
    let dir = tempfile::tempdir().unwrap();
    let console = dir.path().join("console");
    let vm = Vm::start(&profile, Accel::Tcg, VsockWire::None, &console, |_| {}).unwrap();
    await_console(
        &console,
        &[
            "] calls: ",
            "FAILED: port 1 of the host: ",
            "MISSING  vsock leads nowhere: there is no transport to the host",
            "do:     a vsock device for the VM",
            "] bridge: ",
            "FAILED: ",
            "the boot has failed",
            "uvm:/# ",
        ],
    );
    drop(vm);
}

#[test]
fn a_wrong_flag_is_named_on_the_console() {
    let Some(mut profile) = bringup() else { return };
    profile.service_flags = vec!["-loglevel=nonsense".into()];
    let guest = alone(&profile);
    await_console(
        &guest.console,
        &[
            "the machine would end now: Status(2)",
            "the service's flags: flag -loglevel cannot be ",
            "uvm:/# ",
        ],
    );
}

#[test]
fn without_a_serial_port_the_image_boots_as_any_and_tells_the_kernels_log() {
    let Some(mut profile) = bringup() else { return };
    // The host's own words: 8250_core.nr_uarts=0.
    profile.serial_console = false;
    let (vm, _dir, console) = boot(profile);
    let log = vm.external(&["dmesg"]).run().unwrap().text();
    for line in [
        "] devices: mounting /dev and /proc ...",
        "] negotiation: waiting for the host's NegotiateProtocol ... ok, ",
    ] {
        assert!(log.contains(line), "no {line:?} in\n{log}");
    }
    let text = std::fs::read_to_string(&console).unwrap();
    assert!(!text.contains("devices:"), "{text}");
    vm.power_off().unwrap();
}

#[test]
fn the_debug_image_gives_shells_while_its_bridge_is_not_served() {
    let Some(profile) = common::profile() else {
        return;
    };
    let options = BootOptions {
        negotiate: false,
        ..BootOptions::default()
    };
    let vm = Uvm::boot_with(profile, options).unwrap();
    let mut shell = Shell::connect(&vm.dir().join("vsock"));
    shell.say("ls -l /proc/1/exe; echo up-$((2*3))");
    let said = shell.until("up-6");
    assert!(said.contains("/init"), "{said}");
    // A script's input ends, and its shell with it.
    shell.say("echo last-$((4+5))");
    shell.0.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    shell.0.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("last-9"), "{rest}");
}

#[test]
fn the_shipped_image_listens_for_nobody() {
    let Some(profile) = common::shipped_profile() else {
        return;
    };
    let mut profile = profile;
    profile.kernel_options = vec![format!("uvm.shell_port={SHELL_PORT}")];
    let vm = common::boot_profile(profile);
    let mut stream = UnixStream::connect(vm.dir().join("vsock")).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
        .write_all(format!("CONNECT {SHELL_PORT}\n").as_bytes())
        .unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).ok();
    assert!(!said.starts_with(b"OK"), "{}", said.escape_ascii());
    vm.power_off().unwrap();
}

/// QEMU shows Hyper-V's leaves on KVM. Under TCG it takes most of the flags and leaves the leaves
/// out, but QEMU 7.2 refuses to start with `hv-vpindex` there.
#[test]
fn the_probe_with_hyperv_flags_of_the_processor() {
    let Some(mut profile) = bringup() else { return };
    let mut flags = "max,hv-relaxed,hv-vapic,hv-time,hv-synic,hv-stimer,hv-frequencies".to_owned();
    if choice::accel(AccelWish::default(), &profile.kernel).chosen == Accel::Kvm {
        // hv-synic wants it.
        flags += ",hv-vpindex";
    }
    profile.qemu_arguments = vec!["-cpu".into(), flags.clone()];
    let (vm, _dir, _) = boot(profile);
    let out = vm.external(&["probe", "--json"]).run().unwrap();
    let report: Value = serde_json::from_str(&out.text()).unwrap();
    let below = &report["hypervisor"];
    if below["is_hyperv"] == true {
        for feature in [
            "synic",
            "hypercall-msrs",
            "synthetic-timers",
            "reference-tsc",
        ] {
            let features = below["features"].as_array().unwrap();
            assert!(features.iter().any(|f| f == feature), "{feature}: {below}");
        }
    } else {
        eprintln!(
            "SKIPPED: Hyper-V's CPUID leaves: this QEMU takes {flags} and shows {} (TCG has no \
             Hyper-V interface); the leaves are tested on made-up records only",
            below["signature"]
        );
        assert_eq!(below["name"], "QEMU TCG", "{below}");
    }
    vm.power_off().unwrap();
}
