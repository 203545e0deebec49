//! A VM whose guest obeys orders, and the bytes that both ends send.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use uvm_vsock::{host_socket, Device, DeviceConfig, DeviceHandle, Faults};

#[path = "../guest/pattern.rs"]
mod pattern;

use pattern::Pattern;

/// More than any single order takes, on a machine busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const MIB: usize = 1024 * 1024;

pub struct Vm {
    pub dir: tempfile::TempDir,
    pub uds: PathBuf,
    pub qemu: Child,
    pub device: Option<DeviceHandle>,
    pub orders: BufReader<UnixStream>,
}

/// The kernel to boot, or why there is none.
pub fn kernel() -> Result<PathBuf, String> {
    let path = match std::env::var_os("UVM_KERNEL") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../out/vmlinux"),
    };
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("no kernel at {} (set UVM_KERNEL)", path.display()))
    }
}

pub fn have(tool: &str) -> Result<(), String> {
    Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map(drop)
        .map_err(|e| format!("{tool} cannot be started: {e}"))
}

pub fn initrd(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/vsock_peer.rs");
    let root = dir.join("root");
    fs::create_dir(&root).unwrap();
    let built = Command::new("rustc")
        .args(["--edition", "2021", "-O", "-Ctarget-feature=+crt-static"])
        .args(["-Cstrip=symbols", "-o"])
        .arg(root.join("init"))
        .arg(source)
        .status();
    assert!(built.unwrap().success(), "rustc cannot build the guest");
    let image = dir.join("initrd");
    let mut cpio = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(&root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&image).unwrap())
        .spawn()
        .unwrap();
    cpio.stdin.take().unwrap().write_all(b"init\n").unwrap();
    assert!(cpio.wait().unwrap().success(), "cpio failed");
    image
}

/// Accepts one connection, or fails when none comes.
pub fn accept(listener: &UnixListener) -> UnixStream {
    use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut fds, wait), Ok(1), "nobody connected");
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl Vm {
    pub fn boot(faults: Faults) -> Option<Vm> {
        let ready = kernel().and_then(|kernel| {
            for tool in ["qemu-system-x86_64", "rustc", "cpio"] {
                have(tool)?;
            }
            Ok(kernel)
        });
        let kernel = match ready {
            Ok(kernel) => kernel,
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return None;
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let initrd = initrd(dir.path());
        let socket = dir.path().join("vhost");
        let uds = dir.path().join("vsock");
        let control = UnixListener::bind(host_socket(&uds, 1000)).unwrap();
        let device = Device::start(DeviceConfig {
            socket: socket.clone(),
            uds: uds.clone(),
            cid: 3,
            faults,
        })
        .unwrap();
        let console = fs::File::create(dir.path().join("console")).unwrap();
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-nographic"])
            .args(["-object", "memory-backend-memfd,id=mem0,size=512M,share=on"])
            .args([
                "-machine",
                "q35,accel=tcg,memory-backend=mem0",
                "-m",
                "512M",
            ])
            .arg("-chardev")
            .arg(format!("socket,id=vs0,path={}", socket.display()))
            .args(["-device", "vhost-user-vsock-pci,chardev=vs0"])
            .args(["-serial", "stdio", "-kernel"])
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        let orders = BufReader::new(accept(&control));
        Some(Vm {
            dir,
            uds,
            qemu,
            device: Some(device),
            orders,
        })
    }

    pub fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(host_socket(&self.uds, port)).unwrap()
    }

    pub fn order(&mut self, order: &str) {
        writeln!(self.orders.get_mut(), "{order}").unwrap();
    }

    /// The guest's answer to the last order; fails unless it is `ok`.
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        if let Err(e) = self.orders.read_line(&mut line) {
            let console = fs::read_to_string(self.dir.path().join("console"));
            panic!("no answer of the guest: {e}; its console:\n{console:?}");
        }
        let line = line.trim_end();
        line.strip_prefix("ok ")
            .unwrap_or_else(|| panic!("the guest says: {line:?}"))
            .to_owned()
    }

    /// Orders the guest to power off; QEMU, device and sockets must go away by themselves.
    pub fn end(mut self) {
        self.order("off");
        self.qemu.wait().unwrap();
        self.device.take().unwrap().wait().unwrap();
        assert!(!self.uds.exists(), "the device left its socket behind");
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // After `end` both have gone already; in a failing test this is what ends QEMU.
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Pattern(seed).fill(&mut bytes);
    bytes
}

pub fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Like `assert_eq`, without printing megabytes.
pub fn assert_same(got: &[u8], want: &[u8]) {
    assert_eq!(got.len(), want.len(), "length of the stream");
    let differs = got.iter().zip(want).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first byte that differs");
}

/// Connects to a guest port; gives the stream and the line the device answered with.
pub fn connect(uds: &Path, port: u32, early: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(uds).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(format!("CONNECT {port}\n{early}").as_bytes())
        .unwrap();
    let mut line = String::new();
    let mut byte = [0];
    while !line.ends_with('\n') && stream.read(&mut byte).unwrap() == 1 {
        line.push(char::from(byte[0]));
    }
    (stream, line)
}
