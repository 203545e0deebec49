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
