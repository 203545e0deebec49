//! The vsock device under QEMU, driven from both ends: the host side here, the guest side by
//! `guest/vsock_peer.rs`, which is compiled and packed on the fly and obeys orders.
//!
//! Needs `qemu-system-x86_64`, `rustc`, `cpio` and a kernel: `UVM_KERNEL`, or `out/vmlinux`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[path = "guest/pattern.rs"]
mod pattern;

use pattern::Pattern;
use uvm_vsock::{host_socket, Device, DeviceConfig, DeviceHandle, Direction, Fault, Faults};

/// More than any single order takes, on a machine busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: usize = 1024 * 1024;

struct Vm {
    dir: tempfile::TempDir,
    uds: PathBuf,
    qemu: Child,
    device: Option<DeviceHandle>,
    orders: BufReader<UnixStream>,
}

/// The kernel to boot, or why there is none.
fn kernel() -> Result<PathBuf, String> {
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

fn have(tool: &str) -> Result<(), String> {
    Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map(drop)
        .map_err(|e| format!("{tool} cannot be started: {e}"))
}

fn initrd(dir: &Path) -> PathBuf {
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
fn accept(listener: &UnixListener) -> UnixStream {
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
    fn boot(faults: Faults) -> Option<Vm> {
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

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(host_socket(&self.uds, port)).unwrap()
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders.get_mut(), "{order}").unwrap();
    }

    /// The guest's answer to the last order; fails unless it is `ok`.
    fn answer(&mut self) -> String {
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
    fn end(mut self) {
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

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Pattern(seed).fill(&mut bytes);
    bytes
}

fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Like `assert_eq`, without printing megabytes.
fn assert_same(got: &[u8], want: &[u8]) {
    assert_eq!(got.len(), want.len(), "length of the stream");
    let differs = got.iter().zip(want).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first byte that differs");
}

/// Connects to a guest port; gives the stream and the line the device answered with.
fn connect(uds: &Path, port: u32, early: &str) -> (UnixStream, String) {
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

#[test]
fn streams_between_guest_and_host() {
    let Some(mut vm) = Vm::boot(Faults::default()) else {
        return;
    };

    // Nobody listens: refused at once, by the guest's own clock.
    vm.order("dial 4999");
    let answer = vm.answer();
    let micros: u64 = answer
        .strip_prefix("errno 104 after ")
        .and_then(|rest| rest.strip_suffix(" us"))
        .unwrap_or_else(|| panic!("expected ECONNRESET, got {answer:?}"))
        .parse()
        .unwrap();
    assert!(micros < 100_000, "a refusal took {micros} us");

    // The guest ends writing, the host answers after it has seen the end.
    let listener = vm.listen(2000);
    vm.order("half 2000");
    let mut stream = accept(&listener);
    assert_eq!(read_all(&stream), b"ping");
    stream.write_all(b"pong after the end").unwrap();
    drop(stream);
    assert_eq!(vm.answer(), "pong after the end");

    // The host ends writing, the guest answers after it has seen the end.
    let listener = vm.listen(2001);
    vm.order("fulfil 2001");
    let mut stream = accept(&listener);
    stream.write_all(b"all of stdin").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&stream), b"all of stdin");
    assert_eq!(vm.answer(), "all of stdin");

    // 64 MiB each way; both senders close right after the last byte.
    let listener = vm.listen(2002);
    vm.order(&format!("send 2002 11 {}", 64 * MIB));
    let got = read_all(&accept(&listener));
    assert_same(&got, &pattern(11, 64 * MIB));
    vm.answer();
    vm.order("receive 2002 12");
    let mut stream = accept(&listener);
    stream.write_all(&pattern(12, 64 * MIB)).unwrap();
    drop(stream);
    let answer = vm.answer();
    assert!(answer.starts_with("67108864 "), "{answer}");

    // The guest has closed long before the host reads: every byte is still there.
    let listener = vm.listen(2003);
    vm.order("send 2003 13 400000");
    let stream = accept(&listener);
    vm.answer();
    assert_same(&read_all(&stream), &pattern(13, 400_000));

    // A stream nobody reads stops none of the following.
    let listener = vm.listen(2004);
    vm.order(&format!("stuck 2004 {}", 8 * MIB));
    vm.answer();
    let stuck = accept(&listener);

    // Four streams, each 4 MiB both ways at once.
    let listener = vm.listen(2005);
    vm.order(&format!("duplex 2005 4 {}", 4 * MIB));
    let streams: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = accept(&listener);
            thread::spawn(move || {
                let mut index = [0];
                stream.read_exact(&mut index).unwrap();
                let seed = u64::from(index[0]);
                let mut writer = stream.try_clone().unwrap();
                let sending = thread::spawn(move || {
                    writer.write_all(&pattern(2000 + seed, 4 * MIB)).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                assert_same(&read_all(&stream), &pattern(1000 + seed, 4 * MIB));
                sending.join().unwrap();
            })
        })
        .collect();
    for stream in streams {
        stream.join().unwrap();
    }
    let answer = vm.answer();
    assert!(answer.starts_with("16777216 "), "{answer}");
    drop(stuck);

    // 1,000 connections at once, each its own bytes.
    let listener = vm.listen(2006);
    vm.order("crowd 2006 1000");
    let mut streams: Vec<_> = (0..1000).map(|_| accept(&listener)).collect();
    for stream in &mut streams {
        let mut number = [0; 4];
        stream.read_exact(&mut number).unwrap();
        stream.write_all(&number).unwrap();
    }
    vm.answer();
    drop(streams);

    // The same local port 50 times: a closed connection does not linger, nor answer for the next.
    let listener = vm.listen(2007);
    vm.order("reuse 2007 77777 50");
    for round in 0..50u32 {
        let mut stream = accept(&listener);
        assert_eq!(read_all(&stream), round.to_le_bytes());
        stream.write_all(&round.to_le_bytes()).unwrap();
    }
    vm.answer();

    // Into the guest: echo with half-close, early bytes, and a port nobody listens on.
    vm.order("serve 3000 2");
    vm.answer();
    let (stream, line) = connect(&vm.uds, 3000, "right after the line");
    assert!(line.starts_with("OK "), "{line:?}");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&stream), b"right after the line");
    let (mut stream, _) = connect(&vm.uds, 3000, "");
    let bytes = pattern(14, 2 * MIB);
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let sending = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut echo = Vec::new();
    stream.read_to_end(&mut echo).unwrap();
    sending.join().unwrap();
    assert_same(&echo, &bytes);
    let (_, line) = connect(&vm.uds, 3999, "");
    assert_eq!(line, "", "the device closes when the guest refuses");

    vm.end();
}

