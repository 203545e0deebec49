//! PID 1 of a test VM: does on vsock what the host's test tells it, one line per order.
//!
//! It dials (2, 1000), then reads orders there and answers each with `ok ...` or `fail ...`.
//! Compiled by the test with `rustc` alone (no crates), static, and packed into an initrd.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use pattern::Pattern;
use sys::{accept, dial, dial_from, end_writing, listen, power_off};

mod pattern;

mod sys {
    //! The few calls that std lacks, by their Linux x86_64 ABI.
    #![allow(unsafe_code)]

    use std::fs::File;
    use std::io;
    use std::mem::size_of;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::ptr::null_mut;

    #[repr(C)]
    struct SockAddrVm {
        family: u16,
        reserved: u16,
        port: u32,
        cid: u32,
        flags: u8,
        zero: [u8; 3],
    }

    #[repr(C)]
    struct Timeval {
        sec: i64,
        usec: i64,
    }

    extern "C" {
        fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
        fn connect(fd: i32, addr: *const SockAddrVm, len: u32) -> i32;
        fn bind(fd: i32, addr: *const SockAddrVm, len: u32) -> i32;
        #[link_name = "listen"]
        fn c_listen(fd: i32, backlog: i32) -> i32;
        #[link_name = "accept"]
        fn c_accept(fd: i32, addr: *mut SockAddrVm, len: *mut u32) -> i32;
        fn shutdown(fd: i32, how: i32) -> i32;
        fn setsockopt(fd: i32, level: i32, name: i32, value: *const Timeval, len: u32) -> i32;
        fn setrlimit(what: i32, limit: *const [u64; 2]) -> i32;
        fn reboot(how: i32) -> i32;
    }

    const AF_VSOCK: u16 = 40;
    const ANY: u32 = u32::MAX;
    const HOST: u32 = 2;
    const CONNECT_TIMEOUT: i32 = 8;
    const ADDRESS_LEN: u32 = size_of::<SockAddrVm>() as u32;

    fn check(result: i32) -> io::Result<i32> {
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    }

    fn address(cid: u32, port: u32) -> SockAddrVm {
        SockAddrVm {
            family: AF_VSOCK,
            reserved: 0,
            port,
            cid,
            flags: 0,
            zero: [0; 3],
        }
    }

    fn new_socket() -> io::Result<File> {
        // SAFETY: plain numbers; a result that is not negative is a descriptor of ours alone.
        unsafe {
            let fd = check(socket(i32::from(AF_VSOCK), 1, 0))?;
            Ok(File::from_raw_fd(fd))
        }
    }

    fn bind_any(socket: &File, port: u32) -> io::Result<()> {
        // SAFETY: the address outlives the call and has the size given.
        unsafe { check(bind(socket.as_raw_fd(), &address(ANY, port), ADDRESS_LEN)) }.map(drop)
    }

    pub fn dial_from(local: Option<u32>, port: u32) -> io::Result<File> {
        let socket = new_socket()?;
        if let Some(local) = local {
            bind_any(&socket, local)?;
        }
        let fd = socket.as_raw_fd();
        let wait = Timeval { sec: 30, usec: 0 };
        let wait_len = size_of::<Timeval>() as u32;
        // SAFETY: the address and the timeval outlive the calls and have the sizes given.
        unsafe {
            let level = i32::from(AF_VSOCK);
            check(setsockopt(fd, level, CONNECT_TIMEOUT, &wait, wait_len))?;
            check(connect(fd, &address(HOST, port), ADDRESS_LEN))?;
        }
        Ok(socket)
    }

    pub fn dial(port: u32) -> io::Result<File> {
        dial_from(None, port)
    }

    pub fn listen(port: u32) -> io::Result<File> {
        let socket = new_socket()?;
        bind_any(&socket, port)?;
        // SAFETY: plain numbers.
        unsafe { check(c_listen(socket.as_raw_fd(), 128)) }?;
        Ok(socket)
    }

    pub fn accept(listener: &File) -> io::Result<File> {
        // SAFETY: null says that the peer's address is not wanted; the result is ours alone.
        unsafe {
            let fd = check(c_accept(listener.as_raw_fd(), null_mut(), null_mut()))?;
            Ok(File::from_raw_fd(fd))
        }
    }

    /// SHUT_WR
    pub fn end_writing(socket: &File) -> io::Result<()> {
        // SAFETY: plain numbers.
        unsafe { check(shutdown(socket.as_raw_fd(), 1)) }.map(drop)
    }

