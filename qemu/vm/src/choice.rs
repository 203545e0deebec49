//! What this machine offers: the accelerator and the vsock, each with the reason for the choice.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::command_line::VsockWire;
use crate::end::VmEnd;
use crate::profile::{Accel, Profile, VsockWish};
use crate::sys;
use crate::vm::Vm;

pub const KVM: &str = "/dev/kvm";
pub const VHOST_VSOCK: &str = "/dev/vhost-vsock";
/// A kernel without a root file system panics within a second or two.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Which accelerator is wanted. TCG is the default: it works everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum AccelWish {
    /// KVM if a kernel boots on it, else TCG.
    Auto,
    Kvm,
    #[default]
    Tcg,
}

/// A choice and why it was made, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<T> {
    pub chosen: T,
    pub why: String,
}

fn chose<T>(chosen: T, why: impl Into<String>) -> Choice<T> {
    Choice {
        chosen,
        why: why.into(),
    }
}

/// Chooses the accelerator. `Auto` boots `kernel` on KVM, because a node that exists and opens does
/// not mean that a kernel runs on it.
pub fn accel(wish: AccelWish, kernel: &Path) -> Choice<Accel> {
    accel_with(wish, || openable(KVM), || probe_kvm(kernel))
}

fn accel_with(
    wish: AccelWish,
    open: impl FnOnce() -> io::Result<()>,
    probe: impl FnOnce() -> Result<(), String>,
) -> Choice<Accel> {
    match wish {
        AccelWish::Tcg => chose(Accel::Tcg, "as asked for"),
        AccelWish::Kvm => chose(Accel::Kvm, "as asked for, unproved"),
        AccelWish::Auto => match open() {
            Err(e) => chose(Accel::Tcg, format!("{KVM}: {e}")),
            Ok(()) => match probe() {
                Ok(()) => chose(Accel::Kvm, "a kernel boots on it"),
                Err(e) => chose(Accel::Tcg, format!("a kernel does not boot with KVM: {e}")),
            },
        },
    }
}

/// Boots the kernel on KVM without an initrd: it must get as far as its own panic.
fn probe_kvm(kernel: &Path) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let log = dir.path().join("console.log");
    let profile = Profile::new(kernel, None);
    let vm = Vm::start(&profile, Accel::Kvm, VsockWire::None, &log, |_| {})
        .map_err(|e| e.to_string())?;
    match vm.wait(PROBE_LIMIT) {
        Ok(VmEnd::Panic(text)) if text.contains("VFS") => Ok(()),
        Ok(end) => Err(end.to_string()),
        Err(_) => Err(format!("nothing happened in {PROBE_LIMIT:?}")),
    }
}

/// What carries the vsock of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VsockKind {
    None,
    Device,
    Kernel,
}

pub fn vsock(wish: VsockWish) -> Choice<VsockKind> {
    vsock_with(wish, || openable(VHOST_VSOCK))
}

fn vsock_with(wish: VsockWish, open: impl FnOnce() -> io::Result<()>) -> Choice<VsockKind> {
    match wish {
        VsockWish::None => chose(VsockKind::None, "as asked for"),
        VsockWish::Device => chose(VsockKind::Device, "as asked for"),
        VsockWish::Kernel => chose(VsockKind::Kernel, "as asked for"),
        VsockWish::Auto => match open() {
            Ok(()) => chose(
                VsockKind::Kernel,
                format!("{VHOST_VSOCK} is there and opens"),
            ),
            Err(e) => chose(VsockKind::Device, format!("{VHOST_VSOCK}: {e}")),
        },
    }
}

fn openable(path: &str) -> io::Result<()> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map(drop)
}

/// How long the time stamp counter is measured: it makes 20,000 steps in one millisecond at the
/// least, and a clock that is read 1 us late is then one part in 5,000.
const TSC_MEASURED: Duration = Duration::from_millis(5);

/// The kHz of this machine's time stamp counter, which is the guest's under TCG. It is measured
/// once: what `/proc/cpuinfo` says changes with the load on many machines.
pub fn tsc_khz() -> Option<u64> {
    static KHZ: OnceLock<Option<u64>> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let (begun, first) = tsc_now()?;
        std::thread::sleep(TSC_MEASURED);
        let (ended, last) = tsc_now()?;
        let nanoseconds = u64::try_from((ended - begun).as_nanos()).ok()?;
        last.checked_sub(first)?
            .checked_mul(1_000_000)
            .map(|ticks| ticks / nanoseconds)
    })
}

/// The time and the counter at the same moment; `None` when something always came between.
fn tsc_now() -> Option<(Instant, u64)> {
    (0..1000).find_map(|_| {
        let now = Instant::now();
        let ticks = sys::time_stamp()?;
        (now.elapsed() < Duration::from_micros(1)).then_some((now, ticks))
    })
}

/// Looks a program up in PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Also the directories of e2fsprogs, which an ordinary user's PATH lacks.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|dir| dir.join(name))
        .find(|file| {
            use std::os::unix::fs::PermissionsExt;
            file.metadata()
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn a_kvm_that_opens_is_still_put_to_the_proof() {
        let never = || panic!("must not be looked at");
        let auto = |open: fn() -> io::Result<()>, probe: Result<(), String>| {
            accel_with(AccelWish::Auto, open, || probe)
        };
        assert_eq!(auto(|| Ok(()), Ok(())).chosen, Accel::Kvm);
        let hangs = auto(|| Ok(()), Err("nothing happened".into()));
        assert_eq!(hangs.chosen, Accel::Tcg);
        assert!(hangs.why.contains("nothing happened"));
        let closed = accel_with(AccelWish::Auto, denied, never);
        assert_eq!(closed.chosen, Accel::Tcg);
        assert!(closed.why.starts_with("/dev/kvm: "), "{}", closed.why);
        assert_eq!(
            accel_with(AccelWish::Tcg, || panic!("looked"), never).chosen,
            Accel::Tcg
        );
    }

    #[test]
    fn the_kernels_vsock_is_taken_when_it_opens() {
        assert_eq!(
            vsock_with(VsockWish::Auto, || Ok(())).chosen,
            VsockKind::Kernel
        );
        assert_eq!(
            vsock_with(VsockWish::Auto, denied).chosen,
            VsockKind::Device
        );
        assert_eq!(
            vsock_with(VsockWish::Device, || panic!("looked")).chosen,
            VsockKind::Device
        );
    }

    #[test]
    fn the_time_stamp_counter_is_as_fast_as_a_processor() {
        let khz = tsc_khz().expect("an x86 with a counter");
        assert!((400_000..10_000_000).contains(&khz), "{khz}");
    }
}