#[test]
fn bytes_sent_right_before_power_off_reach_a_slow_reader() {
    let Some(mut vm) = Vm::boot(Faults::default()) else {
        return;
    };
    let listener = vm.listen(2000);
    vm.order("tail 2000 21 300000");
    let stream = accept(&listener);
    vm.qemu.wait().unwrap();
    assert_same(&read_all(&stream), &pattern(21, 300_000));
    vm.device.take().unwrap().wait().unwrap();
}

#[test]
fn faults_break_what_they_name_and_nothing_else() {
    let faults = Faults::default()
        .on_port(2000, Fault::Refuse)
        .on_port(
            2001,
            Fault::Reset {
                direction: Direction::GuestToHost,
                bytes: 1000,
            },
        )
        .on_port(
            2002,
            Fault::Drop {
                direction: Direction::GuestToHost,
                bytes: 2000,
            },
        )
        .on_port(2003, Fault::Short { bytes: 7 });
    let Some(mut vm) = Vm::boot(faults) else {
        return;
    };
    let refused = vm.listen(2000);
    refused.set_nonblocking(true).unwrap();
    vm.order("dial 2000");
    assert!(vm.answer().starts_with("errno 104 "));
    assert!(refused.accept().is_err(), "nothing reached the listener");

    for (port, bytes) in [(2001, 1000), (2002, 2000)] {
        let listener = vm.listen(port);
        vm.order(&format!("send {port} 31 {MIB}"));
        let got = read_all(&accept(&listener));
        assert_same(&got, &pattern(31, bytes));
        let mut line = String::new();
        vm.orders.read_line(&mut line).unwrap();
        assert!(line.starts_with("fail "), "the sender must notice: {line}");
    }

    let listener = vm.listen(2003);
    vm.order("send 2003 32 100000");
    assert_same(&read_all(&accept(&listener)), &pattern(32, 100_000));
    vm.answer();

    // Replaced while the device runs.
    let stall = Fault::Stall {
        direction: Direction::HostToGuest,
        bytes: 0,
    };
    let device = vm.device.as_ref().unwrap();
    device.set_faults(Faults::default().on_port(2004, stall));
    let listener = vm.listen(2004);
    vm.order("half 2004");
    let mut stream = accept(&listener);
    assert_eq!(read_all(&stream), b"ping", "the other direction flows");
    stream.write_all(b"never seen").unwrap();
    let mut line = [0];
    let wait = Duration::from_millis(300);
    vm.orders.get_ref().set_read_timeout(Some(wait)).unwrap();
    assert!(
        vm.orders.read(&mut line).is_err(),
        "the guest got an answer"
    );

    // QEMU dies: the device ends by itself and the host's streams with it.
    vm.qemu.kill().unwrap();
    vm.device.take().unwrap().wait().unwrap();
    assert_eq!(stream.read(&mut line).unwrap(), 0);
    assert!(!vm.uds.exists());
}

#[test]
fn a_device_stops_and_cleans_up_without_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let config = DeviceConfig {
        socket: dir.path().join("vhost"),
        uds: dir.path().join("vsock"),
        cid: 3,
        faults: Faults::default(),
    };
    let device = Device::start(config.clone()).unwrap();
    assert!(config.socket.exists() && config.uds.exists());
    assert!(
        Device::start(config.clone()).is_err(),
        "the sockets are taken"
    );
    // The second start tried the sockets; that must not count as QEMU coming and going.
    assert!(!device.is_finished());
    device.stop().unwrap();
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Figures, on request: `cargo test --release -p qemu --test vsock_device -- --ignored --nocapture`
#[test]
#[ignore = "measures, asserts nothing"]
fn figures() {
    let Some(mut vm) = Vm::boot(Faults::default()) else {
        return;
    };
    let bytes = 512 * MIB;
    let listener = vm.listen(2000);
    for _ in 0..3 {
        vm.order(&format!("raw-send 2000 {bytes}"));
        let mut stream = accept(&listener);
        let mut block = vec![0; 256 * 1024];
        while stream.read(&mut block).unwrap() > 0 {}
        stream.write_all(&[1]).unwrap();
        println!("guest to host: {}", vm.answer());

        vm.order("raw-receive 2000");
        let mut stream = accept(&listener);
        let begin = Instant::now();
        for _ in 0..bytes / block.len() {
            stream.write_all(&block).unwrap();
        }
        drop(stream);
        println!("host to guest: {} ({:?})", vm.answer(), begin.elapsed());

        vm.order("ping 2000 2000");
        let mut stream = accept(&listener);
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            stream.write_all(&byte).unwrap();
        }
        println!("round trip: {}", vm.answer());
    }
    vm.end();
}