    /// Raises the limit of open files, which is 1024 at boot.
    pub fn allow_many_files() -> io::Result<()> {
        // SAFETY: the pair outlives the call; RLIMIT_NOFILE is 7.
        unsafe { check(setrlimit(7, &[65536, 65536])) }.map(drop)
    }

    /// A restart, which with `-no-reboot` ends QEMU.
    pub fn power_off() {
        // SAFETY: plain numbers; the call returns only when it fails, and the test then times out.
        unsafe {
            reboot(0x0123_4567);
        }
    }
}

const CHUNK: usize = 64 * 1024;

fn send(mut socket: &File, seed: u64, mut left: usize) -> io::Result<()> {
    let mut pattern = Pattern(seed);
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let n = left.min(CHUNK);
        pattern.fill(&mut buffer[..n]);
        socket.write_all(&buffer[..n])?;
        left -= n;
    }
    Ok(())
}

/// Reads to the end of the stream and compares; gives the number of bytes.
fn receive(mut socket: &File, seed: u64) -> io::Result<usize> {
    let mut pattern = Pattern(seed);
    let (mut got, mut want) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut total = 0;
    loop {
        let mut n = 0;
        while n < CHUNK {
            match socket.read(&mut got[n..])? {
                0 => break,
                more => n += more,
            }
        }
        pattern.fill(&mut want[..n]);
        if got[..n] != want[..n] {
            return Err(io::Error::other(format!(
                "bytes differ within {} of {total}",
                CHUNK
            )));
        }
        total += n;
        if n < CHUNK {
            return Ok(total);
        }
    }
}

fn rate(bytes: usize, since: Instant) -> String {
    format!(
        "{:.0} MB/s",
        bytes as f64 / since.elapsed().as_secs_f64() / 1e6
    )
}

