//! The stdio relay between real pipes, terminals and sockets, without a VM.
#![allow(clippy::disallowed_methods)] // The ends of the relay are threads of the test.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use gcs::reactor::Poller;
use gcs::stdio::{Input, Output, Relay, StreamKind};
use nix::fcntl::OFlag;

struct Bench {
    poller: Poller<StreamKind>,
    relay: Relay,
}

impl Bench {
    fn new(build: impl FnOnce(&mut Relay)) -> Self {
        let mut bench = Self {
            poller: Poller::new().unwrap(),
            relay: Relay::default(),
        };
        build(&mut bench.relay);
        bench.relay.watch(&mut bench.poller, |kind| kind).unwrap();
        bench
    }

    /// Turns the loop until `done`, or fails after half a minute.
    fn turn_until(&mut self, mut done: impl FnMut(&Relay) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done(&self.relay) {
            assert!(Instant::now() < deadline, "stuck: {}", self.relay);
            self.turn(Instant::now() + Duration::from_millis(50));
        }
    }

    fn turn(&mut self, until: Instant) -> usize {
        let ready = self.poller.wait(Some(until)).unwrap();
        for kind in &ready {
            self.relay
                .advance(*kind, &mut self.poller, |kind| kind)
                .unwrap();
        }
        ready.len()
    }

    /// Turns the loop until nothing is ready any more.
    fn settle(&mut self) {
        while self.turn(Instant::now()) > 0 {}
    }

    fn finish(&mut self) {
        self.relay.finish(&mut self.poller, |kind| kind).unwrap();
    }
}

fn connection() -> (OwnedFd, UnixStream) {
    let (guest, host) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    (guest.into(), host)
}

/// A pipe whose relay end does not block: (process's end, relay's end).
fn output_pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    gcs::sys::channel::set_nonblocking(read.as_fd(), true).unwrap();
    (write.into(), read)
}

fn input_pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    gcs::sys::channel::set_nonblocking(write.as_fd(), true).unwrap();
    (read.into(), write)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn output_is_complete_before_the_stream_is_done_and_done_waits_for_the_hosts_close() {
    let (mut process, pipe) = output_pipe();
    let (guest, mut host) = connection();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stdout, Output::new(pipe, Some(guest), false)));
    let sent = pattern(3 << 20);
    let expected = sent.clone();
    let writer = std::thread::spawn(move || process.write_all(&sent).unwrap());
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        host.read_to_end(&mut got).unwrap();
        (got, host)
    });
    bench.turn_until(|_| reader.is_finished());
    writer.join().unwrap();
    let (got, host) = reader.join().unwrap();
    assert_eq!(got, expected);
    bench.finish();
    bench.settle();
    assert!(
        !bench.relay.is_done(),
        "the host has not closed yet: {}",
        bench.relay
    );
    drop(host);
    bench.turn_until(Relay::is_done);
    assert_eq!(bench.poller.len(), 0);
}

#[test]
fn a_host_that_does_not_read_stops_the_process_and_loses_nothing() {
    let (process, pipe) = output_pipe();
    gcs::sys::channel::set_nonblocking(process.as_fd(), true).unwrap();
    let (guest, mut host) = connection();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stderr, Output::new(pipe, Some(guest), false)));
    let mut written = 0;
    let mut process = Some(process);
    loop {
        match process.as_mut().unwrap().write(&[7; 4096]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let before = bench.turn(Instant::now());
                if before == 0 {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(written < 64 << 20, "nothing pushes back");
    }
    // Full everywhere: nothing is ready, so nothing spins.
    assert_eq!(bench.turn(Instant::now()), 0);
    drop(process.take());
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        host.read_to_end(&mut got).unwrap();
        got.len()
    });
    bench.turn_until(Relay::is_done);
    assert_eq!(reader.join().unwrap(), written);
}

#[test]
fn a_broken_connection_does_not_block_the_process() {
    let (mut process, pipe) = output_pipe();
    let (guest, host) = connection();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stdout, Output::new(pipe, Some(guest), false)));
    drop(host);
    let writer = std::thread::spawn(move || process.write_all(&pattern(1 << 20)).unwrap());
    bench.turn_until(Relay::is_done);
    writer.join().unwrap();
    assert_eq!(bench.poller.len(), 0);
}

#[test]
fn output_nobody_asked_for_is_dropped() {
    let (mut process, pipe) = output_pipe();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stdout, Output::new(pipe, None, false)));
    let writer = std::thread::spawn(move || process.write_all(&pattern(1 << 20)).unwrap());
    bench.turn_until(Relay::is_done);
    writer.join().unwrap();
}

