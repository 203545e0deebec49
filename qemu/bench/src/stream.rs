//! Throughput from the guest to the host.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::floor::LIMIT;
use super::initrd::FLOOR;
use super::{BenchError, Figure, Unit};
use uvm::Uvm;
use uvm_host::{HostError, Launch};

const STDOUT: &str = "stdout of a process of the UVM";
pub const NAMES: [&str; 1] = [STDOUT];
pub const BYTES: u64 = 32 << 20;
pub const AGAINST: &str = "write loop on a vsock connection";
pub const PIPED: &str = "a pipe copied to a vsock connection";
pub const INWARD: &str = "read loop on a vsock connection that the host fills";

pub fn measure(vm: &Uvm, rounds: u32, doing: &mut impl FnMut(&str)) -> Result<Figure, BenchError> {
    let mut figure = Figure::new(STDOUT, Unit::MebibytesPerSecond).against(AGAINST, 0.8);
    let count = BYTES.to_string();
    for round in 1..=rounds {
        doing(&format!("stdout of a process, round {round} of {rounds}"));
        figure.floor.push(floor(vm)?);
        figure
            .samples
            .push(stdout_of(vm.external(&[FLOOR, "fill", &count]))?);
    }
    Ok(figure)
}

/// The floor of a stream that is handed to its process: MiB/s of a bare write loop.
fn floor(vm: &Uvm) -> Result<f64, BenchError> {
    outward(vm, "write")
}

/// The floor of a container's stdout, which is a pipe: programs open /dev/stdout again.
pub fn piped(vm: &Uvm) -> Result<f64, BenchError> {
    outward(vm, "pipe")
}

fn outward(vm: &Uvm, mode: &str) -> Result<f64, BenchError> {
    let host = vm.host();
    let port = host.open_stream()?;
    let (number, count) = (port.to_string(), BYTES.to_string());
    let args = [FLOOR, mode, &number, &count];
    let mut process = vm.external(&args).without_stdout().start()?;
    let rate = drain(host.take_stream(port, LIMIT)?)?;
    ended(process.wait(LIMIT)?)?;
    Ok(rate)
}

/// The floor of what is read from the host: MiB/s of a bare read loop.
pub fn inward(vm: &Uvm) -> Result<f64, BenchError> {
    let host = vm.host();
    let port = host.open_stream()?;
    let number = port.to_string();
    let args = [FLOOR, "drop", &number];
    let mut process = vm.external(&args).start()?;
    let io = |e| BenchError::io("filling a stream of the guest")(e);
    let mut stream = host.take_stream(port, LIMIT)?;
    stream.set_write_timeout(Some(LIMIT)).map_err(io)?;
    let zeros = vec![0; 256 << 10];
    for _ in 0..BYTES / zeros.len() as u64 {
        stream.write_all(&zeros).map_err(io)?;
    }
    stream.shutdown(std::net::Shutdown::Write).map_err(io)?;
    let mut said = String::new();
    if let Some(mut stdout) = process.stdio.stdout.take() {
        stdout.set_read_timeout(Some(LIMIT)).map_err(io)?;
        stdout.read_to_string(&mut said).map_err(io)?;
    }
    ended(process.wait(LIMIT)?)?;
    let took: u64 = said.trim().parse().map_err(|_| BenchError::Floor {
        args: args.join(" "),
        code: 0,
        said,
    })?;
    Ok(BYTES as f64 / f64::from(1 << 20) / Duration::from_nanos(took).as_secs_f64())
}

/// MiB/s of a process that fills its stdout.
pub fn stdout_of(launch: Launch) -> Result<f64, BenchError> {
    let mut process = launch.without_stderr().start()?;
    let stdout = process.stdio.stdout.take();
    let stdout = stdout.ok_or_else(|| HostError::Unusable {
        doing: "measuring stdout".into(),
        detail: "the process has none".into(),
    })?;
    let rate = drain(stdout)?;
    ended(process.wait(LIMIT)?)?;
    Ok(rate)
}

fn ended(code: u32) -> Result<(), BenchError> {
    if code == 0 {
        return Ok(());
    }
    Err(BenchError::Floor {
        args: "writing".into(),
        code,
        said: String::new(),
    })
}

/// Reads to the end; MiB/s from the first byte on. Every byte must come.
fn drain(mut from: UnixStream) -> Result<f64, BenchError> {
    let io = |e| BenchError::io("reading a stream of the guest")(e);
    from.set_read_timeout(Some(LIMIT)).map_err(io)?;
    let mut buffer = vec![0; 256 << 10];
    let mut got = from.read(&mut buffer).map_err(io)? as u64;
    let first = got;
    let started = Instant::now();
    loop {
        match from.read(&mut buffer).map_err(io)? {
            0 => break,
            more => got += more as u64,
        }
    }
    let taken = started.elapsed();
    if got != BYTES {
        let lost = std::io::Error::other(format!("{got} of {BYTES} bytes came"));
        return Err(io(lost));
    }
    Ok((got - first) as f64 / f64::from(1 << 20) / taken.as_secs_f64())
}