fn order(words: &[&str]) -> io::Result<String> {
    let number = |i: usize| -> io::Result<usize> {
        let word = words
            .get(i)
            .ok_or_else(|| io::Error::other("a number is missing"))?;
        word.parse().map_err(io::Error::other)
    };
    let port = || number(1).map(|n| n as u32);
    let start = Instant::now();
    match words[0] {
        // dial PORT: how a connect ends and how long that takes
        "dial" => match dial(port()?) {
            Ok(_) => Ok(format!(
                "connected after {} us",
                start.elapsed().as_micros()
            )),
            Err(e) => Ok(format!(
                "errno {} after {} us",
                e.raw_os_error().unwrap_or(0),
                start.elapsed().as_micros()
            )),
        },
        // half PORT: sends "ping", ends writing, reads to the end
        "half" => {
            let mut socket = dial(port()?)?;
            socket.write_all(b"ping")?;
            end_writing(&socket)?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        }
        // fulfil PORT: reads to the end, then answers with what it read
        "fulfil" => {
            let mut socket = dial(port()?)?;
            let mut text = String::new();
            socket.read_to_string(&mut text)?;
            socket.write_all(text.as_bytes())?;
            Ok(text)
        }
        // send PORT SEED BYTES: sends and closes at once
        "send" => {
            let socket = dial(port()?)?;
            let bytes = number(3)?;
            send(&socket, number(2)? as u64, bytes)?;
            drop(socket);
            Ok(rate(bytes, start))
        }
        // receive PORT SEED: reads to the end
        "receive" => {
            let socket = dial(port()?)?;
            let bytes = receive(&socket, number(2)? as u64)?;
            Ok(format!("{bytes} {}", rate(bytes, start)))
        }
        // raw-send PORT BYTES / raw-receive PORT: no checksums, for figures
        "raw-send" => {
            let mut socket = dial(port()?)?;
            let block = vec![7; 256 * 1024];
            let bytes = number(2)?;
            for _ in 0..bytes / block.len() {
                socket.write_all(&block)?;
            }
            end_writing(&socket)?;
            socket.read_exact(&mut [0])?;
            Ok(rate(bytes, start))
        }
        "raw-receive" => {
            let mut socket = dial(port()?)?;
            let mut block = vec![0; 256 * 1024];
            let mut bytes = 0;
            loop {
                match socket.read(&mut block)? {
                    0 => return Ok(rate(bytes, start)),
                    n => bytes += n,
                }
            }
        }
        // ping PORT COUNT: round trips of one byte
        "ping" => {
            let mut socket = dial(port()?)?;
            let count = number(2)?;
            let mut byte = [1];
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let begin = Instant::now();
                socket.write_all(&byte)?;
                socket.read_exact(&mut byte)?;
                times.push(begin.elapsed());
            }
            times.sort();
            Ok(format!(
                "median {} us, p90 {} us",
                times[count / 2].as_micros(),
                times[count * 9 / 10].as_micros()
            ))
        }
        // duplex PORT STREAMS BYTES: each stream sends and receives at once
        "duplex" => {
            let (port, streams, bytes) = (port()?, number(2)?, number(3)?);
            let streams: Vec<_> = (0..streams)
                .map(|i| {
                    thread::spawn(move || -> io::Result<usize> {
                        let mut socket = dial(port)?;
                        socket.write_all(&[i as u8])?;
                        let writer = socket.try_clone()?;
                        let sending = thread::spawn(move || -> io::Result<()> {
                            send(&writer, 1000 + i as u64, bytes)?;
                            end_writing(&writer)
                        });
                        let got = receive(&socket, 2000 + i as u64)?;
                        sending.join().map_err(|_| io::Error::other("panic"))??;
                        Ok(got)
                    })
                })
                .collect();
            let mut total = 0;
            for stream in streams {
                total += stream.join().map_err(|_| io::Error::other("panic"))??;
            }
            Ok(format!("{total} {}", rate(2 * total, start)))
        }
        // crowd PORT COUNT: all connected at once, then a byte each way on every one
        "crowd" => {
            let (port, count) = (port()?, number(2)?);
            let mut sockets = Vec::new();
            for i in 0..count {
                let mut socket = dial(port)?;
                socket.write_all(&(i as u32).to_le_bytes())?;
                sockets.push(socket);
            }
            for (i, socket) in sockets.iter_mut().enumerate() {
                let mut echo = [0; 4];
                socket.read_exact(&mut echo)?;
                if u32::from_le_bytes(echo) != i as u32 {
                    return Err(io::Error::other(format!("stream {i} got {echo:?}")));
                }
            }
            Ok(format!("{count} in {} ms", start.elapsed().as_millis()))
        }
        // reuse PORT LOCAL COUNT: connect from the same local port again and again
        "reuse" => {
            let (port, local, count) = (port()?, number(2)? as u32, number(3)?);
            for i in 0..count {
                let mut socket = dial_from(Some(local), port)?;
                socket.write_all(&(i as u32).to_le_bytes())?;
                end_writing(&socket)?;
                let mut echo = Vec::new();
                socket.read_to_end(&mut echo)?;
                if echo != (i as u32).to_le_bytes() {
                    return Err(io::Error::other(format!("round {i} got {echo:?}")));
                }
            }
            Ok(format!("{count} in {} ms", start.elapsed().as_millis()))
        }
        // serve PORT COUNT: echoes COUNT host-initiated connections, then answers
        "serve" => {
            let listener = listen(port()?)?;
            let count = number(2)?;
            thread::spawn(move || {
                for _ in 0..count {
                    let Ok(mut socket) = accept(&listener) else {
                        return;
                    };
                    thread::spawn(move || {
                        let Ok(mut writer) = socket.try_clone() else {
                            return;
                        };
                        if io::copy(&mut socket, &mut writer).is_ok() {
                            drop(end_writing(&writer));
                        }
                    });
                }
            });
            Ok("listening".to_owned())
        }
        // stuck PORT BYTES: a thread writes into a connection whose reader sleeps for ever
        "stuck" => {
            let mut socket = dial(port()?)?;
            let bytes = number(2)?;
            thread::spawn(move || {
                drop(socket.write_all(&vec![1; bytes]));
                thread::sleep(Duration::from_secs(3600));
            });
            Ok("started".to_owned())
        }
        // tail PORT SEED BYTES: powers off right after the last write
        "tail" => {
            let socket = dial(port()?)?;
            send(&socket, number(2)? as u64, number(3)?)?;
            power_off();
            Ok(String::new())
        }
        "off" => {
            power_off();
            Ok(String::new())
        }
        other => Err(io::Error::other(format!("unknown order {other}"))),
    }
}

fn main() -> io::Result<()> {
    sys::allow_many_files()?;
    let mut control = dial(1000)?;
    let orders = BufReader::new(control.try_clone()?);
    for line in orders.lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match order(&words) {
            Ok(text) => format!("ok {text}\n"),
            Err(e) => format!("fail {line}: {e}\n"),
        };
        control.write_all(answer.as_bytes())?;
    }
    power_off();
    Ok(())
}
