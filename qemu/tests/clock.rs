//! The guest's clock in a real VM. Emulation has no PTP clock, so the host says the time at a
//! port (`-time-port`): the discipline, its corrections and its log lines are the same.

mod common;

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use uvm::network::{self, join};
use uvm::Uvm;
use uvm_host::log::{Level, Record};
use uvm_vm::network::Nic;
use uvm_vm::profile::VsockWish;

use common::image::Image;
use common::LONG;

const PORT: u32 = 300;
const YEAR: i64 = 365 * 24 * 3600;
/// Seconds between two clocks that are the same under emulation.
const CLOSE: f64 = 1.0;

/// The host's clock at the port, until it is dropped.
struct TimeServer {
    /// Seconds that it is ahead of this machine's; `i64::MAX`: it says no time at all.
    ahead: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    path: std::path::PathBuf,
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

impl TimeServer {
    fn open(vm: &Uvm) -> Self {
        let path = uvm_host::Transport::socket_of(&vm.dir().join("vsock"), PORT);
        let listener = UnixListener::bind(&path).unwrap();
        let server = Self {
            ahead: Arc::default(),
            stop: Arc::default(),
            path,
        };
        let (ahead, stop) = (Arc::clone(&server.ahead), Arc::clone(&server.stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let nanos = match ahead.load(Ordering::SeqCst) {
                    i64::MAX => 0,
                    ahead => {
                        let nanos = i64::try_from(now().as_nanos()).unwrap();
                        u64::try_from(nanos + ahead * 1_000_000_000).unwrap()
                    }
                };
                // The guest may have given up.
                drop(stream.and_then(|mut stream| stream.write_all(&nanos.to_be_bytes())));
            }
        });
        server
    }

    fn set_ahead(&self, seconds: i64) {
        self.ahead.store(seconds, Ordering::SeqCst);
    }
}

impl Drop for TimeServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(std::os::unix::net::UnixStream::connect(&self.path));
        drop(std::fs::remove_file(&self.path));
    }
}

fn boot(arguments: &[&str], flags: &[String]) -> Option<Uvm> {
    let mut profile = common::profile()?;
    profile.vsock = VsockWish::Device;
    profile.service_flags = flags.to_vec();
    profile.qemu_arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
    Some(common::boot_profile(profile))
}

