//! The vsock device under QEMU, driven from both ends: the host side here, the guest side by
//! `guest/vsock_peer.rs`, which is compiled and packed on the fly and obeys orders.
//!
//! Needs `qemu-system-x86_64`, `rustc`, `cpio` and a kernel: `UVM_KERNEL`, or `out/vmlinux`.

mod harness;

use std::fs;
use std::io::{BufRead, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use harness::{accept, assert_same, connect, pattern, read_all, Vm, MIB};
use uvm_vsock::{Device, DeviceConfig, Direction, Fault, Faults};

#[test]
fn streams_between_guest_and_host() {
    let Some(mut vm) = Vm::boot(Faults::default()) else {
        return;
    };
    a_refusal_comes_at_once(&mut vm);
    the_guest_ends_writing_first(&mut vm);
    the_host_ends_writing_first(&mut vm);
    much_goes_each_way(&mut vm);
    a_late_reader_gets_everything(&mut vm);
    // A stream nobody reads stops none of the following.
    let listener = vm.listen(2004);
    vm.order(&format!("stuck 2004 {}", 8 * MIB));
    vm.answer();
    let stuck = accept(&listener);
    four_streams_both_ways(&mut vm);
    drop(stuck);
    a_thousand_at_once(&mut vm);
    one_local_port_again_and_again(&mut vm);
    the_host_connects(&mut vm);
    vm.end();
}

/// Nobody listens: refused at once, by the guest's own clock.
fn a_refusal_comes_at_once(vm: &mut Vm) {
    vm.order("dial 4999");
    let answer = vm.answer();
    let micros: u64 = answer
        .strip_prefix("errno 104 after ")
        .and_then(|rest| rest.strip_suffix(" us"))
        .unwrap_or_else(|| panic!("expected ECONNRESET, got {answer:?}"))
        .parse()
        .unwrap();
    assert!(micros < 100_000, "a refusal took {micros} us");
}

/// The guest ends writing, the host answers after it has seen the end.
fn the_guest_ends_writing_first(vm: &mut Vm) {
    let listener = vm.listen(2000);
    vm.order("half 2000");
    let mut stream = accept(&listener);
    assert_eq!(read_all(&stream), b"ping");
    stream.write_all(b"pong after the end").unwrap();
    drop(stream);
    assert_eq!(vm.answer(), "pong after the end");
}

/// The host ends writing, the guest answers after it has seen the end.
fn the_host_ends_writing_first(vm: &mut Vm) {
    let listener = vm.listen(2001);
    vm.order("fulfil 2001");
    let mut stream = accept(&listener);
    stream.write_all(b"all of stdin").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&stream), b"all of stdin");
    assert_eq!(vm.answer(), "all of stdin");
}

/// 64 MiB each way; both senders close right after the last byte.
fn much_goes_each_way(vm: &mut Vm) {
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
}

/// The guest has closed long before the host reads: every byte is still there.
fn a_late_reader_gets_everything(vm: &mut Vm) {
    let listener = vm.listen(2003);
    vm.order("send 2003 13 400000");
    let stream = accept(&listener);
    vm.answer();
    assert_same(&read_all(&stream), &pattern(13, 400_000));
}

/// Four streams, each 4 MiB both ways at once.
fn four_streams_both_ways(vm: &mut Vm) {
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
}

/// 1,000 connections at once, each its own bytes.
fn a_thousand_at_once(vm: &mut Vm) {
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
}

/// The same local port 50 times: a closed connection does not linger, nor answer for the next.
fn one_local_port_again_and_again(vm: &mut Vm) {
    let listener = vm.listen(2007);
    vm.order("reuse 2007 77777 50");
    for round in 0..50u32 {
        let mut stream = accept(&listener);
        assert_eq!(read_all(&stream), round.to_le_bytes());
        stream.write_all(&round.to_le_bytes()).unwrap();
    }
    vm.answer();
}

/// Into the guest: echo with half-close, early bytes, and a port nobody listens on.
fn the_host_connects(vm: &mut Vm) {
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
