//! Figures of the guest service itself: processes of the VM, round trips, memory.

use std::io::{Read, Write};
use std::time::Instant;

use super::floor::{check, floor, succeeds, LIMIT};
use super::initrd::FLOOR;
use super::meter::Meter;
use super::{BenchError, Figure, Unit};
use uvm::Uvm;
use uvm_host::HostError;

const PROCESS: &str = "process of the UVM";
const TRIPS: &str = "bridge round trips";
const IDLE: &str = "memory of PID 1, idle";
const AFTER: &str = "memory of PID 1, after 100 execs";
pub const NAMES: [&str; 4] = [PROCESS, TRIPS, IDLE, AFTER];

const PER_ROUND: u32 = 20;
const EXECS: u32 = 100;
const TRIPS_PER_ROUND: u32 = 200;
/// About the size of a small request.
const MESSAGE: [u8; 200] = [b'x'; 200];

pub fn measure(
    vm: &Uvm,
    rounds: u32,
    doing: &mut impl FnMut(&str),
) -> Result<Vec<Figure>, BenchError> {
    let mut idle = Figure::new(IDLE, Unit::Kibibytes).within(4096.0);
    idle.samples.push(resident(vm)?);

    let mut process =
        Figure::new(PROCESS, Unit::Milliseconds).against("vfork, exec and wait in the guest", 3.0);
    let mut trips =
        Figure::new(TRIPS, Unit::PerSecond).against("echo over a vsock connection", 0.7);
    exec(vm)?;
    for round in 1..=rounds {
        doing(&format!(
            "processes and round trips, round {round} of {rounds}"
        ));
        let (floor, ours) = process_of(vm, &mut Meter::clock())?;
        process.floor.push(floor);
        process.samples.push(ours);
        trips.floor.push(echo(vm)?);
        trips.samples.push(requests(vm)?);
    }
    let mut after = Figure::new(AFTER, Unit::Kibibytes).within(4096.0);
    for _ in 0..EXECS.saturating_sub(rounds * PER_ROUND) {
        exec(vm)?;
    }
    after.samples.push(resident(vm)?);
    Ok(vec![process, trips, idle, after])
}

/// The floor and the guest for a process of the VM.
pub fn process_of(vm: &Uvm, meter: &mut Meter) -> Result<(f64, f64), BenchError> {
    let floor = meter.floor_rounds(vm, &["spawn"], PER_ROUND, &[])?;
    let ours = meter.each(PER_ROUND, || exec(vm))?;
    Ok((floor, ours))
}

/// One process without streams, from the request to the report of its exit.
fn exec(vm: &Uvm) -> Result<(), BenchError> {
    let args = [FLOOR, "true"];
    let launch = vm.external(&args).without_stdout().without_stderr();
    succeeds(launch, &args)
}

/// `VmRSS` of PID 1.
fn resident(vm: &Uvm) -> Result<f64, BenchError> {
    let args = ["cat", "/proc/1/status"];
    let status = floor(vm, &args)?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    value.ok_or_else(|| BenchError::Floor {
        args: args.join(" "),
        code: 0,
        said: "no VmRSS".into(),
    })
}

/// Messages to the floor program and back, per second.
fn echo(vm: &Uvm) -> Result<f64, BenchError> {
    let host = vm.host();
    let port = host.open_stream()?;
    let number = port.to_string();
    let args = [FLOOR, "echo", &number];
    let mut process = vm.external(&args).without_stdout().start()?;
    let mut stream = host.take_stream(port, LIMIT)?;
    let io = |e| BenchError::io("talking to the echo")(e);
    stream.set_read_timeout(Some(LIMIT)).map_err(io)?;
    let mut back = [0; MESSAGE.len()];
    let started = Instant::now();
    for _ in 0..TRIPS_PER_ROUND {
        stream.write_all(&MESSAGE).map_err(io)?;
        stream.read_exact(&mut back).map_err(io)?;
    }
    let rate = f64::from(TRIPS_PER_ROUND) / started.elapsed().as_secs_f64();
    stream.shutdown(std::net::Shutdown::Write).map_err(io)?;
    check(&args, process.wait(LIMIT)?, "")?;
    Ok(rate)
}

/// Requests that the guest answers from its own memory, per second.
fn requests(vm: &Uvm) -> Result<f64, BenchError> {
    let one = Meter::clock().each(TRIPS_PER_ROUND, || request(vm))?;
    Ok(1e3 / one)
}

/// A request that the guest refuses from its own memory.
pub fn request(vm: &Uvm) -> Result<(), BenchError> {
    match vm.properties("bench-unknown", &[]) {
        Err(HostError::Refused { .. }) => Ok(()),
        Err(other) => Err(other.into()),
        Ok(_) => Err(BenchError::Floor {
            args: "GetProperties of an unknown container".into(),
            code: 0,
            said: "succeeded".into(),
        }),
    }
}