#[test]
fn stdin_arrives_unchanged_and_the_hosts_half_close_is_end_of_file() {
    let (mut process, pipe) = input_pipe();
    let (guest, mut host) = connection();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stdin, Input::new(guest, pipe, false)));
    let sent = pattern(3 << 20);
    let expected = sent.clone();
    let writer = std::thread::spawn(move || {
        host.write_all(&sent).unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        host
    });
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        process.read_to_end(&mut got).unwrap();
        got
    });
    bench.turn_until(|_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), expected);
    let mut host = writer.join().unwrap();
    assert!(!bench.relay.is_done(), "the process has not ended");
    bench.finish();
    assert!(bench.relay.is_done());
    assert_eq!(
        host.read(&mut [0]).unwrap(),
        0,
        "the connection is closed at the end"
    );
}

#[test]
fn a_process_that_closed_its_stdin_does_not_block_the_host() {
    let (process, pipe) = input_pipe();
    let (guest, mut host) = connection();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stdin, Input::new(guest, pipe, false)));
    drop(process);
    let writer = std::thread::spawn(move || host.write_all(&pattern(1 << 20)).map(|()| host));
    bench.turn_until(|_| writer.is_finished());
    writer.join().unwrap().unwrap();
    bench.finish();
    assert!(bench.relay.is_done());
}

#[test]
fn the_exit_ends_stdin_although_the_host_keeps_it_open() {
    let (_process, pipe) = input_pipe();
    let (guest, host) = connection();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stdin, Input::new(guest, pipe, false)));
    bench.settle();
    bench.finish();
    assert!(bench.relay.is_done());
    assert_eq!(bench.poller.len(), 0);
    drop(host);
}

#[test]
fn a_terminal_that_nobody_has_open_is_silent_until_it_is_opened_again_or_the_process_ends() {
    let pty = nix::pty::openpty(None, None).unwrap();
    let name = nix::unistd::ttyname(&pty.slave).unwrap();
    gcs::sys::channel::set_nonblocking(pty.master.as_fd(), true).unwrap();
    let (guest, mut host) = connection();
    let mut bench = Bench::new(|relay| {
        relay.add(
            StreamKind::Stdout,
            Output::new(pty.master, Some(guest), true),
        );
    });
    nix::unistd::write(&pty.slave, b"first ").unwrap();
    let again = File::options().read(true).write(true).open(&name).unwrap();
    drop(pty.slave);
    bench.settle();
    nix::unistd::write(&again, b"second").unwrap();
    drop(again);
    bench.settle();
    // Hung up for now: no event may spin the loop, and it is not the end.
    assert_eq!(bench.turn(Instant::now()), 0);
    assert!(!bench.relay.is_done());
    let third = File::options().read(true).write(true).open(name).unwrap();
    nix::unistd::write(&third, b" third").unwrap();
    assert!(bench
        .relay
        .look_again(&mut bench.poller, |kind| kind)
        .unwrap());
    bench.settle();
    drop(third);
    bench.finish();
    bench.turn_until(Relay::is_done);
    let mut got = String::new();
    host.read_to_string(&mut got).unwrap();
    assert_eq!(got, "first second third");
}

/// A process has ended, and another one that it left behind has its output open.
#[test]
fn a_cut_ends_output_after_what_is_there_and_keeps_the_pipe_open() {
    let (mut left_behind, pipe) = output_pipe();
    let (guest, mut host) = connection();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stdout, Output::new(pipe, Some(guest), false)));
    left_behind.write_all(b"before").unwrap();
    bench.finish();
    let left = bench.relay.cut(&mut bench.poller, |kind| kind).unwrap();
    let [mut left] = <[OwnedFd; 1]>::try_from(left).unwrap().map(File::from);
    bench.settle();
    let mut got = Vec::new();
    host.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"before");
    drop(host);
    bench.turn_until(Relay::is_done);
    left_behind.write_all(b"after").unwrap();
    let mut rest = [0; 16];
    assert_eq!(left.read(&mut rest).unwrap(), 5);
}

/// The host reads slowly, so that the end comes long after the cut.
#[test]
fn a_cut_loses_nothing_that_a_slow_host_has_not_read() {
    let (mut left_behind, pipe) = output_pipe();
    let (guest, mut host) = connection();
    nix::sys::socket::setsockopt(&guest, nix::sys::socket::sockopt::SndBuf, &1).unwrap();
    let mut bench =
        Bench::new(|relay| relay.add(StreamKind::Stdout, Output::new(pipe, Some(guest), false)));
    let sent = pattern(60_000);
    left_behind.write_all(&sent).unwrap();
    bench.settle();
    bench.finish();
    bench.relay.cut(&mut bench.poller, |kind| kind).unwrap();
    bench.settle();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        host.read_to_end(&mut got).unwrap();
        got
    });
    bench.turn_until(Relay::is_done);
    assert_eq!(reader.join().unwrap(), sent);
}