/// How far the guest's clock is ahead of this machine's, in seconds, and its seconds.
fn offset(vm: &Uvm) -> f64 {
    let before = now();
    let out = vm.external(&["/bin/adjtimex"]).limit(LONG).run().unwrap();
    let middle = (before + now()).as_secs_f64() / 2.0;
    let text = out.text();
    let of = |name: &str| -> f64 {
        let (_, rest) = text.split_once(name).unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    of("time.tv_sec:") + of("time.tv_usec:") / 1e6 - middle
}

fn is_step(record: &Record) -> bool {
    record.message.contains("the clock was set to the host's")
}

fn steps(vm: &Uvm) -> usize {
    vm.log_records().iter().filter(|r| is_step(r)).count()
}

/// Waits until there are more such records than `before`; gives the first of the new ones.
#[track_caller]
fn told(vm: &Uvm, before: usize, wanted: impl Fn(&Record) -> bool) -> Record {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(record) = vm.log_records().into_iter().filter(&wanted).nth(before) {
            return record;
        }
        assert!(Instant::now() < deadline, "no such record");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn stepped(vm: &Uvm, before: usize) -> Record {
    told(vm, before, is_step)
}

#[track_caller]
fn close(vm: &Uvm, ahead: i64) {
    let off = offset(vm) - ahead as f64;
    assert!(off.abs() < CLOSE, "off by {off} s");
}

#[test]
fn a_wrong_clock_is_set_and_a_pause_made_up_for() {
    let Some(vm) = boot(
        &["-rtc", "base=2020-02-02"],
        &[format!("-time-port={PORT}")],
    ) else {
        return;
    };
    assert!(offset(&vm) < -1e6, "the VM does not start in 2020");
    // Nobody says the time yet: told once, and no harm done.
    let text = "the time is not kept in step with the host's";
    vm.wait_log(LONG, |record| record.message.contains(text))
        .unwrap();
    let server = TimeServer::open(&vm);
    let record = stepped(&vm, 0);
    assert_eq!(record.level, Level::Info);
    assert!(record.message.ends_with("behind"), "{}", record.message);
    close(&vm, 0);

    // The guest does not live through these seconds.
    vm.vm().qmp().command("stop", json!({})).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    vm.vm().qmp().command("cont", json!({})).unwrap();
    let lost = offset(&vm);
    let record = stepped(&vm, 1);
    println!("after the pause {lost:.2} s; {}", record.message);
    close(&vm, 0);
    // In step now: looks that find nothing to do say nothing.
    let server_ahead = |seconds| {
        server.set_ahead(seconds);
        let before = steps(&vm);
        stepped(&vm, before)
    };
    for (ahead, side) in [(YEAR, "behind"), (-YEAR, "ahead"), (0, "behind")] {
        let record = server_ahead(ahead);
        assert!(record.message.ends_with(side), "{}", record.message);
        close(&vm, ahead);
    }
    // Nonsense, then nobody, then the time again: the clock runs on by itself.
    server.set_ahead(i64::MAX);
    let nonsense = "no time that can be";
    vm.wait_log(LONG, |record| record.message.contains(nonsense))
        .unwrap();
    drop(server);
    vm.wait_log(LONG, |record| {
        record.message.contains(&format!("port {PORT}"))
    })
    .unwrap();
    close(&vm, 0);
    let _server = TimeServer::open(&vm);
    let again = "in step with the host's again";
    // The first time was when there was somebody at last.
    told(&vm, 1, |record| record.message.contains(again));
    close(&vm, 0);
    assert_eq!(steps(&vm), 5, "each step is told once");
    // The small corrections in between were taken as well.
    let failed = |record: &Record| record.message.contains("correcting the clock");
    assert!(!vm.log_records().iter().any(failed));
}

#[test]
fn an_address_lent_for_a_day_is_prolonged_after_a_pause() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    profile.vsock = VsockWish::Device;
    profile.service_flags = vec![format!("-time-port={PORT}")];
    profile.nics = 1;
    let Some(image) = Image::open() else { return };
    let vm = common::boot_profile(profile);
    let _server = TimeServer::open(&vm);
    let nic = Nic::new(0);
    // By the DHCP server of QEMU's user-mode network.
    vm.modify("Network", "Add", network::bare(nic, "pod"))
        .unwrap();
    let pod = image.mount(&vm, "pod");
    let mut spec = image.spec("pod", &["cat"]);
    join(&mut spec, "pod");
    pod.create(&spec).unwrap();
    pod.start().unwrap();
    let process = pod.init().open_stdin().start().unwrap();
    // The first looks found nobody.
    let again = "in step with the host's again";
    told(&vm, 0, |record| record.message.contains(again));
    let before = steps(&vm);
    vm.vm().qmp().command("stop", json!({})).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    vm.vm().qmp().command("cont", json!({})).unwrap();
    stepped(&vm, before);
    told(&vm, 0, |record| record.message.contains("is prolonged"));
    drop(process);
    pod.remove().unwrap();
}

#[test]
fn the_clock_is_left_alone_when_asked_and_a_missing_one_is_a_warning() {
    let port = format!("-time-port={PORT}");
    let Some(vm) = boot(
        &["-rtc", "base=2020-02-02"],
        &[port, "-disable-time-sync".into()],
    ) else {
        return;
    };
    let _server = TimeServer::open(&vm);
    // Longer than looks are apart; what does not come cannot be waited for.
    std::thread::sleep(Duration::from_secs(6));
    assert!(offset(&vm) < -1e6);
    assert_eq!(steps(&vm), 0);
    let dump = vm.dump_stacks().unwrap();
    assert!(dump.contains("clock (1)\n  left alone\n"), "{dump}");

    let Some(vm) = boot(&[], &[]) else { return };
    let record = vm
        .wait_log(LONG, |record| record.message.contains("no PTP clock"))
        .unwrap();
    assert_eq!(record.level, Level::Warning);
    assert_eq!(vm.external(&["/bin/true"]).run().unwrap().code, 0);
}
